package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"culvert.example/vpn/packet"
)

var (
	alice4 = netip.MustParseAddr("10.9.0.1")
	bob4   = netip.MustParseAddr("10.9.0.2")
	alice6 = netip.MustParseAddr("fd09::1")
	bob6   = netip.MustParseAddr("fd09::2")
)

func prefixes(addrs ...netip.Addr) (p []netip.Prefix) {
	for _, a := range addrs {
		p = append(p, netip.PrefixFrom(a, a.BitLen()))
	}
	return p
}

func newStack(tb testing.TB, cfg Config) *Stack {
	tb.Helper()
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// A tap sees the packets of one direction, and may drop some by returning fewer.
type tap func(packet.Batch) packet.Batch

func (f tap) Filter(b packet.Batch) packet.Batch { return f(b) }

// join carries packets between a and b until both are closed.
func join(tb testing.TB, a, b *Stack, ab, ba packet.Filter) {
	var pumps sync.WaitGroup
	pump := func(dst, src packet.Conn, f packet.Filter) {
		var filters []packet.Filter
		if f != nil {
			filters = append(filters, f)
		}
		pumps.Go(func() { packet.Copy(dst, src, 2048, 128, filters...) })
	}
	pump(b.Link(), a.Link(), ab)
	pump(a.Link(), b.Link(), ba)
	tb.Cleanup(func() {
		a.Close()
		b.Close()
		pumps.Wait()
	})
}

// pair returns two stacks that are joined.
func pair(tb testing.TB, mtu int) (alice, bob *Stack) {
	tb.Helper()
	alice = newStack(tb, Config{Addresses: prefixes(alice4, alice6), MTU: mtu})
	bob = newStack(tb, Config{Addresses: prefixes(bob4, bob6), MTU: mtu})
	join(tb, alice, bob, nil, nil)
	return alice, bob
}

func soon(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// connect returns the two ends of a TCP connection from a to b.
func connect(tb testing.TB, a, b *Stack, to netip.Addr) (client, server net.Conn) {
	tb.Helper()
	l, err := b.Listen("tcp", netip.AddrPortFrom(to, 0).String())
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	client, err = a.DialContext(soon(tb), "tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return client, server
}

func TestConn(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		t.Run(to.String(), func(t *testing.T) {
			alice, bob := pair(t, 1400)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = connect(t, alice, bob, to)
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

func TestUDP(t *testing.T) {
	alice, bob := pair(t, 1400)
	for _, tt := range []struct {
		network, listen string
		to              netip.Addr
	}{
		{"udp", ":0", bob4}, {"udp", ":0", bob6}, {"udp4", ":0", bob4}, {"udp6", "[::]:0", bob6}, {"udp", "10.9.0.2:0", bob4},
	} {
		pc, err := bob.ListenPacket(tt.network, tt.listen)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		port := pc.LocalAddr().(*net.UDPAddr).Port
		c, err := alice.DialContext(soon(t), tt.network, netip.AddrPortFrom(tt.to, uint16(port)).String())
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		// More than an MTU, so fragments travel too.
		sent := make([]byte, 3000)
		sent[2999] = 7
		c.Write(sent)
		b := make([]byte, 4000)
		pc.SetDeadline(time.Now().Add(20 * time.Second))
		n, from, err := pc.ReadFrom(b)
		if err != nil || n != 3000 || b[2999] != 7 || from.String() != c.LocalAddr().String() {
			t.Fatalf("%+v: read %d bytes from %v (want %v), %v", tt, n, from, c.LocalAddr(), err)
		}
		if _, err := pc.WriteTo([]byte("hello"), from); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
			t.Fatalf("%+v: read %q, %v", tt, b[:n], err)
		}
		c.Close()
		pc.Close()
	}
}

func TestErrors(t *testing.T) {
	alice, bob := pair(t, 1400)
	ctx := soon(t)
	_, err := alice.DialContext(ctx, "tcp", "10.9.0.2:9")
	wantOp(t, err, syscall.ECONNREFUSED, false)
	_, err = alice.DialContext(ctx, "tcp6", "[fd09::2]:9")
	wantOp(t, err, syscall.ECONNREFUSED, false)

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = alice.DialContext(short, "tcp", "10.9.0.77:9")
	wantOp(t, err, context.DeadlineExceeded, true)

	four := newStack(t, Config{Addresses: prefixes(alice4)})
	for _, network := range []string{"tcp", "udp"} {
		_, err = four.DialContext(ctx, network, "[fd09::2]:9")
		wantOp(t, err, syscall.ENETUNREACH, false)
	}
	_, err = four.Ping(ctx, bob6)
	wantOp(t, err, syscall.ENETUNREACH, false)

	for _, bad := range []struct{ network, address string }{
		{"tcp", "bob:1"}, {"tcp", "10.9.0.2"}, {"tcp", "10.9.0.2:http"}, {"tcp", "10.9.0.2:70000"}, {"tcp4", "[fd09::2]:1"},
		{"tcp6", "10.9.0.2:1"}, {"unix", "/x"}, {"ping", "bob"}, {"tcp", "[fe80::1%eth0]:1"},
	} {
		_, err := alice.DialContext(ctx, bad.network, bad.address)
		wantOp(t, err, nil, false)
		_, err = alice.Listen(bad.network, bad.address)
		wantOp(t, err, nil, false)
		_, err = alice.ListenPacket(bad.network, bad.address)
		wantOp(t, err, nil, false)
	}

	// The port unreachable that answers the first datagram fails the next call.
	c, err := alice.DialContext(ctx, "udp", "10.9.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x"))
	c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = c.Read(make([]byte, 1))
	wantOp(t, err, syscall.ECONNREFUSED, false)
	c.SetDeadline(time.Now())
	_, err = c.Read(make([]byte, 1))
	wantOp(t, err, errTimeout, true)
	c.Close()
	_, err = c.Read(make([]byte, 1))
	wantOp(t, err, net.ErrClosed, false)

	l, err := bob.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	_, err = bob.Listen("tcp", ":80")
	wantOp(t, err, syscall.EADDRINUSE, false)
	l.Close()
	_, err = l.Accept()
	wantOp(t, err, net.ErrClosed, false)
	_, err = bob.Listen("tcp", "192.0.2.1:80")
	wantOp(t, err, syscall.EADDRNOTAVAIL, false)
}

// wantOp checks that err is a *net.OpError that says what failed, with the given cause.
func wantOp(t *testing.T, err, cause error, timeout bool) {
	t.Helper()
	var op *net.OpError
	if !errors.As(err, &op) || op.Op == "" || op.Net == "" || op.Err == nil {
		t.Fatalf("error %v (%T) is no filled-in net.OpError", err, err)
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Fatalf("error %v, want one that matches %v", err, cause)
	}
	if op.Timeout() != timeout {
		t.Fatalf("error %v: Timeout() = %v", err, op.Timeout())
	}
}

func TestSelf(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4)})
	l, err := alice.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, err := alice.DialContext(soon(t), "tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go c.Write([]byte("to myself"))
	b := make([]byte, 9)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "to myself" {
		t.Fatalf("read %q, %v", b, err)
	}
}

func TestHalfClose(t *testing.T) {
	alice, bob := pair(t, 1400)
	c, s := connect(t, alice, bob, bob4)
	defer c.Close()
	defer s.Close()
	c.Write([]byte("question"))
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	q, err := io.ReadAll(s)
	if err != nil || string(q) != "question" {
		t.Fatalf("read %q, %v", q, err)
	}
	s.Write([]byte("answer"))
	s.Close()
	a, err := io.ReadAll(c)
	if err != nil || string(a) != "answer" {
		t.Fatalf("read %q, %v", a, err)
	}
}

func TestPing(t *testing.T) {
	alice, _ := pair(t, 1400)
	for _, a := range []netip.Addr{bob4, bob6} {
		if d, err := alice.Ping(soon(t), a); err != nil || d <= 0 {
			t.Errorf("Ping(%v) = %v, %v", a, d, err)
		}
	}
	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, err := alice.Ping(short, netip.MustParseAddr("10.9.0.9"))
	wantOp(t, err, context.DeadlineExceeded, true)
	if want := "ping icmp 10.9.0.9: " + context.DeadlineExceeded.Error(); err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if n := len(alice.pings.waiting); n != 0 {
		t.Errorf("%d pings are still remembered", n)
	}
}

func TestPingConn(t *testing.T) {
	alice, _ := pair(t, 1400)
	for _, tt := range []struct {
		network string
		to      netip.Addr
		request byte
		reply   byte
	}{{"ping", bob4, echo4, echoReply4}, {"ping6", bob6, echo6, echoReply6}} {
		c, err := alice.DialContext(soon(t), tt.network, tt.to.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		pc, err := alice.ListenPacket(tt.network, "")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		m := []byte{tt.request, 0, 0, 0, 0, 0, 0, 5, 'h', 'i'}
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		n, err := c.Read(b)
		if err != nil || n != 10 || b[0] != tt.reply || b[7] != 5 || string(b[8:10]) != "hi" {
			t.Fatalf("%s: read % x, %v", tt.network, b[:n], err)
		}
		if _, err := pc.WriteTo(m, &net.IPAddr{IP: tt.to.AsSlice()}); err != nil {
			t.Fatal(err)
		}
		pc.SetDeadline(time.Now().Add(20 * time.Second))
		n, from, err := pc.ReadFrom(b)
		if err != nil || n != 10 || from.String() != tt.to.String() {
			t.Fatalf("%s: read % x from %v, %v", tt.network, b[:n], from, err)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	alice, bob := pair(t, 1400)
	c, s := connect(t, alice, bob, bob4)
	defer s.Close()
	l, err := alice.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := alice.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	wg.Go(func() { _, err := c.Read(make([]byte, 1)); errs <- err })
	wg.Go(func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				errs <- err
				return
			}
		}
	})
	wg.Go(func() { _, err := l.Accept(); errs <- err })
	wg.Go(func() { _, _, err := pc.ReadFrom(make([]byte, 1)); errs <- err })
	wg.Go(func() { _, err := alice.DialContext(soon(t), "tcp", "10.9.0.88:1"); errs <- err })
	wg.Go(func() { _, err := alice.Ping(soon(t), netip.MustParseAddr("10.9.0.88")); errs <- err })
	time.Sleep(50 * time.Millisecond)
	alice.Close()
	wg.Wait()
	close(errs)
	for err := range errs {
		wantOp(t, err, net.ErrClosed, false)
	}
	_, err = alice.DialContext(soon(t), "tcp", "10.9.0.2:1")
	wantOp(t, err, net.ErrClosed, false)
	_, err = alice.Listen("tcp", ":0")
	wantOp(t, err, net.ErrClosed, false)
	if _, err := alice.Link().ReadBatch(packet.NewBatch(1, 1500)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch after Close: %v", err)
	}
	if _, err := alice.Link().WriteBatch(packet.NewBatch(1, 1500)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch after Close: %v", err)
	}
	c.Close()
	l.Close()
	pc.Close()
}

func TestConfigErrors(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Addresses: prefixes(alice4), MTU: 500},
		{Addresses: prefixes(alice6), MTU: 1200},
		{Addresses: prefixes(alice4), MTU: 70000},
		{Addresses: prefixes(alice4), SendBuffer: 1},
		{Addresses: []netip.Prefix{{}}},
		{Addresses: prefixes(netip.IPv4Unspecified())},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("New(%+v) succeeded", cfg)
		}
	}
}

