package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
)

// childEnv makes this program one that changes a machine until it is killed: its value is the path of the journal.
const childEnv = "CULVERT_HOST_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := child(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// child opens the device and the machine and applies settings, one after the other, for ever.
func child(path string) error {
	if os.Getenv(childEnv+"_TUN") != "" {
		dev, err := tun.Open(tun.Config{Name: "culvert0"})
		if err != nil {
			return err
		}
		defer dev.Close()
	}
	m, err := Open(Config{JournalPath: path})
	if err != nil {
		return err
	}
	if err := m.Apply(context.Background(), inside()); err != nil {
		return err
	}
	fmt.Println("ready")
	for r := rand.New(rand.NewPCG(1, uint64(os.Getpid()))); os.Getenv(childEnv+"_BUSY") != ""; {
		s := inside()
		s.MTU = 1300 + r.IntN(100)
		s.Addresses[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, 0, byte(2 + r.IntN(200))}), 24)
		s.Local = Local(r.IntN(4))
		for range r.IntN(300) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), 0}), 24)
			if r.IntN(2) == 0 {
				s.Direct = append(s.Direct, p)
			} else {
				s.Blocked = append(s.Blocked, p)
			}
		}
		if err := m.Apply(context.Background(), s); err != nil {
			return err
		}
	}
	for { // with the Machine alive, and with it the lock
		time.Sleep(time.Hour)
		runtime.KeepAlive(m)
	}
}

// inside are the settings of a full tunnel with all there is.
func inside() Settings {
	return Settings{
		Device: "culvert0", Addresses: pfxs("10.8.0.5/24", "fd08::5/64"), MTU: 1400,
		Tunnel: pfxs("0.0.0.0/0", "::/0"), Direct: pfxs("203.0.113.0/24", "2001:db8:cb00::/48"), Blocked: pfxs("203.0.113.128/25", "2001:db8:dead::/48"),
		Gateways: []netip.Addr{addr("198.51.100.7"), addr("2001:db8:7::7")},
	}
}

// A site is a client in a namespace, joined to a router.
type site struct {
	*testing.T
	lab            *netns.Lab
	client, router *netns.Host
	outside        string // interface of the client
	path           string // of the journal
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab := netns.New(t)
	s := &site{T: t, lab: lab, client: lab.Host("client"), router: lab.Host("router"), path: filepath.Join(t.TempDir(), "journal")}
	s.outside, _ = lab.Join(s.client, "192.0.2.2/24 2001:db8::2/64", s.router, "192.0.2.1/24 2001:db8::1/64 198.51.100.7/32 2001:db8:7::7/128 8.8.8.8/32")
	s.client.IP("route", "add", "default", "via", "192.0.2.1")
	s.client.IP("route", "add", "10.77.0.0/16", "via", "192.0.2.1")
	s.client.IP("-6", "route", "add", "default", "via", "2001:db8::1")
	return s
}

// device makes a device that outlives processes. It has been switched on once, since that leaves a trace which nobody can undo.
func (s *site) device() {
	s.Helper()
	s.client.IP("tuntap", "add", "culvert0", "mode", "tun")
	s.client.IP("link", "set", "culvert0", "up")
	s.client.IP("link", "set", "culvert0", "down")
}

// picture is all that ip tells about the client.
func (s *site) picture() string {
	s.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"addr"}, {"-4", "route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"-4", "rule"}, {"-6", "rule"},
	} {
		fmt.Fprintf(&b, "%v: %s\n", args, s.client.Run("ip", append([]string{"-j", "-p"}, args...)...))
	}
	return b.String()
}

func (s *site) same(before string) {
	s.Helper()
	if now := s.picture(); now != before {
		s.Fatalf("the machine is not as it was:\n%s", difference(before, now))
	}
}

