package stack

import "time"

// A control is the congestion control of a flow: it says how much may be in flight, and how fast it may leave.
type control interface {
	// window returns how many bytes may be in flight.
	window() float64
	// pace returns how many bytes may leave in a second, or 0 if it does not matter when they do.
	pace() float64
	// acked takes in that something has arrived.
	acked(*news)
	// lost is called once for each round trip in which something was lost, and undo if what was sent again since was for nothing.
	lost()
	undo()
	// collapsed is called when everything in flight seems to be lost, and restored when that has arrived.
	collapsed()
	restored()
}

// newControl returns a control for segments of mss bytes and a path on which the handshake took this long, or 0 if that is not known.
//
// CUBIC takes every lost packet for a queue, and sends bursts that overflow the socket buffers of VPN gateways: the longer the round trip,
// the less is left of the path. Where it is too short to pace, though, acknowledgements spread what is sent well enough, the
// window is back soon, and bbr, without its pacing, loses more.
func newControl(handshake time.Duration, mss int) control {
	if handshake > 0 && handshake < minPacedRTT {
		c := new(cubic)
		c.init(mss)
		return c
	}
	b := new(bbr)
	b.init(mss)
	return b
}

// News are what an acknowledgement tells a control.
type news struct {
	reading
	now        time.Duration
	rtt, srtt  time.Duration // rtt is 0 if there is none
	bytes      int           // that have arrived with it
	una, nxt   uint32
	pipe, peak int // bytes in flight now, and the most of the last round trip
	delivered  int64
	dropped    int64 // bytes that were lost so far
	recovering bool
	mss        int
}
