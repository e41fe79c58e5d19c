package stack

import (
	"encoding/binary"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// doubtWait is how long the netstack may take to process a segment: another goroutine does that.
	doubtWait = 100 * time.Millisecond
	// sweepPace is how often all flows are looked at while connections begin.
	sweepPace = 30 * time.Second
	// sweepGap is how often that is done at most, when there are too many.
	sweepGap = time.Second
	// youth is how long the netstack may need nothing for a connection that has begun: a SYN cookie leaves when nothing is there yet.
	youth = time.Second
	// censusChunk is how many flows are taken at once. Nobody shall wait for the lock while many are looked at.
	censusChunk = 64
)

// A census finds the flows whose connection the netstack has ended without a word. It sends nothing when it takes a RST, when a
// connection is refused, and when it gives up because nobody answers; what such a flow holds would be sent again for ever.
//
// What the netstack makes of a segment is not guessed. Whether it takes a RST depends on what it has processed until then (RFC 5961
// section 3.2), and a flow whose connection lives on must not be forgotten because of a forgery. A flow is put in doubt
// instead, and a moment later the netstack is asked whether the connection is still there.
type census struct {
	doubts []doubt // in order
	timer  *time.Timer
	// When the timer looks after the doubts, and when all flows are due; 0 is never. And when they were looked at last.
	armed, sweepDue, swept time.Duration
	pace                   time.Duration
}

type doubt struct {
	f   *flow
	due time.Duration
}

// doubt has f looked at before long.
func (g *governor) doubt(f *flow) {
	if f.doubted {
		return
	}
	f.doubted = true
	due := g.now() + doubtWait
	g.census.doubts = append(g.census.doubts, doubt{f, due})
	g.censusAt(due)
}

// sweepAt has all flows looked at at the given time, or earlier.
func (g *governor) sweepAt(at time.Duration) {
	r := &g.census
	if r.sweepDue == 0 || at < r.sweepDue {
		r.sweepDue = at
		g.censusAt(at)
	}
}

func (g *governor) censusAt(at time.Duration) {
	r := &g.census
	if r.armed != 0 && r.armed <= at || g.closed {
		return
	}
	r.armed = at
	d := max(at-g.now(), 0)
	if r.timer == nil {
		r.timer = time.AfterFunc(d, func() { g.l.s.run(g.look) })
	} else {
		r.timer.Reset(d)
	}
}

// look is what the timer calls.
func (g *governor) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, now := &g.census, g.now()
	r.armed = 0
	due := slices.IndexFunc(r.doubts, func(d doubt) bool { return d.due > now })
	if due < 0 {
		due = len(r.doubts)
	}
	doubts := r.doubts[:due]
	if r.doubts = slices.Clone(r.doubts[due:]); len(r.doubts) > 0 {
		g.censusAt(now + doubtWait)
	}
	sweep := r.sweepDue > 0 && r.sweepDue <= now
	if sweep {
		r.sweepDue, r.swept = 0, now
	} else if r.sweepDue > 0 {
		g.censusAt(r.sweepDue)
	}
	chunk := make([]*flow, 0, censusChunk)
	for _, d := range doubts {
		d.f.doubted = false
		if chunk = append(chunk, d.f); len(chunk) == cap(chunk) {
			g.judge(chunk)
			chunk = chunk[:0]
		}
	}
	g.judge(chunk)
	if sweep && g.sweep(chunk[:0], now) {
		g.sweepAt(now + r.pace)
	}
}

// sweep looks at all flows that are not young, and reports whether any waits for an answer to its SYN: the netstack will end it one
// day, and nothing will tell of that. The others can wait until there are new ones. What has data under way doubts itself.
func (g *governor) sweep(chunk []*flow, now time.Duration) (waiting bool) {
	for _, f := range g.flows {
		if now-f.began < youth {
			waiting = waiting || f.unanswered()
			continue
		}
		if chunk = append(chunk, f); len(chunk) == cap(chunk) {
			waiting = g.judge(chunk) || waiting
			chunk = chunk[:0]
		}
	}
	return g.judge(chunk) || waiting
}

// judge forgets those of flows whose connection is no more, and reports whether any of the others waits for an answer to its SYN.
// It gives the lock up meanwhile: the netstack sends while it holds its own locks.
func (g *governor) judge(flows []*flow) (waiting bool) {
	if len(flows) == 0 {
		return false
	}
	var dead [censusChunk]bool
	g.mu.Unlock()
	for i, f := range flows {
		dead[i] = !g.l.s.knows(f.id)
	}
	g.mu.Lock()
	for i, f := range flows {
		switch {
		case g.flows[f.key] != f:
		case dead[i]:
			for f.holds() {
				f.unhold().DecRef() // nobody wants it any more
			}
			g.forget(f)
		default:
			waiting = waiting || f.unanswered()
		}
	}
	return waiting
}

// unanswered reports whether f waits for an answer to its SYN.
func (f *flow) unanswered() bool { return f.handshake == 0 && f.mss == 0 }

// knows reports whether the TCP connection with the given id is there.
func (s *Stack) knows(id stack.TransportEndpointID) bool {
	network := header.IPv6ProtocolNumber
	if id.LocalAddress.Len() == header.IPv4AddressSize {
		network = header.IPv4ProtocolNumber
	}
	ep, ok := s.gs.FindTransportEndpoint(network, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	if !ok {
		return false
	}
	switch ep.EndpointState() {
	case tcp.StateListen, tcp.StateClose, tcp.StateError:
		return false // it is a listener that would get the packets of this connection, or the end has just come
	}
	return true
}

// idOut returns the id of the connection of a packet that leaves: pair are its addresses, ports the ports.
func idOut(pair, ports []byte) stack.TransportEndpointID {
	h := len(pair) / 2
	return stack.TransportEndpointID{
		LocalPort: binary.BigEndian.Uint16(ports), LocalAddress: tcpip.AddrFromSlice(pair[:h]),
		RemotePort: binary.BigEndian.Uint16(ports[2:]), RemoteAddress: tcpip.AddrFromSlice(pair[h:]),
	}
}
