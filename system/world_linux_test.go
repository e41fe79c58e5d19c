package system_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"culvert.example/vpn"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// Addresses of the world. The client is at home behind a router that is the whole Internet, where every address answers "outside". What
// comes through the tunnel is answered "inside".
var (
	clientAddr  = netip.MustParseAddr("192.168.7.2")
	routerAddr  = netip.MustParseAddr("192.168.7.1")
	gatewayAddr = netip.MustParseAddrPort("198.51.100.1:443")
	outsideDNS  = netip.MustParseAddrPort("192.0.2.53:53")
	insideDNS   = netip.MustParseAddr("10.8.0.1")
	innerAddr   = netip.MustParsePrefix("10.8.0.5/24")
	innerAddr6  = netip.MustParsePrefix("fd08::5/64")
)

// port is where everybody answers.
const port = 8080

type world struct {
	tb             testing.TB
	lab            *netns.Lab
	client, router *netns.Host
	clientIf       string
	dir            string
	outside        *zone
	inside         *zone
	air            *netns.Tap // what the router hears from the client
}

// newWorld builds the world.
func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, lab: netns.New(tb), dir: tb.TempDir(), outside: newZone(), inside: newZone()}
	w.client, w.router = w.lab.Host("client"), w.lab.Host("router")
	var routerIf string
	w.clientIf, routerIf = w.lab.Join(w.client, clientAddr.String()+"/24 2001:db8:7::2/64", w.router, routerAddr.String()+"/24 2001:db8:7::1/64")
	w.client.IP("route", "add", "default", "via", routerAddr.String())
	w.client.IP("-6", "route", "add", "default", "via", "2001:db8:7::1")
	// The router has every address (ip-route(8), type local).
	w.router.IP("route", "add", "local", "default", "dev", "lo")
	w.router.IP("-6", "route", "add", "local", "default", "dev", "lo", "table", "main")
	w.router.Sysctl("net.ipv6.ip_nonlocal_bind", "1")
	l, err := w.router.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go greet(c, "outside")
		}
	}()
	pc, err := w.router.ListenPacket("udp", outsideDNS.String())
	if err != nil {
		// The address is one by route only, which a socket may have if it is told so.
		w.router.IP("addr", "add", outsideDNS.Addr().String()+"/32", "dev", "lo")
		if pc, err = w.router.ListenPacket("udp", outsideDNS.String()); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() { pc.Close() })
	go w.outside.serve(pc)
	eventually(tb, 5*time.Second, "the world is there", func() bool { return w.from("2001:db8:9::1") == "outside" && w.from("192.0.2.1") == "outside" })
	w.air = w.router.Tap(routerIf)
	// The resolver of the machine is a file of the test.
	w.write("resolv.conf", "# home\nnameserver "+outsideDNS.Addr().String()+"\nsearch home.example\n")
	w.write("nsswitch.conf", "hosts: files dns\n")
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.tb.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.tb.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.tb.Fatal(err)
	}
	return string(b)
}

// config returns a Config for the world.
func (w *world) config() system.Config {
	return system.Config{
		Journal: w.path("state/journal"),
		DNS:     system.DNS{ResolvConf: w.path("resolv.conf"), Bus: "unix:path=" + w.path("no-bus")},
		Logger:  testLogger(w.tb),
	}
}

// open opens a System on the client.
func (w *world) open(cfg system.Config) *system.System {
	w.tb.Helper()
	s, err := w.tryOpen(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.tb.Errorf("Close: %v", err)
		}
	})
	return s
}

func (w *world) tryOpen(cfg system.Config) (s *system.System, err error) {
	w.client.Do(func() { s, err = system.Open(w.tb.Context(), cfg) })
	return s, err
}

// lease returns a lease with the addresses of the world.
func lease(change func(*transport.Lease)) *transport.Lease {
	l := &transport.Lease{
		Gateway: gatewayAddr, Addresses: []netip.Prefix{innerAddr, innerAddr6}, MTU: 1400,
		DNS: []netip.Addr{insideDNS}, SplitDNS: []string{"corp.example"}, SearchDomains: []string{"corp.example"},
	}
	if change != nil {
		change(l)
	}
	return l
}

// A link is a tunnel to the inside that ends in this process.
type link struct {
	w      *world
	device vpn.SystemDevice
	inside *stack.Stack
	ended  chan error
	news   chan struct{} // NetworkChanged was called
	pumps  sync.WaitGroup
}

// attach attaches a tunnel with that lease.
func (w *world) attach(s *system.System, l *transport.Lease) *link {
	w.tb.Helper()
	k, err := w.tryAttach(s, l)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(k.close)
	return k
}

