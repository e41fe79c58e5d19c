package vpn_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/dns"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/login"
)

// TestMain has the names that the machine is asked for answered here, so that no test asks a real name server.
func TestMain(m *testing.M) {
	net.DefaultResolver = (&dns.Resolver{Exchanger: machine}).NetResolver()
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		// Most tests wait and do not compute.
		f.Value.Set("8")
	}
	os.Exit(m.Run())
}

// settings returns the configuration of a client of gw, changed as wanted.
func settings(gw *gatewaytest.Gateway, changes ...func(*vpn.Config)) *vpn.Config {
	cfg := &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		Pins:  []string{gw.Pin},
	}
	for _, change := range changes {
		if change != nil {
			change(cfg)
		}
	}
	return cfg
}

func onlyTLS(c *vpn.Config) { c.NoDTLS = true }

// A mode is a way for packets to take.
type mode struct {
	name   string
	config func(*vpn.Config)
	path   string // at the beginning
	limit  int    // after so many more datagrams UDP dies; 0 means never
}

// modes are the ways that a scenario has to work in. In the last, UDP dies soon after the beginning, and nobody inside the
// tunnel may notice.
var modes = []mode{
	{name: "tls", config: onlyTLS, path: "tls"},
	{name: "dtls", path: "dtls"},
	{name: "failover", path: "dtls", limit: 20},
}

// open starts a gateway and opens a tunnel to it.
func (m mode) open(t *testing.T, changes ...func(*vpn.Config)) (*gatewaytest.Gateway, *vpn.Tunnel) {
	t.Helper()
	gw := gatewaytest.New(t)
	tun := dial(t, gw.URL, settings(gw, append(changes, m.config)...))
	over(t, tun, m.path, 10*time.Second)
	if m.limit > 0 {
		gw.SetUDPLimit(m.limit)
	}
	return gw, tun
}

// run runs a scenario in all modes, side by side, and looks for what it leaves behind.
func run(t *testing.T, scenario func(t *testing.T, m mode)) {
	leak.Check(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			scenario(t, m)
		})
	}
}

// simple starts a gateway and opens a tunnel to it, on whatever path comes first.
func simple(t *testing.T, changes ...func(*vpn.Config)) (*gatewaytest.Gateway, *vpn.Tunnel) {
	t.Helper()
	gw := gatewaytest.New(t)
	return gw, dial(t, gw.URL, settings(gw, changes...))
}

// only returns the one session that the gateway has.
func only(t *testing.T, gw *gatewaytest.Gateway) gateway.SessionInfo {
	t.Helper()
	s := gw.Sessions()
	if len(s) != 1 {
		t.Fatalf("%d sessions at the gateway, want 1: %+v", len(s), s)
	}
	return s[0]
}

// ended waits for the end of the tunnel and returns its reason.
func ended(t *testing.T, tun *vpn.Tunnel, within time.Duration) error {
	t.Helper()
	select {
	case <-tun.Done():
	case <-time.After(within):
		t.Fatalf("the tunnel lives on after %v: %+v", within, tun.Status())
	}
	return tun.Err()
}

// transfer sends n random bytes on a connection to an echo server, ends the stream, and compares what comes back.
func transfer(t *testing.T, conn net.Conn, n int64) {
	t.Helper()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	sent, got := sha256.New(), sha256.New()
	written := make(chan error, 1)
	go func() {
		random := rand.NewChaCha8([32]byte{byte(n)})
		_, err := io.CopyN(io.MultiWriter(conn, sent), random, n)
		written <- errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite())
	}()
	back, err := io.Copy(got, conn)
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if back != n || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%d bytes went out, and %d bytes came back, or others", n, back)
	}
}

// TestTransfer carries megabytes both ways at once, over IPv4 and over IPv6.
func TestTransfer(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		for _, addr := range []netip.AddrPort{gw.Echo, netip.AddrPortFrom(gw.Web6.Addr(), gw.Echo.Port())} {
			conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, 4<<20)
		}
		want := m.path
		if m.limit > 0 {
			want = "tls"
		}
		over(t, tun, want, 20*time.Second)
		if n := only(t, gw).Connects; n != 1 {
			t.Errorf("the gateway saw %d connections of the session, want 1", n)
		}
	})
}

// TestListen lets the private network connect to the client.
func TestListen(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		var serving sync.WaitGroup
		defer serving.Wait()
		for _, tt := range []struct{ network, address string }{
			{"tcp", ":8080"}, {"tcp4", "0.0.0.0:8084"}, {"tcp6", "[::]:8086"},
		} {
			ln, err := tun.Listen(tt.network, tt.address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			serving.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					serving.Go(func() {
						defer c.Close()
						io.Copy(c, c)
					})
				}
			})
			for _, p := range tun.Status().Addresses {
				if tt.network == "tcp4" && p.Addr().Is6() || tt.network == "tcp6" && p.Addr().Is4() {
					continue
				}
				to := netip.AddrPortFrom(p.Addr(), uint16(ln.Addr().(*net.TCPAddr).Port)).String()
				conn, err := gw.DialContext(timeout(t, 10*time.Second), "tcp", to)
				if err != nil {
					t.Fatalf("%s %s: %v", tt.network, to, err)
				}
				transfer(t, conn, 200_000)
			}
		}
		if _, err := tun.Listen("tcp", ":8080"); err == nil {
			t.Error("two listeners at one port")
		}
	})
}

