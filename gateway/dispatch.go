package gateway

import (
	"net/netip"

	"culvert.example/vpn/packet"
)

// A dispatcher sends the packets of a batch to the clients that they are for. It belongs to one goroutine.
type dispatcher struct {
	owners [2 * batchSize]*session
	group  [2 * batchSize]packet.Buf
}

// dispatch sends the packets of b, in order for each client, and in one piece for each as far as the batch goes. Those for nobody, and those
// that fits says no to, are dropped; fits may be nil. It leaves other Bufs in b.
func (d *dispatcher) dispatch(srv *Server, b packet.Batch, fits func(*session, []byte) bool) {
	for len(b) > len(d.owners) {
		d.dispatch(srv, b[:len(d.owners)], fits)
		b = b[len(d.owners):]
	}
	var last netip.Addr
	var to *session
	same := true
	for i := range b {
		dst, ok := destination(b[i].Bytes())
		switch {
		case !ok:
			to, last = nil, netip.Addr{}
		case dst != last:
			last = dst
			to, _ = srv.table.owner(dst)
		}
		d.owners[i] = to
		if to != nil && fits != nil && !fits(to, b[i].Bytes()) {
			d.owners[i] = nil
		}
		same = same && d.owners[i] == d.owners[0]
	}
	if same {
		// Mostly they are for one client.
		if len(b) > 0 && d.owners[0] != nil {
			d.owners[0].send(b)
			d.owners[0] = nil
		}
		return
	}
	for i := range b {
		to := d.owners[i]
		if to == nil {
			continue
		}
		n := 0
		for j := i; j < len(b); j++ {
			if d.owners[j] == to {
				d.group[n] = b[j]
				n++
			}
		}
		to.send(d.group[:n])
		n = 0
		for j := i; j < len(b); j++ {
			if d.owners[j] == to {
				b[j], d.group[n], d.owners[j] = d.group[n], packet.Buf{}, nil
				n++
			}
		}
	}
}
