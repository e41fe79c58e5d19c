package gateway

import (
	"net/netip"
	"slices"

	"culvert.example/vpn/packet"
)

// A dispatcher sends the packets of a batch to the clients that they are for. It belongs to one goroutine.
type dispatcher struct {
	owners [2 * batchSize]*session
	group  [2 * batchSize]packet.Buf
}

// dispatch sends the packets of b, in order for each client, and in one piece for each as far as the batch goes. Those for nobody are
// dropped. Those that are too large for their client are left to dev, which may be nil if there are none. It leaves other Bufs in b.
func (d *dispatcher) dispatch(srv *Server, b packet.Batch, dev *device) {
	for len(b) > 0 {
		n, narrow := d.find(srv, b, dev)
		d.send(b[:n])
		b = b[n:]
		if narrow != nil {
			dev.reduce(narrow, b[0].Bytes())
			b = b[1:]
		}
	}
}

// find finds the owners of the first n packets of b. If narrow is not nil, the packet that follows them is too large for it.
func (d *dispatcher) find(srv *Server, b packet.Batch, dev *device) (n int, narrow *session) {
	var last netip.Addr
	var to *session
	for n < min(len(b), len(d.owners)) {
		p := b[n].Bytes()
		dst, ok := destination(p)
		switch {
		case !ok:
			to, last = nil, netip.Addr{}
		case dst != last:
			last = dst
			to, _ = srv.table.owner(dst)
		}
		if to != nil && dev != nil && !dev.fits(to, p) {
			return n, to
		}
		d.owners[n] = to
		n++
	}
	return n, nil
}

// send sends the packets of b to their owners.
func (d *dispatcher) send(b packet.Batch) {
	if len(b) == 0 {
		return
	}
	owners := d.owners[:len(b)]
	defer clear(owners)
	first := owners[0]
	if !slices.ContainsFunc(owners, func(s *session) bool { return s != first }) {
		// Mostly they are for one client.
		if first != nil {
			first.send(b)
		}
		return
	}
	for i, to := range owners {
		if to == nil {
			continue
		}
		n := 0
		for j := i; j < len(b); j++ {
			if owners[j] == to {
				d.group[n] = b[j]
				n++
			}
		}
		to.send(d.group[:n])
		n = 0
		for j := i; j < len(b); j++ {
			if owners[j] == to {
				b[j], d.group[n], owners[j] = d.group[n], packet.Buf{}, nil
				n++
			}
		}
	}
}
