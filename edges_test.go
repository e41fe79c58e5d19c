package vpn_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

// TestSloppyLists opens a tunnel though lists of the gateway have entries that make no sense. The others count.
func TestSloppyLists(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.DynamicInclude = []string{"no..domain", "münchen.example", "*", strings.Repeat("x", 64) + ".example", "in.example", "a b"}
		c.Network.DynamicExclude = []string{"*.*.example", "..", "out.example"}
	}})
	tun := dial(t, gw.URL, settings(gw, func(c *vpn.Config) {
		c.Resolver = newZone(map[string][]string{"a.in.example": {"192.0.2.1"}, "a.out.example": {"10.211.0.77"}})
	}))
	for host, way := range map[string]string{"a.in.example": "tunnel", "a.out.example": "direct"} {
		e, err := tun.Explain(timeout(t, 10*time.Second), host)
		if err != nil || len(e.Routes) != 1 || e.Routes[0].Way != way {
			t.Errorf("%s: %+v, %v, want %s", host, e, err, way)
		}
	}
}

// TestSmallMTU limits packets to less than IPv6 needs, which leaves IPv4.
func TestSmallMTU(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t, func(c *vpn.Config) { c.MTU = 1000 })
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 100_000)
	for _, p := range tun.Status().Addresses {
		if p.Addr().Is6() {
			t.Errorf("the tunnel has the address %v with an MTU of %d", p, tun.Status().MTU)
		}
	}
}

// TestShutdownHalfClosed lets an answer come that is still under way when the question has been ended.
func TestShutdownHalfClosed(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// What comes back fills the windows, so the server cannot end before it is read.
	const size = 12 << 20
	written := make(chan error, 1)
	go func() {
		_, err := io.CopyN(conn, zeros{}, size)
		written <- errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite())
	}()
	n, err := io.CopyN(io.Discard, conn, size/2)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // the end of the question arrives
	over := make(chan error, 1)
	go func() { over <- tun.Shutdown(timeout(t, 30*time.Second)) }()
	time.Sleep(100 * time.Millisecond)
	rest, err := io.Copy(io.Discard, conn)
	if n += rest; err != nil || n != size {
		t.Errorf("%d bytes of %d came back, %v", n, size, err)
	}
	conn.Close()
	if err := <-over; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestAbsoluteName takes a name with a final dot for what it is.
func TestAbsoluteName(t *testing.T) {
	leak.Check(t)
	_, tun := simple(t)
	ctx := timeout(t, 10*time.Second)
	if e, err := tun.Explain(ctx, "alias"); err != nil || len(e.Routes) == 0 || e.Resolver != "tunnel (suffix culvert.test)" {
		t.Errorf("alias: %+v, %v, want that the tunnel resolves it", e, err)
	}
	if e, err := tun.Explain(ctx, "alias."); err == nil {
		t.Errorf("alias. is another name than alias, and does not exist: %+v", e)
	}
	if conn, err := tun.DialContext(ctx, "tcp", "alias.:7"); err == nil {
		t.Errorf("alias. is another name than alias, and does not exist: connected to %v", conn.RemoteAddr())
		conn.Close()
	}
	if rtt, err := tun.Ping(ctx, "alias."); err == nil {
		t.Errorf("alias. is another name than alias, and does not exist: pinged in %v", rtt)
	}
}

// TestAllDNSWithoutServer asks nobody where no name may be asked outside and nobody can be asked inside.
func TestAllDNSWithoutServer(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.DNS, c.Network.TunnelAllDNS = nil, true
	}})
	tun := dial(t, gw.URL, settings(gw))
	const name = "all.dns.machine.example"
	if addrs, err := tun.Resolver().LookupHost(timeout(t, 10*time.Second), name); err == nil {
		t.Errorf("%s has the addresses %v", name, addrs)
	}
	if machine.wasAsked(name) {
		t.Error("the machine was asked")
	}
}

