package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/host"
	"culvert.example/vpn/internal/race"
)

// stagger is how long a connection to one address is waited for before the next is tried beside it (RFC 8305 section 8).
const stagger = 250 * time.Millisecond

// detour is how long it is before other ways out are tried than those that the kernel chooses.
const detour = 2 * time.Second

// maxAttempts is how many addresses of a name are tried, by how many ways together.
const maxAttempts = 16

// An attempt is one way to connect.
type attempt struct {
	to    netip.Addr
	by    host.Exit     // with an index of 0 it is up to the kernel
	after time.Duration // the attempt before began
}

// DialContext implements [vpn.System]. It also serves other programs that have to get past the tunnel, such as to an
// HTTP proxy in front of the gateway. Names are asked for outside of the tunnel.
func (s *System) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.dialBy(ctx, network, address, s.ways, s.carried)
}

// A wayFunc returns the exits to connect to an address by. With hold being false it is up to the kernel.
type wayFunc func(network string, to netip.Addr) (exits []host.Exit, hold bool)

// dialBy connects past the tunnel, to each address by the exits that ways names, and tells carried of a connection.
func (s *System) dialBy(ctx context.Context, network, address string, ways wayFunc, carried func(net.Conn, host.Exit)) (net.Conn, error) {
	base := strings.TrimRight(network, "46")
	if base != "tcp" && base != "udp" {
		return nil, net.UnknownNetworkError(network)
	}
	name, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	family := network[len(base):]
	addrs, err := s.lookup(ctx, "ip"+family, name)
	if err != nil {
		return nil, err
	}
	var attempts, others []attempt
	for _, to := range addrs[:min(len(addrs), maxAttempts)] {
		by, hold := ways(base, to)
		if !hold {
			by = []host.Exit{{}}
		}
		for i, e := range by {
			if i == 0 {
				attempts = append(attempts, attempt{to, e, stagger})
			} else {
				others = append(others, attempt{to, e, detour})
			}
		}
	}
	if attempts = append(attempts, others...); len(attempts) == 0 {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	wait := func(i int) time.Duration { return attempts[i].after }
	c, winner, err := race.First(ctx, min(len(attempts), maxAttempts), wait, func(ctx context.Context, i int) (net.Conn, error) {
		a := attempts[i]
		return s.outer.dial(ctx, network, netip.AddrPortFrom(a.to, uint16(port)).String(), func(network, address string, c syscall.RawConn) error {
			if a.by.Index != 0 {
				if err := bind(c, a.by.Interface); errors.Is(err, ErrNotPermitted) {
					s.log.Debug("cannot keep a connection on an interface", "interface", a.by.Interface, "err", err)
				} else if err != nil {
					return err
				}
			}
			return s.Control(network, address, c)
		})
	})
	if err == nil && base == "tcp" {
		carried(c, attempts[winner].by)
	}
	return c, err
}

// exits returns the ways out of the machine, the best first, without the tunnel itself. There may be none.
func (s *System) exits(to netip.Addr) []host.Exit {
	exits, _ := s.surface.Exits(to, host.DefaultMark)
	return slices.DeleteFunc(exits, s.own)
}

// own reports whether a way out is the tunnel.
func (s *System) own(e host.Exit) bool { return s.shared && e.Interface == s.cfg.Device }

// ways returns the ways out to an address, to hold on to: a program without a thought of us may add a route whose router it takes the
// kernel to find, which finds the tunnel, and would then have the tunnel lead through itself. First comes the one that the kernel takes
// now, but what a stranger's DHCP server has it take may lead nowhere, so that the others follow; datagrams go the way of the
// connection that they belong to. There may be no way to hold on to, as within the machine.
func (s *System) ways(network string, to netip.Addr) (exits []host.Exit, hold bool) {
	first, err := s.surface.Route(to, host.DefaultMark)
	if err == nil && (first.Interface == "" || first.Kind == host.Loopback) {
		return nil, false
	}
	exits = s.exits(to)
	if network == "udp" {
		s.mu.Lock()
		carrier := s.carrier.Index
		s.mu.Unlock()
		if i := slices.IndexFunc(exits, func(e host.Exit) bool { return e.Index == carrier }); i >= 0 {
			first, err = exits[i], nil
		}
	}
	if err == nil && !s.own(first) {
		exits = append([]host.Exit{first}, slices.DeleteFunc(exits, func(e host.Exit) bool { return e.Index == first.Index })...)
	}
	return exits, len(exits) > 0
}

// Control marks a socket as one of the tunnel itself, before it connects to address, and lets it through the kill
// switch. It fits net.Dialer.Control and net.ListenConfig.Control, for sockets in the namespace of the thread that called Open.
func (s *System) Control(network, address string, c syscall.RawConn) error {
	if err := s.mark(c); err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Port() == 0 || to.Addr().IsUnspecified() {
		return nil // it listens
	}
	return s.admit(network, to)
}

// mark marks a socket as one that the tunnel must not catch, where the tunnel could.
func (s *System) mark(c syscall.RawConn) error {
	if !s.shared {
		return nil
	}
	return mark(c, host.DefaultMark)
}

// dialDirect connects past the tunnel, from where the device is.
func (s *System) dialDirect(ctx context.Context, network, address string) (net.Conn, error) {
	device := ""
	if to, err := netip.ParseAddrPort(address); err == nil {
		device = s.around(to.Addr())
	}
	return s.inner.dial(ctx, network, address, func(_, _ string, c syscall.RawConn) error {
		if device != "" {
			if err := bind(c, device); err != nil {
				return err
			}
		}
		return mark(c, host.DefaultMark)
	})
}

// around returns the interface by which an address is reached past the tunnel, if the routes of the machine lead into it although
// they should not.
func (s *System) around(to netip.Addr) string {
	t := s.current()
	if t == nil {
		return ""
	}
	network := s.machine.Network()
	if index, err := network.Leads(to, host.DefaultMark); err != nil || index != t.index {
		return ""
	}
	exits, _ := network.Exits(to, host.DefaultMark)
	for _, e := range exits {
		if e.Index != t.index {
			return e.Interface
		}
	}
	return ""
}

// untouched reports whether the machine is as it would be without this program, so that its own resolver serves best.
func (s *System) untouched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outer.home && (!s.shared || s.tunnel == nil && s.inForce == nil)
}

