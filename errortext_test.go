package vpn_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/login"
)

// TestLoginTexts reads what a login that fails says: one sentence, with the kinds that programs match.
func TestLoginTexts(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	host := strings.TrimPrefix(gw.URL, "https://")
	for _, tt := range []struct {
		name  string
		login login.Prompter
		want  string
		kinds []error
	}{
		{"wrong password", login.Fixed{Username: "alice", Password: "wrong"},
			"login refused: " + host + ` rejected the answers and says "Login failed."; stored answers are not sent twice`,
			[]error{vpn.ErrLogin, vpn.ErrPrompt, login.ErrCannot}},
		{"nobody to ask", nil, host + ` asks for "Username": no answer to it is known`, []error{vpn.ErrPrompt, login.ErrCannot}},
		{"no password", login.Fixed{Username: "alice"}, host + ` asks for "Password": no answer to it is known`, []error{vpn.ErrPrompt, login.ErrCannot}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := vpn.Dial(timeout(t, 20*time.Second), gw.URL, settings(gw, func(c *vpn.Config) { c.Login = tt.login }))
			if err == nil || err.Error() != "vpn dial through "+gw.URL+": "+tt.want {
				t.Errorf("%v\nwant %s", err, tt.want)
			}
			for _, kind := range tt.kinds {
				if !errors.Is(err, kind) {
					t.Errorf("%v does not match %v", err, kind)
				}
			}
			if rejected := (*login.RejectedError)(nil); errors.As(err, &rejected) != errors.Is(err, vpn.ErrLogin) {
				t.Errorf("%v: RejectedError %+v", err, rejected)
			}
		})
	}
}

// TestHostTexts reads what is said of a host that is none, and of one that does not answer.
func TestHostTexts(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	through := " through " + gw.URL + ": "
	for _, host := range []string{"10.99.0.1:80", "www.example:443", "[fd00::1]", "[fd00::1]:80", "https://www.example"} {
		_, err := tun.Explain(t.Context(), host)
		if want := "vpn explain " + host + through + "address " + host + ": want a host, a name or an address, without a port"; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		_, err = tun.Ping(t.Context(), host)
		if want := "vpn ping " + host + through + "address " + host + ": want a host, a name or an address, without a port"; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	for _, host := range []string{gw.Web.Addr().String(), gw.Web6.Addr().String()} {
		if e, err := tun.Explain(t.Context(), host); err != nil || len(e.Routes) != 1 || e.Routes[0].Addr != netip.MustParseAddr(host) {
			t.Errorf("%s: %+v, %v", host, e, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	host := gw.Web.Addr().String()
	_, err := tun.Ping(ended, host)
	if want := "vpn ping " + host + through + "context canceled"; err == nil || err.Error() != want || !errors.Is(err, context.Canceled) {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestEndedTexts: whoever looks up a name after the end of the tunnel is told of that end.
func TestEndedTexts(t *testing.T) {
	leak.Check(t)
	_, tun := simple(t)
	resolver := tun.Resolver()
	tun.Close()
	_, err := tun.Dial("tcp", gatewaytest.WebName+":80")
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := tun.Explain(t.Context(), gatewaytest.WebName); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Explain: %v", err)
	}
	if _, err := tun.Ping(t.Context(), gatewaytest.WebName); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Ping: %v", err)
	}
	var e *net.DNSError
	_, err = resolver.LookupNetIP(timeout(t, 10*time.Second), "ip", gatewaytest.WebName)
	if !errors.As(err, &e) || e.IsNotFound || e.Err != tun.Err().Error() {
		t.Errorf("Resolver: %v, want %v", err, tun.Err())
	}
}
