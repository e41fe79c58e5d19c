package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/host/resolver"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport"
)

const (
	// learnTime is how long an answer of DNS waits for the routes that its addresses need.
	learnTime = 500 * time.Millisecond
	// maxRouted is how many domains the resolver of the machine is told one by one.
	maxRouted = 512
	// maxReverse is how many reverse zones these may have among them.
	maxReverse = 64
	// maxZones is how many reverse zones the proxy knows.
	maxZones = 4096
	// maxInside is how many servers in the tunnel are asked.
	maxInside = 8
)

// names is who is asked for names while there is a tunnel.
type names struct {
	t      *tunnel
	server *dns.Server // the proxy, nil if the machine asks by itself
	seen   memory
	// upstreams are asked for the names outside, none if these are the servers of the machine.
	upstreams []dns.Exchanger

	configuring sync.Mutex // held by configure, so that the latest state is what remains

	mu      sync.Mutex
	inside  []netip.Addr
	domains []string // that belong to the servers inside
	watched []string // that the proxy has to hear of besides
	reverse []string
	search  []string
	behind  []string // search domains of the machine, which programs put behind names that are complete
	all     bool     // the servers inside are asked for all names
	only    bool     // and must be, because policy says so
	needed  bool     // the resolver of the machine has to be changed at all
	closed  bool     // the kill switch keeps everybody from asking outside, but for names that may leave
	leaves  bool     // the proxy asks outside for some names
	outside []netip.AddrPort
	backend resolver.Backend
	reason  string
}

// openNames starts the proxy.
func openNames(ctx context.Context, t *tunnel) (*names, error) {
	s := t.s
	n := &names{t: t}
	var err error
	if n.backend, n.reason, err = s.resolver.Detect(ctx); err != nil {
		return nil, fmt.Errorf("system: %w", err)
	}
	if !s.cfg.DNS.NoProxy {
		n.server, err = dns.NewServer(dns.ServerConfig{OnAnswer: n.answered, OnCached: n.reused, QueryLog: s.cfg.DNS.QueryLog, Logger: s.log})
		if err != nil {
			return nil, fmt.Errorf("system: %w", err)
		}
		for _, u := range s.cfg.DNS.Upstreams {
			e, err := dns.ParseUpstream(u, s.dialDirect, s.cfg.DNS.Verify)
			if err != nil {
				n.close()
				return nil, fmt.Errorf("system: %w", err)
			}
			n.upstreams = append(n.upstreams, e)
		}
		if err := n.listen(); err != nil {
			n.close()
			return nil, err
		}
	}
	if err := n.configure(ctx, t.lease); err != nil {
		n.close()
		return nil, err
	}
	t.running.Go(n.watchClaims)
	return n, nil
}

// watchClaims tells of other links of systemd-resolved that claim names of the tunnel, until the tunnel ends.
func (n *names) watchClaims() {
	s := n.t.s
	var told []resolver.Claim
	for {
		claims, changed := s.resolver.Claims()
		if !slices.Equal(claims, told) && n.t.ctx.Err() == nil {
			n.mu.Lock()
			closed := n.closed
			n.mu.Unlock()
			s.note(Event{Kind: EventResolver, What: claimed(claims, closed)})
			told = claims
		}
		select {
		case <-changed:
		case <-n.t.ctx.Done():
			return
		}
	}
}

// claimed says in words for a person what other links claim.
func claimed(claims []resolver.Claim, closed bool) string {
	if len(claims) == 0 {
		return "no other link claims names of the tunnel any more"
	}
	var list []string
	for _, c := range claims {
		name, link := c.Domain, c.Link
		if name == "." {
			name = "all names"
		}
		if link == "" {
			link = "systemd-resolved as a whole"
		}
		list = append(list, link+" claims "+name)
	}
	what := some(list) + ": systemd-resolved asks others than the tunnel for such names"
	if closed {
		what += ", and gets no answer through the kill switch, but from hosts that this allows"
	}
	return what
}

