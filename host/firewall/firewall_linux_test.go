package firewall

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
)

// A probe is a packet that pc tries to send, and how the other end of the cable sees it.
type probe struct {
	name string
	send func(w *world)
	key  string
}

func udpProbe(to string) probe {
	a := netip.MustParseAddrPort(to)
	return probe{"udp " + to, func(w *world) { w.udp(0, to) }, fmt.Sprintf("udp %v %d", a.Addr(), a.Port())}
}

func tcpProbe(to string) probe {
	a := netip.MustParseAddrPort(to)
	return probe{"tcp " + to, func(w *world) { w.tcp(to, 0) }, fmt.Sprintf("tcp %v %d", a.Addr(), a.Port())}
}

// always is what passes in every Config.
func always() []probe {
	return []probe{
		{"DHCP broadcast", func(w *world) { w.udp(68, "255.255.255.255:67") }, "udp 255.255.255.255 67"},
		{"DHCP renewal", func(w *world) { w.udp(68, other4+":67") }, "udp " + other4 + " 67"},
		{"DHCPv6", func(w *world) { w.udp(546, "[ff02::1:2%"+w.link+"]:547") }, "udp ff02::1:2 547"},
		{"DHCPv6 of the site", func(w *world) { w.udp(546, "[ff05::1:3%"+w.link+"]:547") }, "udp ff05::1:3 547"},
		{"router solicitation", func(w *world) { w.raw(true, 133, 255, "ff02::2") }, "icmp6 ff02::2 133"},
		{"neighbour solicitation", func(w *world) { w.raw(true, 135, 255, "ff02::1:ff00:9") }, "icmp6 ff02::1:ff00:9 135"},
		{"neighbour advertisement", func(w *world) { w.raw(true, 136, 255, "ff02::1") }, "icmp6 ff02::1 136"},
		{"listener report", func(w *world) { w.raw(true, 143, 1, "ff02::16") }, "icmp6 ff02::16 143"},
	}
}

// named is what config allows.
func named() []probe {
	return []probe{
		udpProbe(gateway4 + ":443"), tcpProbe(gateway4 + ":443"), udpProbe(gateway4 + ":8443"),
		udpProbe("[" + gateway6 + "]:443"), tcpProbe("[" + gateway6 + "]:443"),
		udpProbe(resolver4 + ":53"), tcpProbe(resolver4 + ":53"), udpProbe("[" + resolver6 + "]:53"), tcpProbe("[" + resolver6 + "]:53"),
	}
}

// leaks is what must never leave.
func leaks() []probe {
	return []probe{
		udpProbe(other4 + ":443"), tcpProbe(other4 + ":443"), udpProbe("[" + other6 + "]:443"), tcpProbe("[" + other6 + "]:443"),
		udpProbe(other4 + ":53"), tcpProbe(other4 + ":53"), udpProbe("[" + other6 + "]:53"),
		tcpProbe(gateway4 + ":80"), tcpProbe(gateway4 + ":8443"), udpProbe(gateway4 + ":53"), udpProbe("[" + gateway6 + "]:444"),
		udpProbe(resolver4 + ":123"), tcpProbe(resolver4 + ":853"), udpProbe("[" + resolver6 + "]:123"),
		udpProbe("10.0.0.1:53"), tcpProbe("10.0.0.1:80"), udpProbe("[fd00::1]:53"),
		udpProbe("239.255.255.250:1900"), udpProbe("10.0.0.255:138"),
		{"echo", func(w *world) { w.raw(false, 8, 64, gateway4) }, "icmp " + gateway4 + " 8"},
		{"echo of IPv6", func(w *world) { w.raw(true, 128, 64, gateway6) }, "icmp6 " + gateway6 + " 128"},
		{"redirect", func(w *world) { w.raw(true, 137, 255, "ff02::1") }, "icmp6 ff02::1 137"},
		{"router advertisement", func(w *world) { w.raw(true, 134, 255, "ff02::1") }, "icmp6 ff02::1 134"},
		{"routed solicitation", func(w *world) { w.raw(true, 135, 64, other6) }, "icmp6 " + other6 + " 135"},
		{"routed report", func(w *world) { w.raw(true, 143, 64, "ff02::6a") }, "icmp6 ff02::6a 143"},
		{"DHCP from another port", func(w *world) { w.udp(0, other4+":67") }, "udp " + other4 + " 67"},
		{"DHCPv6 routed", func(w *world) { w.udp(546, "["+other6+"]:547") }, "udp " + other6 + " 547"},
	}
}

