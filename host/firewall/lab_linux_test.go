package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/netns"
)

// A world is a machine under test, the stranger's network that it is plugged into, and the far end of its tunnel, which is
// another cable.
//
//	guest --- pc --- net     192.0.2.1 the gateway, 198.51.100.53 a resolver, 203.0.113.1 somebody else
//	           \---- far     through the tunnel
type world struct {
	t            *testing.T
	lab          *netns.Lab
	pc, net, far *netns.Host
	link, tun    string     // interfaces of pc
	atNet        string     // the other end of link
	linkTap, tap *netns.Tap // what arrives at net and at far
	fw           *Firewall
	before       string
	undo         []byte
	linkLocal    netip.Addr // of pc on link
}

const (
	gateway4, resolver4, other4, extra4 = "192.0.2.1", "198.51.100.53", "203.0.113.1", "203.0.113.201"
	gateway6, resolver6, other6, extra6 = "2001:db8:1::1", "2001:db8:53::53", "2001:db8:2::1", "2001:db8:3::1"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lab: netns.New(t)}
	w.pc, w.net, w.far = w.lab.Host("pc"), w.lab.Host("net"), w.lab.Host("far")
	var atFar string
	w.link, w.atNet = w.lab.Join(w.pc, "10.0.0.2/24 fd00::2/64", w.net, "10.0.0.1/24 fd00::1/64")
	w.tun, atFar = w.lab.Join(w.pc, "10.9.0.2/24 fd09::2/64", w.far, "10.9.0.1/24 fd09::1/64")
	for _, a := range []string{gateway4, resolver4, other4, extra4, gateway6, resolver6, other6, extra6} {
		bits := "/32"
		if strings.Contains(a, ":") {
			bits = "/128"
		}
		w.net.IP("address", "add", a+bits, "dev", "lo")
		w.far.IP("address", "add", a+bits, "dev", "lo")
	}
	w.pc.IP("route", "add", "default", "via", "10.0.0.1")
	w.pc.IP("-6", "route", "add", "default", "via", "fd00::1")
	// A cable that was just plugged in loses questions for neighbours for a while.
	meet(t, w.pc, w.link, "fd00::2", w.net, w.atNet, "fd00::1")
	w.linkTap, w.tap = w.net.Tap(w.atNet), w.far.Tap(atFar)
	w.pc.Do(func() {
		ifi, err := net.InterfaceByName(w.link)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				w.linkLocal = p.Addr().WithZone(w.link)
			}
		}
	})
	if !w.linkLocal.IsValid() {
		t.Fatal("the link has no link-local address")
	}
	// Somebody else's rules stand already, and are to stay as they are.
	w.pc.Run("nft", "add table ip other; add chain ip other out { type filter hook output priority 5; policy accept; }; "+
		"add rule ip other out ip daddr 192.0.2.99 counter drop")
	w.before = w.ruleset()
	w.fw = w.firewall()
	return w
}

// meet tells two hosts of each other, as if they had asked.
func meet(t *testing.T, a *netns.Host, devA, addrA string, b *netns.Host, devB, addrB string) {
	t.Helper()
	mac := func(h *netns.Host, dev string) (s string) {
		h.Do(func() {
			ifi, err := net.InterfaceByName(dev)
			if err != nil {
				t.Fatal(err)
			}
			s = ifi.HardwareAddr.String()
		})
		return s
	}
	a.IP("neigh", "replace", addrB, "lladdr", mac(b, devB), "dev", devA, "nud", "permanent")
	b.IP("neigh", "replace", addrA, "lladdr", mac(a, devA), "dev", devB, "nud", "permanent")
}

