package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/stack"
)

// deviceLab starts a gateway whose device is one end of a pipe, and returns the other end.
func deviceLab(t *testing.T, change func(*Config)) (*lab, packet.Conn) {
	t.Helper()
	device, host := packet.Pipe(2000, 256)
	t.Cleanup(func() { host.Close() })
	return newLab(t, func(c *Config) {
		c.Device = device
		c.Network.Routes = append(c.Network.Routes, prefixes("10.0.0.0/8", "fd31::/64")...)
		c.Network.NoRoutes = prefixes("10.66.0.0/16")
		c.Network.DNS = append(c.Network.DNS, netip.MustParseAddr("198.51.100.53"))
		if change != nil {
			change(c)
		}
	}), host
}

// ip returns an IP packet with a payload of the protocol.
func ip(src, dst string, protocol byte, payload []byte) []byte {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if a.Is4() {
		p := make([]byte, headerLen4, headerLen4+len(payload))
		p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protocol
		binary.BigEndian.PutUint16(p[2:], uint16(headerLen4+len(payload)))
		copy(p[12:], a.AsSlice())
		copy(p[16:], b.AsSlice())
		binary.BigEndian.PutUint16(p[10:], ^sum(p, 0))
		return append(p, payload...)
	}
	p := make([]byte, headerLen6, headerLen6+len(payload))
	p[0], p[6], p[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	copy(p[8:], a.AsSlice())
	copy(p[24:], b.AsSlice())
	return append(p, payload...)
}

// udpTo is a UDP header with a payload. Its checksum is not right: that is the business of hosts.
func udpTo(port int, payload string) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, 4000)
	binary.BigEndian.PutUint16(b[2:], uint16(port))
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

// with returns p with some bytes from offset on replaced.
func with(p []byte, offset int, b ...byte) []byte {
	p = bytes.Clone(p)
	copy(p[offset:], b)
	return p
}

func one(p []byte) packet.Batch {
	b := packet.NewBatch(1, len(p))
	b[0].Set(p)
	return b
}

// received returns what comes out of c.
func received(t *testing.T, c packet.Reader) <-chan []byte {
	t.Helper()
	ch := make(chan []byte, 256)
	go func() {
		defer close(ch)
		b := packet.NewBatch(16, 4000)
		for {
			n, err := c.ReadBatch(b)
			if err != nil {
				return
			}
			for i := range b[:n] {
				ch <- bytes.Clone(b[i].Bytes())
			}
		}
	}()
	return ch
}

func next(t *testing.T, ch <-chan []byte) []byte {
	t.Helper()
	select {
	case p := <-ch:
		return p
	case <-time.After(20 * time.Second):
		t.Fatal("no packet within 20 s")
		return nil
	}
}

// A host behind the device and a client talk to each other; so do two clients if they may.
func TestDevice(t *testing.T) {
	for _, together := range []bool{false, true} {
		t.Run(fmt.Sprint("ClientToClient ", together), func(t *testing.T) {
			l, far := deviceLab(t, func(c *Config) { c.ClientToClient = together })
			// The stack is the host that the device belongs to.
			host, err := stack.New(stack.Config{
				Addresses: prefixes("10.20.0.1/24", "10.9.9.9/32", "fd20::1/64", "fd31::9/128"), MTU: 1400,
			})
			if err != nil {
				t.Fatal(err)
			}
			var pumps sync.WaitGroup
			pumps.Go(func() { packet.Copy(far, host.Link(), packet.MaxSize, 64) })
			pumps.Go(func() { packet.Copy(host.Link(), far, packet.MaxSize, 64) })
			defer func() {
				l.Close()
				host.Close()
				pumps.Wait()
			}()
			echoOn(t, host, "10.9.9.9:7", "[fd31::9]:7", "10.20.0.1:7")

			alice := l.tunnel(l.cookie("alice"))
			bob := l.tunnel(l.cookie("bob"))
			for _, to := range []string{"10.9.9.9:7", "[fd31::9]:7", "10.20.0.1:7"} {
				for i, c := range []*client{alice, bob} {
					if err := c.exchange("tcp", to, fmt.Sprint("client ", i)); err != nil {
						t.Errorf("client %d to %s: %v", i, to, err)
					}
				}
			}
			if _, err := alice.stack.Ping(testContext(t), netip.MustParseAddr("10.9.9.9")); err != nil {
				t.Errorf("ping: %v", err)
			}
			// The host reaches clients.
			inner := alice.lease.Addresses[0].Addr().String()
			echoOn(t, alice.stack, inner+":7")
			nc, err := host.DialContext(testContext(t), "tcp", inner+":7")
			if err != nil {
				t.Errorf("the host to a client: %v", err)
			} else {
				nc.Close()
			}
			// Who must not go somewhere is told.
			for _, to := range []string{"203.0.113.1:80", "169.254.169.254:80", "10.66.1.1:80", "127.0.0.2:80", "10.20.0.99:80"} {
				if err := alice.exchange("tcp", to, "x"); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("tcp to %s: %v, want a refusal", to, err)
				}
			}
			err = bob.exchange("tcp", inner+":7", "from bob")
			if together && err != nil {
				t.Errorf("client to client: %v", err)
			}
			if !together && !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("client to client: %v, want %v", err, syscall.EHOSTUNREACH)
			}
		})
	}
}

