package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Bounds on a Config. What exceeds them is refused.
const (
	maxGuests    = 32
	maxEndpoints = 256
	maxPrefixes  = 1024
	maxPorts     = 16
	// MaxPortal is how long a portal window may be open.
	MaxPortal = time.Hour
	// MinLease and MaxLease bound a Lease.
	MinLease, MaxLease = time.Second, 10 * time.Minute
)

// A Config says what may pass. The zero Config closes everything but the loopback interface, DHCP and neighbour discovery.
type Config struct {
	// Device is the tunnel device, by name: everything may pass through it. It need not exist. "" means that there is none.
	Device string

	// Guests are interfaces that lead to containers and virtual machines on this machine, such as docker0 or br-*, where a star
	// at the end stands for anything. They may talk to this machine, to each other and through the tunnel, and nowhere else.
	// Without them nothing is forwarded at all. At most 32.
	Guests []string

	// Gateways may be reached while the tunnel is down, by anybody on this machine. At most 256.
	Gateways []Endpoint

	// Mark is the mark (SO_MARK) of our own sockets, which may send to anywhere; Mask is which bits of it count, all if it is
	// zero. A Mark of zero means that there is none. Replies are recognised by connection tracking, which the kernel
	// switches on for it; naming Gateways instead avoids that.
	Mark, Mask uint32

	// Resolvers are DNS servers that may be asked, over UDP and TCP, to find a gateway. A port of 0 means 53. Any program can
	// ask them: name them only while the tunnel is down. At most 64.
	Resolvers []netip.AddrPort

	// Hosts may be reached at every port, such as the AllowedHosts of an always-on profile. Prefixes shorter than /8 (IPv4) or
	// /16 (IPv6) are refused, since they would be a hole and not a host. At most 1024 together with LAN.
	Hosts []netip.Prefix

	// LAN is the local network, with the multicast addresses that are wanted of it. It must be private, link-local or
	// multicast of such scope: a stranger's DHCP server can call anything a local network. PublicLAN allows any other prefix
	// that Hosts would allow.
	LAN       []netip.Prefix
	PublicLAN bool

	// Portal is a window in which a person can log in at a captive portal.
	Portal Portal

	// Lease, if it is not zero, makes the firewall fail open: if neither Apply nor Renew is called for so long, the kernel lets
	// everything pass until one is. From one second to ten minutes. Zero fails closed.
	Lease time.Duration

	// Reject answers what this machine may not send with a reset of TCP or an error of ICMP, so that programs fail at once.
	// Otherwise they wait for their own timeouts.
	Reject bool
}

// An Endpoint is where a gateway listens.
type Endpoint struct {
	// Addr is its address and port. Link-local addresses are refused, as are multicast ones and port 0.
	Addr netip.AddrPort
	// Network is "tcp" or "udp", or "" for both.
	Network string
}

// A Portal is a window for the web pages of a captive portal. It closes by itself, in the kernel, also when the process that
// opened it is gone. Time in which the machine sleeps does not count.
type Portal struct {
	// Until is when it closes. The zero Time, or one that is past, means that it is not open. At most an hour from now.
	Until time.Time
	// Ports are the TCP ports that may be connected to, 80 and 443 if there are none. At most 16.
	Ports []uint16
	// Resolvers are DNS servers that may be asked for names, over UDP and TCP. A port of 0 means 53. At most 64.
	Resolvers []netip.AddrPort
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// local is what the LAN may be: RFC 1918, RFC 3927, RFC 4193, RFC 4291 §2.5.6, the limited broadcast address, and multicast
// that routers keep in the site (RFC 2365, RFC 4291 §2.7).
func local() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("239.0.0.0/8"),
		netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("ff01::/16"), netip.MustParsePrefix("ff02::/16"), netip.MustParsePrefix("ff03::/16"),
		netip.MustParsePrefix("ff04::/16"), netip.MustParsePrefix("ff05::/16"),
	}
}

