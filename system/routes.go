package system

import (
	"fmt"
	"net/netip"
	"slices"

	"culvert.example/vpn/host"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport"
)

// everything are the destinations of each family.
var everything = [...]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// splitConfig returns what a lease and the user say of destinations. Networks are those that the machine is connected to.
func (c *Config) splitConfig(lease *transport.Lease, networks []netip.Prefix) split.Config {
	s := split.Config{
		Addresses: lease.Addresses, Include: lease.Include, Exclude: lease.Exclude, DNS: lease.DNS,
		DynamicInclude: lease.DynamicInclude, DynamicExclude: lease.DynamicExclude,
		Bypass: c.Bypass.or(lease.BypassProtocol), User: c.User, PublicLAN: c.PublicLAN,
	}
	if lease.Gateway.IsValid() {
		s.Gateway = []netip.Addr{lease.Gateway.Addr().Unmap()}
	}
	if c.LocalLAN.or(lease.ExcludeLocalLAN) {
		s.LocalLAN = networks
	}
	return s
}

// strictConfig returns c for a machine with a kill switch, from which only that leaves past the tunnel which is excluded, and narrow.
func strictConfig(c split.Config) split.Config {
	narrowed := func(list []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return !narrow(p) })
	}
	c.Include, c.Bypass = nil, false
	c.Exclude, c.User.Exclude = narrowed(c.Exclude), narrowed(c.User.Exclude)
	return c
}

// dynamic reports whether destinations are split by name.
func (c *Config) dynamic(lease *transport.Lease) bool {
	return len(lease.DynamicInclude)+len(lease.DynamicExclude)+len(c.User.DynamicInclude)+len(c.User.DynamicExclude) > 0
}

// withoutIPv6 returns a lease without IPv6.
func withoutIPv6(lease *transport.Lease) *transport.Lease {
	l := *lease
	l.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), func(p netip.Prefix) bool { return p.Addr().Is6() })
	l.DNS = slices.DeleteFunc(slices.Clone(l.DNS), netip.Addr.Is6)
	return &l
}

// hasFamily reports whether an address of the family is among addrs.
func hasFamily(addrs []netip.Prefix, v6 bool) bool {
	return slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
}

// minMTU6 is the least MTU with which the kernel leaves IPv6 switched on (RFC 8200 section 5).
const minMTU6 = 1280

// describe takes in a lease. The lock of the System is held, or not needed yet.
func (t *tunnel) describe(lease *transport.Lease, networks []netip.Prefix) error {
	c := t.s.cfg.splitConfig(lease, networks)
	table, err := split.New(c)
	if err != nil {
		return fmt.Errorf("system: the routes of the gateway and the user: %w", err)
	}
	strict, err := split.New(strictConfig(c))
	if err != nil {
		return fmt.Errorf("system: the routes of the gateway and the user: %w", err)
	}
	t.strict.Store(strict)
	t.lease, t.lan = lease, t.s.cfg.LocalLAN.or(lease.ExcludeLocalLAN)
	t.in, t.out = table.Prefixes()
	t.router.SetTable(table)
	return nil
}

// tellWhole says once which family is in the tunnel as a whole although the gateway names networks of the other one only.
// It runs in the goroutine that describes leases.
func (t *tunnel) tellWhole(lease *transport.Lease) {
	for i, name := range [...]string{"IPv4", "IPv6"} {
		v6 := i == 1
		if t.toldWhole || !hasFamily(lease.Addresses, v6) || hasFamily(lease.Include, v6) || !hasFamily(lease.Include, !v6) ||
			!slices.Contains(t.in, everything[i]) || slices.Contains(t.in, everything[1-i]) {
			continue
		}
		t.toldWhole = true
		t.s.log.Warn("all "+name+" goes through the tunnel, since the gateway assigns an "+name+" address and names no "+name+" networks",
			"here", "exclude "+everything[i].String()+" from the tunnel, or what of it is wanted outside",
			"at the gateway", "name the "+name+" networks, or assign no "+name+" address and set the client bypass protocol")
	}
}

// routes fills in which destinations are reached through the device. The lock of the System is held.
func (t *tunnel) routes(s *host.Settings) (learned int) {
	lease := t.lease
	s.Device, s.Addresses, s.MTU = t.device, lease.Addresses, t.mtu
	if hasFamily(lease.Addresses, true) {
		s.MTU = max(s.MTU, minMTU6)
	}
	if lease.Gateway.IsValid() {
		s.Gateways = []netip.Addr{lease.Gateway.Addr().Unmap()}
	}
	if t.intercepts {
		// All comes to the interface, and what belongs outside leaves again, from a marked socket.
		s.Tunnel = append(s.Tunnel, everything[0])
		if !t.noIPv6 {
			s.Tunnel = append(s.Tunnel, everything[1])
		}
		return 0
	}
	return t.divide(s)
}

// divide fills in which destinations are in the tunnel, outside and nowhere. The lock of the System is held.
func (t *tunnel) divide(s *host.Settings) (learned int) {
	v4, v6 := hasFamily(t.lease.Addresses, false), hasFamily(t.lease.Addresses, true)
	if t.lan {
		s.Local = host.LocalNetworks
	}
	in, out := t.in, t.out
	moreIn, moreOut := t.router.Prefixes()
	if len(moreIn)+len(moreOut) > 0 {
		// What was learned of an address goes before a rule for the same prefix.
		known := make(map[netip.Prefix]bool, len(moreIn)+len(moreOut))
		for _, p := range slices.Concat(moreIn, moreOut) {
			known[p] = true
		}
		drop := func(p netip.Prefix) bool { return known[p] }
		in = append(slices.DeleteFunc(slices.Clone(in), drop), moreIn...)
		out = append(slices.DeleteFunc(slices.Clone(out), drop), moreOut...)
	}
	for _, p := range in {
		if p.Addr().Is6() && v6 || p.Addr().Is4() && v4 {
			s.Tunnel = append(s.Tunnel, p)
		} else {
			s.Blocked = append(s.Blocked, p)
		}
	}
	s.Direct = out
	return len(moreIn) + len(moreOut)
}

// connected returns the networks that the machine is connected to.
func (s *System) connected() []netip.Prefix {
	ifs, err := s.machine.Network().Interfaces()
	if err != nil {
		s.log.Warn("cannot list the interfaces, so the local network is not known", "err", err)
		return nil
	}
	var networks []netip.Prefix
	for _, i := range ifs {
		if i.Name == s.cfg.Device || !i.Up || i.Kind == host.Loopback || i.Kind == host.Tunnel {
			continue
		}
		for _, p := range i.Addrs {
			if !p.IsSingleIP() {
				networks = append(networks, p.Masked())
			}
		}
	}
	slices.SortFunc(networks, netip.Prefix.Compare)
	return slices.Compact(networks)
}
