package stack

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A governor decides how much each TCP connection of the stack has in flight, and sends again what was lost. It stands between
// the netstack and the network, sees all that either sends, and takes this work from the netstack, which does it badly: see
// congestionControl and recovery.
//
// The netstack need not know. It is told of no loss: selective acknowledgements are blanked out, so that it never sees a
// duplicate. And it is held back by the one thing that it must obey, the window of the peer, which the governor
// makes as small as the network is (He et al., "AC/DC TCP", SIGCOMM 2016). A segment stays in memory until it is
// acknowledged in any case; the governor shares that memory.
//
// A connection is governed from its SYN on if both ends can do selective acknowledgements. One that behaves in a way that is
// not understood is left to the netstack again, whose time-outs are never switched off.
type governor struct {
	l     *link
	seed  maphash.Seed
	start time.Time

	mu     sync.Mutex
	flows  map[uint64]*flow
	recent *flow
	offers []offer // nil, or synOffers of them
	most   int     // how many are governed at most
	census census
	closed bool
}

// An offer is what a peer said in the SYN of a connection that the stack has not accepted yet.
type offer struct {
	key   uint64
	shift uint8
	sack  bool
	valid bool
}

const (
	// synOffers is how many SYNs are remembered, by their hash.
	synOffers = 256
	// maxGoverned is how many connections are governed at most, those among them that wait for an answer or that the netstack has ended
	// without a word. The others are left to the netstack.
	maxGoverned = 1 << 15
)

func (g *governor) init(l *link) {
	g.l, g.seed, g.start = l, maphash.MakeSeed(), time.Now()
	g.flows = make(map[uint64]*flow)
	g.most, g.census.pace = maxGoverned, sweepPace
}

func (g *governor) now() time.Duration { return time.Since(g.start) }

// find returns the flow of key, or nil.
func (g *governor) find(key uint64) *flow {
	if f := g.recent; f != nil && f.key == key {
		return f
	}
	f := g.flows[key]
	if f != nil {
		g.recent = f
	}
	return f
}

// keyIn returns the key of the flow of a packet that has arrived: pair are its addresses, ports the ports.
func (g *governor) keyIn(pair, ports []byte) uint64 {
	var b [36]byte
	n := copy(b[:], pair)
	n += copy(b[n:], ports)
	return maphash.Bytes(g.seed, b[:n])
}

// keyOut returns the key of the flow of a packet that leaves.
func (g *governor) keyOut(pair, ports []byte) uint64 {
	var b [36]byte
	h := len(pair) / 2
	n := copy(b[:], pair[h:])
	n += copy(b[n:], pair[:h])
	n += copy(b[n:], ports[2:4])
	n += copy(b[n:], ports[:2])
	return maphash.Bytes(g.seed, b[:n])
}

func addressPair(ip []byte) []byte {
	if ip[0]>>4 == 6 {
		return ip[8:40]
	}
	return ip[12:20]
}

// sending is called with every TCP segment that leaves the stack, before it is queued. It reports false if the segment must
// not be sent, because its data have arrived or are on their way again.
func (g *governor) sending(p *stack.PacketBuffer) bool {
	ip, tcp := p.NetworkHeader().Slice(), p.TransportHeader().Slice()
	if len(tcp) < header.TCPMinimumSize || len(ip) < header.IPv4MinimumSize {
		return true
	}
	flags := header.TCPFlags(tcp[13])
	size := p.Data().Size()
	bare := size == 0 && flags&(header.TCPFlagSyn|header.TCPFlagFin|header.TCPFlagRst) == 0
	key := g.keyOut(addressPair(ip), tcp[:4])
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return true
	}
	f := g.find(key)
	switch {
	case flags&header.TCPFlagRst != 0:
		g.forget(f)
		return true
	case flags&header.TCPFlagSyn != 0:
		g.begin(key, ip, tcp, f)
		return true
	case f == nil || !f.agreed:
		return true
	}
	f.says(tcp)
	return bare || f.sent(p, ip, tcp, size, g.now())
}

