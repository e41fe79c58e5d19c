package anyconnect

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport/login"
)

// TestFollow has the machine choose another source address than the one in use, as after a change of its default route.
func TestFollow(t *testing.T) {
	gw := gatewaytest.New(t)
	d := &Dialer{Server: gw.URL, TLS: &tls.Config{RootCAs: gw.Pool},
		Prompter: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}}
	d.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		source := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
		return source.DialContext(ctx, network, address)
	}
	opened, err := d.DialSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	s := opened.(*Session)
	from := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return addrPort(s.control.LocalAddr()).Addr().String()
	}
	idle := func() {
		for busy := true; busy; time.Sleep(5 * time.Millisecond) {
			s.mu.Lock()
			busy = s.follow
			s.mu.Unlock()
		}
	}
	// It is left alone as long as the connections are made by somebody else.
	s.NetworkChanged()
	idle()
	if got := from(); got != "127.0.0.9" {
		t.Fatalf("it comes from %s", got)
	}
	d.Dial = nil
	s.mu.Lock()
	s.via = s.own()
	s.mu.Unlock()
	for range 5 {
		s.NetworkChanged()
	}
	for end := time.Now().Add(5 * time.Second); from() != "127.0.0.1"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it still comes from %s: %+v", from(), s.State())
		}
	}
	s.NetworkChanged()
	idle()
	if st := s.State(); st.Replaced != 1 || len(gw.Sessions()) != 1 {
		t.Errorf("%d sessions, %+v", len(gw.Sessions()), st)
	}
}
