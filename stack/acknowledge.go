package stack

import (
	"encoding/binary"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// delivery is what one acknowledgement has told.
type delivery struct {
	reading
	bytes    int
	rtt      time.Duration // of what was sent last and only once, or 0
	advanced bool
	sacks    bool
}

// arrive notes that c is at the peer.
func (f *flow) arrive(c *piece, d *delivery, now time.Duration) {
	d.bytes += c.size()
	if c.lost {
		f.dropped -= int64(c.size())
	}
	f.found(c)
	f.rate.arrived(&d.reading, c.size(), &c.mark, c.sent, now)
	rtt := now - c.sent
	if c.tries == 1 {
		d.rtt = rtt // pieces come in the order in which they were sent first
		if before(c.end, f.high) {
			f.reordered = true
		}
	} else if rtt < f.minRTT {
		f.needed--
		f.dropped -= int64(c.size())
		return // it was an earlier try that has arrived
	}
	if c.sent > f.rackSent || c.sent == f.rackSent && before(f.rackEnd, c.end) {
		f.rackSent, f.rackEnd, f.rackRTT = c.sent, c.end, rtt
	}
	if before(f.high, c.end) {
		f.high = c.end
	}
}

// acknowledged takes in the acknowledgement in tcp and makes it what the netstack should see: without news of losses, and with a window
// of what may be in flight.
func (f *flow) acknowledged(tcp []byte, now time.Duration) {
	ack := binary.BigEndian.Uint32(tcp[8:])
	if before(f.nxt, ack) || f.una == f.nxt && ack == f.una && f.mss == 0 {
		return
	}
	var d delivery
	if before(f.una, ack) {
		d.advanced = true
		f.advance(ack, &d, now)
	}
	dsack := f.readSACK(tcp, ack, &d, now)
	f.measure(&d)
	if d.advanced {
		f.backoff = 0
	}
	f.adapt(dsack)
	if f.probing && !before(f.una, f.probeEnd) {
		f.probing = false
		// Was it the probe that has arrived, and not what it repeats?
		if !dsack && !f.recovering && now-f.probeSent >= f.minRTT {
			f.cc.lost()
		}
	}
	if dsack {
		f.needed--
	}
	if f.recovering && !before(f.una, f.recoverTo) {
		f.recovered()
	}
	if d.bytes > 0 {
		f.rate.read(&d.reading, f.minRTT, now)
		f.news = news{
			reading: d.reading, now: now, rtt: d.rtt, srtt: f.srtt, bytes: d.bytes, una: f.una, nxt: f.nxt, pipe: f.pipe(), peak: f.peak,
			delivered: f.rate.delivered, dropped: f.dropped, recovering: f.recovering && !f.collapsed, mss: f.mss,
		}
		f.cc.acked(&f.news)
		if f.probing && d.sacks {
			f.probing = false
		}
	}
	f.detect(now)
	f.transmit(now)
	f.schedule(now)
	f.credit += d.bytes
	f.limit(tcp)
}

// advance moves una to ack.
func (f *flow) advance(ack uint32, d *delivery, now time.Duration) {
	for f.head < len(f.pieces) {
		c := &f.pieces[f.head]
		if !before(c.seq, ack) {
			break
		}
		if before(ack, c.end) {
			rest := *c
			c.end = ack
			c.fin = false
			if c.sacked {
				f.sacked -= c.size()
			} else {
				f.arrive(c, d, now)
			}
			rest.seq = ack
			*c = rest
			break
		}
		if c.sacked {
			f.sacked -= c.size()
		} else {
			f.arrive(c, d, now)
		}
		f.drop(c)
		*c = piece{}
		f.head++
	}
	f.una = ack
}

// readSACK takes in the selective acknowledgements of tcp, and replaces them by nothing. It reports whether the peer has seen
// something twice (RFC 2883).
func (f *flow) readSACK(tcp []byte, ack uint32, d *delivery, now time.Duration) (dsack bool) {
	o := option(tcp, header.TCPOptionSACK)
	if o == nil {
		return false
	}
	blocks := o[2:]
	var first [2]uint32
	for i := 0; len(blocks) >= 8; i++ {
		start, end := binary.BigEndian.Uint32(blocks), binary.BigEndian.Uint32(blocks[4:])
		blocks = blocks[8:]
		switch {
		case i == 0 && !before(ack, end):
			dsack = true
			continue
		case i == 0:
			first = [2]uint32{start, end}
		case i == 1 && !before(first[0], start) && !before(end, first[1]):
			dsack = true
		}
		if !before(start, end) || before(start, f.una) || before(f.nxt, end) {
			continue
		}
		f.mark(start, end, d, now)
	}
	blank(tcp, o)
	return dsack
}

// mark notes that the peer has what is between start and end.
func (f *flow) mark(start, end uint32, d *delivery, now time.Duration) {
	i := f.at(start)
	for ; i < len(f.pieces) && before(f.pieces[i].seq, end); i++ {
		c := &f.pieces[i]
		if c.sacked {
			continue
		}
		if before(c.seq, start) {
			f.split(start)
			continue // the part behind is next
		}
		if before(end, c.end) {
			f.split(end)
			c = &f.pieces[i]
		}
		f.arrive(c, d, now)
		d.sacks = true
		c.sacked = true
		f.sacked += c.size()
		f.drop(c)
	}
	f.join(start, end)
}

// join makes one of the pieces around start and end that have arrived.
func (f *flow) join(start, end uint32) {
	i := max(f.at(start)-1, f.head)
	for i+1 < len(f.pieces) && !before(end, f.pieces[i].seq) {
		a, b := &f.pieces[i], &f.pieces[i+1]
		if !a.sacked || !b.sacked {
			i++
			continue
		}
		a.end, a.fin = b.end, b.fin
		f.pieces = slices.Delete(f.pieces, i+1, i+2)
	}
}

// measure takes in a round-trip time (RFC 6298).
func (f *flow) measure(d *delivery) {
	rtt := d.rtt
	if rtt <= 0 {
		return
	}
	if f.minRTT == 0 || rtt < f.minRTT {
		f.minRTT = rtt
	}
	if f.srtt == 0 {
		f.srtt, f.rttvar = rtt, rtt/2
		return
	}
	f.rttvar += ((f.srtt - rtt).Abs() - f.rttvar) / 4
	f.srtt += (rtt - f.srtt) / 8
}

// burst is how many segments an acknowledgement may let go besides those that credit pays for.
const burst = 16

// limit sets the window in tcp to what may be in flight, unless the peer has less room. A segment that others have overtaken says
// nothing of that, however long ago the others came: see acks.
// What it opens is bounded by what has arrived since something was sent: an acknowledgement that closes a hole
// must not let a whole window go at once.
func (f *flow) limit(tcp []byte) {
	if !before(binary.BigEndian.Uint32(tcp[8:]), f.una) {
		f.room = binary.BigEndian.Uint16(tcp[14:])
	} else if binary.BigEndian.Uint16(tcp[14:]) != f.room {
		setWindow(tcp, f.room)
	}
	if f.mss == 0 {
		return
	}
	open := max(int(f.cc.window())-f.pipe()-f.heldBytes, 0)
	if pace := f.cc.pace(); pace > 0 {
		// After a pause of the acknowledgements little is in flight, and it takes a round trip until more of them come: what they
		// would have let go has to be at hand by then. Half a window fills the path.
		open = min(open, max(max(f.stock(pace), int(f.cc.window()/2)-f.pipe())-f.heldBytes, 0))
	} else {
		open = min(open, 2*f.credit+burst*f.mss)
	}
	room := open + int(f.given()-f.una)
	unit := 1 << f.shift
	window := (room + unit - 1) >> f.shift
	if window < int(binary.BigEndian.Uint16(tcp[14:])) {
		setWindow(tcp, uint16(window))
	}
}
