package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// gateway returns a client stack joined to one that forwards.
func gateway(tb testing.TB, cfg Config) (client, gw *Stack) {
	tb.Helper()
	client = newStack(tb, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	cfg.Addresses, cfg.MTU = prefixes(bob4, bob6), 1400
	gw = newStack(tb, cfg)
	join(tb, client, gw, nil, nil)
	return client, gw
}

func TestForwardTCP(t *testing.T) {
	client, gw := gateway(t, Config{AcceptTCP: func(ctx context.Context, r *TCPRequest) {
		if r.Destination.Port() == 81 {
			r.Reject()
			return
		}
		if r.Destination.Port() == 82 {
			return
		}
		c, err := r.Accept(ctx)
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer c.Close()
		if c.LocalAddr().String() != r.Destination.String() || c.RemoteAddr().String() != r.Source.String() {
			t.Errorf("accepted %v from %v for %+v", c.LocalAddr(), c.RemoteAddr(), r)
		}
		if _, err := r.Accept(ctx); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Accept: %v", err)
		}
		r.Reject()
		io.Copy(c, c)
	}})
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80", "10.9.0.2:80"} {
		c, err := client.DialContext(soon(t), "tcp", to)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		go c.Write([]byte("echo"))
		b := make([]byte, 4)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "echo" {
			t.Fatalf("%s: read %q, %v", to, b, err)
		}
		c.Close()
	}
	for _, to := range []string{"198.51.100.7:81", "[2001:db8::7]:81", "198.51.100.7:82"} {
		_, err := client.DialContext(soon(t), "tcp", to)
		wantOp(t, err, syscall.ECONNREFUSED, false)
	}
	// No UDP and no pings are accepted here.
	u, err := client.DialContext(soon(t), "udp", "198.51.100.7:53")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.Write([]byte("?"))
	u.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = u.Read(make([]byte, 1))
	wantOp(t, err, syscall.ECONNREFUSED, false)
	_, err = client.Ping(soon(t), netip.MustParseAddr("198.51.100.7"))
	wantOp(t, err, syscall.EHOSTUNREACH, false)
	if n := gw.Stats().Flows; n > 3 {
		t.Errorf("%d flows", n)
	}
}

// A forwarding stack has listeners of its own like any other.
func TestForwardBesideListener(t *testing.T) {
	client, gw := gateway(t, Config{AcceptTCP: func(context.Context, *TCPRequest) {}})
	c, s := connect(t, client, gw, bob4)
	c.Close()
	s.Close()
}

func TestForwardTCPCloseWhilePending(t *testing.T) {
	entered := make(chan struct{}, 2)
	client, gw := gateway(t, Config{AcceptTCP: func(ctx context.Context, r *TCPRequest) {
		entered <- struct{}{}
		<-ctx.Done()
		if r.Destination.Port() == 2 {
			if c, err := r.Accept(t.Context()); err == nil {
				c.Close()
				t.Error("Accept succeeded on a closing stack")
			}
		}
	}})
	for _, to := range []string{"198.51.100.7:1", "198.51.100.7:2"} {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if c, err := client.DialContext(ctx, "tcp", to); err == nil {
				c.Close()
			}
		}()
	}
	<-entered
	<-entered
	done := make(chan struct{})
	go func() { gw.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Close hangs")
	}
	client.Close()
}

// TestForwardTCPPeerGone accepts a connection from a peer that has gone away since it asked.
func TestForwardTCPPeerGone(t *testing.T) {
	ended := make(chan error, 1)
	gw := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1400, AcceptTCP: func(ctx context.Context, r *TCPRequest) {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err := r.Accept(ctx)
		ended <- err
	}})
	client := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	join(t, client, gw, nil, tap(func(b packet.Batch) packet.Batch { return nil }))
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		client.DialContext(ctx, "tcp", to)
		cancel()
		select {
		case err := <-ended:
			wantOp(t, err, context.DeadlineExceeded, true)
		case <-time.After(5 * time.Second):
			t.Fatal("Accept waits for ever")
		}
		if n := gw.Stats().Flows; n != 0 {
			t.Errorf("%d flows are counted", n)
		}
	}
}