// firewall returns another Firewall of pc.
func (w *world) firewall() *Firewall {
	w.t.Helper()
	ns, err := os.Open("/run/netns/" + w.pc.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return &Firewall{NetNS: ns}
}

// config allows a little of everything.
func (w *world) config() Config {
	return Config{
		Device: w.tun,
		Gateways: []Endpoint{{netip.MustParseAddrPort(gateway4 + ":443"), ""}, {netip.MustParseAddrPort("[" + gateway6 + "]:443"), ""},
			{netip.MustParseAddrPort(gateway4 + ":8443"), "udp"}},
		Resolvers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(resolver4), 0), netip.AddrPortFrom(netip.MustParseAddr(resolver6), 0)},
	}
}

func (w *world) apply(cfg Config) {
	w.t.Helper()
	err := w.fw.Apply(w.t.Context(), cfg, func(undo []byte) error {
		w.undo = undo
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// ruleset is what the real nft says about pc.
func (w *world) ruleset() string {
	w.t.Helper()
	return w.pc.Run("nft", "-j", "list", "ruleset")
}

// unchanged fails the test if the rules are not those from before.
func (w *world) unchanged() {
	w.t.Helper()
	if after := w.ruleset(); after != w.before {
		w.t.Errorf("the rules are\n%s\nand were\n%s", after, w.before)
	}
}

// settle waits until everything that pc has sent so far was seen, which a packet shows that may always pass.
func (w *world) settle() {
	w.t.Helper()
	n := w.linkTap.Count("udp 10.0.0.1 67")
	w.udp(68, "10.0.0.1:67")
	for deadline := time.Now().Add(5 * time.Second); w.linkTap.Count("udp 10.0.0.1 67") <= n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("the packet that may always pass did not arrive")
		}
	}
}

// udp sends a datagram from pc, from a port or from any if it is 0. The kernel may refuse.
func (w *world) udp(from int, to string) {
	w.t.Helper()
	w.pc.Do(func() {
		addr, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			w.t.Fatal(err)
		}
		laddr := &net.UDPAddr{Port: from}
		network := "udp4"
		if addr.IP.To4() == nil {
			network = "udp6"
			if addr.IP.IsMulticast() {
				laddr.IP, laddr.Zone = w.linkLocal.AsSlice(), w.link
			}
		}
		c, err := net.ListenUDP(network, laddr)
		if err != nil {
			w.t.Fatal(err)
		}
		defer c.Close()
		c.WriteTo([]byte("x"), addr)
	})
}

// tcp sends a SYN from pc, with a mark if it is not zero.
func (w *world) tcp(to string, mark int) {
	w.t.Helper()
	addr := netip.MustParseAddrPort(to)
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: [4]byte(addr.Addr().AsSlice()[:4])}
	if addr.Addr().Is6() {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	w.pc.Do(func() {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		defer unix.Close(fd)
		if mark != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
				w.t.Fatal(err)
			}
		}
		unix.Connect(fd, sa)
	})
}

// raw sends an ICMP message of a type from pc, with a hop limit.
func (w *world) raw(v6 bool, typ byte, hops int, to string) {
	w.t.Helper()
	addr := netip.MustParseAddr(to)
	w.pc.Do(func() {
		var fd int
		var err error
		var sa unix.Sockaddr
		if v6 {
			fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
			s := &unix.SockaddrInet6{Addr: addr.As16()}
			if ifi, e := net.InterfaceByName(w.link); e == nil {
				s.ZoneId = uint32(ifi.Index)
			}
			sa = s
		} else {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
			sa = &unix.SockaddrInet4{Addr: addr.As4()}
		}
		if err != nil {
			w.t.Fatal(err)
		}
		defer unix.Close(fd)
		if v6 {
			opt := unix.IPV6_UNICAST_HOPS
			if addr.IsMulticast() {
				opt = unix.IPV6_MULTICAST_HOPS
			}
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, opt, hops)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		msg := make([]byte, 24)
		msg[0] = typ
		if !v6 {
			binary.BigEndian.PutUint16(msg[2:], ^(uint16(typ) << 8))
		}
		unix.Sendto(fd, msg, 0, sa)
	})
}
