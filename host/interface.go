package host

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// A Kind is what a network interface is made of.
type Kind uint8

const (
	// Unknown: nothing below is known to fit.
	Unknown Kind = iota
	// Wired: Ethernet and its like.
	Wired
	// WiFi: IEEE 802.11.
	WiFi
	// Mobile: mobile broadband, and phones that share theirs.
	Mobile
	// Virtual: a connection within this machine, to a container or a virtual machine; inside a container, the way out.
	Virtual
	// Tunnel: packets inside other packets, such as of a VPN.
	Tunnel
	// Loopback: this machine itself.
	Loopback
)

// String returns the name of the kind in lower case.
func (k Kind) String() string {
	switch k {
	case Unknown:
		return "unknown"
	case Wired:
		return "wired"
	case WiFi:
		return "wifi"
	case Mobile:
		return "mobile"
	case Virtual:
		return "virtual"
	case Tunnel:
		return "tunnel"
	case Loopback:
		return "loopback"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Rank says how good interfaces of the kind are to leave the machine by, lower being better: wired before WiFi before mobile
// broadband before all else.
func (k Kind) Rank() int {
	switch k {
	case Wired:
		return 0
	case WiFi:
		return 1
	case Mobile:
		return 2
	case Unknown:
		return 3
	case Virtual:
		return 4
	case Tunnel:
		return 5
	}
	return 6
}

// An Interface is a network interface at some moment.
type Interface struct {
	Index int
	Name  string
	Kind  Kind

	// MTU is in bytes.
	MTU int

	// Up says that the interface is switched on, Running that it has a carrier as well, so that it could be used.
	Up, Running bool

	// Addrs are its addresses, each with the length of its network's prefix, without those that must not be used yet or any
	// more (tentative, duplicate or deprecated, RFC 4862).
	Addrs []netip.Prefix
}

// An Exit is a way out of the machine to some destination.
type Exit struct {
	// Interface is the name of the interface, to bind sockets to (SO_BINDTODEVICE); Index is its index.
	Interface string
	Index     int
	Kind      Kind

	// Source is the address that packets to the destination have, to bind sockets to.
	Source netip.Addr

	// Router is where packets go first; the zero Addr if that is the destination itself.
	Router netip.Addr

	// Route is the prefix of the route, and Metric its metric, of which lower ones are preferred.
	Route  netip.Prefix
	Metric int
}

// Better reports whether e is a better way out than o for the same destination, in the order of [Network.Exits]. Of two that differ
// in nothing but their interfaces, neither is.
func (e Exit) Better(o Exit) bool { return compareExits(e, o) < 0 }

// sortExits puts the best first: as the kernel does, the most specific route decides; then, as it does not, the kind of the
// interface; then the metric.
func sortExits(exits []Exit) {
	slices.SortStableFunc(exits, func(a, b Exit) int {
		return cmp.Or(compareExits(a, b), cmp.Compare(a.Index, b.Index))
	})
}

func compareExits(a, b Exit) int {
	return cmp.Or(
		cmp.Compare(b.Route.Bits(), a.Route.Bits()),
		cmp.Compare(a.Kind.Rank(), b.Kind.Rank()),
		cmp.Compare(a.Metric, b.Metric),
	)
}

// NetworkConfig says how to open a [Network].
type NetworkConfig struct {
	// Kind may correct the kind of an interface, which is all known about it but its Addrs. Nil leaves it as it is. It must not
	// call the Network.
	Kind func(Interface) Kind
}
