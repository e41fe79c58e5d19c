package vpn

import (
	"context"
	"net"
	"net/netip"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/transport"
)

// Resolver returns a resolver that asks as the tunnel does: the DNS servers of the gateway through the tunnel for the names that
// its split-DNS rules give them, or for all names if there are no such rules, and the machine's own resolver for the others.
// Without a stack, because of Config.Device, names that are to be asked for through the tunnel fail with ErrNoStack.
//
// When the tunnel has ended, names that were asked for through it are not found any more, and the error says why it has ended. But a
// net.Resolver keeps the kind of an error from errors.Is: whoever has to tell calls [Tunnel.Err].
func (t *Tunnel) Resolver() *net.Resolver { return t.resolver.NetResolver() }

// startResolver sets up who is asked for which name.
func (t *Tunnel) startResolver(lease *transport.Lease) error {
	if t.names = t.cfg.Resolver; t.names == nil {
		mux, err := t.splitDNS(lease)
		if err != nil {
			return err
		}
		t.names, t.mux = mux, mux
	}
	t.resolver = &dns.Resolver{Exchanger: asker{t}, Search: lease.SearchDomains}
	return nil
}

// An asker asks as the tunnel does. Why the tunnel has ended says more than what that made of a question.
type asker struct{ t *Tunnel }

func (a asker) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	answer, err := a.t.names.Exchange(ctx, query)
	if err != nil {
		if ended := a.t.Err(); ended != nil {
			return nil, ended
		}
	}
	return answer, err
}

func (t *Tunnel) splitDNS(lease *transport.Lease) (*dns.Mux, error) {
	machine := dns.FromResolver(net.DefaultResolver)
	if len(lease.DNS) == 0 {
		if lease.TunnelAllDNS {
			machine = nil // nobody may be asked
		}
		return dns.NewMux(machine, nil)
	}
	inside := &dns.Client{Dial: t.dialStack}
	for _, a := range lease.DNS {
		inside.Servers = append(inside.Servers, netip.AddrPortFrom(a, 53))
	}
	if len(lease.SplitDNS) == 0 || lease.TunnelAllDNS {
		return dns.NewMux(inside, nil)
	}
	suffixes := map[string]dns.Exchanger{}
	for _, list := range [][]string{lease.SplitDNS, lease.SearchDomains, lease.DynamicInclude} {
		for _, suffix := range list {
			suffixes[suffix] = inside
		}
	}
	return dns.NewMux(machine, suffixes)
}

// whoResolves names the one who is asked for a name, if there is one.
func (t *Tunnel) whoResolves(name string) string {
	switch {
	case name == "":
		return ""
	case t.mux == nil:
		return "the configured resolver"
	}
	x, suffix := t.mux.Pick(name)
	switch {
	case suffix != "":
		return "tunnel (suffix " + suffix + ")"
	case isClient(x):
		return "tunnel"
	}
	return "machine"
}

// dialStack connects from the stack, if there is one.
func (t *Tunnel) dialStack(ctx context.Context, network, address string) (net.Conn, error) {
	if t.stack == nil {
		return nil, ErrNoStack
	}
	return t.stack.DialContext(ctx, network, address)
}

func isClient(x dns.Exchanger) bool { _, ok := x.(*dns.Client); return ok }
