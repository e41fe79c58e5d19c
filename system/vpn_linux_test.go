package system_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport/login"
)

// serveGateway starts a gateway on the router.
func (w *world) serveGateway(change func(*gateway.Config)) *gatewaytest.Gateway {
	w.tb.Helper()
	var gw *gatewaytest.Gateway
	var err error
	w.router.Do(func() {
		gw, err = gatewaytest.Start(gatewaytest.Options{Address: gatewayAddr.String(), Direct: true, Config: change})
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { gw.Close() })
	return gw
}

func (w *world) dialVPN(s *system.System, gw *gatewaytest.Gateway, server string) *vpn.Tunnel {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 10*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, server, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, Pins: []string{gw.Pin}, System: s, Logger: testLogger(w.tb),
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { tunnel.Close() })
	return tunnel
}

// get fetches a page as a program of the client does.
func (w *world) get(url string) (string, error) {
	c := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: w.client.DialContext, DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// A real tunnel, found by its name through a closed kill switch, on both paths, with a link that goes and comes back.
func TestTunnel(t *testing.T) {
	leak.Check(t)
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		t.Run(path.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.outside.set("vpn.example.com", gatewayAddr.Addr().String())
			gw := w.serveGateway(nil)
			cfg := w.config()
			cfg.DataPath = path
			cfg.KillSwitch = &system.KillSwitch{Reject: true}
			before := w.state()
			s := w.open(cfg)
			tunnel := w.dialVPN(s, gw, "https://vpn.example.com")
			if st := tunnel.Status(); st.State != vpn.Connected || st.Gateway != gatewayAddr || st.Path != "dtls" {
				t.Errorf("status %+v", st)
			}
			page := "http://" + gw.Web.String() + "/"
			if got, err := w.get(page); err != nil || got != gatewaytest.Page {
				t.Errorf("%s: %q, %v", page, got, err)
			}
			if got := w.query(proxy, gatewaytest.WebName, false); got != gw.Web.Addr().String() {
				t.Errorf("%s is %s", gatewaytest.WebName, got)
			}
			if _, err := tunnel.DialContext(t.Context(), "tcp", gw.Web.String()); !errors.Is(err, vpn.ErrNoStack) {
				t.Errorf("DialContext: %v", err)
			}
			w.air.Forget()
			w.probe()
			if leaks := w.leaks(gatewayOnly...); len(leaks) > 0 {
				t.Errorf("left the machine: %v", leaks)
			}

			c, err := w.client.DialContext(t.Context(), "tcp", gw.Echo.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			echoes(t, c)
			w.client.IP("link", "set", w.clientIf, "down")
			time.Sleep(300 * time.Millisecond)
			w.client.IP("link", "set", w.clientIf, "up")
			w.client.IP("route", "add", "default", "via", routerAddr.String(), "dev", w.clientIf)
			echoes(t, c)
			if !slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventNetwork }) {
				t.Error("no event tells of the link")
			}
			tunnel.Close()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			w.client.IP("-6", "addr", "replace", "2001:db8:7::2/64", "dev", w.clientIf)
			w.client.IP("-6", "route", "replace", "default", "via", "2001:db8:7::1")
			if after := w.state(); ruleset(after) != ruleset(before) {
				t.Errorf("the machine was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// ruleset returns the lines of a state that a link which went and came back does not change.
func ruleset(state string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(state, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "ip -j addr") || strings.HasPrefix(line, "ip -j -6 route") || strings.HasPrefix(line, "ip -j route")
	}), "\n")
}

// A gateway that cannot be used leaves the machine as it is.
func TestTunnelFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gw := w.serveGateway(func(c *gateway.Config) { c.Network.Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	cfg := w.config()
	cfg.DNS.NoProxy = true // which a resolv.conf makes impossible, as the gateway has split DNS
	s := w.open(cfg)
	before := w.state()
	_, err := vpn.Dial(t.Context(), gw.URL, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, Pins: []string{gw.Pin}, System: s,
	})
	var op *vpn.OpError
	if !errors.As(err, &op) || !strings.Contains(err.Error(), "use a DNS proxy") {
		t.Errorf("Dial: %v", err)
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// Ocserv, with its routes and names, and a System that is closed before its tunnel.
func TestOcserv(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := ocserv.Start(t, w.router, ocserv.Config{Address: gatewayAddr.Addr(), Lines: []string{
		"route = 172.31.0.0/255.255.0.0", "no-route = 172.31.9.0/255.255.255.0", "dns = 172.31.0.1", "split-dns = corp.example",
	}})
	before := w.state()
	s := w.open(w.config())
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, server.URL, &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: "pass"}, Pins: []string{server.Pin}, System: s, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	echo := ocserv.Echo(t, w.router, ocserv.Inside)
	c, err := w.client.DialContext(ctx, "tcp", echo.String())
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, c)
	if local, ok := netip.AddrFromSlice(c.LocalAddr().(*net.TCPAddr).IP); !ok || local.Unmap() != tunnel.Status().Addresses[0].Addr() {
		t.Errorf("the connection comes from %v", c.LocalAddr())
	}
	c.Close()
	st := s.Status()
	if !slices.Contains(st.Routes.Tunnel, netip.MustParsePrefix("172.31.0.0/16")) || !slices.Contains(st.Routes.Direct, netip.MustParsePrefix("172.31.9.0/24")) ||
		!slices.Contains(st.Resolver.Domains, "corp.example") {
		t.Errorf("status %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-tunnel.Done():
		if !errors.Is(tunnel.Err(), system.ErrClosed) {
			t.Errorf("the tunnel ended with %v", tunnel.Err())
		}
	case <-time.After(5 * time.Second):
		t.Error("the tunnel goes on without its system")
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}
