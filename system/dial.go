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
)

// stagger is how long a connection to one address is waited for before the next is tried beside it (RFC 8305 section 8).
const stagger = 250 * time.Millisecond

// maxCandidates is how many addresses of a name are tried.
const maxCandidates = 16

// DialContext implements [vpn.System]. It also serves other programs that have to get past the tunnel, such as to an
// HTTP proxy in front of the gateway. Names are asked for outside of the tunnel.
func (s *System) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.dialBy(ctx, network, address, s.way, s.carried)
}

// dialBy connects past the tunnel, to each address by the exit that way names, and tells carried of a connection.
func (s *System) dialBy(ctx context.Context, network, address string, way func(netip.Addr) (host.Exit, bool), carried func(net.Conn, host.Exit)) (net.Conn, error) {
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
	targets := addrs[:min(len(addrs), maxCandidates)]
	return race(ctx, targets, func(ctx context.Context, target netip.Addr) (net.Conn, error) {
		exit, bound := way(target)
		c, err := s.outer.dial(ctx, network, netip.AddrPortFrom(target, uint16(port)).String(), func(network, address string, c syscall.RawConn) error {
			if bound {
				if err := bind(c, exit.Interface); errors.Is(err, ErrNotPermitted) {
					s.log.Debug("cannot keep a connection on an interface", "interface", exit.Interface, "err", err)
				} else if err != nil {
					return err
				}
			}
			return s.Control(network, address, c)
		})
		if err == nil && base == "tcp" {
			carried(c, exit)
		}
		return c, err
	})
}

// exits returns the ways out of the machine, the best first, without the tunnel itself. There may be none.
func (s *System) exits(to netip.Addr) []host.Exit {
	exits, _ := s.surface.Exits(to, host.DefaultMark)
	return slices.DeleteFunc(exits, s.own)
}

// own reports whether a way out is the tunnel.
func (s *System) own(e host.Exit) bool { return s.shared && e.Interface == s.cfg.Device }

// way returns the way out that the kernel takes now, to hold on to: a program without a thought of us may add a route whose router it
// takes the kernel to find, which finds the tunnel, and would then have the tunnel lead through itself. There may be no way to hold on
// to, as within the machine.
func (s *System) way(to netip.Addr) (host.Exit, bool) {
	e, err := s.surface.Route(to, host.DefaultMark)
	if err != nil || s.own(e) {
		exits := s.exits(to)
		if len(exits) == 0 {
			return host.Exit{}, false
		}
		e = exits[0]
	}
	return e, e.Interface != "" && e.Kind != host.Loopback
}

// race connects to the first of the targets that answers.
func race(ctx context.Context, targets []netip.Addr, dial func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, error) {
	if len(targets) == 1 {
		return dial(ctx, targets[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	var errs []error
	next, pending := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if next == len(targets) {
				continue
			}
			target := targets[next]
			next, pending = next+1, pending+1
			timer.Reset(stagger)
			go func() {
				conn, err := dial(ctx, target)
				select {
				case results <- result{conn, err}:
				case <-ctx.Done():
					if conn != nil {
						conn.Close()
					}
				}
			}()
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if pending--; next < len(targets) {
				timer.Reset(0)
			} else if pending == 0 {
				return nil, errors.Join(errs...)
			}
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
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
		device = s.detour(ctx, to.Addr())
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

// detour returns the interface by which an address is reached past the tunnel, if the routes of the machine lead into it although
// they should not. That is known by the source address which the kernel chooses, and cheaper to ask than the routes.
func (s *System) detour(ctx context.Context, to netip.Addr) string {
	const discard = 9 // the port does not matter: nothing is sent
	t := s.current()
	if t == nil {
		return ""
	}
	c, err := s.inner.dial(ctx, "udp", netip.AddrPortFrom(to, discard).String(), func(_, _ string, c syscall.RawConn) error { return mark(c, host.DefaultMark) })
	if err != nil {
		return ""
	}
	defer c.Close()
	from, _ := netip.ParseAddrPort(c.LocalAddr().String())
	if !t.has(from.Addr().Unmap()) {
		return ""
	}
	exits, _ := s.machine.Network().Exits(to, host.DefaultMark)
	for _, e := range exits {
		if e.Interface != t.device {
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
	var exit host.Exit
	bound := false
	if to, err := netip.ParseAddrPort(address); err == nil {
		exit, bound = s.way(to.Addr())
	}
	return s.outer.dial(ctx, network, address, func(_, _ string, c syscall.RawConn) error {
		if bound {
			if err := bind(c, exit.Interface); err != nil && !errors.Is(err, ErrNotPermitted) {
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