// check sends probes and fails for each that passes when it must not, or the other way round.
func (w *world) check(when string, probes []probe, pass bool) {
	w.t.Helper()
	w.linkTap.Forget()
	for _, p := range probes {
		p.send(w)
	}
	w.settle()
	for _, p := range probes {
		if got := w.linkTap.Count(p.key) > 0; got != pass {
			w.t.Errorf("%s, %s left: %v, want %v", when, p.name, got, pass)
		}
	}
}

func TestWhatLeaves(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.check("without rules", leaks(), true) // or the probes prove nothing
	w.check("without rules", named(), true)

	w.apply(Config{})
	w.check("closed", always(), true)
	w.check("closed", named(), false)
	w.check("closed", leaks(), false)

	w.apply(w.config())
	w.check("with a gateway", always(), true)
	w.check("with a gateway", named(), true)
	w.check("with a gateway", leaks(), false)

	if err := w.fw.Undo(t.Context(), w.undo); err != nil {
		t.Fatal(err)
	}
	w.unchanged()
	w.check("undone", leaks(), true)
	if err := w.fw.Undo(t.Context(), w.undo); err != nil {
		t.Errorf("undone again: %v", err)
	}
}

func TestExceptions(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	cfg := w.config()
	cfg.Hosts = prefixes("203.0.113.128/25", "2001:db8:3::/48")
	cfg.LAN = prefixes("10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "239.255.255.250/32", "255.255.255.255/32")
	w.apply(cfg)
	open := []probe{
		tcpProbe(extra4 + ":22"), udpProbe(extra4 + ":9999"), tcpProbe("[" + extra6 + "]:22"),
		udpProbe("10.0.0.1:53"), tcpProbe("10.0.0.1:80"), udpProbe("[fd00::1]:53"), udpProbe("239.255.255.250:1900"),
		udpProbe("10.0.0.255:138"),
	}
	shut := []probe{tcpProbe(other4 + ":443"), udpProbe(other4 + ":53"), udpProbe("[" + other6 + "]:443"), tcpProbe(gateway4 + ":80")}
	w.check("with hosts and a LAN", open, true)
	w.check("with hosts and a LAN", shut, false)

	w.apply(Config{Mark: 0x10, Mask: 0xf0})
	for _, mark := range []struct {
		mark int
		pass bool
	}{{0x10, true}, {0x1f, true}, {0x20, false}, {0, false}, {0x30, false}} {
		w.check(fmt.Sprintf("mark %#x", mark.mark), []probe{
			{"tcp", func(w *world) { w.tcp(other4+":443", mark.mark) }, "tcp " + other4 + " 443"},
			{"tcp of IPv6", func(w *world) { w.tcp("["+other6+"]:443", mark.mark) }, "tcp " + other6 + " 443"},
		}, mark.pass)
	}
	s, err := w.fw.Stats(t.Context())
	if err != nil || s.Marked.Packets < 4 || s.Hosts.Packets < 3 || s.LAN.Packets < 5 || s.DroppedOut.Packets < 10 || s.DHCP.Packets < 5 {
		t.Errorf("counters %+v, %v", s, err)
	}
}

// TestManyPrefixes has more of them than fit one message, touching, overlapping and at the end of the address space.
func TestManyPrefixes(t *testing.T) {
	w := newWorld(t)
	var cfg Config
	for i := range 500 {
		cfg.Hosts = append(cfg.Hosts, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 7), byte(i << 1), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 2, byte(i >> 7), byte(i << 1)}), 56))
	}
	cfg.Hosts = append(cfg.Hosts, prefixes("255.0.0.0/8", "203.0.0.0/25", "ffff::/16", "203.0.113.0/24")...)
	for i := range 128 {
		cfg.Gateways = append(cfg.Gateways, Endpoint{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 443), ""},
			Endpoint{netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: byte(i)}), 443), "udp"})
	}
	w.apply(cfg)
	w.check("with 1000 prefixes", []probe{tcpProbe(other4 + ":443"), udpProbe("203.0.2.1:9")}, true)
	w.check("with 1000 prefixes", []probe{udpProbe("203.0.1.1:9"), udpProbe("203.4.0.1:9"), udpProbe("[2001:db8:53::53]:53")}, false)
	if err := w.fw.Undo(t.Context(), w.undo); err != nil {
		t.Fatal(err)
	}
	w.unchanged()
}

