package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/split"
)

// A Route is where a destination lies, and the rule that says so.
type Route struct {
	// Addr is the address that the rule is about. It is the zero Addr if the rule is about the name, or no address is known.
	Addr netip.Addr
	split.Verdict
}

// Explain tells where a destination lies and by which rule: in the tunnel, outside, or nowhere, which is also where the kill switch
// stops what would be outside. Host is a name or an address. A name that no rule is about lies where each of its addresses does, which the
// DNS proxy is asked for as programs do. Without a tunnel everything is outside.
func (s *System) Explain(ctx context.Context, host string) ([]Route, error) {
	t := s.current()
	if t == nil {
		return []Route{{Verdict: split.Verdict{Way: split.Direct, Rule: "there is no tunnel"}}}, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap().WithZone("")
		return []Route{{addr, t.explain("", addr)}}, nil
	}
	if host == "" || len(host) > 254 {
		return nil, fmt.Errorf("system: %.40q is neither a name nor an address", host)
	}
	if by := t.explain(host, netip.Addr{}); by.Origin != 0 {
		return []Route{{Verdict: by}}, nil
	}
	if t.names == nil || t.names.server == nil {
		return nil, errors.New("system: no rule is about the name, and there is no DNS proxy to ask for its address; explain the address")
	}
	addrs, err := (&dns.Resolver{Exchanger: t.names.server}).LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("system: no rule is about the name, and its address is not known: %w", err)
	}
	s.mu.Lock()
	if !t.intercepts {
		host = "" // packets have no names
	}
	s.mu.Unlock()
	routes := make([]Route, len(addrs))
	for i, a := range addrs {
		routes[i] = Route{a, t.explain(host, a)}
	}
	return routes, nil
}

// explain says where a destination lies.
func (t *tunnel) explain(name string, addr netip.Addr) split.Verdict {
	v := t.router.Why(name, addr)
	if v.Way == split.Direct && !addr.IsLoopback() && !t.mayLeave(name, addr) {
		v.Way = split.Nowhere
		v.Rule += ", and the kill switch stops what would leave past the tunnel"
	}
	return v
}