// TestListenPacket lets the private network send datagrams to the client.
func TestListenPacket(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		var serving sync.WaitGroup
		defer serving.Wait()
		for i, p := range tun.Status().Addresses {
			pc, err := tun.ListenPacket("udp", netip.AddrPortFrom(p.Addr(), 9000+uint16(i)).String())
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			serving.Go(func() {
				b := make([]byte, 2048)
				for {
					n, from, err := pc.ReadFrom(b)
					if err != nil {
						return
					}
					pc.WriteTo(b[:n], from)
				}
			})
			conn, err := gw.DialContext(timeout(t, 10*time.Second), "udp", pc.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			exchange(t, conn, []byte("a datagram for the client"))
			pinged, err := gw.DialContext(timeout(t, 10*time.Second), "ping", p.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer pinged.Close()
			exchange(t, pinged, echoRequest(p.Addr()))
		}
	})
}

// TestSeveralTunnels opens tunnels to two gateways that give out the same addresses. Each leads to its own network.
func TestSeveralTunnels(t *testing.T) {
	leak.Check(t)
	const port = 9000
	var tunnels [2]*vpn.Tunnel
	var serving sync.WaitGroup
	defer serving.Wait()
	for i := range tunnels {
		var gw *gatewaytest.Gateway
		gw, tunnels[i] = simple(t)
		ln, err := gw.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		serving.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "network %d", i)
				c.Close()
			}
		})
	}
	a, b := tunnels[0].Status(), tunnels[1].Status()
	if fmt.Sprint(a.Addresses) != fmt.Sprint(b.Addresses) {
		t.Fatalf("the addresses are not the same: %v and %v", a.Addresses, b.Addresses)
	}
	to := netip.AddrPortFrom(a.DNS[0], port).String()
	var wg sync.WaitGroup
	for range 10 {
		for i, tun := range tunnels {
			wg.Go(func() {
				conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", to)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				text, err := io.ReadAll(conn)
				if want := fmt.Sprintf("network %d", i); err != nil || string(text) != want {
					t.Errorf("tunnel %d reads %q, %v, want %q", i, text, err, want)
				}
			})
		}
	}
	wg.Wait()
	tunnels[0].Close()
	conn, err := tunnels[1].DialContext(timeout(t, 10*time.Second), "tcp", to)
	if err != nil {
		t.Fatalf("after the other tunnel is closed: %v", err)
	}
	conn.Close()
}

// TestNested opens a tunnel through a tunnel.
func TestNested(t *testing.T) {
	leak.Check(t)
	inner := gatewaytest.New(t)
	// The outer gateway leads to the inner one at an address that is nowhere else.
	const alias = "192.0.2.1"
	outer := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.Routes = append(c.Network.Routes, netip.MustParsePrefix(alias+"/32"))
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, alias+":", "127.0.0.1:", 1))
		}
	}})
	first := dial(t, outer.URL, settings(outer))
	second := dial(t, fmt.Sprintf("https://%s:%d", alias, inner.Addr.Port()), settings(inner, func(c *vpn.Config) { c.Dial = first.DialContext }))
	if s := second.Status(); s.Path != "tls" || len(s.Paths) > 0 && s.Paths[0].Open {
		t.Errorf("path %s, want only tls, since UDP would not go through the first tunnel: %+v", s.Path, s.Paths)
	}
	conn, err := second.DialContext(timeout(t, 10*time.Second), "tcp", inner.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 500_000)
	if n := first.Status().Counters; n.SentBytes < 500_000 {
		t.Errorf("the first tunnel carried only %d bytes", n.SentBytes)
	}
	second.Close()
}