// talk sends a datagram to an echo service and waits for the answer.
func talk(w *world, to string) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 400*time.Millisecond)
	defer cancel()
	c, err := w.pc.DialContext(ctx, "udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(400 * time.Millisecond))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 16))
	return err
}

func (w *world) echo(at ...string) {
	w.t.Helper()
	for _, a := range at {
		pc, err := w.net.ListenPacket("udp", a)
		if err != nil {
			w.t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			b := make([]byte, 64)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		w.t.Cleanup(func() {
			pc.Close()
			<-done
		})
	}
}

// TestWhatArrives has answers come back, and nothing else come in.
func TestWhatArrives(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.apply(w.config())
	// Neighbours have to find each other in spite of the rules.
	w.pc.IP("neigh", "del", "fd00::1", "dev", w.link)
	w.net.IP("neigh", "del", "fd00::2", "dev", w.atNet)
	w.pc.Sysctl("net.ipv6.neigh."+w.link+".retrans_time_ms", "50")
	services := []string{gateway4 + ":443", "[" + gateway6 + "]:443", resolver4 + ":53", "[" + resolver6 + "]:53"}
	w.echo(services...)
	for _, s := range services {
		err := talk(w, s)
		for range 8 {
			if err != nil { // the cable is new
				err = talk(w, s)
			}
		}
		if err != nil {
			t.Errorf("%s does not answer: %v", s, err)
		}
	}
	// TCP both ways: a handshake needs the answer of the gateway.
	l, err := w.net.Listen("tcp", gateway4+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	c, err := w.pc.DialContext(ctx, "tcp", gateway4+":443")
	if err != nil {
		t.Fatalf("the gateway cannot be reached: %v", err)
	}
	c.Close()
	l.Close()

	// From the stranger's network nothing comes in, even from where an answer might.
	in, err := w.pc.ListenPacket("udp", ":5000")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	service, err := w.pc.Listen("tcp", ":5000")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	for _, from := range []string{"10.0.0.1:0", other4 + ":443", gateway4 + ":80", "[fd00::1]:0", "[" + other6 + "]:53"} {
		out, err := w.net.ListenPacket("udp", from)
		if err != nil {
			t.Fatal(err)
		}
		to := &net.UDPAddr{IP: net.ParseIP("10.0.0.2"), Port: 5000}
		if strings.Contains(from, "[") {
			to.IP = net.ParseIP("fd00::2")
		}
		out.WriteTo([]byte(from), to)
		out.Close()
	}
	in.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	b := make([]byte, 64)
	if n, _, err := in.ReadFrom(b); err == nil {
		t.Errorf("a datagram of %s came in", b[:n])
	}
	// The gateway's own address and port cannot begin a connection: anybody on the path can forge them.
	var refused error
	w.net.Do(func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(gateway4), Port: 443},
			Control: func(_, _ string, c syscall.RawConn) (err error) {
				// The connection before has not quite forgotten the address.
				c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
				return err
			}}
		_, refused = d.Dial("tcp", "10.0.0.2:5000")
	})
	if !os.IsTimeout(refused) {
		t.Errorf("a connection came in, or was not tried: %v", refused)
	}
	s, err := w.fw.Stats(t.Context())
	if err != nil || s.DroppedIn.Packets < 6 || s.Gateway.Packets < 8 || s.Resolver.Packets < 4 {
		t.Errorf("counters %+v, %v", s, err)
	}
}

