package system_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/host"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
)

func (w *world) repair(cfg system.Config) (r host.Report, err error) {
	w.client.Do(func() { r, err = system.Repair(w.tb.Context(), cfg) })
	return r, err
}

func TestBadConfig(t *testing.T) {
	for field, change := range map[string]func(*system.Config){
		"Device":                  func(c *system.Config) { c.Device = "a name that is too long" },
		"Journal":                 func(c *system.Config) { c.Journal = "journal" },
		"DataPath":                func(c *system.Config) { c.DataPath = 9 },
		"Heal":                    func(c *system.Config) { c.Heal = 9 },
		"Filter":                  func(c *system.Config) { c.Filter, c.DataPath = &filter.Config{}, system.Packet },
		"User":                    func(c *system.Config) { c.User = split.Rules{DynamicInclude: []string{"a..b"}} },
		"DNS.Listen":              func(c *system.Config) { c.DNS.Listen = netip.MustParseAddrPort("192.0.2.1:53") },
		"KillSwitch.Lease":        func(c *system.Config) { c.KillSwitch = &system.KillSwitch{Lease: time.Millisecond} },
		"KillSwitch.AllowedHosts": func(c *system.Config) { c.KillSwitch = &system.KillSwitch{AllowedHosts: prefixes("0.0.0.0/1")} },
		"Namespace":               func(c *system.Config) { c.Namespace = "no-such-namespace" },
	} {
		cfg := system.Config{Journal: filepath.Join(t.TempDir(), "journal")}
		change(&cfg)
		s, err := system.Open(t.Context(), cfg)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, system.ErrConfig) || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestNamespaceName(t *testing.T) {
	info, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	number := fmt.Sprintf("ns-%d", info.Sys().(*syscall.Stat_t).Ino)
	for in, want := range map[string]string{
		"blue": "blue", "/run/netns/net": "net", "/var/run/netns/../netns/net": "net",
		"/proc/self/ns/net": number, fmt.Sprintf("/proc/%d/ns/net", os.Getpid()): number,
	} {
		if got, err := system.NamespaceName(in); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	if got, err := system.NamespaceName("/proc/self/ns/nothing"); !errors.Is(err, system.ErrConfig) {
		t.Errorf("%q, %v", got, err)
	}
}

// What keeps a machine from being changed is said, and the machine stays as it is.
func TestCannot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.state()
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{}

	t.Run("second instance", func(t *testing.T) {
		s := w.open(w.config())
		defer s.Close()
		if _, err := w.tryOpen(cfg); !errors.Is(err, system.ErrBusy) {
			t.Errorf("%v", err)
		}
		if _, err := w.repair(cfg); !errors.Is(err, system.ErrBusy) {
			t.Errorf("Repair: %v", err)
		}
	})
	t.Run("no rights", func(t *testing.T) {
		err := onThread(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			s, err := system.Open(context.Background(), cfg)
			if err == nil {
				s.Close()
			}
			return err
		})
		if !errors.Is(err, system.ErrNotPermitted) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no driver", func(t *testing.T) {
		err := onThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
				return err
			}
			s, err := system.Open(context.Background(), cfg)
			if err == nil {
				s.Close()
			}
			return err
		})
		if !errors.Is(err, system.ErrNoTUN) || !strings.Contains(err.Error(), "/dev/net/tun") {
			t.Errorf("%v", err)
		}
	})
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// onThread runs f on a thread that is then thrown away.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// A System serves the namespace of the thread that calls Open, also if that is the first thread of the process, whose namespace
// the kernel shows as that of the process. The first thread may be gone in a process that has run other tests, so this takes another.
func TestFirstThread(t *testing.T) {
	if os.Getenv("CULVERT_FIRST_THREAD") == "" {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFirstThread$", "-test.timeout=30s")
		cmd.Env = append(os.Environ(), "CULVERT_FIRST_THREAD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	var w *world
	var s *system.System
	found, begin, opened, release := make(chan bool), make(chan struct{}), make(chan error), make(chan struct{})
	defer close(release)
	var look func(most int)
	look = func(most int) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		switch {
		case unix.Gettid() == os.Getpid():
			found <- true
			<-begin
			var err error
			s, err = w.tryOpen(w.config())
			opened <- err
		case most == 0:
			found <- false
		default:
			// This thread is taken, so that another one runs the next goroutine.
			go look(most - 1)
			<-release
		}
	}
	go look(200)
	if !<-found {
		t.Fatal("the first thread is busy")
	}
	w = newWorld(t)
	close(begin)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := w.attach(s, lease(nil))
	w.expect(map[string]string{"203.0.113.80": "inside"})
	k.close()
}

// Without IPv6 on the machine, a tunnel with both goes without, and one with IPv6 alone cannot be.
func TestIPv6Disabled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.client.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	w.client.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	s := w.open(w.config())
	before := w.state()
	six := lease(nil)
	six.Addresses = six.Addresses[1:]
	if _, err := w.tryAttach(s, six); !errors.Is(err, system.ErrNoIPv6) {
		t.Errorf("a tunnel with IPv6 alone: %v", err)
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	k := w.attach(s, lease(nil))
	w.expect(map[string]string{"203.0.113.80": "inside"})
	k.close()
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// What a process that was killed has left is undone by Repair and by the next Open; its kill switch stands until then.
func TestCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	before := w.state()
	kill := func(wall bool) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashes$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "CULVERT_CRASH="+w.client.Name, "CULVERT_CRASH_DIR="+w.dir)
		if wall {
			cmd.Env = append(cmd.Env, "CULVERT_CRASH_WALL=1")
		}
		ready, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1)
		if _, err := ready.Read(buf); err != nil || buf[0] != '!' {
			t.Fatalf("the process said %q, %v", buf, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	kill(false)
	if now := w.state(); now == before {
		t.Fatal("nothing was left behind")
	}
	if r, err := w.repair(cfg); err != nil || len(r.Undone) == 0 {
		t.Errorf("Repair: %+v, %v", r, err)
	}
	if after := w.state(); after != before {
		t.Errorf("after Repair: the machine was\n%s\nand is\n%s", before, after)
	}
	if r, err := w.repair(cfg); err != nil || len(r.Undone) != 0 {
		t.Errorf("Repair again: %+v, %v", r, err)
	}

	kill(true)
	w.air.Forget()
	w.probe()
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("after the crash: left the machine: %v", leaks)
	}
	cfg.KillSwitch = &system.KillSwitch{}
	s := w.open(cfg)
	w.probe()
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("opened anew: left the machine: %v", leaks)
	}
	w.attach(s, lease(nil)).close()
	s.Close()
	if after := w.state(); after != before {
		t.Errorf("after Open: the machine was\n%s\nand is\n%s", before, after)
	}
}

