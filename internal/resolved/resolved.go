//go:build linux

// Package resolved runs the real systemd-resolved for tests, on a D-Bus of its own and on a host of package netns, without
// installing it: its package would replace the resolv.conf of this machine.
//
// The daemon is taken from the directory that CULVERT_RESOLVED names, into which somebody has unpacked the package
// systemd-resolved of Debian. Otherwise, if CULVERT_INTEROP is 1, it is fetched by "apt-get download" and unpacked by "dpkg -x"
// into the cache directory of the user, once. Where it cannot be had the test is skipped, or fails if CULVERT_INTEROP is 1.
package resolved

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/unpacked"
)

// A Daemon is a systemd-resolved that runs. It ends with the test.
type Daemon struct {
	// Address is the D-Bus address of its bus.
	Address string
	// Dir is a directory of the test, which anybody may read.
	Dir string

	tb   netns.TB
	host *netns.Host
	root string
	stop func()
}

const relative = "lib/systemd/systemd-resolved"

// Both programs run in the mount namespaces that "ip netns exec" makes: nothing of what is mounted there is seen outside. The daemon
// insists on a user of its own, whom the bus has to know as well, and on a directory in /run; it would ask the servers that
// the resolv.conf of this machine names.
const (
	users = `set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
`
	bus = users + `exec dbus-daemon --config-file="$1/bus.conf" --nofork --nopidfile
`
	daemon = users + `: >"$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve
chown systemd-resolve:systemd-resolve /run/systemd/resolve
[ -z "$3" ] || export LD_LIBRARY_PATH=$3
export SYSTEMD_LOG_TARGET=console
exec "$2"
`
)

// Start starts a bus and systemd-resolved on host, and waits until it answers.
func Start(tb netns.TB, host *netns.Host) *Daemon {
	tb.Helper()
	root, err := find()
	if err == nil {
		_, err = exec.LookPath("dbus-daemon")
	}
	if err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			tb.Fatalf("resolved: CULVERT_INTEROP=1, but %v", err)
		}
		tb.Skipf("resolved: %v", err)
	}
	// The path of a socket must be short, and the daemon runs as another user.
	dir, err := os.MkdirTemp("", "resolved")
	if err != nil {
		tb.Fatalf("resolved: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatalf("resolved: %v", err)
	}
	d := &Daemon{tb: tb, host: host, Dir: dir, root: root, Address: "unix:path=" + filepath.Join(dir, "bus")}
	d.startBus()
	d.startDaemon()
	return d
}

// Restart ends systemd-resolved and starts it again. It remembers nothing.
func (d *Daemon) Restart() {
	d.tb.Helper()
	d.Stop()
	d.startDaemon()
}

// Stop ends systemd-resolved; the bus goes on.
func (d *Daemon) Stop() { d.stop() }

// Control runs resolvectl and returns what it prints.
func (d *Daemon) Control(args ...string) string {
	d.tb.Helper()
	ctl := filepath.Join(d.root, "usr/bin/resolvectl")
	return d.host.Run("env", append([]string{"DBUS_SYSTEM_BUS_ADDRESS=" + d.Address, "LD_LIBRARY_PATH=" + unpacked.Libraries(d.root), ctl,
		"--no-pager"}, args...)...)
}

func (d *Daemon) startBus() {
	d.tb.Helper()
	conf := filepath.Join(d.Dir, "bus.conf")
	socket := filepath.Join(d.Dir, "bus")
	if err := os.WriteFile(conf, fmt.Appendf(nil, unpacked.BusConfig, socket), 0o644); err != nil {
		d.tb.Fatalf("resolved: %v", err)
	}
	for name, line := range map[string]string{
		"passwd": "systemd-resolve:x:65500:65500::/:/usr/sbin/nologin\n", "group": "systemd-resolve:x:65500:\n",
	} {
		b, err := os.ReadFile(filepath.Join("/etc", name))
		if err == nil {
			if !strings.Contains("\n"+string(b), "\nsystemd-resolve:") {
				b = append(b, line...)
			}
			err = os.WriteFile(filepath.Join(d.Dir, name), b, 0o644)
		}
		if err != nil {
			d.tb.Fatalf("resolved: %v", err)
		}
	}
	stop := d.host.Start("sh", "-c", bus, "sh", d.Dir)
	d.tb.Cleanup(stop)
	d.wait("dbus-daemon", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
}

func (d *Daemon) startDaemon() {
	d.tb.Helper()
	stop := d.host.Start("env", "DBUS_SYSTEM_BUS_ADDRESS="+d.Address, "sh", "-c", daemon, "sh", d.Dir,
		filepath.Join(d.root, relative), unpacked.Libraries(d.root))
	d.stop = stop
	d.tb.Cleanup(stop)
	d.wait("systemd-resolved", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return d.host.Command(ctx, "dbus-send", "--bus="+d.Address, "--print-reply", "--dest=org.freedesktop.resolve1",
			"/org/freedesktop/resolve1", "org.freedesktop.DBus.Peer.Ping").Run() == nil
	})
}

func (d *Daemon) wait(what string, ready func() bool) {
	d.tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.tb.Fatalf("resolved: %s does not begin to work", what)
		}
	}
}

// find returns the directory of the unpacked package.
func find() (string, error) {
	if dir := os.Getenv("CULVERT_RESOLVED"); dir != "" {
		if !unpacked.Has(dir, relative) {
			return "", fmt.Errorf("CULVERT_RESOLVED is %s, which has no lib/systemd/systemd-resolved", dir)
		}
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "culvert", "systemd-resolved")
	if unpacked.Has(dir, relative) {
		return dir, nil
	}
	if os.Getenv("CULVERT_INTEROP") != "1" {
		return "", errors.New("systemd-resolved is not unpacked anywhere; CULVERT_INTEROP=1 fetches it")
	}
	return dir, unpacked.Fetch(dir, relative, "systemd-resolved")
}
