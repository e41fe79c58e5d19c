package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Defaults of the zero values in [Settings].
const (
	DefaultTable    = 10400  // number of the routing table
	DefaultPriority = 10400  // of the rule that looks it up, which is after the table of local addresses and before the main one
	DefaultMark     = 0x28a0 // on packets of the tunnel itself
	DefaultMask     = 0xffffffff
)

const (
	maxPrefixes  = 1 << 18 // in all lists of Settings together
	maxAddresses = 64
	maxGateways  = 1024
)

// Local says what becomes of the networks that the machine itself is connected to, where no prefix of the Settings that is
// more specific says otherwise. "Connected" means private ones (RFC 1918, RFC 3927, RFC 4193): a network outside
// chooses the addresses that it hands out, and by handing out others it could draw destinations of its choice out of the
// tunnel (CVE-2023-36672). Other connected networks are named in [Settings.Direct] by somebody who knows them.
type Local uint8

const (
	// LocalTunnelled: connected networks get no exception.
	LocalTunnelled Local = iota

	// LocalVirtual: IPv4 networks of virtual interfaces, such as those of containers and virtual machines, stay outside.
	LocalVirtual

	// LocalNetworks: connected networks stay outside, and IPv4 multicast and broadcast with them.
	LocalNetworks

	// LocalRoutes: every route of the machine but its default routes goes before the tunnel. This is the only
	// choice that honours routes to networks behind other routers. It also honours those that a hostile DHCP server hands
	// out (CVE-2024-3661), so it is for networks that are trusted.
	LocalRoutes
)

// String returns the name of the choice: tunnelled, virtual, networks or routes.
func (l Local) String() string {
	switch l {
	case LocalTunnelled:
		return "tunnelled"
	case LocalVirtual:
		return "virtual"
	case LocalNetworks:
		return "networks"
	case LocalRoutes:
		return "routes"
	}
	return fmt.Sprintf("Local(%d)", uint8(l))
}

// Settings say how the machine should be. The zero Settings leave it as it is.
//
// Of the prefixes that contain a destination the most specific decides. Of equal ones, Gateways go before Blocked, Blocked
// before Direct, and Direct before Tunnel. Prefixes need not be masked, may overlap and may be repeated. There may be 2^18
// of them.
type Settings struct {
	// Device is the name of the tunnel's network interface, which must exist. It is switched on. Without it there can be no
	// Addresses, MTU or Tunnel.
	Device string

	// Addresses are the addresses of the lease, each with the length of its on-link prefix from 1 to 32 or 128, which
	// belongs to the tunnel as if it was in Tunnel.
	Addresses []netip.Prefix

	// MTU is that of the device, in bytes, from 576 to 65535, and from 1280 with an IPv6 address (RFC 8200, section 5).
	// Zero leaves it as it is.
	MTU int

	// Tunnel are the destinations reached through the device; 0.0.0.0/0 or ::/0 is all of a family. Direct are those that stay
	// outside. Blocked are those that nothing may be sent to: a program that tries is told at once that they are
	// unreachable, and uses another address if it knows one. A destination in none of them stays outside.
	Tunnel, Direct, Blocked []netip.Prefix

	// Gateways are the outer addresses of the gateway, which stay outside.
	Gateways []netip.Addr

	// Local says what becomes of networks that the machine is connected to.
	Local Local

	// Table is the number of a routing table that no other program uses, from 1 to 2^32-1 except 253 to 255, and Priority
	// that of the rule which looks it up, from 2 to 32765; the number before it is used for [LocalRoutes]. Zero means
	// [DefaultTable] and [DefaultPriority].
	Table, Priority int

	// Mark is the SO_MARK of the sockets that carry the tunnel, and Mask says which bits of it count. Zero means [DefaultMark]
	// and [DefaultMask].
	Mark, Mask uint32

	// Resolver, Desktop and Firewall are for the [Part] of that name in [Config], which knows their type. Nil means that the Part
	// has nothing to do.
	Resolver, Desktop, Firewall any
}