// TestTunnelVision is a DHCP server that sends routes more specific than those of the tunnel.
func TestTunnelVision(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.pc.IP("route", "replace", "default", "dev", w.tun)
	w.pc.IP("-6", "route", "replace", "default", "dev", w.tun)
	w.pc.IP("route", "add", gateway4, "via", "10.0.0.1")
	inside := []probe{tcpProbe(other4 + ":443"), udpProbe("[" + other6 + "]:443")}
	w.pc.IP("neigh", "add", other4, "lladdr", "02:00:00:00:00:01", "dev", w.tun)
	w.pc.IP("neigh", "add", other6, "lladdr", "02:00:00:00:00:01", "dev", w.tun)

	through := func(when string, want bool) {
		t.Helper()
		w.tap.Forget()
		w.check(when, inside, false)
		for _, p := range inside {
			if got := w.tap.Count(p.key) > 0; got != want {
				t.Errorf("%s, %s went through the tunnel: %v, want %v", when, p.name, got, want)
			}
		}
	}
	through("without rules", true)
	w.pc.IP("route", "add", "203.0.113.0/25", "via", "10.0.0.1")
	w.pc.IP("-6", "route", "add", "2001:db8:2::/48", "via", "fd00::1")
	w.check("without rules, with the routes of a stranger", inside, true)

	w.apply(w.config())
	through("with rules, with the routes of a stranger", false)
	w.pc.IP("route", "del", "203.0.113.0/25")
	w.pc.IP("-6", "route", "del", "2001:db8:2::/48")
	through("with rules", true)
}

func TestForwarding(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	guest, second := w.lab.Host("guest"), w.lab.Host("second")
	toGuest, _ := w.lab.Join(w.pc, "172.17.0.1/24 fd17::1/64", guest, "172.17.0.2/24 fd17::2/64")
	toSecond, _ := w.lab.Join(w.pc, "172.18.0.1/24", second, "172.18.0.2/24")
	for _, g := range []struct {
		h        interface{ IP(args ...string) }
		via, six string
	}{{guest, "172.17.0.1", "fd17::1"}, {second, "172.18.0.1", ""}} {
		g.h.IP("route", "add", "default", "via", g.via)
		if g.six != "" {
			g.h.IP("-6", "route", "add", "default", "via", g.six)
		}
	}
	w.pc.Sysctl("net.ipv4.ip_forward", "1")
	w.pc.Sysctl("net.ipv6.conf.all.forwarding", "1")
	// Forwarding forgets routes that were learned, not these; but be sure.
	w.pc.IP("-6", "route", "replace", "default", "via", "fd00::1")

	send := func(to string) {
		t.Helper()
		guest.Do(func() {
			c, err := net.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write([]byte("x"))
		})
	}
	arrive := func(tp *netns.Tap, key string, want bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Second); want && tp.Count(key) == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if !want {
			time.Sleep(20 * time.Millisecond)
			w.settle()
		}
		if got := tp.Count(key) > 0; got != want {
			t.Errorf("%q arrived: %v, want %v", key, got, want)
		}
	}
	all := func(want bool) {
		t.Helper()
		w.linkTap.Forget()
		for _, to := range []string{other4 + ":443", "[" + other6 + "]:443", gateway4 + ":443"} {
			send(to)
			a := netip.MustParseAddrPort(to)
			arrive(w.linkTap, fmt.Sprintf("udp %v %d", a.Addr(), a.Port()), want)
		}
	}
	all(true)
	cfg := w.config()
	w.apply(cfg)
	all(false)
	cfg.Guests = []string{toGuest, toSecond[:len(toSecond)-1] + "*"}
	w.apply(cfg)
	all(false)
	// Through the tunnel they may go, and between each other.
	w.pc.IP("route", "replace", "default", "via", "10.9.0.1")
	send(other4 + ":443")
	arrive(w.tap, "udp "+other4+" 443", true)
	in, err := second.ListenPacket("udp", "172.18.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	send("172.18.0.2:7")
	in.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, _, err := in.ReadFrom(make([]byte, 9)); err != nil {
		t.Errorf("between guests: %v", err)
	}
	s, err := w.fw.Stats(t.Context())
	if err != nil || s.DroppedForward.Packets < 6 || s.Guests.Packets < 2 {
		t.Errorf("counters %+v, %v", s, err)
	}
}

