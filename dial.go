package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"culvert.example/vpn/internal/race"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/split"
)

// fallbackDelay is how long a connection to one address is waited for before the next address is tried beside it
// (RFC 8305 section 8 recommends 250 ms).
const fallbackDelay = 250 * time.Millisecond

// Dial is DialContext without a context.
func (t *Tunnel) Dial(network, address string) (net.Conn, error) {
	return t.DialContext(context.Background(), network, address)
}

// DialContext connects to the address: host:port for tcp, tcp4, tcp6, udp, udp4 and udp6; a host alone for ping, ping4 and
// ping6, whose connections carry ICMP echo messages. The name of a host is resolved as [Tunnel.Resolver] does.
//
// The policy is asked first, with the name. Then the split rules say whether the destination lies in the tunnel, outside of it
// (Config.Direct connects), or nowhere. While the tunnel reconnects, connecting waits, though a name that has to be asked for
// inside the tunnel is given up after some seconds. When the tunnel has ended, DialContext returns the reason. The context bounds
// the dialing, not the connection.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := t.dialContext(ctx, network, address)
	if err != nil {
		if t.Err() != nil {
			err = t.err // why the tunnel ended says more than that it did
		}
		return nil, &OpError{Op: "dial", Server: t.server, Path: address, Err: err}
	}
	return conn, nil
}

func (t *Tunnel) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := t.Err(); err != nil {
		return nil, t.err
	}
	if t.draining.Load() {
		return nil, fmt.Errorf("the tunnel is shutting down: %w", net.ErrClosed)
	}
	if t.stack == nil {
		return nil, ErrNoStack
	}
	d, err := t.destination(ctx, network, address)
	if err != nil {
		return nil, err
	}
	addrs, err := t.admit(ctx, d)
	if err != nil {
		return nil, err
	}
	return t.dialAddrs(ctx, d, addrs)
}

// admit asks the policy, and returns the addresses of the destination if it may be reached: the one that the caller
// gave, or those of the name.
func (t *Tunnel) admit(ctx context.Context, d destination) ([]netip.Addr, error) {
	decision, err := t.decide(ctx, d)
	if err != nil {
		return nil, err
	}
	if !decision.Allow {
		return nil, fmt.Errorf("%w: %s", policy.ErrDenied, decision.Reason)
	}
	if d.addr.IsValid() {
		return []netip.Addr{d.addr}, nil
	}
	return t.resolver.LookupNetIP(ctx, "ip"+d.family, d.name)
}

// A destination is an address of DialContext, taken apart.
type destination struct {
	kind   string // tcp, udp or ping
	family string // 4, 6 or empty for both
	name   string // of the host, as the caller wrote it: a final dot keeps it from being searched for
	host   string // the same without the final dot
	addr   netip.Addr
	port   uint16
}

// routed returns the name that the split rules may go by, which is none if the caller gave an address.
func (d destination) routed() string {
	if d.addr.IsValid() {
		return ""
	}
	return d.host
}

// network returns the network to dial addr with.
func (d destination) network() string { return d.kind + d.family }

// join returns the address to dial, for one of the addresses of the host.
func (d destination) join(addr netip.Addr) string {
	if d.kind == "ping" {
		return addr.String()
	}
	return netip.AddrPortFrom(addr, d.port).String()
}

func (t *Tunnel) destination(ctx context.Context, network, address string) (destination, error) {
	d := destination{kind: strings.TrimRight(network, "46"), name: address}
	d.family = network[len(d.kind):]
	switch d.kind {
	case "tcp", "udp":
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return d, err
		}
		n, err := net.DefaultResolver.LookupPort(ctx, network, port)
		if err != nil {
			return d, err
		}
		d.name, d.port = host, uint16(n)
	case "ping":
		if err := bare(address); err != nil {
			return d, err
		}
	default:
		return d, net.UnknownNetworkError(network)
	}
	if len(d.family) > 1 {
		return d, net.UnknownNetworkError(network)
	}
	if addr, err := netip.ParseAddr(d.name); err == nil {
		d.host = d.name
		d.addr = addr.Unmap()
		if d.family != "" && d.addr.Is4() != (d.family == "4") {
			return d, &net.AddrError{Err: "not an IPv" + d.family + " address", Addr: d.host}
		}
	} else if d.host = strings.TrimSuffix(d.name, "."); d.host == "" {
		return d, &net.AddrError{Err: "missing host", Addr: address}
	}
	return d, nil
}

