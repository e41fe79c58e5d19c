package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/script"
	"culvert.example/vpn/transport"
)

// hooksPatience is how long the end of the command waits for OnDisconnect.
const hooksPatience = 10 * time.Second

// errNobody means that there is no user whose scripts could run, errNotYet that there may be one later.
var (
	errNobody = errors.New("it is not known for which user, and they do not run as root; start the command with sudo, or from a user's session")
	errNotYet = errors.New("nobody has logged on yet")
)

// hooks run the scripts OnConnect and OnDisconnect of the user, if the profile lets them: once for each session with the gateway,
// however often its connection is made again. A nil one runs nothing.
type hooks struct {
	app    *app
	cfg    script.HooksConfig
	device func() string // of the tunnel that is up
	source *logins.Source
	level  int

	mu    sync.Mutex
	lease *transport.Lease
	run   *script.Hooks // nil until it is known whose scripts they are

	over    chan struct{} // closed by finish
	ending  sync.Once
	tunnels sync.WaitGroup
}

// newHooks returns those of the plan, nil if it has none.
func newHooks(a *app, c *clientFlags, log *slog.Logger) *hooks {
	p := c.plan
	if p == nil || p.Profile == nil || !p.Script.Allowed {
		return nil
	}
	cfg := script.HooksConfig{
		Dir: scriptDirectory(a, &c.documents), TerminateOnNextEvent: p.Script.TerminateOnNextEvent, BeforeLogon: p.Script.PostSBL, Logger: log,
	}
	return &hooks{app: a, cfg: cfg, source: logins.New(logins.Options{Logger: log}), level: min(1+a.verbose, 3), over: make(chan struct{})}
}

// scriptDirectory returns the directory of the scripts: the first one that exists of those that only the administrator can write to.
func scriptDirectory(a *app, f *documentFlags) string {
	dirs := profile.Directories(runtime.GOOS, profile.Scripts, a.getenv, f.root, true)
	if runtime.GOOS == "linux" {
		dirs = append([]string{path.Join("/", f.root, "etc/culvert/script")}, dirs...)
	}
	for _, dir := range dirs {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
	}
	return slices.Concat(dirs, []string{""})[0]
}

// watch returns sys as the hooks have to see it.
func (h *hooks) watch(sys vpn.System, device func() string) vpn.System {
	if h == nil {
		return sys
	}
	h.device = device
	return hooked{sys, h}
}

// A hooked system lets the hooks know what a gateway assigns, of which the scripts are told.
type hooked struct {
	vpn.System
	hooks *hooks
}

// Attach implements vpn.System.
func (s hooked) Attach(ctx context.Context, link vpn.SystemLink) (vpn.SystemDevice, error) {
	s.hooks.mu.Lock()
	s.hooks.lease = link.Lease
	s.hooks.mu.Unlock()
	return s.System.Attach(ctx, link)
}

// connected runs OnConnect beside a tunnel that has come up, and OnDisconnect when it has ended. If nobody has logged on yet whom the
// tunnel is for, OnConnect waits for that. Tunnels come one after the other.
func (h *hooks) connected(t *vpn.Tunnel) {
	if h == nil {
		return
	}
	run, err := h.open()
	if err != nil {
		h.app.reporter().warn("the scripts OnConnect and OnDisconnect do not run: %v", err)
		if !errors.Is(err, errNotYet) {
			return
		}
	}
	h.mu.Lock()
	lease := h.lease
	h.mu.Unlock()
	settings := script.FromLease(lease, h.device())
	settings.MTU, settings.LogLevel = t.Status().MTU, h.level
	if run != nil {
		run.Connected(settings, false)
	}
	h.tunnels.Go(func() {
		if run == nil {
			if run = h.logon(t); run == nil {
				return
			}
			run.Connected(settings, true)
		}
		select {
		case <-t.Done():
		case <-h.over:
		}
		run.Disconnected(settings)
	})
}

