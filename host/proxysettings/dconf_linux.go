package proxysettings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// answerTime is how long a call may take, with starting dconf-service.
const answerTime = 10 * time.Second

// readUser reads the user's database.
func (s Session) readUser(name string) (d database, err error) {
	err = as(s.UID, s.GID, func() error {
		b, err := readFile(filepath.Join(s.Config, "dconf", name))
		if err != nil {
			return err
		}
		d, err = parseDatabase(b, directory)
		return err
	})
	return d, err
}

// readFile reads a regular file, or nothing if there is none.
func readFile(path string) ([]byte, error) {
	// A pipe in its place must not block.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("proxysettings: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("proxysettings: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, invalid("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase+1))
	if err != nil {
		return nil, fmt.Errorf("proxysettings: %w", err)
	}
	return b, nil
}

// write asks dconf-service to change keys of the user's database, all or none.
func (s Session) write(ctx context.Context, name string, values map[string]variant) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var tag string
	object := conn.Object("ca.desrt.dconf", dbus.ObjectPath("/ca/desrt/dconf/Writer/"+name))
	err = object.CallWithContext(ctx, "ca.desrt.dconf.Writer.Change", 0, change(values)).Store(&tag)
	var e dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.AccessDenied":
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner"):
		return fmt.Errorf("%w: there is no dconf-service: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: changing the settings: %w", ErrUnavailable, err)
}

// connect connects to the session bus with the identity of its user, since a bus lets in nobody else.
func (s Session) connect(ctx context.Context) (*dbus.Conn, error) {
	socket, err := socketOf(s.Bus)
	if err != nil {
		return nil, err
	}
	var nc net.Conn
	if err := as(s.UID, s.GID, func() error {
		nc, err = new(net.Dialer).DialContext(ctx, "unix", socket)
		return err
	}); err != nil {
		if errors.Is(err, ErrPermission) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: no session bus: %w", ErrUnavailable, err)
	}
	return hello(ctx, nc, s.UID)
}

// hello makes nc a connection to a bus. Closing that closes nc.
func hello(ctx context.Context, nc net.Conn, uid int) (*dbus.Conn, error) {
	// The library knows no context here; a bus that does not answer is cut off.
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	conn, err := dbus.NewConn(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))})
	if err == nil {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: the bus refuses: %w", ErrUnavailable, errors.Join(err, ctx.Err()))
	}
	return conn, nil
}

// tellAll says on the system bus that what is locked in a database has changed, as the program dconf does. Nobody may be
// listening, or there may be no such bus.
func tellAll(ctx context.Context, bus, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	socket, err := socketOf(bus)
	if err != nil {
		return err
	}
	nc, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%w: no system bus: %w", ErrUnavailable, err)
	}
	conn, err := hello(ctx, nc, os.Geteuid())
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Emit(dbus.ObjectPath("/ca/desrt/dconf/Writer/"+name), "ca.desrt.dconf.Writer.WritabilityNotify", "/")
}
