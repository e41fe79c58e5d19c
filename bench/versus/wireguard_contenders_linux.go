package main

import (
	"context"
	"net/netip"
)

// The addresses of the two ends of WireGuard inside the tunnel, and the port of the one that is called.
const (
	wireguardNear = "192.168.77.2"
	wireguardFar  = "192.168.77.1"
	wireguardPort = 51820
)

// wireguardConfigs returns what the ends need to know.
func wireguardConfigs(s *stage) (near, far string) {
	a, err := newWireguardKey()
	s.check(err)
	b, err := newWireguardKey()
	s.check(err)
	near = wireguardConfig(a, 0, b.public, "0.0.0.0/0", netip.AddrPortFrom(outside, wireguardPort).String())
	far = wireguardConfig(b, wireguardPort, a.public, wireguardNear+"/32", "")
	return near, far
}

// settledNow is settle for what has no phases.
func settledNow(detail string) func(context.Context) (settled, error) {
	return func(context.Context) (settled, error) { return settled{detail: detail}, nil }
}

// newWireguardPair is wireguard-go at both ends, with TUN.
func newWireguardPair(s *stage, at *place) *contender {
	near, far := wireguardConfigs(s)
	server := s.startServer(at.gateway, "wireguard-tun", request{Wireguard: far, Addresses: []string{wireguardFar + "/24"}}, nil)
	return &contender{name: "wireguard-go, TUN", at: at, gatewayPIDs: alone(server), start: func() *visit {
		p := s.startRole(at.host, "wireguard-tun", request{
			Wireguard: near, Addresses: []string{wireguardNear + "/32"}, Routes: []string{insideRoute},
		})
		v := overTUN(p, at)
		v.settle = settledNow("ChaCha20-Poly1305, MTU 1420")
		return v
	}}
}

// newWireguardStacks is wireguard-go at both ends, with its netstack.
func newWireguardStacks(s *stage, at *place) *contender {
	near, far := wireguardConfigs(s)
	server := s.startServer(at.gateway, "wireguard-stack", request{Wireguard: far, Addresses: []string{wireguardFar + "/24"}}, nil)
	return &contender{name: "wireguard-go, netstack", at: at, gatewayPIDs: alone(server), start: func() *visit {
		p := s.startRole(at.host, "wireguard-stack", request{
			Wireguard: near, Addresses: []string{wireguardNear + "/32"}, Target: wireguardFar,
		})
		return &visit{
			client: p, server: server, settle: settledNow("ChaCha20-Poly1305, MTU 1420"),
			await: func(ctx context.Context) error { return p.begun(ctx, nil) },
		}
	}}
}
