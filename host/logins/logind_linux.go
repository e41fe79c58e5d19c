package logins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	logindName    = "org.freedesktop.login1"
	logindPath    = "/org/freedesktop/login1"
	logindManager = logindName + ".Manager"
	logindSession = logindName + ".Session"
	sessionPrefix = logindPath + "/session/"
	propertiesAll = "org.freedesktop.DBus.Properties.GetAll"
)

// errNoLogind means that there is no logind to ask, rather than that it does not answer.
var errNoLogind = errors.New("logins: systemd-logind does not run here")

// A bus is a connection to D-Bus. Signals end in wake, which holds one at most: what is in them does not matter, since anybody may have
// sent them, and everything is asked for anew.
type bus struct {
	*dbus.Conn
	cancel context.CancelFunc
	answer time.Duration
	wake   signals
}

// signals takes note that there was a signal.
type signals chan struct{}

// DeliverSignal is called by the reader of the bus and must not block.
func (s signals) DeliverSignal(iface, name string, signal *dbus.Signal) {
	select {
	case s <- struct{}{}:
	default:
	}
}

// connect connects to the bus at an address. The context bounds only the connecting.
func connect(ctx context.Context, address string, answer time.Duration) (*bus, error) {
	ctx, stop := context.WithTimeout(ctx, answer)
	defer stop()
	b := &bus{answer: answer, wake: make(signals, 1)}
	var life context.Context
	life, b.cancel = context.WithCancel(context.Background())
	abort := context.AfterFunc(ctx, b.cancel)
	conn, err := dbus.Connect(address, dbus.WithContext(life), dbus.WithSignalHandler(b.wake))
	if err != nil {
		b.cancel()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: no answer from the system bus at %s: %w", ErrUnavailable, address, ctx.Err())
		}
		kind := ErrUnavailable
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			kind = errNoLogind
		}
		return nil, fmt.Errorf("%w: no system bus at %s: %w", kind, address, err)
	}
	b.Conn = conn
	if !abort() {
		b.close()
		return nil, fmt.Errorf("%w: no answer from the system bus at %s: %w", ErrUnavailable, address, ctx.Err())
	}
	return b, nil
}

func (b *bus) close() {
	b.Conn.Close()
	b.cancel()
}

// call calls a method of logind and stores what it returns. Logind is started if it is not running but can be.
func (b *bus) call(ctx context.Context, path dbus.ObjectPath, results []any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, b.answer)
	defer cancel()
	call := b.Object(logindName, path).CallWithContext(ctx, method, 0, args...)
	name := method[strings.LastIndexByte(method, '.')+1:]
	if call.Err == nil {
		if err := call.Store(results...); err != nil {
			return invalid("%s of logind: %w", name, err)
		}
		return nil
	}
	switch errorName(call.Err) {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return fmt.Errorf("%w: %w", errNoLogind, call.Err)
	case "":
		return fmt.Errorf("%w: %s of logind: %w", ErrUnavailable, name, call.Err)
	}
	return fmt.Errorf("%w: %s of logind: %s: %w", ErrUnavailable, name, errorName(call.Err), call.Err)
}

// errorName returns the name of an error of D-Bus, or "".
func errorName(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}

// A listed session is one row of ListSessions.
type listed struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}

