package system_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// A stream goes to an echo and back.
type stream struct {
	progress chan time.Time // of each read
	done     chan error
}

const (
	streamRate = 2 << 20 // bytes a second
	streamTime = 6 * time.Second
)

// echoStream sends a stream to an echo server, and checks what comes back.
func echoStream(c net.Conn) *stream {
	s := &stream{progress: make(chan time.Time, 1<<20), done: make(chan error, 2)}
	const step = 10 * time.Millisecond
	const total = int64(streamRate * streamTime / time.Second)
	c.SetDeadline(time.Now().Add(streamTime + 20*time.Second))
	go func() {
		from := rand.NewChaCha8([32]byte{7})
		tick := time.NewTicker(step)
		defer tick.Stop()
		for left := total; left > 0; <-tick.C {
			n := min(left, int64(streamRate*step/time.Second))
			if _, err := io.CopyN(c, from, n); err != nil {
				s.done <- err
				return
			}
			left -= n
		}
		s.done <- nil
	}()
	go func() {
		want, got, expected := rand.NewChaCha8([32]byte{7}), make([]byte, 32<<10), make([]byte, 32<<10)
		for left := total; left > 0; {
			n, err := c.Read(got)
			if err != nil {
				s.done <- err
				return
			}
			want.Read(expected[:n])
			if !bytes.Equal(got[:n], expected[:n]) {
				s.done <- io.ErrUnexpectedEOF
				return
			}
			left -= int64(n)
			s.progress <- time.Now()
		}
		s.done <- nil
	}()
	return s
}

// stall returns the longest time without progress so far, and how often there was some.
func (s *stream) stall() (longest time.Duration, n int) {
	var last time.Time
	for {
		select {
		case at := <-s.progress:
			if n++; !last.IsZero() {
				longest = max(longest, at.Sub(last))
			}
			last = at
		default:
			return longest, n
		}
	}
}

// roams returns the events of moves.
func roams(s *system.System) (list []system.Event) {
	return slices.DeleteFunc(s.Status().Events, func(e system.Event) bool { return e.Kind != system.EventRoam })
}

// A tunnel moves to a better uplink when there is one, and back when that goes. What runs through it loses nothing, and stands still for
// less than a second.
func TestRoaming(t *testing.T) {
	t.Parallel()
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		t.Run(path.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			gw := w.serveGateway(nil)
			w.client.IP("route", "add", "default", "via", routerAddr.String(), "dev", w.clientIf, "metric", "200")
			w.client.IP("route", "del", "default", "via", routerAddr.String(), "metric", "0")
			cfg := w.config()
			cfg.DataPath = path
			cfg.KillSwitch = &system.KillSwitch{Reject: true}
			s := w.open(cfg)
			tunnel := w.dialVPN(s, gw, gw.URL)
			if up := s.Status().Uplink; up.Interface != w.clientIf || up.Source != clientAddr || up.Roams != 0 {
				t.Errorf("the uplink is %+v", up)
			}
			c, err := w.client.DialContext(t.Context(), "tcp", gw.Echo.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			run := echoStream(c)
			time.Sleep(500 * time.Millisecond)

			better, _ := w.lab.Join(w.client, "192.168.8.2/24", w.router, "192.168.8.1/24")
			w.client.IP("route", "add", "default", "via", "192.168.8.1", "dev", better, "metric", "100")
			eventually(t, 4*time.Second, "the tunnel moves", func() bool { return s.Status().Uplink.Interface == better })
			// It is the old one that goes now, and nothing notices.
			time.Sleep(500 * time.Millisecond)
			w.client.IP("link", "set", w.clientIf, "down")
			time.Sleep(time.Second)
			if longest, n := run.stall(); longest >= time.Second || n < 50 {
				t.Errorf("the stream stood still for %v, in %d steps", longest, n)
			} else {
				t.Logf("the stream stood still for %v", longest.Round(time.Millisecond))
			}
			st := tunnel.Status()
			if st.Roams != 1 || st.Reconnects != 0 || st.State != vpn.Connected {
				t.Errorf("status %+v", st)
			}
			if up := s.Status().Uplink; up.Roams != 1 || up.Err != "" || up.Source.String() != "192.168.8.2" {
				t.Errorf("the uplink is %+v", up)
			}
			if list := roams(s); len(list) != 1 || list[0].Err != "" || !strings.Contains(list[0].What, better) {
				t.Errorf("events %+v", list)
			}
			// The old one comes back, and the better one goes away under the tunnel: now it has to find its way.
			w.client.IP("link", "set", w.clientIf, "up")
			w.client.IP("route", "add", "default", "via", routerAddr.String(), "dev", w.clientIf, "metric", "200")
			time.Sleep(300 * time.Millisecond)
			w.client.IP("link", "del", better)
			eventually(t, 5*time.Second, "the tunnel is back", func() bool { return s.Status().Uplink.Interface == w.clientIf })
			for range 2 {
				if err := <-run.done; err != nil {
					t.Errorf("the stream: %v", err)
				}
			}
			if longest, _ := run.stall(); longest > 5*time.Second {
				t.Errorf("the stream stood still for %v when its uplink was gone", longest)
			}
		})
	}
}

