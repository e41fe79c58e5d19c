package system_test

import (
	"net/netip"
	"slices"
	"testing"

	"culvert.example/vpn/system"
)

// What programs have connections with is in use, over TCP and UDP, and what they only may hear from is not.
func TestPeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open(w.config())
	var want []netip.Addr
	for _, c := range []struct{ network, addr string }{{"tcp", "203.0.113.80"}, {"udp", "203.0.113.90"}, {"tcp", "2001:db8:9::80"}, {"udp", "2001:db8:9::90"}} {
		addr := netip.MustParseAddr(c.addr)
		conn, err := w.client.DialContext(t.Context(), c.network, netip.AddrPortFrom(addr, port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		want = append(want, addr)
	}
	pc, err := w.client.ListenPacket("udp", ":4433")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	slices.SortFunc(want, netip.Addr.Compare)
	if got := system.Peers(s); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