func (s *site) open(cfg Config) *Machine {
	s.Helper()
	cfg.JournalPath = s.path
	var m *Machine
	var err error
	s.client.Do(func() { m, err = Open(cfg) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { m.Close() })
	return m
}

func (s *site) repair() (report Report, err error) {
	s.Helper()
	s.client.Do(func() { report, err = Repair(s.Context(), s.path, Parts{}) })
	return report, err
}

// goes fails unless packets of the client take these ways, as far as the kernel says.
func (s *site) goes(mark string, want map[string]string) {
	s.Helper()
	for a, dev := range want {
		args := []string{"route", "get", a}
		if mark != "" {
			args = append(args, "mark", mark)
		}
		ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
		out, err := s.client.Command(ctx, "ip", args...).CombinedOutput()
		cancel()
		got := string(out)
		if dev == "" {
			if err == nil && !strings.Contains(got, "unreachable") {
				s.Errorf("%s with mark %q is reachable: %s", a, mark, got)
			}
			continue
		}
		if err != nil || !strings.Contains(got, "dev "+dev+" ") {
			s.Errorf("%s with mark %q does not go through %s: %s", a, mark, dev, got)
		}
	}
}

func TestApplyUndoKernel(t *testing.T) {
	s := newSite(t)
	s.device()
	before := s.picture()
	routes := func() string {
		return s.client.Run("ip", "-4", "route", "show", "table", "main") + s.client.Run("ip", "-6", "route", "show", "table", "main", "proto", "kernel")
	}
	own := routes()
	m := s.open(Config{})
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Fatal(err)
	}
	// The routes of the machine stay as they are, but for the link-local network of any interface that is switched on.
	if now := strings.ReplaceAll(routes(), "fe80::/64 dev culvert0 metric 256 linkdown pref medium\n", ""); now != own {
		t.Errorf("the routes of the machine have changed:\n%s", difference(own, now))
	}
	s.goes("", map[string]string{
		"8.8.8.8": "culvert0", "10.77.0.1": "culvert0", "192.0.2.77": "culvert0", "2001:4860::8": "culvert0", "10.8.0.9": "culvert0",
		"198.51.100.7": s.outside, "203.0.113.1": s.outside, "203.0.113.200": "", "2001:db8:7::7": s.outside, "2001:db8:cb00::1": s.outside, "2001:db8:dead::1": "",
	})
	marked := map[string]string{"8.8.8.8": s.outside, "203.0.113.200": s.outside, "2001:4860::8": s.outside, "198.51.100.7": s.outside, "2001:db8:7::7": s.outside}
	s.goes("0x28a0", marked)

	// Again there is nothing to do.
	if steps, err := m.Plan(t.Context(), inside()); err != nil || len(steps) > 0 {
		t.Errorf("again: %q, %v", steps, err)
	}
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Error(err)
	}

	// Another lease and less in the tunnel, with the machine's own routes first.
	less := inside()
	less.Addresses, less.MTU, less.Local = pfxs("10.8.0.6/24"), 1300, LocalRoutes
	less.Tunnel = pfxs("10.0.0.0/8", "192.0.2.0/24")
	less.Table, less.Mark, less.Mask = 200, 0x100, 0xff00
	if err := m.Apply(t.Context(), less); err != nil {
		t.Fatal(err)
	}
	s.goes("", map[string]string{"8.8.8.8": s.outside, "10.1.1.1": "culvert0", "10.77.0.1": s.outside, "192.0.2.77": s.outside, "2001:4860::8": s.outside})
	s.goes("0x1ff", map[string]string{"10.1.1.1": s.outside})
	if out := s.client.Run("ip", "-j", "route", "show", "table", "10400"); strings.Contains(out, "dst") {
		t.Errorf("left in the former table: %s", out)
	}
	if out := s.client.Run("ip", "addr", "show", "culvert0"); !strings.Contains(out, "mtu 1300") || !strings.Contains(out, "10.8.0.6/32") || strings.Contains(out, "10.8.0.5") || strings.Contains(out, "fd08") {
		t.Errorf("culvert0 is: %s", out)
	}
	if steps, err := m.Plan(t.Context(), less); err != nil || len(steps) > 0 {
		t.Errorf("again: %q, %v", steps, err)
	}
	report, err := m.Undo(t.Context())
	if err != nil || len(report.Undone) == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	s.same(before)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(s.path)); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// start runs a child on the client until it is ready.
