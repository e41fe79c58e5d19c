package system

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/host"
	"culvert.example/vpn/host/proxysettings"
)

const (
	// desktopTime is how long one user's session may take for a change. It is that user's program that answers, on which the
	// tunnel must not depend.
	desktopTime = 2 * time.Second
	// maxDesktops is how many users are looked after.
	maxDesktops = 4
	// maxDesktopUndo is the largest record for one change, in bytes, which leaves room for what is added to it.
	maxDesktopUndo = 60 << 10
)

// Desktop says whether the desktops of the users who are logged in get the web proxy that the gateway names, until the tunnel ends.
// Programs in a named network namespace are nobody's desktop, and a [Configurator] has its own way. What cannot be set is
// logged, and fails nothing.
type Desktop struct {
	// Off leaves them as they are.
	Off bool
	// Sessions are those to look after, of which the first four are. Nil means those of proxysettings.Sessions when the tunnel
	// comes up.
	Sessions []proxysettings.Session
	// Profile is the file that lists the databases of dconf, and SystemBus the address of the system's D-Bus. Empty ones mean the
	// usual.
	Profile, SystemBus string
}

// A desktopSettings is what the part of the machine that is desktops is to be like.
type desktopSettings struct {
	proxy    proxysettings.Config
	sessions []proxysettings.Session
}

// sessions returns whose desktops are to be looked after.
func (s *System) sessions() []proxysettings.Session {
	if s.cfg.Desktop.Off || s.cfg.Namespace != "" || s.cfg.Configurator != nil {
		return nil
	}
	list := s.cfg.Desktop.Sessions
	if list == nil {
		var err error
		if list, err = proxysettings.Sessions(); err != nil {
			s.log.Warn("the proxy settings of desktops are left as they are", "err", err)
		}
	}
	if len(list) > maxDesktops {
		s.log.Warn("too many users are logged in for the proxy settings of all of them", "users", len(list), "most", maxDesktops)
		list = list[:maxDesktops]
	}
	return list
}

// desktop returns the settings of desktops for the lease. The lock of the System is held.
func (t *tunnel) desktop() (set desktopSettings, ok bool) {
	if len(t.sessions) == 0 || t.lease == nil {
		return set, false
	}
	p := t.lease.Proxy
	proxy, err := proxysettings.New(p.Method, p.Server, p.PACURL, p.Exceptions, p.Lockdown)
	if err != nil {
		if text := err.Error(); text != t.badProxy {
			t.badProxy = text
			t.s.log.Warn("the gateway's proxy settings cannot be used", "err", err)
		}
		return set, false
	}
	return desktopSettings{proxy, t.sessions}, proxy.Method != proxysettings.NoModify
}

// desktopStatus tells what became of that. The lock of the System is held.
func (t *tunnel) desktopStatus() (list []DesktopStatus) {
	if t.lease == nil {
		return nil
	}
	p := t.lease.Proxy
	proxy, err := proxysettings.New(p.Method, p.Server, p.PACURL, p.Exceptions, p.Lockdown)
	if err == nil && proxy.Method == proxysettings.NoModify && !proxy.Lockdown {
		return nil
	}
	for _, session := range t.sessions {
		one := DesktopStatus{User: session.UID}
		switch {
		case err != nil:
			one.Err = err.Error()
		case proxy.Method == proxysettings.NoModify:
			one.NotLocked = "the gateway names no settings of its own, and those of the user stay the user's"
		default:
			t.s.desktops.mu.Lock()
			if state, ok := t.s.desktops.states[session.UID]; ok {
				one = state
			}
			t.s.desktops.mu.Unlock()
		}
		list = append(list, one)
	}
	return list
}

// desktops is the [host.Part] of that name. Nothing that a user's session does, or does not do, fails the others.
type desktops struct {
	cfg Desktop
	log *slog.Logger

	mu     sync.Mutex
	open   map[int]*proxysettings.Desktop // by the number of the user
	states map[int]DesktopStatus          // after the last Apply, likewise
}

func newDesktops(cfg Desktop, log *slog.Logger) *desktops {
	return &desktops{cfg: cfg, log: log, open: make(map[int]*proxysettings.Desktop), states: make(map[int]DesktopStatus)}
}

// of returns the desktop of a session.
func (d *desktops) of(session proxysettings.Session) *proxysettings.Desktop {
	return proxysettings.Open(proxysettings.Options{Session: session, Profile: d.cfg.Profile, SystemBus: d.cfg.SystemBus, Logger: d.log})
}

// Apply implements [host.Part].
func (d *desktops) Apply(ctx context.Context, settings any, record func(undo []byte) error) error {
	set, ok := settings.(desktopSettings)
	if !ok {
		return fmt.Errorf("%w: settings of type %T for desktops", host.ErrSettings, settings)
	}
	for _, session := range set.sessions {
		var failed error
		one, cancel := context.WithTimeout(ctx, desktopTime)
		d.mu.Lock()
		desktop := d.open[session.UID]
		if desktop == nil {
			desktop = d.of(session)
			d.open[session.UID] = desktop
		}
		d.mu.Unlock()
		err := desktop.Apply(one, set.proxy, func(undo []byte) error {
			if len(undo) > maxDesktopUndo {
				return errors.New("there is too much to be undone later")
			}
			failed = record(append([]byte(strconv.Itoa(session.UID)+"\n"), undo...))
			return failed
		})
		cancel()
		d.note(session.UID, desktop.Status(), err)
		switch {
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			d.log.Warn("the proxy settings of a desktop are left as they are", "user", session.UID, "err", err)
		}
	}
	return nil
}

// note keeps what became of a user's settings.
func (d *desktops) note(uid int, now proxysettings.Status, err error) {
	s := DesktopStatus{User: uid, Applied: now.Applied, Locked: now.Lockdown, NotLocked: now.NotLocked, Notes: now.Notes}
	if err != nil {
		s = DesktopStatus{User: uid, Err: err.Error()}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states[uid] = s
}

// Undo implements [host.Part].
func (d *desktops) Undo(ctx context.Context, undo []byte) error {
	first, rest, ok := strings.Cut(string(undo), "\n")
	uid, err := strconv.Atoi(first)
	if !ok || err != nil {
		return errors.New("system: the record of a desktop begins with no number of a user")
	}
	ctx, cancel := context.WithTimeout(ctx, desktopTime)
	defer cancel()
	d.mu.Lock()
	desktop := d.open[uid]
	d.mu.Unlock()
	if desktop == nil {
		// What a dead process has left; the record says whose session it was.
		desktop = d.of(proxysettings.Session{})
	}
	err = desktop.Undo(ctx, []byte(rest))
	d.note(uid, desktop.Status(), nil)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, proxysettings.ErrChanged):
		return fmt.Errorf("%w: %w", host.ErrForeign, err)
	}
	// Whatever is wrong with the session of a user, or that there is none, is no reason to have no tunnel.
	return fmt.Errorf("%w: %w", host.ErrLater, err)
}