// TestNoGap changes the Config all the time while a program tries to leak.
func TestNoGap(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.apply(w.config())
	w.linkTap.Forget()
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sent, refused := 0, 0
	sender.Go(func() {
		c, err := w.pc.ListenPacket("udp", ":0")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		bad := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(other4 + ":443"))
		good := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(gateway4 + ":443"))
		for {
			select {
			case <-stop:
				return
			default:
			}
			c.WriteTo([]byte("x"), bad)
			if _, err := c.WriteTo([]byte("x"), good); err != nil {
				refused++
			}
			sent++
		}
	})
	first, _ := w.fw.Stats(t.Context())
	for i := range 40 {
		cfg := w.config()
		cfg.Hosts = prefixes(fmt.Sprintf("203.0.113.%d/32", 200+i))
		w.apply(cfg)
	}
	close(stop)
	sender.Wait()
	w.settle()
	if n := w.linkTap.Count("udp " + other4 + " 443"); n > 0 || refused > 0 || sent < 100 {
		t.Errorf("%d of %d packets leaked, and %d to the gateway were refused", n, sent, refused)
	}
	last, err := w.fw.Stats(t.Context())
	if err != nil || last.Gateway.Packets <= first.Gateway.Packets || last.Gateway.Packets < uint64(sent)/2 {
		t.Errorf("counters did not carry on: %+v, then %+v, %v", first.Gateway, last.Gateway, err)
	}
}

// TestPortal and TestLease wait for the kernel, which keeps the time.
func TestPortal(t *testing.T) {
	t.Parallel() // it is the kernel that takes its time
	w := newWorld(t)
	cfg := w.config()
	cfg.Resolvers = nil
	cfg.Portal = Portal{Until: time.Now().Add(1500 * time.Millisecond), Ports: []uint16{80, 8080}, Resolvers: []netip.AddrPort{
		netip.AddrPortFrom(netip.MustParseAddr(resolver4), 0), netip.AddrPortFrom(netip.MustParseAddr(resolver6), 0),
	}}
	w.apply(cfg)
	pages := []probe{tcpProbe(other4 + ":80"), tcpProbe("[" + other6 + "]:8080"), udpProbe(resolver4 + ":53"), udpProbe("[" + resolver6 + "]:53"), tcpProbe(resolver4 + ":53")}
	w.check("window open", pages, true)
	w.check("window open", []probe{udpProbe(other4 + ":80"), tcpProbe(other4 + ":443"), udpProbe(other4 + ":53")}, false)
	// A whole conversation passes.
	l, err := w.net.Listen("tcp", other4+":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := w.pc.DialContext(ctx, "tcp", other4+":8080"); err != nil {
		t.Errorf("the portal cannot be reached: %v", err)
	} else {
		c.Close()
	}
	time.Sleep(time.Until(cfg.Portal.Until) + 300*time.Millisecond)
	w.check("window closed", pages, false)
	if s, err := w.fw.Stats(t.Context()); err != nil || s.Portal.Packets < 4 {
		t.Errorf("counters %+v, %v", s, err)
	}
}