// echoOn serves TCP echo inside a stack.
func echoOn(t *testing.T, s *stack.Stack, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		ln, err := s.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					io.Copy(c, c)
					c.Close()
				}()
			}
		}()
	}
}

// What a client sends is judged, packet by packet.
func TestDeviceGates(t *testing.T) {
	l, far := deviceLab(t, nil)
	c, err := l.request(request(l.cookie("alice")))
	if err != nil {
		t.Fatal(err)
	}
	bob, err := l.request(request(l.cookie("bob")))
	if err != nil {
		t.Fatal(err)
	}
	me4, me6 := c.lease.Addresses[0].Addr().String(), c.lease.Addresses[1].Addr().String()
	out, back := received(t, far), received(t, c.conn)
	good := ip(me4, "10.9.9.9", protoUDP, udpTo(9, "good"))
	marker := func(i int) []byte { return ip(me4, "10.9.9.9", protoUDP, udpTo(9, fmt.Sprint("marker ", i))) }
	route6 := func(segments byte) []byte {
		return ip(me6, "fd31::9", 43, append([]byte{protoUDP, 0, 4, segments, 0, 0, 0, 0}, udpTo(9, "")...))
	}
	options := func(o ...byte) []byte {
		p := append(bytes.Clone(good[:headerLen4]), append(o, make([]byte, 4*((len(o)+3)/4)-len(o))...)...)
		p = append(p, good[headerLen4:]...)
		p[0] = 0x40 | byte(len(p)-len(good)+headerLen4)/4
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return p
	}
	for i, tt := range []struct {
		what string
		p    []byte
		pass bool
		told bool // by an ICMP error
	}{
		{"routed", good, true, false},
		{"routed, IPv6", ip(me6, "fd31::9", protoUDP, udpTo(9, "x")), true, false},
		{"another protocol", ip(me4, "10.9.9.9", 47, []byte("gre")), true, false},
		{"the gateway itself", ip(me4, "10.20.0.1", protoUDP, udpTo(53, "x")), true, false},
		{"DNS server outside of the routes", ip(me4, "198.51.100.53", protoUDP, udpTo(53, "x")), true, false},
		{"another port of it", ip(me4, "198.51.100.53", protoUDP, udpTo(54, "x")), false, true},
		{"a later fragment for it", with(ip(me4, "198.51.100.53", protoUDP, udpTo(53, "x")), 6, 0, 1), false, false},
		{"an unroutable fragment", with(ip(me4, "203.0.113.1", protoUDP, udpTo(53, "x")), 6, 0, 1), false, false},
		{"spoofed", ip("10.20.0.200", "10.9.9.9", protoUDP, udpTo(9, "x")), false, false},
		{"spoofed, from another client", ip(bob.lease.Addresses[0].Addr().String(), "10.9.9.9", protoUDP, udpTo(9, "x")), false, false},
		{"outside of the routes", ip(me4, "203.0.113.1", protoUDP, udpTo(9, "x")), false, true},
		{"outside of the routes, IPv6", ip(me6, "2001:db8::1", protoUDP, udpTo(9, "x")), false, true},
		{"excluded", ip(me4, "10.66.0.1", protoUDP, udpTo(9, "x")), false, true},
		{"metadata", ip(me4, "169.254.169.254", protoTCP, udpTo(80, "x")), false, true},
		{"metadata behind NAT64", ip(me6, "64:ff9b::169.254.169.254", protoTCP, udpTo(80, "x")), false, true},
		{"another client behind NAT64", ip(me6, "64:ff9b::"+bob.lease.Addresses[0].Addr().String(), protoUDP, udpTo(9, "x")), false, true},
		{"the gateway itself behind NAT64", ip(me6, "64:ff9b::10.20.0.1", protoUDP, udpTo(53, "x")), false, true},
		{"loopback", ip(me4, "127.0.0.1", protoUDP, udpTo(9, "x")), false, true},
		{"multicast", ip(me4, "224.0.0.251", protoUDP, udpTo(5353, "x")), false, false},
		{"itself", ip(me4, me4, protoUDP, udpTo(9, "x")), false, true},
		{"another client", ip(me4, bob.lease.Addresses[0].Addr().String(), protoUDP, udpTo(9, "x")), false, true},
		{"nobody's inner address", ip(me4, "10.20.0.222", protoUDP, udpTo(9, "x")), false, true},
		{"an error about nothing", ip(me4, "203.0.113.1", protoICMP4, []byte{3, 1, 0, 0, 0, 0, 0, 0}), false, false},
		{"longer than it says", append(bytes.Clone(good), "junk"...), true, false},
		{"shorter than it says", good[:len(good)-1], false, false},
		{"header cut short", with(good, 0, 0x4f), false, false},
		{"no header at all", []byte{0x45}, false, false},
		{"version 5", with(good, 0, 0x55), false, false},
		{"options", options(1, 148, 4, 0, 0), true, false},
		{"loose source route", options(131, 7, 4, 203, 0, 113, 1), false, false},
		{"strict source route", options(1, 137, 7, 4, 203, 0, 113, 1), false, false},
		{"options without end", options(7, 99), false, false},
		{"routing header that is used up", route6(0), true, false},
		{"routing header", route6(1), false, false},
		{"extensions without end", ip(me6, "fd31::9", 60, []byte{60, 0, 0}), false, false},
		{"too many extensions", ip(me6, "fd31::9", 60, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 20)), false, false},
	} {
		if _, err := c.conn.WriteBatch(one(tt.p)); err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		if tt.told {
			p := next(t, back)
			if want := complaintFor(tt.p); !bytes.Equal(p, want) {
				t.Errorf("%s: the client is told %x, want %x", tt.what, p, want)
			}
		}
		if _, err := c.conn.WriteBatch(one(marker(i))); err != nil {
			t.Fatal(err)
		}
		passed := false
		for p := next(t, out); !bytes.Equal(p, marker(i)); p = next(t, out) {
			passed = true
			if !bytes.HasPrefix(tt.p, p) {
				t.Errorf("%s: %x came out, sent was %x", tt.what, p, tt.p)
			}
		}
		if passed != tt.pass {
			t.Errorf("%s: passed is %v, want %v", tt.what, passed, tt.pass)
		}
	}
	select {
	case p := <-back:
		t.Errorf("the client was told too much: %x", p)
	default:
	}
}