// bare returns an error unless host is a name or an address and nothing else, such as with a port.
func bare(host string) error {
	if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, ":[]/") {
		return &net.AddrError{Err: "want a host, a name or an address, without a port", Addr: host}
	}
	return nil
}

func (t *Tunnel) decide(ctx context.Context, d destination) (policy.Decision, error) {
	decider := t.cfg.Policy
	if decider == nil {
		decider = policy.AllowAll
	}
	return decider.Decide(ctx, policy.Flow{Network: d.kind, Host: d.host, Port: d.port, Addr: d.addr})
}

// dialAddrs tries the addresses in turn, the families alternating, and starts on the next when one takes long (RFC 8305).
func (t *Tunnel) dialAddrs(ctx context.Context, d destination, addrs []netip.Addr) (net.Conn, error) {
	addrs = interleave(addrs)
	wait := func(int) time.Duration { return fallbackDelay }
	conn, _, err := race.First(ctx, len(addrs), wait, func(ctx context.Context, i int) (net.Conn, error) { return t.dialAddr(ctx, d, addrs[i]) })
	return conn, err
}

// interleave puts the families in turn, the one of the first address first.
func interleave(addrs []netip.Addr) []netip.Addr {
	var first, second, out []netip.Addr
	for _, a := range addrs {
		if a.Is4() == addrs[0].Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

func (t *Tunnel) dialAddr(ctx context.Context, d destination, addr netip.Addr) (net.Conn, error) {
	host := d.routed()
	switch t.router.Route(host, addr) {
	case split.Direct:
		if d.kind == "ping" {
			return nil, fmt.Errorf("%w: %s lies outside the tunnel, where this program cannot ping", ErrNoRoute, addr)
		}
		return t.cfg.direct()(ctx, d.network(), d.join(addr))
	case split.Tunnel:
		return t.dialStack(ctx, d.network(), d.join(addr))
	}
	_, rule := t.explain(host, addr)
	return nil, fmt.Errorf("%w: %s: %s", ErrNoRoute, addr, rule)
}

// Listen listens for TCP connections from the private network, as net.Listen does. An empty host is every inner address,
// and port 0 is any free port.
func (t *Tunnel) Listen(network, address string) (net.Listener, error) {
	if t.stack == nil {
		return nil, &OpError{Op: "listen", Server: t.server, Path: address, Err: ErrNoStack}
	}
	l, err := t.stack.Listen(network, address)
	if err == nil {
		l, err = t.doors.keep(l)
	}
	if err != nil {
		return nil, &OpError{Op: "listen", Server: t.server, Path: address, Err: err}
	}
	return l, nil
}

// ListenPacket listens for datagrams from the private network, as net.ListenPacket does, on udp, udp4 or udp6, or for ICMP
// echo messages on ping4 or ping6.
func (t *Tunnel) ListenPacket(network, address string) (net.PacketConn, error) {
	if t.stack == nil {
		return nil, &OpError{Op: "listen", Server: t.server, Path: address, Err: ErrNoStack}
	}
	c, err := t.stack.ListenPacket(network, address)
	if err != nil {
		return nil, &OpError{Op: "listen", Server: t.server, Path: address, Err: err}
	}
	return c, nil
}

// Ping sends an ICMP echo request to host through the tunnel and returns the time until its answer came. Of several addresses of a name it
// takes the first, in the order of DialContext, that can be reached through the tunnel.
func (t *Tunnel) Ping(ctx context.Context, host string) (time.Duration, error) {
	rtt, err := t.ping(ctx, host)
	if err != nil {
		if t.Err() != nil {
			err = t.err
		}
		return 0, &OpError{Op: "ping", Server: t.server, Path: host, Err: err}
	}
	return rtt, nil
}

func (t *Tunnel) ping(ctx context.Context, host string) (time.Duration, error) {
	if t.stack == nil {
		return 0, ErrNoStack
	}
	d, err := t.destination(ctx, "ping", host)
	if err != nil {
		return 0, err
	}
	addrs, err := t.admit(ctx, d)
	if err != nil {
		return 0, err
	}
	// An address without a way is passed over, as DialContext passes over those that fail. One that has a way and is silent is an answer.
	var errs []error
	for _, addr := range interleave(addrs) {
		rtt, err := t.pingAddr(ctx, d, addr)
		if err == nil {
			return rtt, nil
		}
		if errs = append(errs, err); !errors.Is(err, ErrNoRoute) && !errors.Is(err, syscall.ENETUNREACH) {
			break
		}
	}
	return 0, errors.Join(errs...)
}

func (t *Tunnel) pingAddr(ctx context.Context, d destination, addr netip.Addr) (time.Duration, error) {
	if way, rule := t.explain(d.routed(), addr); way != split.Tunnel {
		return 0, fmt.Errorf("%w: %s lies %s: %s", ErrNoRoute, addr, way, rule)
	}
	rtt, err := t.stack.Ping(ctx, addr)
	var op *net.OpError
	if d.addr.IsValid() && errors.As(err, &op) {
		err = op.Err // it says only once more that an address was pinged, and which
	}
	return rtt, err
}

// An Explanation tells what DialContext would do with a host, and by which rules.
type Explanation struct {
	Host string `json:"host"`
	// Allowed is what the policy says of a TCP connection to port 443 of it, and Reason why.
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason,omitempty"`
	// Resolver is who knows the name, such as "tunnel (suffix corp.example)" or "machine". It is empty where nobody is asked,
	// as for an address.
	Resolver string `json:"resolver,omitempty"`
	// Routes are the addresses of the host and where each lies.
	Routes []ExplainedRoute `json:"routes"`
}

// An ExplainedRoute is the way to one address and the split rule that decides it.
type ExplainedRoute struct {
	Addr netip.Addr `json:"addr"`
	Way  string     `json:"way"`
	Rule string     `json:"rule"`
}

// String returns the explanation in a few lines of text.
func (e Explanation) String() string {
	var s strings.Builder
	s.WriteString(e.Host)
	if e.Resolver != "" {
		s.WriteString(" is resolved by " + e.Resolver)
	}
	s.WriteString("; policy: allowed=" + strconv.FormatBool(e.Allowed))
	if e.Reason != "" {
		s.WriteString(" (" + e.Reason + ")")
	}
	for _, r := range e.Routes {
		fmt.Fprintf(&s, "\n%s: %s (%s)", r.Addr, r.Way, r.Rule)
	}
	return s.String()
}

// Explain tells what DialContext would do with host, a name or an address: whether the policy lets it through, who resolves
// it, and which way its addresses go by which rule. It resolves the name but connects to nothing.
func (t *Tunnel) Explain(ctx context.Context, host string) (Explanation, error) {
	e := Explanation{Host: host}
	fail := func(err error) (Explanation, error) {
		if t.Err() != nil {
			err = t.err
		}
		return e, &OpError{Op: "explain", Server: t.server, Path: host, Err: err}
	}
	if t.stack == nil {
		return fail(ErrNoStack) // the routes of the machine decide, which this does not know
	}
	if err := bare(host); err != nil {
		return fail(err)
	}
	d, err := t.destination(ctx, "tcp", net.JoinHostPort(host, "443"))
	if err != nil {
		return fail(err)
	}
	decision, err := t.decide(ctx, d)
	if err != nil {
		return fail(err)
	}
	e.Allowed, e.Reason = decision.Allow, decision.Reason
	addrs, name := []netip.Addr{d.addr}, ""
	if !d.addr.IsValid() {
		var asked string
		if addrs, asked, err = t.resolver.Find(ctx, "ip", d.name); err != nil {
			return fail(err)
		}
		name, e.Resolver = d.host, t.whoResolves(asked)
	}
	for _, a := range addrs {
		way, rule := t.explain(name, a)
		e.Routes = append(e.Routes, ExplainedRoute{Addr: a, Way: way.String(), Rule: rule})
	}
	return e, nil
}

// explain is Route with the rule that decided.
func (t *Tunnel) explain(host string, addr netip.Addr) (split.Way, string) {
	if e, ok := t.router.(interface {
		Explain(host string, addr netip.Addr) (split.Way, string)
	}); ok {
		return e.Explain(host, addr)
	}
	return t.router.Route(host, addr), "the configured router"
}