// begin is called with each SYN that leaves.
func (g *governor) begin(key uint64, ip, tcp []byte, f *flow) {
	seq := binary.BigEndian.Uint32(tcp[4:])
	if f != nil && f.una == seq+1 && f.given() == seq+1 {
		return // again
	}
	g.forget(f)
	_, sack := synOptions(tcp)
	if !sack {
		return
	}
	now := g.now()
	if len(g.flows) >= g.most {
		g.sweepAt(max(now, g.census.swept+sweepGap)) // so that the next one may find room
		return
	}
	f = &flow{g: g, key: key, id: idOut(addressPair(ip), tcp), una: seq + 1, nxt: seq + 1, began: now}
	if header.TCPFlags(tcp[13])&header.TCPFlagAck != 0 {
		if g.offers == nil {
			return
		}
		o := &g.offers[key%synOffers]
		if !o.valid || o.key != key || !o.sack {
			return
		}
		f.agree(o.shift)
		*o = offer{}
	}
	g.flows[key] = f
	g.sweepAt(now + g.census.pace)
}

// synOptions returns the options of a SYN that matter here.
func synOptions(tcp []byte) (shift uint8, sack bool) {
	n := int(tcp[12]>>4) * 4
	if n > len(tcp) || n < header.TCPMinimumSize {
		return 0, false
	}
	for o := tcp[header.TCPMinimumSize:n]; len(o) > 0; {
		switch o[0] {
		case header.TCPOptionEOL:
			return shift, sack
		case header.TCPOptionNOP:
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) < 2 || int(o[1]) > len(o) {
			return shift, sack
		}
		switch {
		case o[0] == header.TCPOptionWS && o[1] == 3:
			shift = min(o[2], header.MaxWndScale)
		case o[0] == header.TCPOptionSACKPermitted && o[1] == 2:
			sack = true
		}
		o = o[o[1]:]
	}
	return shift, sack
}

// forget ends the government of f, which may be nil.
func (g *governor) forget(f *flow) {
	if f == nil {
		return
	}
	f.release()
	delete(g.flows, f.key)
	if g.recent == f {
		g.recent = nil
	}
}

// arrived is called with every TCP segment that has arrived, in packet p of the given index in its batch, and may change it. Its
// checksum is right afterwards if it was before. If p is nothing but an acknowledgement, and so was the packet before it of the same
// connection and batch, arrived returns the index of that: p can take its place. Otherwise it returns -1.
func (g *governor) arrived(p []byte, ip *ipInfo, index int, batch uint64) (earlier int) {
	if ip.fragment || ip.total < ip.header+header.TCPMinimumSize {
		return -1
	}
	tcp := p[ip.header:ip.total]
	key := g.keyIn(ip.pairBytes(p), tcp[:4])
	flags := header.TCPFlags(tcp[13])
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.find(key)
	if flags&header.TCPFlagRst != 0 {
		if f != nil {
			g.doubt(f)
		}
		return -1
	}
	if flags&header.TCPFlagSyn != 0 {
		g.syn(f, key, tcp)
		return -1
	}
	if f == nil || !f.agreed || flags&header.TCPFlagAck == 0 {
		return -1
	}
	if f.una == f.nxt {
		f.shake()
		f.limit(tcp)
		return -1
	}
	if !ip.transportSumValid(p) {
		return -1
	}
	f.acknowledged(tcp, g.now())
	if f.fin && f.una == f.given() {
		g.forget(f)
		return -1
	}
	size := int(tcp[12]>>4) * 4
	if flags != header.TCPFlagAck || size != len(tcp) || before(binary.BigEndian.Uint32(tcp[8:]), f.una) {
		f.ackBatch = 0
		return -1
	}
	earlier = -1
	if f.ackBatch == batch && f.ackSize == ip.total {
		earlier = f.ackIndex
	} else {
		f.ackBatch, f.ackIndex, f.ackSize = batch, index, ip.total
	}
	return earlier
}

// syn takes in the SYN of a peer, for the flow f if there is one.
func (g *governor) syn(f *flow, key uint64, tcp []byte) {
	shift, sack := synOptions(tcp)
	if header.TCPFlags(tcp[13])&header.TCPFlagAck == 0 {
		if g.offers == nil {
			g.offers = make([]offer, synOffers)
		}
		g.offers[key%synOffers] = offer{key: key, shift: shift, sack: sack, valid: true}
		return
	}
	if f == nil || f.agreed || binary.BigEndian.Uint32(tcp[8:]) != f.una {
		return
	}
	if sack {
		f.shake()
		f.agree(shift)
	} else {
		g.forget(f)
	}
}

// close ends the government of all.
func (g *governor) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, f := range g.flows {
		f.release()
	}
	clear(g.flows)
	g.recent = nil
	g.census.doubts = nil
	if g.census.timer != nil {
		g.census.timer.Stop()
	}
}
