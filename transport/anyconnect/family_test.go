package anyconnect_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/failover"
)

// TestOtherFamily takes IPv4 away from a machine, whose session was made over it: it goes on with what the name of the gateway has of
// the other family. As long as there is IPv4, the session keeps to the address that it was made with.
func TestOtherFamily(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	_, port, err := net.SplitHostPort(gw.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	var gone, refused atomic.Bool
	var byAddress, byName atomic.Int32
	d := dialer(gw)
	d.Server, d.Plain = "https://localhost:"+port, true
	d.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		literal := host != "localhost"
		switch {
		case literal && gone.Load():
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
		case literal && refused.Load():
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		case literal:
			byAddress.Add(1)
		case strings.HasSuffix(network, "6"):
			byName.Add(1) // this is where a gateway of IPv6 would be
		}
		return new(net.Dialer).DialContext(ctx, "tcp", gw.Addr.String())
	}
	s := open(t, d)
	before := byAddress.Load()
	gone.Store(true)
	if err := s.Roam(t.Context(), nil, nil); err != nil {
		t.Errorf("moving to another network: %v", err)
	}
	if n := byName.Load(); n != 1 {
		t.Errorf("%d connections to the name", n)
	}
	gw.ResetTCP()
	reaches(t, s, 10*time.Second, "the session is back", func(st failover.State) bool { return st.Active != "" && byName.Load() == 2 })
	gone.Store(false)
	gw.ResetTCP()
	reaches(t, s, 10*time.Second, "the session is at its address again", func(st failover.State) bool { return st.Active != "" && byAddress.Load() > before })
	refused.Store(true)
	if err := s.Roam(t.Context(), nil, nil); err == nil || byName.Load() != 2 {
		t.Errorf("another address was tried though only this one does not answer: %v", err)
	}
	refused.Store(false)
	if n := len(gw.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