// A route that another program adds by its router alone, which the kernel finds through the tunnel, does not make the tunnel lead
// through itself: neither the connections that are there, nor new ones, nor those of others that belong outside.
func TestRouteThroughItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var s *system.System
	meddle := func(more ...string) {
		t.Helper()
		for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
			w.client.IP(append([]string{"route", "replace", half, "via", routerAddr.String()}, more...)...)
		}
		if out := w.client.Run("ip", "route", "show", "128.0.0.0/1"); !strings.Contains(out, "dev culvert0") {
			t.Fatalf("the kernel finds the router elsewhere: %s\n%+v", out, s.Status().Routes)
		}
	}
	gw := w.serveGateway(func(c *gateway.Config) { c.Network.Routes = nil })
	s = w.open(w.config())
	tunnel := w.dialVPN(s, gw, gw.URL)
	page := "http://" + gw.Web.String() + "/"
	meddle()
	for range 3 {
		if _, err := w.get(page); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	if st := tunnel.Status(); st.Reconnects != 0 || st.State != vpn.Connected || st.Path != "dtls" {
		t.Errorf("status %+v", st)
	}
	c, err := s.DialContext(t.Context(), "tcp", gatewayAddr.String())
	if err != nil {
		t.Fatalf("a new connection: %v", err)
	}
	if local := c.LocalAddr().(*net.TCPAddr).IP.String(); local != clientAddr.String() {
		t.Errorf("a new connection comes from %s", local)
	}
	c.Close()
	tunnel.Close()
	s.Close()

	cfg := w.config()
	cfg.DataPath = system.Flow
	s = w.open(cfg)
	w.attach(s, lease(func(l *transport.Lease) { l.Exclude = prefixes("203.0.113.0/24") }))
	for _, more := range [][]string{nil, {"src", clientAddr.String()}} {
		meddle(more...)
		w.expect(map[string]string{"203.0.113.80": "outside", "203.0.114.1": "inside"})
		if !w.pings("203.0.113.80") {
			t.Error("no answer to a ping outside")
		}
	}
}

