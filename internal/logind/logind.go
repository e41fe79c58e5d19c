//go:build linux

// Package logind runs the real systemd-logind for tests, on a D-Bus of its own and with a /run of its own, on machines where
// systemd is not the first process, and lets users log on to it.
//
//	d := logind.Start(t)
//	s := d.LogOn(logind.Logon{UID: 0, Type: "tty", Service: "sshd", RemoteHost: "10.1.2.3"})
//	...
//	s.LogOff()
//
// Logind asks systemd to make a scope for each session and a service for each user. A small object on the same bus says yes to
// that; everything else is logind's own: its sessions, their properties and its signals. The processes of a session are not in a
// cgroup of its own therefore, so that logind knows only the leader of a session and not the other processes.
//
// The daemon is the installed one, without being started by anybody else, or that of the directory that CULVERT_LOGIND names, into
// which somebody has unpacked the package systemd of Debian. Otherwise, if CULVERT_INTEROP is 1, the package is fetched by "apt-get
// download" and unpacked by "dpkg -x" into the cache directory of the user, once. Where it cannot be had the test is
// skipped, or fails if CULVERT_INTEROP is 1.
package logind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"culvert.example/vpn/internal/unpacked"
)

// A TB is a testing.TB, or as much of one as is needed.
type TB interface {
	Cleanup(func())
	Helper()
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Logf(format string, args ...any)
}

// A Daemon is a systemd-logind that runs. It ends with the test. Its methods are for one goroutine.
type Daemon struct {
	// Address is the D-Bus address of its bus.
	Address string

	tb     TB
	dir    string
	binary string
	libs   string
	conn   *dbus.Conn // speaks to logind, and is systemd for it
	init   *systemd
	stop   func()
}

// A Logon is what a login service such as sshd tells logind of somebody who logs on.
type Logon struct {
	// UID is the user's number, which the system must know.
	UID uint32
	// Leader is a process that lives as long as the session. 0 stands for one that is started for it.
	Leader int
	// Service is the PAM service, such as "sshd" or "gdm-password"; Type is tty, x11, wayland or unspecified; Class is user,
	// greeter, lock-screen or background, and "" is user.
	Service, Type, Class string
	// Seat, TTY and Display say where a local session is; all of them may be empty.
	Seat, TTY, Display string
	// Remote says that the session came over the network, from RemoteHost.
	Remote     bool
	RemoteHost string
}

// A Session is one that logind has.
type Session struct {
	// ID is what logind calls it, and Path its object on the bus.
	ID   string
	Path dbus.ObjectPath
	// Leader is the process that leads it.
	Leader int

	d          *Daemon
	fifo       *os.File
	left, gone sync.Once
	end        func()
}

const (
	name    = "org.freedesktop.login1"
	path    = "/org/freedesktop/login1"
	manager = name + ".Manager"
	// answerTime bounds one call.
	answerTime = 10 * time.Second
)

// daemon runs in namespaces of its own: nothing of what is mounted there is seen outside. Logind removes what a user who logs off
// leaves in shared memory and message queues, so it must not see those of this machine. /run is a directory of the test, so that it is
// the same after a restart.
const daemon = `set -e
mount --bind "$1/run" /run
for dir in /dev/shm /dev/mqueue; do
	[ ! -d $dir ] || mount -t tmpfs tmpfs $dir
done
[ -z "$3" ] || export LD_LIBRARY_PATH=$3
export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
exec "$2"
`