// complaintFor is the answer to a packet that may not go where it wants.
func complaintFor(p []byte) []byte {
	h, _ := parseHeader(p)
	own := netip.MustParseAddr("10.20.0.1")
	if h.src.Is6() {
		own = netip.MustParseAddr("fd20::1")
	}
	return icmpError(own, h.src, prohibited, 0, p)
}

// A sender behind the device learns how large a packet for a client may be, and only that.
func TestDeviceTooBig(t *testing.T) {
	l, far := deviceLab(t, nil)
	c, err := l.request(request(l.cookie("alice")))
	if err != nil {
		t.Fatal(err)
	}
	me4, me6 := c.lease.Addresses[0].Addr().String(), c.lease.Addresses[1].Addr().String()
	out, in := received(t, far), received(t, c.conn)
	mtu := c.lease.MTU
	sized := func(src, dst string, n int) []byte {
		p := ip(src, dst, protoUDP, udpTo(9, string(bytes.Repeat([]byte("x"), n))))
		return p[:len(p):len(p)]
	}
	for _, tt := range []struct {
		what string
		p    []byte
		told bool
	}{
		{"IPv4", sized("10.9.9.9", me4, 1700), true},
		{"IPv6", sized("fd31::9", me6, 1700), true},
		{"one byte too large", sized("10.9.9.9", me4, mtu+1-headerLen4-8), true},
		{"an error", ip("10.9.9.9", me4, protoICMP4, with(make([]byte, 1700), 0, 3, 1)), false},
		{"from everybody", sized("255.255.255.255", me4, 1700), false},
		{"from a group", sized("ff02::1", me6, 1700), false},
	} {
		if _, err := far.WriteBatch(one(tt.p)); err != nil {
			t.Fatal(err)
		}
		// What fits arrives.
		fits := ip("10.9.9.9", me4, protoUDP, udpTo(9, tt.what))
		if _, err := far.WriteBatch(one(fits)); err != nil {
			t.Fatal(err)
		}
		if got := next(t, in); !bytes.Equal(got, fits) {
			t.Errorf("%s: the client got %x, want %x", tt.what, got, fits)
		}
		if !tt.told {
			continue
		}
		e := next(t, out)
		h, ok := parseHeader(e)
		if !ok || !h.isError(e) {
			t.Fatalf("%s: no error came back: %x", tt.what, e)
		}
		// A host drops what comes from the outside with an address of its own, and the gateway's is one of the host.
		if sent, _ := parseHeader(tt.p); h.src != sent.dst || h.dst != sent.src {
			t.Errorf("%s: the error is from %v to %v, want from %v to %v", tt.what, h.src, h.dst, sent.dst, sent.src)
		}
		m := e[h.payload:]
		said, seed := int(binary.BigEndian.Uint16(m[6:])), uint32(0)
		if h.protocol == protoICMP6 {
			said, seed = int(binary.BigEndian.Uint32(m[4:])), uint32(sum(e[8:40], uint32(len(m)+protoICMP6)))
		} else if sum(e[:headerLen4], 0) != 0xffff {
			t.Errorf("%s: wrong header checksum", tt.what)
		}
		if said != mtu || sum(m, seed) != 0xffff || !bytes.HasPrefix(tt.p, m[icmpLen:]) || len(m) < icmpLen+headerLen6 {
			t.Errorf("%s: error %x, want one with MTU %d", tt.what, e, mtu)
		}
	}
	select {
	case p := <-out:
		t.Errorf("the host was told too much: %x", p)
	default:
	}
}

