package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// deviceRungs have the kernel's TCP and UDP at both ends, in namespaces of their own. Making these needs root.
var deviceRungs = []rung{
	{"5-tun-tls", func(tb testing.TB) *network { return devices(tb, "tls") }},
	{"5-tun-dtls", func(tb testing.TB) *network { return devices(tb, "dtls") }},
}

// The inner networks of the gateway, which has the first address of each.
var (
	inner4 = netip.MustParsePrefix("10.66.0.0/24")
	inner6 = netip.MustParsePrefix("fd66::/64")
)

// devices is tunnel with TUN devices in the place of stacks. The tunnel itself runs over the same loopback interface.
func devices(tb testing.TB, path string) *network {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	lab := netns.New(tb)
	client, server := lab.Host("client"), lab.Host("server")
	open := func(h *netns.Host) (dev *tun.Device, err error) {
		h.Do(func() { dev, err = tun.Open(tun.Config{Name: "vpn0", MTU: mtu}) })
		return dev, err
	}
	attach := func(h *netns.Host, addrs ...netip.Prefix) {
		for _, a := range addrs {
			h.IP("address", "add", a.String(), "dev", "vpn0", "nodad")
		}
		h.IP("link", "set", "vpn0", "up")
	}
	far, err := open(server)
	if err != nil {
		tb.Fatal(err)
	}
	server4, server6 := netip.PrefixFrom(inner4.Addr().Next(), 24), netip.PrefixFrom(inner6.Addr().Next(), 64)
	attach(server, server4, server6)
	url, roots := serve(tb, far)

	var near *tun.Device
	tunnel, err := vpn.Dial(ctx, url, &vpn.Config{
		Login:  login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		TLS:    &tls.Config{RootCAs: roots},
		NoDTLS: path == "tls",
		Device: func(*transport.Lease) (packet.Conn, error) {
			dev, err := open(client)
			if err != nil {
				return nil, err
			}
			near = dev
			return dev, nil
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tunnel.Close() })
	attach(client, tunnel.Status().Addresses...)
	client.IP("route", "replace", inner4.String(), "dev", "vpn0")
	client.IP("-6", "route", "replace", inner6.String(), "dev", "vpn0")
	awaitPath(ctx, tb, tunnel, path)
	return &network{
		dial: client.DialContext, listen: server.Listen, listenPacket: server.ListenPacket,
		addrs: []netip.Addr{server4.Addr(), server6.Addr()},
		up:    func() counts { return counts{near.Stats().ReadPackets, far.Stats().WrittenPackets} },
		down:  func() counts { return counts{far.Stats().ReadPackets, near.Stats().WrittenPackets} },
	}
}

// serve starts a gateway with a device on the loopback interface.
func serve(tb testing.TB, device packet.Conn) (url string, roots *x509.CertPool) {
	tb.Helper()
	cert, _, err := gateway.SelfSigned("localhost", "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	srv, err := gateway.New(gateway.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth: gateway.Passwords(gateway.VerifierFunc(func(_ context.Context, user, password string) error {
			if user != gatewaytest.User || password != gatewaytest.Password {
				return &gateway.Refusal{Text: "Login failed."}
			}
			return nil
		})),
		Pools:   []netip.Prefix{inner4, inner6},
		Network: gateway.Network{Routes: []netip.Prefix{inner4, inner6}},
		Device:  device,
	})
	if err != nil {
		tb.Fatal(err)
	}
	ln, udp := listenBoth(tb)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, udp) }()
	tb.Cleanup(func() {
		srv.Close()
		if err := <-served; !errors.Is(err, gateway.ErrServerClosed) {
			tb.Errorf("the gateway: %v", err)
		}
	})
	roots = x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	return fmt.Sprintf("https://%v", ln.Addr()), roots
}

// listenBoth listens on a port that is free for TCP and UDP.
func listenBoth(tb testing.TB) (net.Listener, *net.UDPConn) {
	tb.Helper()
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			return ln, udp
		}
		ln.Close()
	}
	tb.Fatal("no port is free for both TCP and UDP")
	return nil, nil
}
