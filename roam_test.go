package vpn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/anyconnect"
	"culvert.example/vpn/transport/login"
)

// TestRoam moves a tunnel to where something else answers, and then to where the gateway does.
func TestRoam(t *testing.T) {
	gw := gatewaytest.New(t)
	tun := dial(t, gw.URL, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, TLS: &tls.Config{RootCAs: gw.Pool},
	})
	over(t, tun, "dtls", 20*time.Second)
	conn, err := tun.DialContext(t.Context(), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	f := startFlow(t, conn, 1<<20)

	portal := httptest.NewTLSServer(nil)
	defer portal.Close()
	captive := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, portal.Listener.Addr().String())
	}
	var op *vpn.OpError
	if err := tun.Roam(t.Context(), captive, captive); !errors.Is(err, vpn.ErrUntrusted) || !errors.As(err, &op) || op.Op != "roam" {
		t.Errorf("behind a captive portal: %v", err)
	}
	if s := tun.Status(); s.State != vpn.Connected || s.Roams != 0 || s.RoamError == "" {
		t.Errorf("status: %+v", s)
	}
	f.progress(t, 15*time.Second)

	elsewhere := func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}}
		if network[0] == 'u' {
			d.LocalAddr = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 7)}
		}
		return d.DialContext(ctx, network, address)
	}
	if err := tun.Roam(t.Context(), elsewhere, elsewhere); err != nil {
		t.Fatal(err)
	}
	if s := tun.Status(); s.State != vpn.Connected || s.Roams != 1 || s.RoamError != "" || s.Reconnects != 0 {
		t.Errorf("status: %+v", s)
	}
	over(t, tun, "dtls", 20*time.Second)
	f.progress(t, 15*time.Second)
	if stall := f.stalled(); stall > 3*time.Second {
		t.Errorf("data stood still for %v", stall)
	}
	f.finish(t)
	if n := len(gw.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
	tun.Close()
	if err := tun.Roam(t.Context(), nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestRoamUnsupported has a transport that cannot roam.
func TestRoamUnsupported(t *testing.T) {
	gw := gatewaytest.New(t)
	tun := dial(t, gw.URL, &vpn.Config{Transport: stationary{&anyconnect.Dialer{
		Server: gw.URL, TLS: &tls.Config{RootCAs: gw.Pool}, NoDTLS: true,
		Prompter: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
	}}})
	if err := tun.Roam(t.Context(), nil, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	tun.NetworkChanged()
}

// A stationary Dialer opens sessions that can do nothing but what a transport.Session must.
type stationary struct{ transport.Dialer }

func (d stationary) DialSession(ctx context.Context) (transport.Session, error) {
	s, err := d.Dialer.DialSession(ctx)
	if err != nil {
		return nil, err
	}
	return struct{ transport.Session }{s}, nil
}