// Packets for several clients in one batch arrive, and in order for each.
func TestDeviceInterleaved(t *testing.T) {
	l, far := deviceLab(t, nil)
	var in []<-chan []byte
	var addrs []string
	for _, user := range []string{"alice", "bob", "carol"} {
		c, err := l.request(request(l.cookie(user)))
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, received(t, c.conn))
		addrs = append(addrs, c.lease.Addresses[0].Addr().String())
	}
	const each = 60
	addrs = append(addrs, "10.20.0.250", "192.0.2.1") // nobody
	b := packet.NewBatch(each*len(addrs), 200)
	for i := range b {
		b[i].Set(ip("10.9.9.9", addrs[(i+i/7)%len(addrs)], protoUDP, udpTo(9, fmt.Sprint(i))))
	}
	if _, err := far.WriteBatch(b); err != nil {
		t.Fatal(err)
	}
	for k, ch := range in {
		for i := range b {
			if (i+i/7)%len(addrs) != k {
				continue
			}
			if p := next(t, ch); string(p[28:]) != fmt.Sprint(i) {
				t.Fatalf("client %d got packet %q, want %d", k, p[28:], i)
			}
		}
	}
}

// The fragments of a packet that is too large come behind what was sent before it, also in the same batch.
func TestDeviceFragmentsInOrder(t *testing.T) {
	srv := &Server{cfg: Config{MTU: 1500}, size: 9216, spare: newSpare(9216)}
	srv.table = newTable(srv, []netip.Prefix{testPool4})
	srv.device = newDevice(srv, sink{})
	s := &session{srv: srv}
	a, _ := srv.table.pools[0].lease("alice", netip.Addr{})
	srv.table.pools[0].owner(a).Store(s)
	tunnel := &tunnel{s: s, mtu: 1400}
	var got []string
	sent := make(chan struct{})
	tunnel.q = newQueue(srv.spare, func(b packet.Batch) {
		for i := range b {
			p := b[i].Bytes()
			got = append(got, fmt.Sprintf("%x", p[4:6]))
			if p[5] == 4 {
				close(sent)
			}
		}
	})
	defer tunnel.q.close()
	s.paths.tls.Store(tunnel)
	b := packet.NewBatch(4, srv.size)
	for i, size := range []int{100, 1700, 100, 100} {
		b[i].Set(with(ip("10.9.9.9", a.String(), protoUDP, udpTo(9, string(make([]byte, size)))), 4, 0, byte(i+1), 0, 0))
	}
	new(dispatcher).dispatch(srv, b, srv.device)
	<-sent
	if want := []string{"0001", "0002", "0002", "0003", "0004"}; !slices.Equal(got, want) {
		t.Errorf("packets left in the order %v, want %v", got, want)
	}
}

