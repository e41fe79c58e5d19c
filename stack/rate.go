package stack

import "time"

// A meter measures how fast the network delivers what a flow sends (draft-cheng-iccrg-delivery-rate-estimation). For every piece that
// has arrived it compares what had arrived by now with what had when the piece was sent; the longer of the times that both took, sending
// and acknowledging, tells how much of it was the network and not a burst.
type meter struct {
	delivered int64         // bytes that have arrived so far
	at        time.Duration // when the last of them was acknowledged
	first     time.Duration // when that was sent which was acknowledged last
	// idle is the end, counted as delivered is, of what was sent while the network could have taken more, or 0.
	idle int64
}

// A mark is what the meter said when a piece was sent.
type mark struct {
	delivered int64
	at, first time.Duration
	limited   bool // by the sender having nothing to send
}

// A reading is what one acknowledgement says about the rate of delivery.
type reading struct {
	valid   bool
	prior   int64 // what had arrived when the latest piece that has arrived now was sent
	at      time.Duration
	sending time.Duration // how long it took to send what has arrived since
	limited bool
	rate    float64 // bytes per second, or 0 if this is no measure
}

// mark returns what a piece that is sent now remembers. inFlight is how much is on its way without it.
func (m *meter) mark(inFlight int, now time.Duration) mark {
	if inFlight <= 0 {
		m.at, m.first = now, now
	}
	return mark{delivered: m.delivered, at: m.at, first: m.first, limited: m.idle > 0}
}

// arrived takes in a piece of the given size, that was sent at sent with the mark k.
func (m *meter) arrived(r *reading, size int, k *mark, sent, now time.Duration) {
	m.delivered += int64(size)
	m.at = now
	if m.idle > 0 && m.delivered > m.idle {
		m.idle = 0
	}
	if r.valid && k.delivered < r.prior {
		return
	}
	m.first = sent
	*r = reading{valid: true, prior: k.delivered, at: k.at, sending: sent - k.first, limited: k.limited}
}

// read completes r, after all that an acknowledgement has told. What took less than a round trip is no measure.
func (m *meter) read(r *reading, minRTT, now time.Duration) {
	if !r.valid {
		return
	}
	took := max(r.sending, now-r.at)
	if took <= 0 || took < minRTT {
		return
	}
	r.rate = float64(m.delivered-r.prior) / took.Seconds()
}

// rest notes that inFlight bytes are on their way and there is no more to send.
func (m *meter) rest(inFlight int) { m.idle = max(m.delivered+int64(inFlight), 1) }
