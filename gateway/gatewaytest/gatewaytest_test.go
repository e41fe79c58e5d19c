package gatewaytest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/login"
)

func dial(t *testing.T, gw *gatewaytest.Gateway, change func(*vpn.Config)) *vpn.Tunnel {
	t.Helper()
	cfg := &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		TLS:   &tls.Config{RootCAs: gw.Pool},
	}
	if change != nil {
		change(cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tun, err := vpn.Dial(ctx, gw.URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	return tun
}

func browser(t *testing.T, tun *vpn.Tunnel) *http.Client {
	tr := &http.Transport{DialContext: tun.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// echoes sends n random bytes through the tunnel and has them come back.
func echoes(t *testing.T, c *http.Client, n int) {
	t.Helper()
	body := make([]byte, n)
	rand.Read(body)
	res, err := c.Post("http://"+gatewaytest.WebName+"/echo", "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(b) != sha256.Sum256(body) {
		t.Error("something else came back")
	}
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", within, what)
}

func TestInside(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options gatewaytest.Options
		path    string
	}{
		{"usual", gatewaytest.Options{}, "dtls"},
		{"direct", gatewaytest.Options{Direct: true}, "dtls"},
		{"no UDP", gatewaytest.Options{NoUDP: true}, "tls"},
		{"no IPv6", gatewaytest.Options{NoIPv6: true}, "dtls"},
		{"ASA", gatewaytest.Options{Quirks: gateway.Quirks{Server: "asa"}}, "dtls"},
		{"ocserv", gatewaytest.Options{Quirks: gateway.Quirks{Server: "ocserv"}}, "dtls"},
		{"AnyLink", gatewaytest.Options{Quirks: gateway.Quirks{Server: "anylink"}}, "tls"},
		{"slow login", gatewaytest.Options{Quirks: gateway.Quirks{LoginDelay: 200 * time.Millisecond}}, "dtls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := gatewaytest.New(t, tt.options)
			tun := dial(t, gw, nil)
			if tt.path == "dtls" {
				eventually(t, "DTLS is up", 20*time.Second, func() bool { return tun.Status().Path == "dtls" })
			}
			c := browser(t, tun)
			for _, host := range []string{gatewaytest.WebName, "www", gatewaytest.Alias, gatewaytest.BigName, gw.Web.String()} {
				if got := get(t, c, "http://"+host+"/"); got != gatewaytest.Page {
					t.Errorf("%s answers %q", host, got)
				}
			}
			if gw.Web6.IsValid() {
				if got := get(t, c, "http://"+gw.Web6.String()+"/"); got != gatewaytest.Page {
					t.Errorf("%s answers %q", gw.Web6, got)
				}
			}
			if got := get(t, c, "http://"+gatewaytest.WebName+"/bytes?n=100000"); len(got) != 100000 {
				t.Errorf("%d bytes", len(got))
			}
			echoes(t, c, 300_000)
			if p := tun.Status().Path; p != tt.path {
				t.Errorf("path %q, want %q", p, tt.path)
			}
			s := gw.Sessions()
			if len(s) != 1 || s[0].User != gatewaytest.User || s[0].Path != tt.path {
				t.Errorf("sessions %+v", s)
			}
			if n := gw.Counters(); !tt.options.Direct && (n.TCPIn == 0 || (n.UDPOut > 10) != (tt.path == "dtls")) {
				t.Errorf("counters %+v", n)
			}
			udp, err := tun.Dial("udp", gw.Echo.String())
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			udp.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprint(udp, "ping")
			b := make([]byte, 10)
			if n, err := udp.Read(b); err != nil || string(b[:n]) != "ping" {
				t.Errorf("UDP echo %q, %v", b[:n], err)
			}
		})
	}
}

// Each fault comes while a client is connected, and an inner transfer gets over it.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault func(*gatewaytest.Gateway)
		path  string // in the end
	}{
		{"UDP cut", func(g *gatewaytest.Gateway) { g.CutUDP(true) }, "tls"},
		{"UDP dies after some datagrams", func(g *gatewaytest.Gateway) { g.SetUDPLimit(50) }, "tls"},
		{"UDP and TCP cut for a while", func(g *gatewaytest.Gateway) {
			g.CutUDP(true)
			g.CutTCP(true)
			time.AfterFunc(time.Second, func() {
				g.CutTCP(false)
				g.CutUDP(false)
			})
		}, ""},
		{"TCP reset", func(g *gatewaytest.Gateway) { g.ResetTCP() }, ""},
		{"connections dropped", func(g *gatewaytest.Gateway) { g.Drop(g.Sessions()[0].ID) }, ""},
		{"another source port", func(g *gatewaytest.Gateway) { g.Roam() }, "dtls"},
		{"a hole for large datagrams", func(g *gatewaytest.Gateway) { g.SetHole(1350) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := gatewaytest.New(t)
			tun := dial(t, gw, nil)
			eventually(t, "DTLS is up", 20*time.Second, func() bool { return tun.Status().Path == "dtls" })
			c := browser(t, tun)
			echoes(t, c, 1000)
			tt.fault(gw)
			echoes(t, c, 200_000)
			if tt.path != "" {
				eventually(t, "packets go by "+tt.path, 20*time.Second, func() bool { return tun.Status().Path == tt.path })
			}
			if n := len(gw.Sessions()); n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

func TestEnd(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(g *gatewaytest.Gateway, id string)
		want error
	}{
		{"killed", func(g *gatewaytest.Gateway, id string) { g.Disconnect(id, "out") }, vpn.ErrDisconnected},
		{"another address", func(g *gatewaytest.Gateway, id string) {
			g.Renumber(id)
			g.Drop(id)
		}, vpn.ErrAddressChanged},
		{"cookie expired", func(g *gatewaytest.Gateway, id string) {
			g.Expire(id)
			g.Drop(id)
		}, vpn.ErrExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := gatewaytest.New(t)
			tun := dial(t, gw, func(c *vpn.Config) {
				// Nobody is there to log in again.
				fixed := c.Login
				c.Login = login.PrompterFunc(fixed.Answer)
			})
			tt.end(gw, gw.Sessions()[0].ID)
			select {
			case <-tun.Done():
			case <-time.After(10 * time.Second):
				t.Fatalf("the tunnel lives on: %v", tun.Status())
			}
			if err := tun.Err(); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestStartAndClose(t *testing.T) {
	leak.Check(t)
	g, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := gatewaytest.Start(gatewaytest.Options{Address: "192.0.2.1:1"}); err == nil {
		t.Error("it starts where it cannot listen")
	}
	if _, err := gatewaytest.Start(gatewaytest.Options{Quirks: gateway.Quirks{Server: "nobody"}}); err == nil {
		t.Error("it starts with unknown quirks")
	}
}