// listen opens the sockets of the proxy.
func (n *names) listen() error {
	s, at := n.t.s, n.t.s.cfg.DNS.Listen.String()
	var pc net.PacketConn
	var l net.Listener
	err := s.inner.do(func() (err error) {
		if pc, err = net.ListenPacket("udp", at); err != nil {
			return err
		}
		if l, err = net.Listen("tcp", at); err != nil {
			pc.Close()
		}
		return err
	})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("system: the DNS proxy cannot listen on %s, which another program has; choose another loopback address: %w", at, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("system: the DNS proxy cannot listen on %s; is the loopback interface up? %w", at, err)
	case err != nil:
		return fmt.Errorf("system: the DNS proxy: %w", err)
	}
	n.t.running.Go(func() {
		if err := n.server.ServePacket(pc); err != nil {
			s.log.Error("the DNS proxy does not answer over UDP any more", "err", err)
		}
	})
	n.t.running.Go(func() {
		if err := n.server.Serve(l); err != nil {
			s.log.Error("the DNS proxy does not answer over TCP any more", "err", err)
		}
	})
	return nil
}

func (n *names) close() {
	if n.server != nil {
		n.server.Close()
	}
	for _, u := range n.upstreams {
		if c, ok := u.(io.Closer); ok {
			c.Close()
		}
	}
}