// A machine that goes from a network of IPv4 to one of IPv6 finds its gateway there, which has an address of each, and back.
func TestRoamingToOtherFamily(t *testing.T) {
	t.Parallel()
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		t.Run(path.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			gateway6, dns6 := netip.MustParseAddr("2001:db8:51::1"), netip.MustParseAddrPort("[2001:db8:53::53]:53")
			w.outside.set("vpn.example.com", gatewayAddr.Addr().String(), gateway6.String())
			w.router.IP("addr", "add", dns6.Addr().String()+"/128", "dev", "lo", "nodad")
			w.router.IP("addr", "add", gateway6.String()+"/128", "dev", "lo", "nodad")
			pc, err := w.router.ListenPacket("udp", dns6.String())
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			go w.outside.serve(pc)
			w.write("resolv.conf", "nameserver "+outsideDNS.Addr().String()+"\nnameserver "+dns6.Addr().String()+"\n")
			w.client.IP("-6", "route", "del", "default")
			w.client.IP("-6", "addr", "flush", "dev", w.clientIf, "scope", "global")
			var gw *gatewaytest.Gateway
			w.router.Do(func() { gw, err = gatewaytest.Start(gatewaytest.Options{Address: ":443", Direct: true}) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { gw.Close() })
			cfg := w.config()
			cfg.DataPath = path
			cfg.KillSwitch = &system.KillSwitch{Reject: true}
			s := w.open(cfg)
			tunnel := w.dialVPN(s, gw, "https://vpn.example.com")
			if st := tunnel.Status(); st.Gateway != gatewayAddr {
				t.Errorf("status %+v", st)
			}
			c, err := w.client.DialContext(t.Context(), "tcp", gw.Echo.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			echoes(t, c)

			other, _ := w.lab.Join(w.client, "2001:db8:8::2/64", w.router, "2001:db8:8::1/64")
			w.client.IP("-6", "route", "add", "default", "via", "2001:db8:8::1", "dev", other)
			w.client.IP("link", "set", w.clientIf, "down")
			eventually(t, 8*time.Second, "the tunnel is on the other network", func() bool {
				return tunnel.Status().Gateway.Addr() == gateway6 && s.Status().Uplink.Interface == other
			})
			echoes(t, c)
			eventually(t, 5*time.Second, "DTLS follows", func() bool { return tunnel.Status().Path == "dtls" })
			eventually(t, 5*time.Second, "the routes follow", func() bool { return slices.Equal(s.Status().Gateways, []netip.Addr{gateway6}) })

			w.client.IP("link", "set", w.clientIf, "up")
			w.client.IP("route", "add", "default", "via", routerAddr.String(), "dev", w.clientIf)
			w.client.IP("link", "set", other, "down")
			eventually(t, 8*time.Second, "the tunnel is back", func() bool {
				return tunnel.Status().Gateway == gatewayAddr && s.Status().Uplink.Interface == w.clientIf
			})
			echoes(t, c)
		})
	}
}

// A better uplink that leads nowhere is tried, and told of; the tunnel stays where it is.
func TestCaptiveUplink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.serveGateway(nil)
	w.client.IP("route", "add", "default", "via", routerAddr.String(), "dev", w.clientIf, "metric", "200")
	w.client.IP("route", "del", "default", "via", routerAddr.String(), "metric", "0")
	s := w.open(w.config())
	tunnel := w.dialVPN(s, gw, gw.URL)
	cafe := w.lab.Host("cafe")
	worse, _ := w.lab.Join(w.client, "192.168.9.2/24", cafe, "192.168.9.1/24")
	cafe.IP("route", "add", "local", "default", "dev", "lo") // everything is here, and nobody at home
	w.client.IP("route", "add", "default", "via", "192.168.9.1", "dev", worse, "metric", "100")
	eventually(t, 4*time.Second, "it is tried", func() bool { return len(roams(s)) > 0 })
	time.Sleep(time.Second)
	if list := roams(s); len(list) != 1 || list[0].Err == "" || !strings.Contains(list[0].What, "did not move") {
		t.Errorf("events %+v", list)
	}
	if up := s.Status().Uplink; up.Interface != w.clientIf || up.Roams != 0 || up.Err == "" {
		t.Errorf("the uplink is %+v", up)
	}
	if st := tunnel.Status(); st.Roams != 0 || st.Reconnects != 0 || st.State != vpn.Connected {
		t.Errorf("status %+v", st)
	}
	if got, err := w.get("http://" + gw.Web.String() + "/"); err != nil || got == "" {
		t.Errorf("%q, %v", got, err)
	}
}
