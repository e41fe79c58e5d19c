// Package split tells where a destination lies: in the tunnel, outside of it, or nowhere.
//
// A gateway describes its side of the world with prefixes to include and to exclude, and with domain suffixes for services
// whose addresses change; the user may add rules of the same kinds. A [Table] is that description, made fast enough to be
// asked about every packet. It never changes: whoever holds one puts a new one in its place.
//
// # Names and addresses
//
// A packet carries an address, but a rule may speak of a name. A program that dials a name through this module, or whose
// flow is intercepted after its question for a name was seen, is routed by that name, whatever address the name has today.
// For all other packets there is [Learned]: it remembers from DNS answers which addresses belong to names that have a
// rule. Addresses that several names share, as in content delivery networks, are where this is difficult, and the
// rules of Learned say what becomes of them.
//
// # The machine's routing table
//
// Where the operating system decides what comes to the tunnel, [Table.Prefixes] and [Learned.Prefixes] say the same in the
// operating system's words: prefixes that lead into the tunnel and prefixes that lead past it, of which the longest counts.
package split

import "net/netip"

// A Way is where a destination lies. The zero Way is Nowhere, so that a rule that was forgotten lets nothing out.
type Way uint8

const (
	// Nowhere: packets to the destination must not be sent at all.
	Nowhere Way = iota
	// Direct: the destination is reached without the tunnel.
	Direct
	// Tunnel: the destination is reached through the tunnel.
	Tunnel
)

// String returns nowhere, direct or tunnel.
func (w Way) String() string {
	switch w {
	case Direct:
		return "direct"
	case Tunnel:
		return "tunnel"
	}
	return "nowhere"
}

// A Router knows the way to a destination. Host is the name that the caller asked for, or "" if there was none; addr is the
// address that it has, or the zero Addr if that is not known yet. Route is on the path of every packet: it must
// not block or allocate, and it may be called from several goroutines.
type Router interface {
	Route(host string, addr netip.Addr) Way
}