// configure takes in a lease, and who is asked outside now.
func (n *names) configure(ctx context.Context, lease *transport.Lease) error {
	n.configuring.Lock()
	defer n.configuring.Unlock()
	s := n.t.s
	c := &s.cfg
	s.mu.Lock()
	// A tunnel that is not in use yet will put the kill switch in force again.
	closed := c.KillSwitch != nil && !(s.lifted && s.tunnel == n.t)
	lan := closed && (c.KillSwitch.LocalLAN || c.KillSwitch.SessionLAN && n.t.lan)
	s.mu.Unlock()
	outside, localSearch := s.outsideServers(ctx)
	only := c.DNS.TunnelAll || lease.TunnelAllDNS
	inside := lease.DNS[:min(len(lease.DNS), maxInside)]
	domains := slices.Concat(lease.SplitDNS, lease.SearchDomains, lease.DynamicInclude, c.User.DynamicInclude, c.DNS.Domains)
	all := only || len(inside) > 0 && (len(lease.SplitDNS) == 0 || closed && isWhole(lease))
	reverse := reverseZones(slices.Concat(lease.Include, c.User.Include, lease.Addresses))
	var leaves, lost bool
	if n.server != nil {
		r := n.rules(lease, inside, slices.Concat(domains, reverse), all, only, localSearch)
		if !all {
			zones := n.outsideZones(lease, outside, closed)
			r.Zones, leaves = append(r.Zones, zones...), len(zones) > 0
		}
		if err := n.server.Configure(r); err != nil {
			return fmt.Errorf("system: the names of the gateway and the user: %w", err)
		}
		lost = len(inside) == 0 && n.lost(outside, closed, lan)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inside, n.domains, n.all, n.only, n.outside = inside, domains, all, only, outside
	n.closed, n.leaves = closed, leaves
	n.search, n.behind = lease.SearchDomains, localSearch
	n.watched = slices.Concat(lease.DynamicExclude, c.User.DynamicExclude)
	if n.reverse = reverse; len(reverse) > maxReverse {
		n.reverse = nil
	}
	n.needed = len(inside) > 0 || only || n.server != nil && c.dynamic(lease) || len(n.upstreams) > 0 || lost
	return nil
}

// lost reports whether programs cannot ask the servers of the machine by themselves any more, while the proxy gets past the tunnel. One
// such server is enough, since each question would wait for it. But behind a kill switch the proxy knows next to nothing, and is
// of use only where no other server answers.
func (n *names) lost(outside []netip.AddrPort, closed, lan bool) bool {
	networks := n.t.s.connected()
	cut := func(server netip.AddrPort) bool {
		a := server.Addr().Unmap().WithZone("")
		at := func(p netip.Prefix) bool { return p.Contains(a) }
		near := slices.ContainsFunc(networks, at)
		way := n.t.router.Route("", a)
		if n.backend == resolver.Resolved {
			way = split.Direct // it asks by the link that the server belongs to, whatever the routes say
		}
		switch {
		case a.IsLoopback():
			return false
		case way == split.Direct:
			return closed && !(lan && near) && !slices.ContainsFunc(n.t.s.cfg.KillSwitch.AllowedHosts, at)
		case way == split.Tunnel:
			// Where the gateway is, a public server answers as well, and sees less of who asks.
			return near || private(netip.PrefixFrom(a, a.BitLen()))
		}
		return true
	}
	if closed {
		return len(outside) > 0 && !slices.ContainsFunc(outside, func(s netip.AddrPort) bool { return !cut(s) })
	}
	return slices.ContainsFunc(outside, cut)
}

// isWhole reports whether the gateway takes all that has no rule, of IPv4 if the tunnel has that. Behind a kill switch all names are
// asked for inside then, whatever the gateway's list of domains says: no other way is open, and their addresses can be reached.
func isWhole(lease *transport.Lease) bool {
	is6 := !hasFamily(lease.Addresses, false)
	return !slices.ContainsFunc(lease.Include, func(p netip.Prefix) bool { return p.Addr().Is6() == is6 && p.Bits() > 0 })
}

// rules says which name is asked for inside.
func (n *names) rules(lease *transport.Lease, inside []netip.Addr, suffixes []string, all, only bool, localSearch []string) dns.Rules {
	s := n.t.s
	noIPv6 := s.cfg.DNS.NoIPv6 && !hasFamily(lease.Addresses, true)
	r := dns.Rules{TunnelAll: only, Search: lease.SearchDomains, LocalSearch: localSearch, SingleLabels: !all}
	if s.inner.home {
		r.Hosts = machineHosts()
	}
	if len(inside) > 0 {
		var servers []netip.AddrPort
		for _, a := range inside {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
		z := dns.Zone{Name: "inside", Suffixes: suffixes, Way: dns.Tunnel, NoIPv6: noIPv6, Upstreams: dns.Clients(servers, n.t.dialInside)}
		if all {
			z.Suffixes = append(z.Suffixes, ".")
		}
		r.Zones = append(r.Zones, z)
	}
	return r
}

// outsideZones says which names are asked for outside. Behind a kill switch these are those whose connections it lets out by name:
// the allowed ones, and what is excluded from the tunnel. Any other does not exist, which programs believe at once, while they would
// ask again after a refusal.
func (n *names) outsideZones(lease *transport.Lease, outside []netip.AddrPort, closed bool) []dns.Zone {
	s := n.t.s
	z := dns.Zone{
		Name: "outside", Suffixes: []string{"."}, Way: dns.Direct,
		NoIPv6:    s.cfg.DNS.NoIPv6 && !hasFamily(lease.Addresses, true) && !s.cfg.Bypass.or(lease.BypassProtocol),
		Upstreams: n.upstreams,
	}
	if len(z.Upstreams) == 0 {
		z.Upstreams = dns.Clients(outside[:min(len(outside), maxInside)], s.dialDirect)
	}
	if !closed {
		return []dns.Zone{z}
	}
	var zones []dns.Zone
	if z.Suffixes = slices.Concat(lease.DynamicExclude, s.cfg.User.DynamicExclude); len(z.Suffixes) > 0 {
		z.Name = "excluded"
		zones = append(zones, z)
	}
	if z.Suffixes = s.cfg.KillSwitch.AllowedNames; len(z.Suffixes) > 0 {
		z.Name, z.Exact = "allowed", true
		zones = append(zones, z)
	}
	return zones
}

// reverseZones returns the names below which the addresses of networks have theirs. Where there are too many, those of the widest
// networks come first.
func reverseZones(networks []netip.Prefix) []string {
	networks = slices.Clone(networks)
	slices.SortStableFunc(networks, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	var zones []string
	for _, p := range networks {
		if p.Bits() > 0 && len(zones) < maxZones {
			zones = append(zones, dns.ReverseZones(p)...)
		}
	}
	return zones
}

// asksOutside reports whether the proxy has names that are asked for outside of the tunnel.
func (n *names) asksOutside() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leaves
}

// resolverConfig returns what the resolver of the machine is told, if anything.
func (n *names) resolverConfig() (resolver.Config, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.needed {
		return resolver.Config{}, false
	}
	c := resolver.Config{Device: n.t.device, Index: n.t.index, Search: n.search, TunnelAll: n.all}
	if !n.all || n.backend == resolver.Resolved {
		// Where all names are ours, these are so even if another link has all names too: the longer suffix decides.
		c.Routes = slices.Concat(n.domains, n.watched, n.reverse)
	}
	if n.server == nil {
		if n.all && len(c.Routes) > maxRouted {
			c.Routes = nil
		}
		for _, a := range n.inside {
			c.Servers = append(c.Servers, netip.AddrPortFrom(a, 53))
		}
		return c, len(c.Servers) > 0
	}
	c.Servers = []netip.AddrPort{n.t.s.cfg.DNS.Listen}
	c.Routes = append(c.Routes, n.suffixed(maxRouted-len(c.Routes))...)
	if len(n.upstreams) > 0 || n.closed && n.backend == resolver.Resolved {
		// Nobody else is to be asked beside the proxy, or nobody else is reached through the kill switch.
		c.TunnelAll = true
	}
	// A resolv.conf cannot tell names apart, and the other way has room for so many only. The proxy can.
	if n.backend == resolver.File || len(c.Routes) > maxRouted {
		c.Routes, c.Default = nil, true
	}
	return c, true
}

// suffixed returns what becomes of the domains of the inside when a search domain of the machine is put behind a name below them, most at
// most. The proxy says that such names do not exist, and whoever else is asked would be told of those inside.
func (n *names) suffixed(most int) (list []string) {
	const maxName = 253
	for _, d := range n.domains {
		d = strings.Trim(strings.TrimPrefix(d, "*"), ".")
		for _, s := range n.behind {
			if name := d + "." + s; len(list) < most && d != "" && len(name) <= maxName && !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	return list
}

// answered takes in what names mean, before the programs that asked for them are told.
func (n *names) answered(a dns.Answer) {
	now := time.Now()
	n.remember(now, a)
	// A short name says nothing by itself of where its addresses lie. Learned beside the full one, it would be one without a rule,
	// which keeps them from leaving.
	name := a.Names[0]
	if full, ok := completed(a); ok {
		name = full
	}
	if n.t.router.Learn(now, name, a.Addrs, a.TTL) {
		n.t.settle(learnTime)
	}
}

// completed returns the name that the search domains have made of a short one, if they have. A name with a dot that stands for a longer
// one is none: so do those of content networks, whose owner is somebody else.
func completed(a dns.Answer) (full string, ok bool) {
	if len(a.Names) < 2 || strings.Contains(a.Names[0], ".") || !strings.HasPrefix(a.Names[1], a.Names[0]+".") {
		return "", false
	}
	return a.Names[1], true
}

// reused takes in what a name means that is known already.
func (n *names) reused(a dns.Answer) { n.remember(time.Now(), a) }

// remember notes the name that was asked for, and the one that the search domains have made of a short one.
func (n *names) remember(now time.Time, a dns.Answer) {
	if full, ok := completed(a); ok {
		n.seen.add(now, full, a.Addrs, a.TTL)
	}
	n.seen.add(now, a.Names[0], a.Addrs, a.TTL)
}

const (
	// maxSeen is how many addresses are remembered with their names, and maxNames how many names of each.
	maxSeen, maxNames = 1 << 14, 32
	// seenTime is how long a name of several is remembered at least, since programs keep addresses for longer than they may.
	seenTime = 10 * time.Minute
)

// A memory knows which names an answer of DNS has given an address. The zero memory is usable.
type memory struct {
	mu    sync.Mutex
	names map[netip.Addr][]sighting // the latest at the end
	order []netip.Addr              // as they came
}

// A sighting is a name that an answer gave an address.
type sighting struct {
	name    string
	expires time.Time
}

func (m *memory) add(now time.Time, name string, addrs []netip.Addr, ttl time.Duration) {
	expires := now.Add(max(ttl, seenTime))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = make(map[netip.Addr][]sighting)
	}
	for _, a := range addrs {
		a = a.Unmap()
		known, there := m.names[a]
		if !there {
			if len(m.order) == maxSeen {
				delete(m.names, m.order[0])
				m.order = m.order[1:]
			}
			m.order = append(m.order, a)
		}
		until := expires
		known = slices.DeleteFunc(known, func(o sighting) bool {
			if o.name == name && o.expires.After(until) {
				until = o.expires
			}
			return o.name == name || o.expires.Before(now)
		})
		if len(known) == maxNames {
			known = slices.Delete(known, 0, 1)
		}
		m.names[a] = append(known, sighting{name, until})
	}
}

// known returns the names that an address was given, the latest last. That one is never forgotten for its age alone.
func (m *memory) known(a netip.Addr) []string {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.names[a.Unmap()]
	names := make([]string, 0, len(list))
	for i, s := range list {
		if i == len(list)-1 || !s.expires.Before(now) {
			names = append(names, s.name)
		}
	}
	return names
}

// confirm reports whether an address was given a name.
func (m *memory) confirm(name string, a netip.Addr) bool { return slices.Contains(m.known(a), name) }
