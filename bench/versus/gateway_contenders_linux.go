package main

import (
	"context"
	"net/netip"

	"culvert.example/vpn/internal/netns"
)

// alone returns the processes of a gateway that is one process.
func alone(p *process) func() ([]int, error) {
	return func() ([]int, error) { return []int{p.pid()}, nil }
}

// newOurPair is our client and our gateway, both with TUN.
func newOurPair(s *stage, at *place) *contender {
	var info gatewayReply
	server, url := startOurGateway(s, at.gateway, true, &info)
	return &contender{name: "vpn.Dial and gateway, TUN", at: at, gatewayPIDs: alone(server), start: func() *visit {
		p := s.startRole(at.host, "tun", request{Server: url, Pin: info.Pin, Routes: []string{insideRoute}})
		v := overTUN(p, at)
		v.settle = settledRole(p)
		return v
	}}
}

// newOurStacks is our client and our gateway, both with their own stacks.
func newOurStacks(s *stage, at *place) *contender {
	var info gatewayReply
	server, url := startOurGateway(s, at.gateway, false, &info)
	return &contender{name: "vpn.Dial and gateway, stacks", at: at, gatewayPIDs: alone(server), start: func() *visit {
		p := s.startRole(at.host, "embedded", request{Server: url, Pin: info.Pin, Target: info.Inner})
		return &visit{client: p, server: server, settle: settledRole(p), await: func(ctx context.Context) error { return p.begun(ctx, nil) }}
	}}
}

// startOurGateway starts our gateway on a host.
func startOurGateway(s *stage, h *netns.Host, device bool, info *gatewayReply) (p *process, url string) {
	listen := netip.AddrPortFrom(outside, 4443).String()
	return s.startServer(h, "gateway", request{Listen: listen, TUN: device}, info), "https://" + listen
}