// Bus starts a D-Bus without a logind, for a test that plays one, and returns its address. It ends with the test.
func Bus(tb TB) (address string) {
	tb.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		missing(tb, err)
	}
	// The path of a socket must be short.
	dir, err := os.MkdirTemp("", "logind")
	if err != nil {
		tb.Fatalf("logind: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	conf, socket := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "bus")
	if err := os.WriteFile(conf, fmt.Appendf(nil, unpacked.BusConfig, socket), 0o644); err != nil {
		tb.Fatalf("logind: %v", err)
	}
	start(tb, exec.Command("dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile"))
	wait(tb, "dbus-daemon", func() bool {
		// The socket is there before anybody listens on it.
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "unix:path=" + socket
}

// Start starts a bus and systemd-logind, and waits until it answers.
func Start(tb TB) *Daemon {
	tb.Helper()
	binary, libs, err := find()
	if err == nil && os.Geteuid() != 0 {
		err = errors.New("only root may mount what systemd-logind needs")
	}
	if err != nil {
		missing(tb, err)
	}
	d := &Daemon{Address: Bus(tb), tb: tb, binary: binary, libs: libs}
	d.dir = filepath.Dir(strings.TrimPrefix(d.Address, "unix:path="))
	for _, sub := range []string{"systemd/sessions", "systemd/seats", "systemd/users", "systemd/inhibit", "user", "udev"} {
		if err := os.MkdirAll(filepath.Join(d.dir, "run", sub), 0o755); err != nil {
			tb.Fatalf("logind: %v", err)
		}
	}
	if d.conn, err = dbus.Connect(d.Address); err != nil {
		tb.Fatalf("logind: %v", err)
	}
	tb.Cleanup(func() { d.conn.Close() })
	if d.init, err = serveSystemd(d.conn); err != nil {
		tb.Fatalf("logind: %v", err)
	}
	d.startDaemon()
	return d
}

// Stop ends systemd-logind; the bus goes on, and so do the processes of its sessions.
func (d *Daemon) Stop() { d.stop() }

// Restart ends systemd-logind and starts it again. It remembers its sessions.
func (d *Daemon) Restart() {
	d.tb.Helper()
	d.stop()
	d.startDaemon()
}

func (d *Daemon) startDaemon() {
	d.tb.Helper()
	cmd := exec.Command("sh", "-c", daemon, "sh", d.dir, d.binary, d.libs)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+d.Address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC}
	d.stop = start(d.tb, cmd)
	wait(d.tb, "systemd-logind", func() bool {
		return d.call(path, "org.freedesktop.DBus.Peer.Ping", nil) == nil
	})
}

// LogOn makes a session, as the PAM module of a login service does. It lasts until LogOff or the end of the test.
func (d *Daemon) LogOn(l Logon) *Session {
	d.tb.Helper()
	s := &Session{d: d, Leader: l.Leader, end: func() {}}
	if s.Leader == 0 {
		cmd := exec.Command("sleep", "600")
		s.end = start(d.tb, cmd)
		s.Leader = cmd.Process.Pid
	}
	if l.Class == "" {
		l.Class = "user"
	}
	if l.Type == "" {
		l.Type = "tty"
	}
	var (
		runtime, seat string
		fd            dbus.UnixFD
		uid, vt       uint32
		existing      bool
	)
	err := d.call(path, manager+".CreateSession", []any{&s.ID, &s.Path, &runtime, &fd, &uid, &seat, &vt, &existing},
		l.UID, uint32(s.Leader), l.Service, l.Type, l.Class, "", l.Seat, uint32(0), l.TTY, l.Display, l.Remote, "", l.RemoteHost,
		[]struct {
			Name  string
			Value dbus.Variant
		}{})
	if err != nil {
		d.tb.Fatalf("logind: CreateSession: %v", err)
	}
	s.fifo = os.NewFile(uintptr(fd), "session")
	d.tb.Cleanup(s.LogOff)
	return s
}

// Leave ends the session, as the PAM module does when the user leaves, but its leader stays, as a program does that was told to go on
// without its user. Logind calls the session closing from then on.
func (s *Session) Leave() {
	s.left.Do(func() {
		s.d.call(path, manager+".ReleaseSession", nil, s.ID) // an error says that it is gone already
		s.fifo.Close()
	})
}

// LogOff ends the session and its leader, and logind forgets it.
func (s *Session) LogOff() {
	s.Leave()
	s.gone.Do(func() {
		s.end()
		s.d.init.ended("session-" + s.ID + ".scope")
	})
}

// Lock tells logind that the session, which must be a desktop, is locked or not, as a screen locker does.
func (s *Session) Lock(locked bool) {
	s.d.tb.Helper()
	if err := s.d.call(s.Path, name+".Session.SetLockedHint", nil, locked); err != nil {
		s.d.tb.Fatalf("logind: SetLockedHint: %v", err)
	}
}

func (d *Daemon) call(at dbus.ObjectPath, method string, results []any, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	return d.conn.Object(name, at).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...).Store(results...)
}

// start runs a command until the test ends, or until the function that it returns is called.
func start(tb TB, cmd *exec.Cmd) (stop func()) {
	tb.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		tb.Fatalf("logind: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if out.Len() > 0 {
			tb.Logf("%s: %s", filepath.Base(cmd.Path), out.Bytes())
		}
	})
	tb.Cleanup(stop)
	return stop
}

func wait(tb TB, what string, ready func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("logind: %s does not begin to work", what)
		}
	}
}

func missing(tb TB, err error) {
	tb.Helper()
	if os.Getenv("CULVERT_INTEROP") == "1" {
		tb.Fatalf("logind: CULVERT_INTEROP=1, but %v", err)
	}
	tb.Skipf("logind: %v", err)
}

const relative = "lib/systemd/systemd-logind"

// find returns the daemon, and where libraries of its own are, or "".
func find() (binary, libs string, err error) {
	if dir := os.Getenv("CULVERT_LOGIND"); dir != "" {
		if !unpacked.Has(dir, relative) {
			return "", "", fmt.Errorf("CULVERT_LOGIND is %s, which has no %s", dir, relative)
		}
		return filepath.Join(dir, relative), unpacked.Libraries(dir), nil
	}
	for _, dir := range []string{"/", "/usr"} {
		if unpacked.Has(dir, relative) {
			return filepath.Join(dir, relative), "", nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	dir := filepath.Join(cache, "culvert", "systemd-logind")
	if !unpacked.Has(dir, relative) {
		if os.Getenv("CULVERT_INTEROP") != "1" {
			return "", "", errors.New("systemd-logind is neither installed nor unpacked anywhere; CULVERT_INTEROP=1 fetches it")
		}
		if err := unpacked.Fetch(dir, relative, "systemd"); err != nil {
			return "", "", err
		}
	}
	return filepath.Join(dir, relative), unpacked.Libraries(dir), nil
}