// withDefaults returns s with the defaults in place, and lists that nobody else holds.
func (s Settings) withDefaults() Settings {
	s.Addresses = slices.Clone(s.Addresses)
	s.Tunnel, s.Direct, s.Blocked = slices.Clone(s.Tunnel), slices.Clone(s.Direct), slices.Clone(s.Blocked)
	s.Gateways = slices.Clone(s.Gateways)
	if s.Table == 0 {
		s.Table = DefaultTable
	}
	if s.Priority == 0 {
		s.Priority = DefaultPriority
	}
	if s.Mark == 0 {
		s.Mark = DefaultMark
	}
	if s.Mask == 0 {
		s.Mask = DefaultMask
	}
	return s
}

// validate checks what can be checked without looking at the machine. The error names the field.
func (s Settings) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrSettings, fmt.Sprintf(format, args...))
	}
	if s.Device == "" {
		switch {
		case len(s.Addresses) > 0:
			return bad("Addresses without Device")
		case len(s.Tunnel) > 0:
			return bad("Tunnel without Device")
		case s.MTU != 0:
			return bad("MTU without Device")
		}
	} else if err := checkName(s.Device); err != nil {
		return bad("Device: %v", err)
	}
	if n := len(s.Tunnel) + len(s.Direct) + len(s.Blocked); n > maxPrefixes {
		return bad("%d prefixes in Tunnel, Direct and Blocked, at most %d are possible", n, maxPrefixes)
	}
	if len(s.Addresses) > maxAddresses {
		return bad("%d Addresses, at most %d are possible", len(s.Addresses), maxAddresses)
	}
	if len(s.Gateways) > maxGateways {
		return bad("%d Gateways, at most %d are possible", len(s.Gateways), maxGateways)
	}
	v6 := false
	for _, p := range s.Addresses {
		a := p.Addr()
		switch {
		case !p.IsValid():
			return bad("an address in Addresses is not one")
		case a.Is4In6():
			return bad("Addresses: %v is an IPv4 address in the form of IPv6", p)
		case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return bad("Addresses: %v cannot be the address of a machine", p)
		case p.Bits() == 0:
			return bad("Addresses: the prefix length of %v is 0; it would be a default route, which belongs into Tunnel", p)
		}
		v6 = v6 || a.Is6()
	}
	for field, list := range map[string][]netip.Prefix{"Tunnel": s.Tunnel, "Direct": s.Direct, "Blocked": s.Blocked} {
		for _, p := range list {
			if !p.IsValid() {
				return bad("a prefix in %s is not one", field)
			}
			if p.Addr().Is4In6() {
				return bad("%s: %v is an IPv4 prefix in the form of IPv6", field, p)
			}
		}
	}
	for _, a := range s.Gateways {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return bad("Gateways: %v cannot be the address of a gateway", a)
		}
	}
	switch {
	case s.MTU != 0 && (s.MTU < 576 || s.MTU > 65535):
		return bad("MTU %d is not between 576 and 65535", s.MTU)
	case s.MTU != 0 && s.MTU < 1280 && v6:
		return bad("MTU %d is less than the 1280 that IPv6 needs (RFC 8200, section 5)", s.MTU)
	case s.Local > LocalRoutes:
		return bad("Local: %v is unknown", s.Local)
	case s.Table < 0 || s.Table > 1<<32-1 || s.Table >= 253 && s.Table <= 255:
		return bad("Table %d is not a number of a free routing table", s.Table)
	case s.Priority != 0 && (s.Priority < 2 || s.Priority > 32765):
		return bad("Priority %d is not between 2 and 32765", s.Priority)
	case s.Mark != 0 && s.Mask != 0 && s.Mark&^s.Mask != 0:
		return bad("Mark %#x has bits that are not in Mask %#x", s.Mark, s.Mask)
	}
	return nil
}

// checkName checks the name of a network interface. The kernel allows more, but what nobody has in a name need not end up in
// arguments of commands.
func checkName(name string) error {
	if len(name) == 0 || len(name) > 15 {
		return fmt.Errorf("the name %q is not between 1 and 15 bytes long", name)
	}
	if name == "." || name == ".." || name[0] == '-' {
		return fmt.Errorf("%q is not a name", name)
	}
	for i := range len(name) {
		c := name[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("._-+@#", c) >= 0) {
			return fmt.Errorf("the name %q has the character %q", name, c)
		}
	}
	return nil
}
