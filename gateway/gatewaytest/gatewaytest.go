// Package gatewaytest starts a VPN gateway for a test in one line, as net/http/httptest starts a web server.
//
//	gw := gatewaytest.New(t)
//	tunnel, err := vpn.Dial(ctx, gw.URL, &vpn.Config{Login: ..., TLS: &tls.Config{RootCAs: gw.Pool}})
//
// The gateway listens on the loopback interface, has a fresh certificate, knows the user alice with the password pass, and serves a
// web page and a small DNS zone inside the process, at inner addresses that only the tunnel leads to. Its faults can be
// chosen beforehand, by [Options], or switched while it runs: the UDP and TCP paths to it go through switches in this package
// that lose, cut, and count.
package gatewaytest

import (
	"crypto/x509"
	"io"
	"net/netip"
	"testing"

	"culvert.example/vpn/gateway"
)

// The one user that the gateway knows unless Options.Config says otherwise.
const (
	User     = "alice"
	Password = "pass"
)

// Names in the DNS zone of the gateway. All of them are answered with inner addresses.
const (
	// Zone is the domain that the gateway announces.
	Zone = "culvert.test"
	// WebName is the host that serves the page.
	WebName = "www." + Zone
	// Alias is a CNAME of WebName.
	Alias = "alias." + Zone
)

// Page is what the web server inside the tunnel answers to GET /.
const Page = "Hello from the other side of the tunnel.\n"

// Options say how the gateway differs from the usual. The zero value is the usual.
type Options struct {
	// Config changes the configuration before the gateway starts.
	Config func(*gateway.Config)
	// Address is where to listen. Empty means 127.0.0.1:0.
	Address string
	// NoUDP leaves out DTLS altogether.
	NoUDP bool
	// NoIPv6 leaves out inner IPv6.
	NoIPv6 bool
	// Direct leaves out the switches, for measuring. The methods that switch faults must not be called then.
	Direct bool
	// Quirks are habits of other gateways.
	Quirks gateway.Quirks
	// UDPLimit is after how many datagrams, in both directions together, UDP goes dead. 0 means never.
	UDPLimit int
	// Hole is the size in bytes of the largest UDP payload that gets through; larger ones vanish. 0 means no limit.
	Hole int
}

// A Gateway is a running gateway with its switches.
type Gateway struct {
	*gateway.Server

	// URL is the address to dial, "https://127.0.0.1:12345".
	URL string
	// Addr is where TLS connections go, UDP where datagrams go; UDP is the zero value if there is none.
	Addr, UDP netip.AddrPort
	// Certificate is that of the gateway, Pool the pool that has only it, Pin its pin as openconnect takes it.
	Certificate *x509.Certificate
	Pool        *x509.CertPool
	Pin         string
	// Web is the inner address of the web server, Web6 its inner IPv6 address; DNS is that of the name server. The web
	// server also echoes what is POSTed to /echo, and GET /bytes?n=N answers with N bytes.
	Web, Web6, DNS netip.AddrPort
	// Echo is the inner address of a server that returns what it gets, by TCP and by UDP.
	Echo netip.AddrPort
}

// New starts a gateway that lives until the test ends, and fails the test if that is not possible.
func New(tb testing.TB, opts ...Options) *Gateway {
	tb.Helper()
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	g, err := Start(o)
	if err != nil {
		tb.Fatalf("gatewaytest: %v", err)
	}
	tb.Cleanup(func() { g.Close() })
	return g
}

// Start starts a gateway. The caller closes it.
func Start(o Options) (*Gateway, error) { return nil, io.ErrUnexpectedEOF }

// Close ends the gateway and its switches, and waits for them.
func (g *Gateway) Close() error { return nil }

// CutUDP makes all datagrams vanish, in both directions, or lets them through again.
func (g *Gateway) CutUDP(cut bool) {}

// CutTCP stops all TCP connections without closing them, as a dead network does, or lets them go on. New connections wait too.
func (g *Gateway) CutTCP(cut bool) {}

// ResetTCP resets all TCP connections.
func (g *Gateway) ResetTCP() {}

// Roam makes the datagrams of all clients arrive from new source ports, as after a restart of their NAT.
func (g *Gateway) Roam() {}

// SetHole sets the size in bytes of the largest UDP payload that gets through, in both directions; 0 means no limit.
func (g *Gateway) SetHole(n int) {}

// SetUDPLimit lets n more datagrams through and then none; less than 0 means no limit.
func (g *Gateway) SetUDPLimit(n int) {}

// Counters returns what has passed the switches so far.
func (g *Gateway) Counters() Counters { return Counters{} }

// Counters count what has passed the switches. In is from the clients, Out to them.
type Counters struct {
	TCPConnections, TCPIn, TCPOut int64 // connections, bytes, bytes
	UDPIn, UDPOut, UDPLost        int64 // datagrams
}