// TestClose closes a tunnel that is busy in every way.
func TestClose(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		ctx := timeout(t, 30*time.Second)
		conn, err := tun.DialContext(ctx, "tcp", gw.Echo.String())
		if err != nil {
			t.Fatal(err)
		}
		ln, err := tun.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := tun.ListenPacket("udp", ":53")
		if err != nil {
			t.Fatal(err)
		}
		if err := tun.Err(); err != nil {
			t.Errorf("Err before Close: %v", err)
		}
		stop, err := tun.Capture(io.Discard)
		if err != nil {
			t.Fatal(err)
		}

		var wg sync.WaitGroup
		closed := func(what string, call func() error) {
			wg.Go(func() {
				if err := call(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v, want net.ErrClosed", what, err)
				}
			})
		}
		closed("Read", func() error { _, err := conn.Read(make([]byte, 1)); return err })
		closed("Accept", func() error { _, err := ln.Accept(); return err })
		closed("ReadFrom", func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err })
		closed("Ping", func() error {
			var err error
			for err == nil {
				_, err = tun.Ping(ctx, gw.Web.Addr().String())
			}
			return err
		})
		closed("DialContext", func() error {
			for {
				conn, err := tun.DialContext(ctx, "tcp", gw.Echo.String())
				if err != nil {
					return err
				}
				conn.Close()
			}
		})
		wg.Go(func() {
			if err := tun.Watch(ctx, func(vpn.Status) {}); err != nil {
				t.Errorf("Watch: %v", err)
			}
		})
		time.Sleep(50 * time.Millisecond)
		for range 3 {
			wg.Go(func() {
				if err := tun.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				if s := tun.Status(); s.State != vpn.Closed {
					t.Errorf("after Close the state is %v", s.State)
				}
			})
		}
		wg.Wait()
		if err := tun.Close(); err != nil {
			t.Errorf("Close once more: %v", err)
		}

		select {
		case <-tun.Done():
		default:
			t.Error("Done is not closed after Close")
		}
		if err := tun.Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Err: %v, want net.ErrClosed", err)
		}
		if err := stop(); err != nil {
			t.Errorf("stop of the capture: %v", err)
		}
		for what, call := range map[string]func() error{
			"DialContext":  func() error { _, err := tun.DialContext(ctx, "tcp", gw.Echo.String()); return err },
			"Dial":         func() error { _, err := tun.Dial("udp", gw.Echo.String()); return err },
			"Listen":       func() error { _, err := tun.Listen("tcp", ":0"); return err },
			"ListenPacket": func() error { _, err := tun.ListenPacket("udp", ":0"); return err },
			"Ping":         func() error { _, err := tun.Ping(ctx, gw.Web.Addr().String()); return err },
			"Capture":      func() error { _, err := tun.Capture(io.Discard); return err },
		} {
			if err := call(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v, want net.ErrClosed", what, err)
			}
		}
		tun.NetworkChanged()
		if err := tun.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown after Close: %v", err)
		}
		eventually(t, 20*time.Second, "the gateway knows that the client is gone", func() bool { return only(t, gw).Path == "" })
	})
}

// TestShutdown lets connections end first.
func TestShutdown(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- tun.Shutdown(timeout(t, 60*time.Second)) }()
		eventually(t, 20*time.Second, "new connections are refused", func() bool {
			c, err := tun.DialContext(timeout(t, 5*time.Second), "tcp", gw.Echo.String())
			if err == nil {
				c.Close()
			}
			return errors.Is(err, net.ErrClosed)
		})
		transfer(t, conn, 300_000)
		select {
		case err := <-over:
			if err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Shutdown does not return after the last connection is closed")
		}
		if err := tun.Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Err: %v, want net.ErrClosed", err)
		}
	})
}

// TestShutdownInbound lets connections from inside end as well, and no new ones in.
func TestShutdownInbound(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	ln, err := tun.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	idle, err := tun.Listen("tcp", ":81")
	if err != nil {
		t.Fatal(err)
	}
	early, err := tun.Listen("tcp", ":82")
	if err != nil {
		t.Fatal(err)
	}
	if err := early.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := early.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close once more: %v", err)
	}
	accepted := make(chan error, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				accepted <- err
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	at := func(port uint16) string { return netip.AddrPortFrom(tun.Status().Addresses[0].Addr(), port).String() }
	peer, err := gw.DialContext(timeout(t, 10*time.Second), "tcp", at(80))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	exchange(t, peer, []byte("before Shutdown"))
	// Nobody accepts this one, so that nobody could end it.
	waiting, err := gw.DialContext(timeout(t, 10*time.Second), "tcp", at(81))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()

	over := make(chan error, 1)
	go func() { over <- tun.Shutdown(timeout(t, 60*time.Second)) }()
	select {
	case err := <-accepted:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Accept does not return")
	}
	if conn, err := gw.DialContext(timeout(t, 10*time.Second), "tcp", at(80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection from inside: %v, want a refusal", err)
		if err == nil {
			conn.Close()
		}
	}
	waiting.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that nobody accepted: %v, want a reset", err)
	}
	_, err = tun.Listen("tcp", ":83")
	checkError(t, "listen", gw.URL, ":83", err)
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen: %v", err)
	}
	select {
	case err := <-over:
		t.Fatalf("Shutdown does not wait: %v", err)
	default:
	}
	exchange(t, peer, []byte("during Shutdown"))
	peer.Close()
	select {
	case err := <-over:
		if err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Shutdown does not return after the last connection is closed")
	}
	if err := idle.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close after Shutdown: %v", err)
	}
}

// TestShutdownTimeout cuts what does not end in time.
func TestShutdownTimeout(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	err = tun.Shutdown(timeout(t, 200*time.Millisecond))
	var op *vpn.OpError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &op) || !op.Timeout() {
		t.Errorf("Shutdown: %v, want an OpError that is a time-out", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v, want net.ErrClosed", err)
	}
	select {
	case <-tun.Done():
	default:
		t.Error("the tunnel lives on")
	}
}