func TestLease(t *testing.T) {
	t.Parallel() // it is the kernel that takes its time
	w := newWorld(t)
	if err := w.fw.Renew(t.Context()); !errors.Is(err, ErrIdle) {
		t.Errorf("Renew before Apply: %v", err)
	}
	cfg := w.config()
	cfg.Lease = time.Second
	w.apply(cfg)
	some := []probe{tcpProbe(other4 + ":443"), udpProbe("[" + other6 + "]:53")}
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		if err := w.fw.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.check("renewed", some, false)
	time.Sleep(1300 * time.Millisecond)
	w.check("expired", some, true)
	if err := w.fw.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check("renewed late", some, false)
	if s, err := w.fw.Stats(t.Context()); err != nil || s.Expired.Packets < 2 {
		t.Errorf("counters %+v, %v", s, err)
	}
	w.pc.Run("nft", "delete", "table", "inet", "culvert")
	if err := w.fw.Renew(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("Renew without a table: %v", err)
	}
}

func TestReject(t *testing.T) {
	w := newWorld(t)
	w.apply(Config{Reject: true})
	for _, to := range []string{other4 + ":443", "[" + other6 + "]:443"} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		start := time.Now()
		_, err := w.pc.DialContext(ctx, "tcp", to)
		cancel()
		if err == nil || time.Since(start) > time.Second {
			t.Errorf("dialing %s: %v after %v", to, err, time.Since(start))
		}
	}
	w.check("rejecting", leaks(), false)
}

const childEnv = "CULVERT_FIREWALL_CHILD"

// TestChild is what TestCrash runs in another process.
func TestChild(t *testing.T) {
	dev := os.Getenv(childEnv)
	if dev == "" {
		return // this is not that process
	}
	var fw Firewall
	err := fw.Apply(t.Context(), Config{Device: dev, Gateways: []Endpoint{{netip.MustParseAddrPort(gateway4 + ":443"), ""}}}, func(undo []byte) error {
		fmt.Printf("undo %x\n", undo)
		return nil
	})
	fmt.Printf("done %v\n", err)
	time.Sleep(time.Minute) // until it is killed
}

