package gateway

import "net/netip"

// special are destinations that are not what clients come for: what they mean depends on the host that sends there, which
// would be the gateway. Among them are the addresses at which cloud providers give their machines passwords.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("100.100.100.200/32"), // metadata, Alibaba Cloud
	netip.MustParsePrefix("168.63.129.16/32"),   // host services, Azure
	netip.MustParsePrefix("192.0.0.0/24"),       // protocol assignments, and metadata of Oracle Cloud
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),    // metadata, AWS
	netip.MustParsePrefix("fd20:ce::254/128"), // metadata, Google Cloud
	netip.MustParsePrefix("ff00::/8"),
}

// nat64 holds IPv4 addresses in its last 32 bits (RFC 6052), and the others hold them in theirs.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded returns the IPv4 address inside of an IPv6 address, where a translator may send the packet, or a itself.
func embedded(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is6() && nat64.Contains(a) {
		b := a.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

const portDNS = 53

// A reach is what of a destination clients may use.
type reach uint8

const (
	nothing reach = iota
	nameServer
	everything
)

// reaches reports whether clients that were told of n may have flows forwarded to dst. Port 0 stands for a ping.
func (n *Network) reaches(dst netip.AddrPort, allowSpecial []netip.Prefix) bool {
	r := n.reach(dst.Addr(), allowSpecial)
	return r == everything || r == nameServer && dst.Port() == portDNS
}

// reach returns what clients that were told of n may use of the host at dst.
func (n *Network) reach(dst netip.Addr, allowSpecial []netip.Prefix) reach {
	a := embedded(dst)
	if a.Zone() != "" {
		return nothing
	}
	if longest(special, a) >= 0 && longest(allowSpecial, a) < 0 {
		return nothing
	}
	if n.routed(a) {
		return everything
	}
	for _, d := range n.DNS {
		if d.Unmap() == a {
			return nameServer
		}
	}
	return nothing
}

// routed reports whether a belongs to the tunnel.
func (n *Network) routed(a netip.Addr) bool {
	in := longest(n.Routes, a)
	if in < 0 {
		for _, p := range n.Routes {
			if p.Addr().Is4() == a.Is4() {
				return false // the family has routes, and none of them leads there
			}
		}
	}
	out := longest(n.NoRoutes, a)
	return out < 0 || out < in
}

// longest returns the length of the longest prefix that contains a, and -1 if none does.
func longest(list []netip.Prefix, a netip.Addr) int {
	bits := -1
	for _, p := range list {
		if p.Contains(a) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}
