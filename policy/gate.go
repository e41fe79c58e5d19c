package policy

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"culvert.example/vpn/packet"
)

// A Side says which address of a packet a [Gate] looks at.
type Side uint8

const (
	// Source is the address a packet comes from.
	Source Side = iota
	// Destination is the address a packet goes to.
	Destination
)

// A Gate drops packets that have another address than those it was made with: a client sends only from the addresses of its
// lease, and takes only what was sent to them (RFC 2827). It is a packet.Filter and safe for concurrent use.
type Gate struct {
	v4      [][4]byte
	v6      [][16]byte
	side    Side
	dropped atomic.Uint64
}

// NewGate returns a Gate that lets packets through whose address on the given side is one of addrs.
func NewGate(side Side, addrs ...netip.Addr) *Gate {
	g := &Gate{side: side}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			g.v4 = append(g.v4, a.As4())
		} else {
			g.v6 = append(g.v6, a.As16())
		}
	}
	return g
}

// Dropped returns how many packets the Gate has dropped.
func (g *Gate) Dropped() uint64 { return g.dropped.Load() }

// Filter implements packet.Filter.
func (g *Gate) Filter(b packet.Batch) packet.Batch {
	kept := 0
	for i := range b {
		if !g.pass(b[i].Bytes()) {
			continue
		}
		if kept != i {
			b[kept], b[i] = b[i], b[kept]
		}
		kept++
	}
	if n := len(b) - kept; n > 0 {
		g.dropped.Add(uint64(n))
	}
	return b[:kept]
}

func (g *Gate) pass(p []byte) bool {
	if len(p) < 20 {
		return false
	}
	switch p[0] >> 4 {
	case 4:
		at := 12 + 4*int(g.side)
		return slices.Contains(g.v4, [4]byte(p[at:at+4]))
	case 6:
		if len(p) < 40 {
			return false
		}
		at := 8 + 16*int(g.side)
		return slices.Contains(g.v6, [16]byte(p[at:at+16]))
	}
	return false
}