func TestCrash(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := w.pc.Command(ctx, os.Args[0], "-test.run", "^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+w.tun)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var undo []byte
	done := ""
	for lines := bufio.NewScanner(out); done == "" && lines.Scan(); {
		if h, ok := strings.CutPrefix(lines.Text(), "undo "); ok {
			if undo, err = hex.DecodeString(h); err != nil {
				t.Fatal(err)
			}
		}
		done, _ = strings.CutPrefix(lines.Text(), "done ")
		if done == lines.Text() {
			done = ""
		}
	}
	cmd.Process.Signal(unix.SIGKILL)
	cmd.Wait()
	if done != "<nil>" || undo == nil {
		t.Fatalf("the other process said %q, undo %q", done, undo)
	}
	w.check("after a crash", leaks(), false)
	w.check("after a crash", named()[:2], true)

	// The next start takes the rules over without opening them in between, and then the old record means nothing.
	w.apply(w.config())
	w.check("taken over", leaks(), false)
	if err := w.fw.Undo(ctx, undo); !errors.Is(err, ErrChanged) {
		t.Errorf("undoing the record of the process before: %v, want ErrChanged", err)
	}
	w.check("taken over", leaks(), false)
	if err := w.firewall().Undo(ctx, w.undo); err != nil {
		t.Errorf("undoing in another process: %v", err)
	}
	w.unchanged()
	for _, record := range [][]byte{undo, w.undo} {
		if err := w.firewall().Undo(ctx, record); err != nil {
			t.Errorf("undoing what is undone: %v", err)
		}
	}
}

func TestForeignTable(t *testing.T) {
	w := newWorld(t)
	w.pc.Run("nft", "add table inet culvert; add chain inet culvert mine")
	before := w.ruleset()
	recorded := false
	err := w.fw.Apply(t.Context(), w.config(), func([]byte) error { recorded = true; return nil })
	if !errors.Is(err, ErrForeign) || recorded {
		t.Errorf("Apply over another's table: %v, recorded %v", err, recorded)
	}
	b, _ := encode(undoRecord{Version: 1, Table: TableName, Owner: "0123456789abcdef"})
	if err := w.fw.Undo(t.Context(), b); !errors.Is(err, ErrChanged) {
		t.Errorf("Undo of another's table: %v", err)
	}
	if _, err := w.fw.Stats(t.Context()); !errors.Is(err, ErrIdle) {
		t.Errorf("Stats of another's table: %v", err)
	}
	if after := w.ruleset(); after != before {
		t.Errorf("the rules changed to %s", after)
	}
}

func TestRecordFails(t *testing.T) {
	w := newWorld(t)
	full := errors.New("disk full")
	if err := w.fw.Apply(t.Context(), w.config(), func([]byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("Apply = %v", err)
	}
	w.unchanged()
	if err := w.fw.Apply(t.Context(), Config{Device: "a b"}, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("Apply = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.fw.Apply(ctx, w.config(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v", err)
	}
	w.unchanged()
}

// TestNoPermission drops CAP_NET_ADMIN in one thread.
func TestNoPermission(t *testing.T) {
	w := newWorld(t)
	w.pc.Do(func() {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had [2]unix.CapUserData
		if err := unix.Capget(&hdr, &had[0]); err != nil {
			t.Fatal(err)
		}
		without := had
		without[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&hdr, &without[0]); err != nil {
			t.Fatal(err)
		}
		defer unix.Capset(&hdr, &had[0])
		recorded := false
		var fw Firewall
		if err := fw.Apply(t.Context(), w.config(), func([]byte) error { recorded = true; return nil }); !errors.Is(err, ErrPermission) || recorded {
			t.Errorf("Apply = %v, recorded %v", err, recorded)
		}
	})
	w.unchanged()
}

func TestKinds(t *testing.T) {
	for err, want := range map[error]error{
		unix.EPERM: ErrPermission, unix.EACCES: ErrPermission, unix.EPROTONOSUPPORT: ErrUnsupported,
		unix.EAFNOSUPPORT: ErrUnsupported, unix.EOPNOTSUPP: ErrUnsupported,
	} {
		if got := kind(fmt.Errorf("netlink: %w", err)); !errors.Is(got, want) || !errors.Is(got, err) {
			t.Errorf("kind(%v) = %v", err, got)
		}
	}
	if got := kind(unix.ENOMEM); errors.Is(got, ErrPermission) || errors.Is(got, ErrUnsupported) {
		t.Errorf("kind(ENOMEM) = %v", got)
	}
}

// watch starts a Watch that ends with the test.
func (w *world) watch(policy Policy) <-chan Event {
	w.t.Helper()
	events := make(chan Event, 64)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.fw.Watch(ctx, policy, func(e Event) { events <- e }); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	time.Sleep(50 * time.Millisecond) // it has begun to listen
	return events
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was noticed")
		panic("unreachable")
	}
}

func TestWatchRepairs(t *testing.T) {
	t.Parallel() // it is the kernel that takes its time
	w := newWorld(t)
	w.apply(w.config())
	events := w.watch(Repair)
	for _, change := range []struct {
		do      string
		removed bool
	}{
		{"insert rule inet culvert output accept", false},
		{"flush chain inet culvert input", false},
		{"chain inet culvert forward { policy accept; }", false},
		{"add table inet culvert { flags dormant; }", false},
		{"flush set inet culvert gateway4", false},
		{"delete table inet culvert", true},
		{"flush ruleset", true},
		{"delete table inet culvert; add table inet culvert; add chain inet culvert output", false},
	} {
		w.pc.Run("nft", change.do)
		e := next(t, events)
		if e.Removed != change.removed || !e.Repaired || e.Err != nil || !strings.Contains(e.By, `"nft" (process `) {
			t.Errorf("%s: %+v", change.do, e)
		}
		w.check("after "+change.do, leaks()[:6], false)
		w.check("after "+change.do, named(), true)
	}
	// Other tables are none of our business, nor are our own changes.
	w.pc.Run("nft", "add table ip nobody")
	w.apply(w.config())
	w.pc.Run("nft", "delete table ip nobody")
	time.Sleep(250 * time.Millisecond)
	select {
	case e := <-events:
		t.Errorf("an event of nothing: %+v", e)
	default:
	}
	if err := w.fw.Undo(t.Context(), w.undo); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if len(events) > 0 {
		t.Errorf("our own Undo was repaired: %+v", <-events)
	}
	if out := w.ruleset(); strings.Contains(out, "culvert") {
		t.Errorf("still there: %s", out)
	}
}

func TestWatchReports(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.apply(w.config())
	events := w.watch(Report)
	w.pc.Run("nft", "insert rule inet culvert output accept")
	if e := next(t, events); e.Removed || e.Repaired || e.Err != nil {
		t.Errorf("%+v", e)
	}
	w.check("reported", leaks()[:2], true)
	w.pc.Run("nft", "delete table inet culvert")
	if e := next(t, events); !e.Removed || e.Repaired {
		t.Errorf("%+v", e)
	}
	if err := w.fw.Undo(t.Context(), w.undo); err != nil {
		t.Error(err)
	}
	w.unchanged()
}

// TestTakenOver has two Firewalls: the second one wins, and neither undoes the other's work.
func TestTakenOver(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.apply(w.config())
	events := w.watch(Repair)
	other := w.firewall()
	var undo []byte
	if err := other.Apply(t.Context(), Config{}, func(b []byte) error { undo = b; return nil }); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); e.Repaired || !errors.Is(e.Err, ErrForeign) {
		t.Errorf("%+v", e)
	}
	if err := w.fw.Undo(t.Context(), w.undo); !errors.Is(err, ErrChanged) {
		t.Errorf("Undo = %v", err)
	}
	w.check("taken over", named(), false)
	if err := other.Undo(t.Context(), undo); err != nil {
		t.Fatal(err)
	}
	w.unchanged()
}