// normal returns a copy of c with defaults filled in, addresses in their plain form and duplicates gone, or says which field
// is wrong.
func (c Config) normal(now time.Time) (Config, error) {
	if c.Device != "" {
		if err := checkInterface("Device", c.Device); err != nil {
			return c, err
		}
	}
	if len(c.Guests) > maxGuests {
		return c, invalid("Guests: %d interfaces, at most %d; use a star for many", len(c.Guests), maxGuests)
	}
	for i, g := range c.Guests {
		stem := strings.TrimSuffix(g, "*")
		if stem == "" {
			return c, invalid("Guests[%d]: %q stands for every interface; write what its name begins with", i, g)
		}
		if err := checkInterface(fmt.Sprintf("Guests[%d]", i), stem); err != nil {
			return c, err
		}
	}
	c.Guests = unique(c.Guests, strings.Compare)

	if len(c.Gateways) > maxEndpoints {
		return c, invalid("Gateways: %d of them, at most %d", len(c.Gateways), maxEndpoints)
	}
	gateways := make([]Endpoint, 0, 2*len(c.Gateways))
	for i, g := range c.Gateways {
		addr, err := checkUnicast(fmt.Sprintf("Gateways[%d]", i), g.Addr.Addr())
		if err != nil {
			return c, err
		}
		if addr.IsLinkLocalUnicast() {
			return c, invalid("Gateways[%d]: %v is a link-local address; use one that is routed", i, addr)
		}
		if g.Addr.Port() == 0 {
			return c, invalid("Gateways[%d]: %v has no port; add it, such as :443", i, addr)
		}
		to := netip.AddrPortFrom(addr, g.Addr.Port())
		switch g.Network {
		case "":
			gateways = append(gateways, Endpoint{to, "tcp"}, Endpoint{to, "udp"})
		case "tcp", "udp":
			gateways = append(gateways, Endpoint{to, g.Network})
		default:
			return c, invalid("Gateways[%d]: network %q; use tcp or udp, or nothing for both", i, g.Network)
		}
	}
	c.Gateways = unique(gateways, func(a, b Endpoint) int {
		if n := a.Addr.Compare(b.Addr); n != 0 {
			return n
		}
		return strings.Compare(a.Network, b.Network)
	})

	if c.Mark != 0 && c.Mask == 0 {
		c.Mask = 1<<32 - 1
	}
	if c.Mark&^c.Mask != 0 {
		return c, invalid("Mark: %#x has bits outside of Mask %#x, so that no packet would match", c.Mark, c.Mask)
	}

	var err error
	if c.Resolvers, err = checkResolvers("Resolvers", c.Resolvers); err != nil {
		return c, err
	}

	if n := len(c.Hosts) + len(c.LAN); n > maxPrefixes {
		return c, invalid("Hosts and LAN: %d prefixes, at most %d", n, maxPrefixes)
	}
	if c.Hosts, err = checkPrefixes("Hosts", c.Hosts, nil); err != nil {
		return c, err
	}
	allowed := local()
	if c.PublicLAN {
		allowed = nil
	}
	if c.LAN, err = checkPrefixes("LAN", c.LAN, allowed); err != nil {
		return c, err
	}

	if c.Lease != 0 && (c.Lease < MinLease || c.Lease > MaxLease) {
		return c, invalid("Lease: %v; use zero, or from %v to %v", c.Lease, MinLease, MaxLease)
	}
	c.Portal, err = c.Portal.normal(now)
	return c, err
}

// normal does for a Portal what it does for a Config. A closed one becomes the zero Portal.
func (p Portal) normal(now time.Time) (Portal, error) {
	left := p.Until.Sub(now)
	switch {
	case len(p.Ports) > maxPorts:
		return p, invalid("Portal.Ports: %d of them, at most %d", len(p.Ports), maxPorts)
	case slices.Contains(p.Ports, 0):
		return p, invalid("Portal.Ports: 0 is not a port")
	case p.Until.IsZero() || left <= 0:
		return Portal{}, nil
	case left > MaxPortal:
		return p, invalid("Portal.Until: open for %v, at most %v", left.Round(time.Second), MaxPortal)
	case len(p.Ports) == 0:
		p.Ports = []uint16{80, 443}
	}
	p.Ports = slices.Compact(slices.Sorted(slices.Values(p.Ports)))
	var err error
	p.Resolvers, err = checkResolvers("Portal.Resolvers", p.Resolvers)
	return p, err
}

// checkResolvers returns DNS servers with their ports, sorted and without duplicates.
func checkResolvers(field string, servers []netip.AddrPort) ([]netip.AddrPort, error) {
	if len(servers) > maxEndpoints/4 {
		return nil, invalid("%s: %d of them, at most %d", field, len(servers), maxEndpoints/4)
	}
	resolvers := make([]netip.AddrPort, 0, len(servers))
	for i, r := range servers {
		addr, err := checkUnicast(fmt.Sprintf("%s[%d]", field, i), r.Addr())
		if err != nil {
			return nil, err
		}
		port := r.Port()
		if port == 0 {
			port = 53
		}
		resolvers = append(resolvers, netip.AddrPortFrom(addr, port))
	}
	return unique(resolvers, netip.AddrPort.Compare), nil
}

// checkInterface refuses what the kernel does not take for the name of an interface.
func checkInterface(field, name string) error {
	const max = 15
	if len(name) > max {
		return invalid("%s: %.40q is longer than the %d bytes of an interface name", field, name, max)
	}
	if name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '/' || r == ':' || r == '*' || r == '"' || r == '\\'
	}) {
		return invalid("%s: %q is not the name of an interface", field, name)
	}
	return nil
}

func checkUnicast(field string, addr netip.Addr) (netip.Addr, error) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return addr, invalid("%s: %v is not the address of one host", field, addr)
	}
	return addr, nil
}

// checkPrefixes returns the prefixes masked, each within one of those allowed if there are such.
func checkPrefixes(field string, prefixes, allowed []netip.Prefix) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(prefixes))
	for i, p := range prefixes {
		if !p.IsValid() {
			return nil, invalid("%s[%d]: not a prefix", field, i)
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return nil, invalid("%s[%d]: %v mixes IPv4 and IPv6", field, i, p)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		p = p.Masked()
		shortest := 8
		if p.Addr().Is6() {
			shortest = 16
		}
		inside := slices.ContainsFunc(allowed, func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Contains(p.Addr()) })
		switch {
		case allowed != nil && !inside:
			return nil, invalid("%s[%d]: %v is not a local network; set PublicLAN if it is yours", field, i, p)
		case !inside && p.Bits() < shortest:
			return nil, invalid("%s[%d]: %v is too large for an exception", field, i, p)
		}
		out = append(out, p)
	}
	return unique(out, netip.Prefix.Compare), nil
}

// unique returns a sorted copy without duplicates, nil if it is empty.
func unique[T comparable](s []T, compare func(a, b T) int) []T {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.SortFunc(s, compare)
	return slices.Compact(s)
}