func (s *site) start(env ...string) *exec.Cmd {
	s.Helper()
	program, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	cmd := s.client.Command(context.Background(), program)
	cmd.Env = append(append(os.Environ(), childEnv+"="+s.path), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		rest, _ := io.ReadAll(out)
		s.Fatalf("the child says %q, %v, %s", line, err, rest)
	}
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

func TestKill(t *testing.T) {
	t.Run("the device goes with the process", func(t *testing.T) {
		s := newSite(t)
		before := s.picture()
		cmd := s.start(childEnv + "_TUN=1")
		kill(t, cmd)
		if s.picture() == before {
			t.Fatal("the child has left nothing behind, so this shows nothing")
		}
		report, err := s.repair()
		if err != nil || len(report.Undone) == 0 || len(report.Gone) == 0 {
			t.Errorf("%+v, %v", report, err)
		}
		s.same(before)
		if report, err := s.repair(); err != nil || len(report.Undone) > 0 {
			t.Errorf("a second repair: %+v, %v", report, err)
		}
	})
	t.Run("the device stays", func(t *testing.T) {
		s := newSite(t)
		s.device()
		before := s.picture()
		kill(t, s.start())
		if _, err := s.repair(); err != nil {
			t.Error(err)
		}
		s.same(before)
	})
	t.Run("in the middle of changes", func(t *testing.T) {
		s := newSite(t)
		s.device()
		before := s.picture()
		for i := range 8 {
			cmd := s.start(childEnv + "_BUSY=1")
			time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			kill(t, cmd)
			// The next start does what Repair does.
			if i%2 == 0 {
				if _, err := s.repair(); err != nil {
					t.Error(err)
				}
			} else if err := s.open(Config{}).Close(); err != nil {
				t.Error(err)
			}
			s.same(before)
		}
	})
	t.Run("and another process has its name", func(t *testing.T) {
		s := newSite(t)
		cmd := s.start(childEnv + "_TUN=1")
		kill(t, cmd)
		s.client.IP("tuntap", "add", "culvert0", "mode", "tun")
		s.client.IP("link", "set", "culvert0", "up", "mtu", "1400")
		s.client.IP("addr", "add", "10.8.0.5/32", "dev", "culvert0")
		if _, err := s.repair(); err != nil {
			t.Error(err)
		}
		out := s.client.Run("ip", "addr", "show", "culvert0")
		if !strings.Contains(out, "10.8.0.5/32") || !strings.Contains(out, "mtu 1400") || !strings.Contains(out, ",UP") {
			t.Errorf("the device of somebody else was changed: %s", out)
		}
	})
}

func TestSecondInstance(t *testing.T) {
	s := newSite(t)
	s.device()
	cmd := s.start()
	during := s.picture()
	s.client.Do(func() {
		_, err := Open(Config{JournalPath: s.path})
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
			t.Errorf("a second instance: %v", err)
		}
		if _, err := Repair(t.Context(), s.path, Parts{}); !errors.Is(err, ErrBusy) {
			t.Errorf("a repair of what is not broken: %v", err)
		}
	})
	s.same(during)
}

func TestRefusalsKernel(t *testing.T) {
	s := newSite(t)
	s.device()
	before := s.picture()
	m := s.open(Config{})
	refused := func(name string, want error, settings Settings) {
		t.Helper()
		if err := m.Apply(t.Context(), settings); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		s.same(before)
	}
	c := inside()
	c.Device = "culvert9"
	refused("no device", ErrNoDevice, c)
	c = inside()
	c.Gateways[0] = addr("10.8.0.5")
	refused("the lease is the gateway", ErrCapture, c)
	c = inside()
	c.Addresses = pfxs("192.0.2.2/32")
	refused("the lease is taken", ErrConflict, c)

	s.client.Sysctl("net.ipv6.conf.culvert0.disable_ipv6", "1")
	before = s.picture()
	refused("no IPv6 on the device", ErrNoIPv6, inside())
	s.client.Sysctl("net.ipv6.conf.culvert0.disable_ipv6", "0")

	s.client.IP("route", "add", "10.1.0.0/16", "via", "192.0.2.1", "table", "10400")
	before = s.picture()
	refused("the table is taken", ErrConflict, inside())
	s.client.IP("route", "flush", "table", "10400")
	before = s.picture()

	// Without IPv6 on the device, IPv6 can still be blocked.
	s.client.Sysctl("net.ipv6.conf.culvert0.disable_ipv6", "1")
	before = s.picture()
	c = inside()
	c.Addresses, c.Tunnel, c.Blocked = c.Addresses[:1], c.Tunnel[:1], pfxs("::/0")
	if err := m.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s.goes("", map[string]string{"8.8.8.8": "culvert0", "2001:4860::8": "", "2001:db8:7::7": s.outside})
	s.goes("0x28a0", map[string]string{"2001:4860::8": s.outside})
	if _, err := m.Undo(t.Context()); err != nil {
		t.Error(err)
	}
	s.same(before)
}

