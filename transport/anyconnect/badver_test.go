package anyconnect

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/failover"
	"culvert.example/vpn/transport/wire"
)

// TestPreStandardDTLS has the gateway choose the DTLS from before RFC 4347. The path must say so and wait for another TLS
// connection, without an error that would end the session.
func TestPreStandardDTLS(t *testing.T) {
	s := &Session{dialer: &Dialer{Server: "vpn.example"}}
	reply := &wire.ConnectReply{StatusCode: 200, DTLSPort: 443, DTLSCipherSuite: "AES128-SHA", DTLSSessionID: make([]byte, 32)}
	req := &wire.ConnectRequest{MasterSecret: make([]byte, 48)}
	lease := &transport.Lease{MTU: 1300, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
	s.offer = s.offerOf(reply, req, lease, nil, netip.MustParseAddrPort("127.0.0.1:443"), &way{})
	if s.offer == nil {
		t.Fatal("the choice of the gateway went unnoticed")
	}
	_, err := (&dtlsPath{s}).Open(context.Background())
	if !errors.Is(err, failover.ErrNotReady) || !errors.Is(err, transport.ErrUnsupported) || !strings.Contains(err.Error(), "AES128-SHA") {
		t.Errorf("error %v, want one that waits for another connection and names what is not supported", err)
	}
}