// lookup asks for the addresses of a gateway. It must not depend on the tunnel, which may be waiting for it.
func (s *System) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	if s.untouched() {
		return net.DefaultResolver.LookupNetIP(ctx, network, name)
	}
	servers, search := s.outsideServers(ctx)
	client := &dns.Client{Servers: servers, Dial: s.dialOuter}
	r := dns.Resolver{Exchanger: client, Search: search}
	if h := machineHosts(); h != nil {
		mux, err := dns.NewServer(dns.ServerConfig{CacheBytes: -1, Rules: dns.Rules{Hosts: h, Zones: []dns.Zone{
			{Name: "outside", Suffixes: []string{"."}, Way: dns.Direct, Upstreams: []dns.Exchanger{client}},
		}}})
		if err != nil {
			return nil, err
		}
		defer mux.Close()
		r.Exchanger = mux
	}
	addrs, err := r.LookupNetIP(ctx, network, name)
	if err != nil {
		return nil, fmt.Errorf("outside of the tunnel: %w", err)
	}
	return interleave(addrs), nil
}

// dialOuter connects to a DNS server in front of the gateway.
func (s *System) dialOuter(ctx context.Context, network, address string) (net.Conn, error) {
	var ways []host.Exit
	if to, err := netip.ParseAddrPort(address); err == nil {
		ways, _ = s.ways("tcp", to.Addr())
	}
	return s.outer.dial(ctx, network, address, func(_, _ string, c syscall.RawConn) error {
		if len(ways) > 0 {
			if err := bind(c, ways[0].Interface); err != nil && !errors.Is(err, ErrNotPermitted) {
				return err
			}
		}
		if err := s.mark(c); err != nil {
			return err
		}
		return s.pass(false, false)
	})
}

// outsideServers returns the servers that the machine asks without the tunnel, and its search list.
func (s *System) outsideServers(ctx context.Context) ([]netip.AddrPort, []string) {
	up, err := s.resolver.Upstream(ctx)
	if err != nil {
		s.log.Warn("cannot tell which DNS servers the machine uses", "err", err)
	}
	if len(s.cfg.DNS.Outside) > 0 {
		return s.cfg.DNS.Outside, up.Search
	}
	return slices.DeleteFunc(up.Servers, func(a netip.AddrPort) bool { return a == s.cfg.DNS.Listen }), up.Search
}

// maxHostsFile bounds the hosts file that is read.
const maxHostsFile = 4 << 20

// machineHosts returns the names that the machine knows without asking, nil if there are none.
func machineHosts() *dns.Hosts {
	f, err := os.Open("/etc/hosts")
	if err != nil {
		return nil
	}
	defer f.Close()
	h, _ := dns.ParseHosts(io.LimitReader(f, maxHostsFile)) // lines that do not parse are left out, as everywhere
	if h.Len() == 0 {
		return nil
	}
	return h
}

// interleave puts the families in turn, IPv6 first as RFC 8305 section 4 prefers.
func interleave(addrs []netip.Addr) []netip.Addr {
	var v4, v6, out []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	for i := range max(len(v4), len(v6)) {
		if i < len(v6) {
			out = append(out, v6[i])
		}
		if i < len(v4) {
			out = append(out, v4[i])
		}
	}
	return out
}