func TestSetAddresses(t *testing.T) {
	alice, bob := pair(t, 1400)
	c, s := connect(t, alice, bob, bob4)
	defer c.Close()
	defer s.Close()
	if err := alice.SetAddresses(prefixes(netip.MustParseAddr("10.9.0.5"), alice6)); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := c.Read(make([]byte, 1))
	wantOp(t, err, syscall.ECONNABORTED, false)
	c2, s2 := connect(t, alice, bob, bob4)
	defer c2.Close()
	defer s2.Close()
	if host, _, _ := net.SplitHostPort(s2.RemoteAddr().String()); host != "10.9.0.5" {
		t.Errorf("connected from %s", host)
	}
}

// What a router says about a destination ends the attempt to connect to it.
func TestUnreachable(t *testing.T) {
	for _, tt := range []struct {
		to           string
		code4, code6 byte
		want         error
	}{
		{"10.9.0.3:1", codeHost4, 0, syscall.EHOSTUNREACH}, {"10.9.0.3:1", codeNet4, 0, syscall.ENETUNREACH},
		{"[fd09::3]:1", 0, codeAddress6, syscall.EHOSTUNREACH}, {"[fd09::3]:1", 0, codeNoRoute6, syscall.ENETUNREACH},
	} {
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6)})
		var pump sync.WaitGroup
		pump.Go(func() {
			b, reply := packet.NewBatch(1, 1500), packet.NewBatch(1, 1500)
			for {
				if _, err := alice.Link().ReadBatch(b); err != nil {
					return
				}
				ip, _ := parseIP(b[0].Bytes())
				src, dst := ip.addresses(b[0].Bytes())
				reply[0].Set(unreachablePacket(dst, src, tt.code4, tt.code6, b[0].Bytes()))
				alice.Link().WriteBatch(reply)
			}
		})
		_, err := alice.DialContext(soon(t), "tcp", tt.to)
		wantOp(t, err, tt.want, false)
		addr := netip.MustParseAddrPort(tt.to).Addr()
		_, err = alice.Ping(soon(t), addr)
		wantOp(t, err, tt.want, false)
		alice.Close()
		pump.Wait()
	}
}

// Nothing leaves a stack that nobody asked for.
func TestSilence(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4, alice6)})
	time.Sleep(100 * time.Millisecond)
	if n := alice.link.queue.n; n != 0 {
		t.Errorf("%d packets left on their own", n)
	}
}
