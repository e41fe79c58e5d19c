package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/dtls"
	"culvert.example/vpn/transport/failover"
	"culvert.example/vpn/transport/login"
)

// The inner addresses of the two stacks.
var (
	client4, client6 = netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")
	server4, server6 = netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")
)

// A joint makes a connection between the hosts. It hands the server's end to serve, which owns it and reads it from then on,
// and returns the client's. Nil joins the stacks themselves.
type joint func(tb testing.TB, serve func(packet.Conn)) packet.Conn

// stacks joins two stacks. The filters are on the client's way out and in.
func stacks(tb testing.TB, join joint, out, in []packet.Filter) *network {
	tb.Helper()
	newStack := func(addrs ...netip.Prefix) *stack.Stack {
		s, err := stack.New(stack.Config{Addresses: addrs, MTU: mtu})
		if err != nil {
			tb.Fatal(err)
		}
		return s
	}
	client, server := newStack(client4, client6), newStack(server4, server6)
	var pumps sync.WaitGroup
	pump := func(dst packet.Writer, src packet.Reader, filters ...packet.Filter) {
		pumps.Go(func() { packet.Copy(dst, src, mtu, batchSize, filters...) })
	}
	tb.Cleanup(pumps.Wait)
	attach := func(c packet.Conn, s *stack.Stack, out, in []packet.Filter) {
		pump(c, s.Link(), out...)
		pump(s.Link(), c, in...)
		tb.Cleanup(func() { c.Close() })
	}
	if join == nil {
		pump(server.Link(), client.Link())
		pump(client.Link(), server.Link())
	} else {
		attach(join(tb, func(c packet.Conn) { attach(c, server, nil, nil) }), client, out, in)
	}
	tb.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return &network{
		dial: client.DialContext, listen: server.Listen, listenPacket: server.ListenPacket,
		addrs: []netip.Addr{server4.Addr(), server6.Addr()},
		up:    func() counts { return counts{client.Stats().PacketsOut, server.Stats().PacketsIn} },
		down:  func() counts { return counts{server.Stats().PacketsOut, client.Stats().PacketsIn} },
	}
}

// gated is stacks with gates, and failover with one path over the client's end.
func gated(tb testing.TB, join joint) *network {
	tb.Helper()
	covered := func(tb testing.TB, serve func(packet.Conn)) packet.Conn {
		c := failover.New(failover.Config{Paths: []failover.Path{onePath{join(tb, serve)}}, MTU: mtu})
		if err := c.WaitReady(tb.Context()); err != nil {
			tb.Fatal(err)
		}
		return c
	}
	return stacks(tb, covered,
		[]packet.Filter{policy.NewGate(policy.Source, client4.Addr(), client6.Addr())},
		[]packet.Filter{policy.NewGate(policy.Destination, client4.Addr(), client6.Addr())})
}

// onePath is a failover.Path that is open from the beginning.
type onePath struct{ conn packet.Conn }

func (onePath) Name() string                                { return "path" }
func (p onePath) Open(context.Context) (packet.Conn, error) { return p.conn, nil }

// tlsPair is a joint of CSTP over TLS.
func tlsPair(tb testing.TB, serve func(packet.Conn)) packet.Conn {
	tb.Helper()
	cert, _, err := gateway.SelfSigned("localhost", "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	near, far := tcpPair(tb)
	server := cstp.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
	client := cstp.Client(near, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(tb.Context()) }()
	if err := client.HandshakeContext(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if err := <-shaken; err != nil {
		tb.Fatal(err)
	}
	serve(cstp.NewConn(server, nil, cstp.Config{MTU: mtu, Server: true}))
	return cstp.NewConn(client, nil, cstp.Config{MTU: mtu})
}

func tcpPair(tb testing.TB) (near, far net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		tb.Fatal(err)
	}
	return near, far
}

// dtlsPair is a joint of DTLS.
func dtlsPair(tb testing.TB, serve func(packet.Conn)) packet.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	psk := &dtls.PSK{Key: bytes.Repeat([]byte{1}, 32), AppID: bytes.Repeat([]byte{2}, 32)}
	session := &dtls.ServerSession{PSK: psk, MTU: mtu, IPv6: true, Accept: func(c *dtls.Conn) { serve(c) }}
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := dtls.Listen(pc, dtls.ListenerConfig{Lookup: func([]byte) *dtls.ServerSession { return session }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	sock, err := dtls.OpenSocket(ctx, nil, pc.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		tb.Fatal(err)
	}
	client, err := dtls.Dial(ctx, sock, dtls.Config{PSK: psk, MTU: mtu, IPv6: true, Linger: -1})
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// tunnel is a client and a gateway, with the data on the given path.
func tunnel(tb testing.TB, path string) *network {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	gw := gatewaytest.New(tb, gatewaytest.Options{Direct: true})
	tun, err := vpn.Dial(ctx, gw.URL, &vpn.Config{
		Login:  login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		TLS:    &tls.Config{RootCAs: gw.Pool},
		NoDTLS: path == "tls",
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tun.Close() })
	awaitPath(ctx, tb, tun, path)
	return &network{
		dial: tun.DialContext, listen: gw.Listen, listenPacket: gw.ListenPacket,
		addrs: []netip.Addr{gw.Web.Addr(), gw.Web6.Addr()},
		up: func() counts {
			return counts{tun.Status().Counters.SentPackets, gw.Sessions()[0].Received.Packets}
		},
		down: func() counts {
			s := gw.Sessions()[0]
			return counts{s.Sent.Packets + s.Dropped, tun.Status().Counters.ReceivedPackets}
		},
	}
}

// awaitPath waits until the data of a tunnel takes the given path.
func awaitPath(ctx context.Context, tb testing.TB, tun *vpn.Tunnel, path string) {
	tb.Helper()
	for tun.Status().Path != path {
		select {
		case <-ctx.Done():
			tb.Fatalf("the tunnel does not use %s: %+v", path, tun.Status())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