// TestListing has nft explain what was built, so that a rule which the kernel takes but nobody can read is noticed.
func TestListing(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Guests, cfg.Mark, cfg.Reject, cfg.Lease = []string{"docker0", "br-*"}, 0x77, true, time.Minute
	cfg.Hosts, cfg.LAN = prefixes("203.0.113.128/25"), prefixes("192.168.0.0/16", "fd00::/8")
	cfg.Portal.Until = time.Now().Add(time.Minute)
	w.apply(cfg)
	text := w.pc.Run("nft", "list", "table", "inet", "culvert")
	t.Log(text)
	for _, want := range []string{
		"type ipv4_addr . inet_proto . inet_service", "192.0.2.1 . udp . 8443", "type ipv6_addr . inet_proto . inet_service",
		"203.0.113.128/25", "192.168.0.0/16", "fd00::/8", `iifname "br-*" jump guests`, `oifname "docker0"`,
		"ip daddr . meta l4proto . th dport @gateway4", "ip6 saddr . meta l4proto . th sport @resolver6",
		"icmpv6 type nd-router-solicit ip6 hoplimit 255", "icmpv6 type mld2-listener-report ip6 hoplimit 1",
		"tcp flags syn / fin,syn,rst,ack", "meta nfproto != @lease", "tcp dport @portal", "ct state established,related",
		"reject with icmpx", "udp sport 68 udp dport 67", "meta mark 0x00000077",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the listing lacks %q", want)
		}
	}
	if n := strings.Count(text, "policy drop"); n != 3 {
		t.Errorf("%d chains drop, want 3", n)
	}
}