// TestNotPermitted gives up the right in one thread.
func TestNotPermitted(t *testing.T) {
	s := newSite(t)
	s.device()
	before := s.picture()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this goroutine
		ns, err := os.Open("/run/netns/" + s.client.Name)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err = unix.Capget(&header, &data[0])
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := errors.Join(err, unix.Capset(&header, &data[0])); err != nil {
			done <- err
			return
		}
		if _, err := Open(Config{JournalPath: s.path}); !errors.Is(err, ErrNotPermitted) {
			t.Errorf("without CAP_NET_ADMIN: %v", err)
		}
		// Looking needs no right.
		n, err := OpenNetwork(NetworkConfig{})
		if err != nil {
			done <- err
			return
		}
		defer n.Close()
		if exits, err := n.Exits(addr("8.8.8.8"), 0); err != nil || len(exits) != 1 {
			t.Errorf("%v, %v", exits, err)
		}
		// A user namespace that does not own the network has the capability and not the right; the kernel says so.
		m, err := openMachine(Config{JournalPath: s.path}, pretender{n})
		if err != nil {
			done <- err
			return
		}
		defer m.Close()
		if err := m.Apply(t.Context(), inside()); !errors.Is(err, ErrNotPermitted) {
			t.Errorf("refused by the kernel: %v", err)
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.same(before)
	if _, err := os.Stat(s.path); err == nil {
		t.Error("there is a journal")
	}
}

// A pretender says that it may.
type pretender struct{ *Network }

func (pretender) permitted() error { return nil }

// TestNoLoop sends packets, and looks at which come out of the device.
func TestNoLoop(t *testing.T) {
	s := newSite(t)
	var dev *tun.Device
	var err error
	s.client.Do(func() { dev, err = tun.Open(tun.Config{Name: "culvert0"}) })
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	m := s.open(Config{})
	settings := inside()
	settings.Addresses[0] = pfx("198.51.100.99/24") // around the gateway
	if err := m.Apply(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	gateway, err := s.router.ListenPacket("udp", "198.51.100.7:4433")
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	outside, err := s.router.ListenPacket("udp", "8.8.8.8:4433")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()

	// The strictest filter of sources asks for the way back to the sender (RFC 3704, section 2.2), and knows no marks.
	s.client.Sysctl("net.ipv4.conf.all.rp_filter", "1")
	send := func(to string, mark int, text string) (c net.Conn) {
		t.Helper()
		s.client.Do(func() {
			d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
				e := c.Control(func(fd uintptr) {
					if mark != 0 {
						err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
					}
				})
				return errors.Join(e, err)
			}}
			if c, err = d.Dial("udp", to); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		})
		return c
	}
	hear := func(c net.PacketConn, want, from string) net.Addr {
		t.Helper()
		b := make([]byte, 100)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, a, err := c.ReadFrom(b)
		if err != nil || string(b[:n]) != want || !strings.HasPrefix(a.String(), from) {
			t.Errorf("%q from %v, %v, want %q from %s", b[:n], a, err, want, from)
		}
		return a
	}
	for _, mark := range []int{DefaultMark, 0} {
		c := send("198.51.100.7:4433", mark, "question")
		if _, err := gateway.WriteTo([]byte("answer"), hear(gateway, "question", "192.0.2.2")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("with mark %#x the gateway answers %q, %v", mark, b[:n], err)
		}
	}
	send("8.8.8.8:4433", DefaultMark, "direct")
	hear(outside, "direct", "192.0.2.2")
	send("8.8.8.8:4433", 0, "secret")

	// Only the last one is in the tunnel, with the address of the lease.
	batch := packet.NewBatch(16, 2000)
	for {
		n, err := dev.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range batch[:n] {
			b := p.Bytes()
			if b[0]>>4 != 4 {
				continue // the kernel greets IPv6 routers
			}
			src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
			if src != addr("198.51.100.99") || dst != addr("8.8.8.8") || !strings.Contains(string(b), "secret") {
				t.Errorf("from %v to %v: %q", src, dst, b[20:])
			}
			return
		}
	}
}

// TestManyRoutes is a gateway with more routes than anybody has seen.
func TestManyRoutes(t *testing.T) {
	s := newSite(t)
	s.device()
	before := s.picture()
	m := s.open(Config{})
	settings := inside()
	for i := range 10000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
		if i%3 == 0 {
			settings.Direct = append(settings.Direct, p)
		}
		settings.Tunnel = append(settings.Tunnel, p)
	}
	start := time.Now()
	if err := m.Apply(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	t.Logf("applied in %v", time.Since(start))
	s.goes("", map[string]string{"11.0.0.1": s.outside, "11.0.0.65": "culvert0"})
	start = time.Now()
	settings.Tunnel = append(settings.Tunnel, pfx("12.0.0.0/8"))
	if steps, err := m.Plan(t.Context(), settings); err != nil || len(steps) != 1 {
		t.Errorf("one more takes %d steps, %v", len(steps), err)
	}
	if err := m.Apply(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	t.Logf("one more in %v", time.Since(start))
	if info, err := os.Stat(s.path); err != nil || info.Size() > 10000 {
		t.Errorf("the journal is %v, %v", info.Size(), err)
	}
	start = time.Now()
	if _, err := m.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("undone in %v", time.Since(start))
	s.same(before)
}

// TestOtherNamespace keeps a repair in the wrong place from doing anything.
func TestOtherNamespace(t *testing.T) {
	s := newSite(t)
	s.device()
	kill(t, s.start())
	during := s.picture()
	elsewhere := func() (report Report, err error) {
		s.router.Do(func() { report, err = Repair(t.Context(), s.path, Parts{}) })
		return report, err
	}
	if report, err := elsewhere(); !errors.Is(err, ErrNamespace) || len(report.Undone)+len(report.Gone) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	s.same(during)
	if report, err := s.repair(); err != nil || len(report.Undone) == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

// sorted returns the lines of a text in order, for routes that came again in another order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