// sessions lists what logind has.
func (b *bus) sessions(ctx context.Context) ([]Session, error) {
	var rows []listed
	if err := b.call(ctx, logindPath, []any{&rows}, logindManager+".ListSessions"); err != nil {
		return nil, err
	}
	if len(rows) > maxSessions {
		return nil, invalid("ListSessions of logind: %d sessions, which is more than %d", len(rows), maxSessions)
	}
	all := make([]Session, 0, len(rows))
	for _, row := range rows {
		if !validID(row.ID) || !strings.HasPrefix(string(row.Path), sessionPrefix) || !row.Path.IsValid() {
			return nil, invalid("ListSessions of logind: session %.40q at %.80q", row.ID, row.Path)
		}
		var properties map[string]dbus.Variant
		if err := b.call(ctx, row.Path, []any{&properties}, propertiesAll, logindSession); err != nil {
			switch errorName(err) {
			case "org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.DBus.Error.UnknownMethod", logindName + ".NoSuchSession":
				continue // it has ended meanwhile
			}
			return nil, err
		}
		s, err := decode(row, properties)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// of returns the id of the session that logind says a process is of, or "".
func (b *bus) of(ctx context.Context, pid int) (string, error) {
	var path dbus.ObjectPath
	if err := b.call(ctx, logindPath, []any{&path}, logindManager+".GetSessionByPID", uint32(pid)); err != nil {
		if strings.HasPrefix(errorName(err), logindName+".") {
			return "", nil // it belongs to none
		}
		return "", err
	}
	var id dbus.Variant
	if err := b.call(ctx, path, []any{&id}, "org.freedesktop.DBus.Properties.Get", logindSession, "Id"); err != nil {
		return "", err
	}
	text, ok := id.Value().(string)
	if !ok || !validID(text) {
		return "", invalid("property Id of logind: %s", shorten(id))
	}
	return text, nil
}

// remoteServices are the services that let users in from elsewhere without logind's knowing: it is told of networks only by those that
// know PAM's remote host.
var remoteServices = map[string]bool{"xrdp-sesman": true, "xrdp": true, "vncserver": true, "tigervnc": true, "nxserver": true, "nx": true,
	"gnome-remote-desktop": true, "krdp": true}

// decode makes a Session of the properties that logind has of one: org.freedesktop.login1(5). A property that is absent, as in old
// versions, is its zero value; one of a wrong type is an error.
func decode(row listed, properties map[string]dbus.Variant) (Session, error) {
	s := Session{ID: row.ID, User: clean(row.User), UID: row.UID}
	var kind, class, state, service string
	var since uint64
	var leader uint32
	for _, p := range []struct {
		name string
		to   any
	}{
		{"Remote", &s.Remote}, {"RemoteHost", &s.RemoteHost}, {"Type", &kind}, {"Class", &class}, {"State", &state}, {"Service", &service},
		{"Active", &s.Active}, {"LockedHint", &s.Locked}, {"Timestamp", &since}, {"Leader", &leader},
	} {
		v, ok := properties[p.name]
		if !ok {
			continue
		}
		switch to := p.to.(type) {
		case *bool:
			*to, ok = v.Value().(bool)
		case *string:
			*to, ok = v.Value().(string)
			*to = clean(*to)
		case *uint64:
			*to, ok = v.Value().(uint64)
		case *uint32:
			*to, ok = v.Value().(uint32)
		}
		if !ok {
			return s, invalid("property %s of session %s of logind: %s", p.name, row.ID, shorten(v))
		}
	}
	if leader <= 1<<22 { // the largest that Linux gives out
		s.Leader = int(leader)
	}
	if since < 1<<62 {
		s.Since = moment(int64(since))
	}
	if s.User == "" && row.UID == 0 {
		s.User = "root"
	}
	s.Service, s.Closing = service, state == "closing"
	s.Kind, s.Class = kindOf(kind), classOf(class)
	if remoteServices[service] {
		s.Remote, s.Kind = true, RDP
	}
	if s.Remote {
		s.RemoteAddr = address(s.RemoteHost)
		if s.Kind == TTY || s.Kind == Other {
			s.Kind = SSH
		}
	}
	return s, nil
}

// shorten prints a value of any size in a few characters.
func shorten(v dbus.Variant) string {
	switch x := v.Value().(type) {
	case string:
		return fmt.Sprintf("%.60q", x)
	case bool, byte, int16, uint16, int32, uint32, int64, uint64, float64:
		return fmt.Sprintf("%T %v", x, x)
	}
	return fmt.Sprintf("a value of type %.40s", v.Signature())
}

func kindOf(t string) Kind {
	switch t {
	case "tty", "unspecified":
		return TTY
	case "x11":
		return X11
	case "wayland", "mir":
		return Wayland
	}
	return Other
}

// classOf translates a class of logind. What is not known is a user's, since new classes must not be a way around a limit.
func classOf(c string) Class {
	switch {
	case c == "greeter":
		return Greeter
	case c == "lock-screen":
		return LockScreen
	case strings.HasPrefix(c, "background") || strings.HasPrefix(c, "manager") || c == "none":
		return Background
	}
	return User
}