func (w *world) tryAttach(s *system.System, l *transport.Lease) (*link, error) {
	k := &link{w: w, ended: make(chan error, 2), news: make(chan struct{}, 16)}
	var err error
	k.inside, err = stack.New(stack.Config{
		MTU: l.MTU,
		AcceptTCP: func(ctx context.Context, r *stack.TCPRequest) {
			c, err := r.Accept(ctx)
			if err != nil {
				return
			}
			if r.Destination.Port() == 7 {
				io.Copy(c, c)
				c.Close()
				return
			}
			greet(c, "inside")
		},
		AcceptUDP: func(ctx context.Context, r *stack.UDPRequest) {
			c, err := r.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if answer := w.inside.answer(buf[:n]); answer != nil {
					c.Write(answer)
				}
			}
		},
		AcceptPing: func(_ context.Context, r *stack.PingRequest) { r.Reply() },
	})
	if err != nil {
		return nil, err
	}
	k.device, err = s.Attach(w.tb.Context(), vpn.SystemLink{Lease: l, MTU: l.MTU, NetworkChanged: func() {
		select {
		case k.news <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		k.inside.Close()
		return nil, err
	}
	in := k.inside.Link()
	k.pumps.Go(func() { k.ended <- packet.Copy(in, k.device, packet.MaxSize, 64) })
	k.pumps.Go(func() { k.ended <- packet.Copy(k.device, in, packet.MaxSize, 64) })
	return k, nil
}

// close ends the tunnel.
func (k *link) close() {
	if err := k.device.Close(); err != nil {
		k.w.tb.Errorf("closing the device: %v", err)
	}
	k.inside.Close()
	k.pumps.Wait()
}

// greet says where it is.
func greet(c net.Conn, word string) {
	io.WriteString(c, word)
	c.Close()
}

// from returns who answers at an address on the client: inside, outside or nowhere.
func (w *world) from(addr string) string {
	return w.ask(netip.AddrPortFrom(netip.MustParseAddr(addr), port).String(), time.Second)
}

func (w *world) ask(address string, patience time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := w.client.DialContext(ctx, "tcp", address)
	if err != nil {
		return "nowhere"
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(io.LimitReader(c, 100))
	if err != nil || len(b) == 0 {
		return "nowhere"
	}
	return string(b)
}

// expect checks who answers at some addresses.
func (w *world) expect(want map[string]string) {
	w.tb.Helper()
	for addr, who := range want {
		if got := w.from(addr); got != who {
			w.tb.Errorf("%s is %s, want %s", addr, got, who)
		}
	}
}

// eventually waits until ok.
func eventually(tb testing.TB, within time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// state is all that matters of the client's network.
func (w *world) state() string {
	w.tb.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-j", "addr"}, {"ip", "-j", "route", "show", "table", "all"}, {"ip", "-j", "-6", "route", "show", "table", "all"},
		{"ip", "-j", "rule"}, {"ip", "-j", "-6", "rule"}, {"nft", "-j", "list", "ruleset"},
	} {
		b.WriteString(strings.Join(args, " ") + ": " + w.client.Run(args[0], args[1:]...) + "\n")
	}
	b.WriteString("resolv.conf: " + w.read("resolv.conf"))
	return b.String()
}

// A zone is a DNS server that knows some names, and remembers who was asked for.
type zone struct {
	mu     sync.Mutex
	names  map[string][]netip.Addr
	asked  []string
	silent bool
	ttl    uint32
}

func newZone() *zone { return &zone{names: make(map[string][]netip.Addr), ttl: 60} }

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[name] = nil
	for _, a := range addrs {
		z.names[name] = append(z.names[name], netip.MustParseAddr(a))
	}
}

// heard returns the names that were asked for.
func (z *zone) heard() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked)
}

func (z *zone) serve(pc net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if a := z.answer(buf[:n]); a != nil {
			pc.WriteTo(a, from)
		}
	}
}

func (z *zone) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, name)
	if z.silent {
		return nil
	}
	addrs, known := z.names[name]
	r := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if !known {
		r.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: z.ttl}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := r.Pack()
	if err != nil {
		return nil
	}
	return b
}

// query asks a DNS server from the client, and returns the addresses, or the error in words.
func (w *world) query(server, name string, v6 bool) string {
	w.tb.Helper()
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	if v6 {
		q.Type = dnsmessage.TypeAAAA
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	b, err := m.Pack()
	if err != nil {
		w.tb.Fatal(err)
	}
	c, err := w.client.DialContext(context.Background(), "udp", server)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(6 * time.Second))
	if _, err := c.Write(b); err != nil {
		return err.Error()
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return err.Error()
	}
	var r dnsmessage.Message
	if err := r.Unpack(buf[:n]); err != nil {
		return err.Error()
	}
	if r.RCode != dnsmessage.RCodeSuccess {
		return r.RCode.String()
	}
	var addrs []string
	for _, a := range r.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			addrs = append(addrs, netip.AddrFrom16(body.AAAA).String())
		}
	}
	return strings.Join(addrs, " ")
}

// leaks returns what the router has heard other than what may be, and what is needed to have a link.
func (w *world) leaks(may ...string) []string { return leaks(w.air, may...) }

// leaks returns where the packets of a Tap went, but for those that may.
func leaks(air *netns.Tap, may ...string) []string {
	found := make(map[string]bool)
	for _, p := range air.Packets() {
		if !p.Link() && !slices.Contains(may, p.To) {
			found[p.To] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
