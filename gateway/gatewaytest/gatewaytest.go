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
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
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
	// BigName has so many addresses that the answer needs TCP.
	BigName = "big." + Zone
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

	tcp    *tcpRelay
	udp    *udpRelay
	inside *inside
	served chan error
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
func Start(o Options) (g *Gateway, err error) {
	cert, pin, err := gateway.SelfSigned("localhost", "127.0.0.1", "::1")
	if err != nil {
		return nil, err
	}
	pools := []netip.Prefix{pool4}
	if !o.NoIPv6 {
		pools = append(pools, pool6)
	}
	cfg := gateway.Config{
		TLS:  &tls.Config{Certificates: []tls.Certificate{cert}},
		Name: "gatewaytest",
		Auth: gateway.Passwords(gateway.VerifierFunc(func(_ context.Context, user, password string) error {
			if user != User || password != Password {
				return &gateway.Refusal{Text: "Login failed."}
			}
			return nil
		})),
		Pools: pools,
		Network: gateway.Network{
			Routes:        pools,
			SearchDomains: []string{Zone},
			SplitDNS:      []string{Zone},
		},
		Quirks: o.Quirks,
	}
	for _, p := range pools {
		cfg.Network.DNS = append(cfg.Network.DNS, p.Addr().Next())
	}

	g = &Gateway{Certificate: cert.Leaf, Pool: x509.NewCertPool(), Pin: pin}
	g.Pool.AddCert(cert.Leaf)
	defer func() {
		if err != nil {
			g.Close()
			g = nil
		}
	}()
	address := o.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	front, err := net.Listen("tcp", address)
	if err != nil {
		return g, err
	}
	g.Addr = front.Addr().(*net.TCPAddr).AddrPort()
	g.URL = "https://" + front.Addr().String()
	var udpFront *net.UDPConn
	if !o.NoUDP {
		udpFront, err = listenUDP(g.Addr, address)
		if err != nil {
			front.Close()
			return g, err
		}
		g.UDP = udpFront.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	ln, udp := front, udpFront
	if !o.Direct {
		if ln, udp, err = g.relay(front, udpFront); err != nil {
			return g, err
		}
		if !o.NoUDP {
			cfg.UDPPort = int(g.UDP.Port())
			g.udp.hole.Store(int64(o.Hole))
			if o.UDPLimit > 0 {
				g.udp.limit.Store(int64(o.UDPLimit))
			}
		}
	}
	if o.Config != nil {
		o.Config(&cfg)
	}
	if g.Server, err = gateway.New(cfg); err != nil {
		ln.Close()
		if udp != nil {
			udp.Close()
		}
		return g, err
	}
	for _, a := range g.Server.Addresses() {
		if a.Is4() {
			g.Web, g.DNS, g.Echo = netip.AddrPortFrom(a, portWeb), netip.AddrPortFrom(a, portDNS), netip.AddrPortFrom(a, portEcho)
		} else {
			g.Web6 = netip.AddrPortFrom(a, portWeb)
		}
	}
	if !g.Web.IsValid() {
		g.DNS, g.Echo = netip.AddrPortFrom(g.Web6.Addr(), portDNS), netip.AddrPortFrom(g.Web6.Addr(), portEcho)
	}
	g.served = make(chan error, 1)
	go func() { g.served <- g.Server.Serve(ln, udp) }()
	g.inside, err = serveInside(g.Server)
	return g, err
}

// The inner networks. They are private, and not those that tests like to use for the outside.
var (
	pool4 = netip.MustParsePrefix("10.211.0.0/24")
	pool6 = netip.MustParsePrefix("fd21:c01:7e57::/64")
)

// listenUDP opens the UDP socket beside the TCP socket, with the same port if that is free.
func listenUDP(tcp netip.AddrPort, address string) (*net.UDPConn, error) {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(tcp))
	if err != nil && strings.HasSuffix(address, ":0") {
		return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(tcp.Addr(), 0)))
	}
	return udp, err
}

// relay puts the switches in front of new sockets for the gateway. It owns the sockets given.
func (g *Gateway) relay(front net.Listener, udpFront *net.UDPConn) (net.Listener, *net.UDPConn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		front.Close()
		if udpFront != nil {
			udpFront.Close()
		}
		return nil, nil, err
	}
	g.tcp = newTCPRelay(front, ln.Addr().String())
	if udpFront == nil {
		return ln, nil, nil
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		ln.Close()
		udpFront.Close()
		return nil, nil, err
	}
	g.udp = newUDPRelay(udpFront, udp.LocalAddr().(*net.UDPAddr).AddrPort())
	return ln, udp, nil
}

// Close ends the gateway and its switches, and waits for them.
func (g *Gateway) Close() error {
	var err error
	if g.Server != nil {
		err = g.Server.Close()
		if g.served != nil {
			if e := <-g.served; !errors.Is(e, gateway.ErrServerClosed) {
				err = errors.Join(err, e)
			}
			g.served = nil
		}
	}
	if g.inside != nil {
		g.inside.close()
		g.inside = nil
	}
	if g.tcp != nil {
		g.tcp.close()
		g.tcp = nil
	}
	if g.udp != nil {
		g.udp.close()
		g.udp = nil
	}
	return err
}

// CutUDP makes all datagrams vanish, in both directions, or lets them through again.
func (g *Gateway) CutUDP(cut bool) { g.udp.cut.Store(cut) }

// CutTCP stops all TCP connections without closing them, as a dead network does, or lets them go on. New connections wait too.
func (g *Gateway) CutTCP(cut bool) { g.tcp.gate.set(cut) }

// ResetTCP resets all TCP connections.
func (g *Gateway) ResetTCP() { g.tcp.reset() }

// Roam makes the datagrams of all clients arrive from new source ports, as after a restart of their NAT.
func (g *Gateway) Roam() { g.udp.roam() }

// SetHole sets the size in bytes of the largest UDP payload that gets through, in both directions; 0 means no limit.
func (g *Gateway) SetHole(n int) { g.udp.hole.Store(int64(n)) }

// SetUDPLimit lets n more datagrams through and then none; less than 0 means no limit.
func (g *Gateway) SetUDPLimit(n int) { g.udp.limit.Store(int64(n)) }

// Counters returns what has passed the switches so far.
func (g *Gateway) Counters() Counters {
	var c Counters
	if g.tcp != nil {
		c.TCPConnections, c.TCPIn, c.TCPOut = g.tcp.connections.Load(), g.tcp.in.Load(), g.tcp.out.Load()
	}
	if g.udp != nil {
		c.UDPIn, c.UDPOut, c.UDPLost = g.udp.in.Load(), g.udp.out.Load(), g.udp.lost.Load()
	}
	return c
}

// Counters count what has passed the switches. In is from the clients, Out to them.
type Counters struct {
	TCPConnections, TCPIn, TCPOut int64 // connections, bytes, bytes
	UDPIn, UDPOut, UDPLost        int64 // datagrams
}