// TestStatusIsACopy changes a snapshot, which must not show anywhere else.
func TestStatusIsACopy(t *testing.T) {
	leak.Check(t)
	_, tun := simple(t)
	scribble := func(s vpn.Status) {
		clear(s.Addresses)
		clear(s.DNS)
		clear(s.SplitDNS)
		clear(s.SearchDomains)
		clear(s.Include)
		clear(s.Exclude)
		clear(s.Paths)
	}
	scribble(tun.Status())
	ctx := timeout(t, 10*time.Second)
	done := errors.New("seen")
	defer func() {
		if r := recover(); r != done {
			panic(r)
		}
	}()
	tun.Watch(ctx, func(s vpn.Status) {
		if s.Addresses[0] == (netip.Prefix{}) || s.DNS[0] == (netip.Addr{}) || s.SplitDNS[0] == "" || s.SearchDomains[0] == "" ||
			s.Include[0] == (netip.Prefix{}) || s.Paths[0].Name == "" {
			t.Errorf("a change of one snapshot shows in another: %+v", s)
		}
		panic(done)
	})
}

// A failing writer takes limit bytes.
type failing struct {
	limit int
	err   error
	wrote int
}

func (f *failing) Write(b []byte) (int, error) {
	if f.wrote += len(b); f.wrote > f.limit {
		return 0, f.err
	}
	return len(b), nil
}

// TestCaptureErrors tells of writers that fail, and leaves those alone that are not used.
func TestCaptureErrors(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	stop, err := tun.Capture(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	second := &failing{}
	if _, err := tun.Capture(second); err == nil || second.wrote != 0 {
		t.Errorf("a second capture: %v, and %d bytes were written", err, second.wrote)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	full := errors.New("disk full")
	stop, err = tun.Capture(&failing{err: full})
	if err == nil {
		err = stop()
	}
	if !errors.Is(err, full) {
		t.Errorf("a writer that takes no head: %v, want %v", err, full)
	}
	// An error that looks like the end of the capture is one of the writer nevertheless.
	stop, err = tun.Capture(&failing{limit: 100, err: net.ErrClosed})
	if err != nil {
		t.Fatal(err)
	}
	tun.Ping(timeout(t, 5*time.Second), gw.Web.Addr().String())
	if err := stop(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("stop: %v", err)
	}
}

// TestTimeoutOfSeveralAddresses tells a time-out as one even if another address was refused before.
func TestTimeoutOfSeveralAddresses(t *testing.T) {
	leak.Check(t)
	_, tun := simple(t, func(c *vpn.Config) {
		c.Resolver = newZone(map[string][]string{"two.example": {"198.51.100.1", "198.51.100.2"}})
		c.Direct = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "198.51.100.1:80" {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	_, err := tun.DialContext(timeout(t, 50*time.Millisecond), "tcp", "two.example:80")
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want a time-out", err)
	}
}

// TestEndIsSeenAtOnce ends a tunnel: whoever sees it closed in one way sees it in all.
func TestEndIsSeenAtOnce(t *testing.T) {
	leak.Check(t)
	for _, first := range []string{"Watch", "Done"} {
		seen := make(chan struct{})
		_, tun := simple(t, func(c *vpn.Config) { c.Logger = slog.New(pausing{seen}) })
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			tun.Watch(context.Background(), func(s vpn.Status) {
				if s.State != vpn.Closed || first != "Watch" {
					return
				}
				if err := tun.Err(); err == nil {
					t.Error("Err is nil though the state is Closed")
				}
				close(seen)
			})
		}()
		go func() {
			<-tun.Done()
			if first == "Done" {
				if s := tun.Status(); s.State != vpn.Closed {
					t.Errorf("the state is %v though Done is closed", s.State)
				}
				close(seen)
			}
		}()
		tun.Close()
		<-watched
	}
}

// A pausing handler holds up who logs the end of the tunnel, until that has been seen or a second has passed.
type pausing struct{ seen chan struct{} }

func (pausing) Enabled(context.Context, slog.Level) bool { return true }

func (p pausing) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "tunnel ended" {
		select {
		case <-p.seen:
		case <-time.After(time.Second):
		}
	}
	return nil
}

func (p pausing) WithAttrs([]slog.Attr) slog.Handler { return p }
func (p pausing) WithGroup(string) slog.Handler      { return p }

// TestCloseIsNoReconnect closes tunnels, of which nobody is told that they reconnect.
func TestCloseIsNoReconnect(t *testing.T) {
	leak.Check(t)
	for range 5 {
		_, tun := simple(t)
		var states []vpn.State
		started, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			tun.Watch(context.Background(), func(s vpn.Status) {
				if states = append(states, s.State); len(states) == 1 {
					close(started)
				}
			})
		}()
		<-started
		tun.Close()
		<-watched
		if slices.Contains(states, vpn.Reconnecting) {
			t.Errorf("the states were %v", states)
		}
	}
}