// TestCrashes is the process that [TestCrash] kills.
func TestCrashes(t *testing.T) {
	name := os.Getenv("CULVERT_CRASH")
	if name == "" {
		return
	}
	dir := os.Getenv("CULVERT_CRASH_DIR")
	w := &world{tb: t, dir: dir, outside: newZone(), inside: newZone()}
	runtime.LockOSThread()
	ns, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	if os.Getenv("CULVERT_CRASH_WALL") != "" {
		cfg.KillSwitch = &system.KillSwitch{}
	}
	s, err := system.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.tryAttach(s, lease(nil)); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("!")
	time.Sleep(time.Minute)
}

// The device is in a namespace of its own, and the rest of the machine knows nothing of it.
func TestNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cell := w.lab.Host("cell")
	before := w.state()
	cfg := w.config()
	cfg.Namespace = cell.Name
	cfg.DNS.ResolvConf = w.path("cell.conf")
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	// As "ip netns add" makes it, nobody there could ask the DNS proxy.
	cell.IP("link", "set", "lo", "down")
	if s, err := w.tryOpen(cfg); !errors.Is(err, system.ErrConfig) || !strings.Contains(err.Error(), "ip -n "+cell.Name+" link set lo up") {
		t.Errorf("with the loopback interface down: %v", err)
		if err == nil {
			s.Close()
		}
	}
	cell.IP("link", "set", "lo", "up")
	s := w.open(cfg)
	if err := w.dial(s, "tcp", netip.AddrPortFrom(gatewayAddr.Addr(), port).String()); err != nil {
		t.Errorf("the gateway: %v", err)
	}
	k := w.attach(s, lease(nil))
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	inCell := func() string { return askFrom(cell, "203.0.113.80") }
	if got := inCell(); got != "inside" {
		t.Errorf("in the namespace: %s", got)
	}
	w.expect(map[string]string{"203.0.113.80": "outside"})
	if conf := w.read("cell.conf"); !strings.Contains(conf, "127.0.40.53") {
		t.Errorf("the resolv.conf of the namespace is\n%s", conf)
	}
	k.close()
	if got := inCell(); got != "nowhere" {
		t.Errorf("afterwards: %s", got)
	}
	s.Close()
	if out := cell.Run("ip", "-j", "link"); strings.Contains(out, "culvert0") {
		t.Errorf("left in the namespace: %s", out)
	}
}

func askFrom(h *netns.Host, addr string) string {
	w := &world{client: h}
	return w.from(addr)
}