func TestForwardUDP(t *testing.T) {
	var ends atomic.Int32
	client, gw := gateway(t, Config{UDPIdle: 200 * time.Millisecond, AcceptUDP: func(ctx context.Context, r *UDPRequest) {
		if r.Destination.Port() == 81 {
			return
		}
		time.Sleep(20 * time.Millisecond) // as a decision takes; the datagrams that come meanwhile must not be lost
		c, err := r.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer c.Close()
		b := make([]byte, 2048)
		for {
			n, err := c.Read(b)
			if err != nil {
				if err == io.EOF {
					ends.Add(1)
				}
				return
			}
			c.Write(b[:n])
		}
	}})
	for _, to := range []string{"198.51.100.7:53", "[2001:db8::7]:53"} {
		c, err := client.DialContext(soon(t), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 100)
		for range 2 {
			c.Write([]byte("one"))
			c.Write([]byte("two"))
			for _, want := range []string{"one", "two"} {
				if n, err := c.Read(b); err != nil || string(b[:n]) != want {
					t.Fatalf("%s: read %q, %v", to, b[:n], err)
				}
			}
		}
		c.Close()
	}
	for _, to := range []string{"198.51.100.7:81", "[2001:db8::7]:81"} {
		c, err := client.DialContext(soon(t), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("?"))
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		wantOp(t, err, syscall.ECONNREFUSED, false)
		c.Close()
	}
	for end := time.Now().Add(20 * time.Second); ends.Load() < 2 || gw.Stats().Flows != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d flows ended for being idle, %d are left", ends.Load(), gw.Stats().Flows)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestForwardPing(t *testing.T) {
	client, _ := gateway(t, Config{AcceptPing: func(ctx context.Context, r *PingRequest) {
		if r.Destination == netip.MustParseAddr("198.51.100.8") || r.Destination == netip.MustParseAddr("2001:db8::8") {
			return
		}
		if r.Source != alice4 && r.Source != alice6 || len(r.Payload) != 16 {
			t.Errorf("request %+v", r)
		}
		r.Reply()
		r.Unreachable()
	}})
	for _, a := range []string{"198.51.100.7", "2001:db8::7", bob4.String(), bob6.String()} {
		if d, err := client.Ping(soon(t), netip.MustParseAddr(a)); err != nil || d <= 0 {
			t.Errorf("Ping(%v) = %v, %v", a, d, err)
		}
	}
	_, err := client.DialContext(soon(t), "tcp", "198.51.100.7:80")
	wantOp(t, err, syscall.ECONNREFUSED, false)
	for _, a := range []string{"198.51.100.8", "2001:db8::8"} {
		_, err := client.Ping(soon(t), netip.MustParseAddr(a))
		wantOp(t, err, syscall.EHOSTUNREACH, false)
	}
}

func TestForwardLimits(t *testing.T) {
	release := make(chan struct{})
	var running sync.WaitGroup
	client, gw := gateway(t, Config{MaxPending: 2, MaxFlows: 3,
		AcceptTCP: func(ctx context.Context, r *TCPRequest) {
			if c, err := r.Accept(ctx); err == nil {
				<-ctx.Done()
				c.Close()
			}
		},
		AcceptPing: func(ctx context.Context, r *PingRequest) {
			running.Add(1)
			defer running.Done()
			<-release
			r.Reply()
		},
	})
	var refused int
	for range 5 {
		c, err := client.DialContext(soon(t), "tcp", "198.51.100.7:80")
		if err == nil {
			defer c.Close()
			continue
		}
		wantOp(t, err, syscall.ECONNREFUSED, false)
		refused++
	}
	if refused != 2 || gw.Stats().FlowsRefused != 2 || gw.Stats().Flows != 3 {
		t.Errorf("%d connections refused, %+v", refused, gw.Stats())
	}

	results := make(chan error, 5)
	for range 5 {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_, err := client.Ping(ctx, netip.MustParseAddr("198.51.100.7"))
			results <- err
		}()
	}
	for end := time.Now().Add(20 * time.Second); gw.Stats().RequestsDropped < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", gw.Stats())
		}
	}
	close(release)
	var errs []error
	for range 5 {
		errs = append(errs, <-results)
	}
	if n := len(slices.DeleteFunc(errs, func(err error) bool { return err != nil })); n != 2 {
		t.Errorf("%d pings were answered, want 2", n)
	}
}

// everything returns the configuration of a stack that accepts all flows.
func everything(addrs ...netip.Addr) Config {
	drain := func(c net.Conn, err error) {
		if err == nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
	}
	return Config{
		Addresses: prefixes(addrs...), MTU: 1400, UDPIdle: 10 * time.Millisecond, MaxPending: 64, MaxFlows: 64,
		AcceptTCP:  func(ctx context.Context, r *TCPRequest) { drain(r.Accept(ctx)) },
		AcceptUDP:  func(_ context.Context, r *UDPRequest) { drain(r.Accept()) },
		AcceptPing: func(_ context.Context, r *PingRequest) { r.Reply() },
	}
}
