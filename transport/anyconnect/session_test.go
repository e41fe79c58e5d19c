package anyconnect

import (
	"net/netip"
	"testing"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// TestOfferDPD takes the interval of the TLS channel where the gateway names none for DTLS.
func TestOfferDPD(t *testing.T) {
	s := &Session{dialer: &Dialer{}}
	for _, tt := range []struct{ tls, dtls, want time.Duration }{
		{0, 0, maxQuiet}, {10 * time.Second, 0, 10 * time.Second}, {10 * time.Second, 20 * time.Second, 20 * time.Second}, {0, time.Hour, maxQuiet},
	} {
		lease := &transport.Lease{MTU: 1400, DPD: tt.tls, DTLSDPD: tt.dtls}
		reply := &wire.ConnectReply{DTLSPort: 443, DTLSCipherSuite: wire.PSKNegotiate, DTLSAppID: []byte{1}}
		offer := s.offerOf(reply, &wire.ConnectRequest{}, lease, make([]byte, wire.PSKLen), netip.AddrPort{}, &way{})
		if got := 2 * offer.config.Beat.DPD; got != tt.want {
			t.Errorf("DPD %v and %v: an idle DTLS channel is dead after %v, want %v", tt.tls, tt.dtls, got, tt.want)
		}
	}
}