// logon waits until the user has logged on whose scripts they are, and returns nil if the tunnel ends before.
func (h *hooks) logon(t *vpn.Tunnel) *script.Hooks {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h.tunnels.Go(func() {
		defer cancel()
		select {
		case <-t.Done():
		case <-h.over:
		case <-ctx.Done():
		}
	})
	var run *script.Hooks
	h.source.Watch(ctx, func(sessions []logins.Session, err error) {
		if err != nil || run != nil {
			return // the source says by itself what is wrong
		}
		uid, err := sitting(sessions)
		if err != nil {
			return
		}
		if run, err = h.openFor(uid); err != nil {
			h.app.reporter().warn("the scripts OnConnect and OnDisconnect do not run: %v", err)
		}
		cancel()
	})
	return run
}

// open finds out whose scripts they are.
func (h *hooks) open() (*script.Hooks, error) {
	h.mu.Lock()
	run := h.run
	h.mu.Unlock()
	if run != nil {
		return run, nil
	}
	if os.Geteuid() != 0 {
		return h.use(h.cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	uid, err := h.user(ctx)
	if err != nil {
		return nil, err
	}
	return h.openFor(uid)
}

// openFor has the scripts be those of a user.
func (h *hooks) openFor(uid uint32) (*script.Hooks, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil, err
	}
	cfg := h.cfg
	if cfg.User, err = script.LookupUser(u.Username); err != nil {
		return nil, err
	}
	return h.use(cfg)
}

// use has the scripts run as cfg says from now on, unless they do already.
func (h *hooks) use(cfg script.HooksConfig) (*script.Hooks, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run == nil {
		var err error
		if h.run, err = script.NewHooks(cfg); err != nil {
			return nil, err
		}
	}
	return h.run, nil
}

// user returns whose session this process of root serves: who has logged on and started it, which the system knows, or else sudo
// or pkexec; of a service that nobody has started, who sits at the machine.
func (h *hooks) user(ctx context.Context) (uint32, error) {
	asker, err := h.source.Asker(ctx, os.Getpid())
	if err != nil {
		return 0, fmt.Errorf("who asks for the tunnel: %w", err)
	}
	if asker.UID != logins.NoUID && asker.UID != 0 {
		return asker.UID, nil
	}
	for _, name := range []string{"SUDO_UID", "PKEXEC_UID"} {
		if uid, err := strconv.ParseUint(h.app.getenv(name), 10, 32); err == nil && uid != 0 && uint32(uid) != logins.NoUID {
			return uint32(uid), nil
		}
	}
	if asker.UID == 0 || asker.Found {
		return 0, errNobody
	}
	sessions, err := h.source.List(ctx)
	if err != nil {
		return 0, fmt.Errorf("who is logged on: %w", err)
	}
	uid, err := sitting(sessions)
	if err != nil {
		return 0, errNotYet
	}
	return uid, nil
}

// sitting returns the one user who has a session in front at the machine itself.
func sitting(sessions []logins.Session) (uint32, error) {
	found := logins.NoUID
	for _, s := range sessions {
		if s.Class != logins.User || s.Remote || !s.Active || s.Closing || s.UID == 0 || s.UID == logins.NoUID {
			continue
		}
		if found != logins.NoUID && found != s.UID {
			return 0, errNobody
		}
		found = s.UID
	}
	if found == logins.NoUID {
		return 0, errNobody
	}
	return found, nil
}

// finish runs OnDisconnect for a tunnel that is still up, and waits a while for the scripts. Nothing runs after that.
func (h *hooks) finish() {
	if h != nil {
		h.ending.Do(h.end)
	}
}

func (h *hooks) end() {
	close(h.over)
	h.tunnels.Wait()
	if h.run == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hooksPatience)
	defer cancel()
	if h.run.Wait(ctx) != nil {
		h.app.reporter().warn("the script OnDisconnect still runs after %v and is ended", hooksPatience)
	}
	h.run.Close()
}