// A broken is a device that fails.
type broken struct{ err chan error }

func (d broken) ReadBatch(packet.Batch) (int, error)    { return 0, <-d.err }
func (d broken) WriteBatch(b packet.Batch) (int, error) { return 0, io.ErrShortWrite }
func (d broken) MTU() int                               { return 1400 }
func (d broken) Close() error                           { close(d.err); return nil }

func TestDeviceFails(t *testing.T) {
	cert, err := testCertificate()
	if err != nil {
		t.Fatal(err)
	}
	d := broken{make(chan error, 1)}
	cfg := Config{Auth: Passwords(testPasswords{}), Pools: []netip.Prefix{testPool4}, Device: d}
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Listen("tcp", ":80"); !errors.Is(err, ErrNoStack) {
		t.Errorf("Listen: %v", err)
	}
	if _, err := srv.ListenPacket("udp", ":53"); !errors.Is(err, ErrNoStack) {
		t.Errorf("ListenPacket: %v", err)
	}
	if _, err := srv.DialContext(t.Context(), "tcp", "10.20.0.2:80"); !errors.Is(err, ErrNoStack) {
		t.Errorf("DialContext: %v", err)
	}
	// A write that fails concerns the packets that it was for.
	srv.device.write(packet.NewBatch(3, 100))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, nil) }()
	cause := errors.New("the cable is cut")
	d.err <- cause
	select {
	case err := <-served:
		if !errors.Is(err, cause) {
			t.Errorf("Serve: %v, want %v", err, cause)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Serve goes on without a device")
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

// The ways of packets through the gateway cost no memory.
func TestDeviceAllocs(t *testing.T) {
	srv := &Server{cfg: Config{MTU: 1500}, size: 1536}
	srv.table = newTable(srv, []netip.Prefix{testPool4})
	srv.device = newDevice(srv, sink{})
	var list []*session
	for i := range 3 {
		s := &session{srv: srv, network: &Network{Routes: prefixes("10.0.0.0/8", "192.168.0.0/16")}}
		a, _ := srv.table.pools[0].lease(fmt.Sprint("user", i), netip.Addr{})
		srv.table.pools[0].owner(a).Store(s)
		s.addrs = []netip.Addr{a}
		s.source.Store(policy.NewGate(policy.Source, a))
		list = append(list, s)
	}
	in, out := packet.NewBatch(64, 1500), packet.NewBatch(64, 1500)
	for i := range in {
		in[i].Set(ip(list[0].addrs[0].String(), fmt.Sprintf("10.9.9.%d", i), protoTCP, make([]byte, 1000)))
		out[i].Set(ip("10.9.9.9", list[i%3].addrs[0].String(), protoTCP, make([]byte, 1000)))
	}
	if n := testing.AllocsPerRun(100, func() { list[0].receive(in, true) }); n != 0 {
		t.Errorf("%v allocations for a batch from a client", n)
	}
	var d dispatcher
	if n := testing.AllocsPerRun(100, func() { d.dispatch(srv, out, srv.device) }); n != 0 {
		t.Errorf("%v allocations for a batch to clients", n)
	}
}

// Packets that their sender lets be cut arrive in pieces, and pieces of pieces.
func TestCut(t *testing.T) {
	payload := make([]byte, 3000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	whole := with(ip("10.9.9.9", "10.20.0.2", protoUDP, payload), 6, 0, 0)
	pieces := [][]byte{whole}
	for _, mtu := range []int{1400, 576} {
		var smaller [][]byte
		for _, p := range pieces {
			h, ok := parseHeader(p)
			if !ok {
				t.Fatalf("cut made %x", p)
			}
			for _, f := range cut(packet.NewBatch(maxFragments, 1500), p, &h, mtu) {
				smaller = append(smaller, bytes.Clone(f.Bytes()))
			}
		}
		pieces = smaller
		got := make([]byte, len(payload))
		seen, last := 0, 0
		for _, p := range pieces {
			field := binary.BigEndian.Uint16(p[6:])
			if len(p) > mtu || sum(p[:headerLen4], 0) != 0xffff || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
				t.Fatalf("with MTU %d: %x", mtu, p[:headerLen4])
			}
			if field&0x2000 == 0 {
				last++
			}
			seen += copy(got[int(field&0x1fff)*8:], p[headerLen4:])
		}
		if !bytes.Equal(got, payload) || seen != len(payload) || last != 1 {
			t.Errorf("with MTU %d: %d bytes in %d pieces, %d of them the last", mtu, seen, len(pieces), last)
		}
	}
	for what, p := range map[string][]byte{
		"must not be cut":  ip("10.9.9.9", "10.20.0.2", protoUDP, payload),
		"IPv6":             ip("fd31::9", "fd20::2", protoUDP, payload),
		"has options":      with(whole, 0, 0x46),
		"goes on for ever": with(whole, 6, 0x1f, 0xff),
	} {
		h, ok := parseHeader(p)
		if !ok {
			t.Fatal(what)
		}
		if f := cut(packet.NewBatch(maxFragments, 1500), p, &h, 1400); f != nil {
			t.Errorf("a packet that %s is in %d pieces", what, len(f))
		}
	}
	h, _ := parseHeader(whole)
	if cut(packet.NewBatch(2, 1500), whole, &h, 1400) != nil || cut(packet.NewBatch(9, 700), whole, &h, 1400) != nil ||
		cut(packet.NewBatch(9, 1500), whole, &h, 20) != nil {
		t.Error("there was no room for the pieces")
	}
}

type sink struct{}

func (sink) ReadBatch(packet.Batch) (int, error)    { return 0, net.ErrClosed }
func (sink) WriteBatch(b packet.Batch) (int, error) { return len(b), nil }
func (sink) MTU() int                               { return 1500 }
func (sink) Close() error                           { return nil }

func FuzzParseHeader(f *testing.F) {
	f.Add(ip("10.0.0.1", "10.0.0.2", protoUDP, udpTo(53, "x")))
	f.Add(ip("fd00::1", "fd00::2", 43, append([]byte{protoUDP, 0, 4, 1, 0, 0, 0, 0}, udpTo(9, "")...)))
	f.Add(ip("fd00::1", "fd00::2", 44, append([]byte{protoTCP, 0, 0, 1, 0, 0, 0, 0}, udpTo(9, "")...)))
	f.Add(ip("fd00::1", "fd00::2", 51, []byte{60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
	f.Add([]byte{0x46, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 131, 3, 4, 0})
	srv := &Server{}
	srv.table = newTable(srv, []netip.Prefix{testPool4, testPool6})
	f.Fuzz(func(t *testing.T, p []byte) {
		h, ok := parseHeader(p)
		if ok && (h.total > len(p) || h.payload > h.total || !h.src.IsValid() || !h.dst.IsValid()) {
			t.Fatalf("%+v of %x", h, p)
		}
		if ok {
			for _, f := range cut(packet.NewBatch(maxFragments, 1500), p, &h, 68) {
				if o, ok := parseHeader(f.Bytes()); !ok || o.total > 68 || o.dst != h.dst {
					t.Fatalf("fragment %x of %x", f.Bytes(), p)
				}
			}
		}
		for _, what := range []complaint{tooBig, prohibited} {
			e := srv.complain(&session{}, p, what, 1300)
			if e == nil {
				continue
			}
			o, ok := parseHeader(e)
			if !ok || o.dst != h.src || o.total != len(e) || !o.isError(e) || len(e) > packet.MinMTU6 {
				t.Fatalf("answer %x to %x", e, p)
			}
			if srv.complain(&session{}, e, what, 1300) != nil {
				t.Fatalf("an answer to the answer %x", e)
			}
		}
	})
}
