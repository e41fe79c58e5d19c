// Package split tells where a destination lies: in the tunnel, outside of it, or nowhere.
//
// A gateway describes its side of the world with prefixes to include and to exclude, and with domain suffixes for services
// whose addresses change. A [Table] is that description, made fast enough to be asked about every packet.
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
