package stack

import (
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A flow is the sending side of a TCP connection as the governor sees it. Its losses are found by the times at which
// segments were sent (RACK and tail loss probes, RFC 8985), and how much it sends is up to its control.
//
// All times are since the governor was made. The lock is that of the governor.
type flow struct {
	g      *governor
	key    uint64
	id     stack.TransportEndpointID
	agreed bool  // the handshake has come as far as the options of both
	shift  uint8 // of the peer's window
	mss    int
	fin    bool // has been sent
	// doubted is whether it will be looked at soon whether the connection is still there.
	doubted bool

	una, nxt uint32
	room     uint16 // the window that the peer has announced with una
	// pieces are what is between una and nxt, in order and without gaps; pieces[:head] are gone.
	pieces       []piece
	head         int
	sacked, lost int // bytes of pieces that have arrived, and of those that are lost and not sent again yet
	high         uint32
	// peak is the most that was on its way since peakUntil was sent, about a round trip ago.
	peak      int
	peakUntil uint32
	// credit is what has arrived and was not answered by something new yet, in bytes.
	credit int
	cc     control
	news   news // for cc
	rate   meter
	// dropped is how many bytes were lost so far.
	dropped int64

	// held is what the netstack has sent and the pacer has not let go yet, in order; held[:heldHead] are gone.
	held      []*stack.PacketBuffer
	heldHead  int
	heldBytes int
	// free is when the pacer lets the next packet go.
	free   time.Duration
	pacer  *time.Timer
	pacing bool // the pacer is set

	// The handshake began when the SYN left, and took this long, or 0 if that is not known.
	began, handshake time.Duration

	srtt, rttvar, minRTT time.Duration

	// The latest sent of all pieces that have arrived, and how long it took.
	rackSent, rackRTT time.Duration
	rackEnd           uint32
	reordered         bool // segments have overtaken each other
	patience          int  // how many quarters of the least round-trip time a segment may be late by
	patienceUntil     uint32

	recovering bool // from a loss, until una reaches recoverTo
	collapsed  bool // from the loss of everything
	recoverTo  uint32
	backoff    uint
	// needed is how many segments had to be sent again in the recovery. What of that was for nothing is taken back: if all was, nothing
	// had been lost.
	needed int

	probing   bool // a tail loss probe is out, which ends at probeEnd
	probeEnd  uint32
	probeSent time.Duration

	timer        *time.Timer
	due, armed   time.Duration // what is due, and when the timer looks after it; 0 is never
	dueIs        reason
	latest       [8]byte // acknowledgement and window of the segment that was sent last: bytes 8 to 16 of its header
	latestStamps [8]byte // its time stamps

	// ackBatch is the batch whose packet ackIndex, of ackSize bytes, was nothing but an acknowledgement and the last of this flow.
	ackBatch          uint64
	ackIndex, ackSize int
}

// A piece is a part of what is in flight.
type piece struct {
	seq, end uint32
	// pkt is the packet that it was first sent in, whose payload begins at sequence number base. It is nil once the
	// piece has arrived.
	pkt          *stack.PacketBuffer
	base         uint32
	sent         time.Duration
	mark         mark
	tries        int
	sacked, lost bool
	fin          bool // the last sequence number is that of a FIN
}

func (c *piece) size() int { return int(c.end - c.seq) }

func (f *flow) agree(shift uint8) {
	f.agreed, f.shift, f.patience = true, shift, 1
}

// shake notes that the peer has answered the SYN.
func (f *flow) shake() {
	if f.handshake == 0 && f.mss == 0 {
		f.handshake = max(f.g.now()-f.began, 1)
	}
}

// release gives back what f holds.
func (f *flow) release() {
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.pacer != nil {
		f.pacer.Stop()
	}
	for f.holds() {
		p := f.unhold()
		if !f.g.l.queue.put(p, false) {
			f.g.l.s.stats.outDropped.Add(1)
		}
		p.DecRef()
	}
	for i := f.head; i < len(f.pieces); i++ {
		f.drop(&f.pieces[i])
	}
	f.pieces = nil
	f.head = 0
	f.agreed = false
}

func (f *flow) drop(c *piece) {
	if c.pkt != nil {
		c.pkt.DecRef()
		c.pkt = nil
	}
}

func before(a, b uint32) bool { return int32(a-b) < 0 }

// pipe returns how many bytes are believed to be on their way.
func (f *flow) pipe() int { return int(f.nxt-f.una) - f.sacked - f.lost }

// sent notes a segment with data or a FIN. It reports false if it is not to be sent.
func (f *flow) sent(p *stack.PacketBuffer, ip, tcp []byte, size int, now time.Duration) bool {
	mss := size
	if p.GSOOptions.MSS > 0 {
		mss = int(p.GSOOptions.MSS)
	}
	smaller := f.mss > 0 && p.GSOOptions.MSS > 0 && mss < f.mss
	if f.mss == 0 {
		f.cc = newControl(f.handshake, max(mss, 1))
		f.mss = mss
	} else if p.GSOOptions.MSS > 0 {
		f.mss = mss
	}
	seq := binary.BigEndian.Uint32(tcp[4:])
	end := seq + uint32(size)
	fin := header.TCPFlags(tcp[13])&header.TCPFlagFin != 0
	if fin {
		end++
	}
	given := f.given()
	if !before(given, end) {
		return f.sentAgain(seq, end, smaller, now)
	}
	if seq != given {
		// The netstack sends in order; whatever this is, it is not understood here.
		f.g.forget(f)
		return true
	}
	f.fin = f.fin || fin
	f.credit = max(f.credit-size/2, 0)
	if !f.holds() && f.cc.pace() == 0 {
		f.leaves(p, seq, end, fin, now)
		return true
	}
	f.hold(p.IncRef())
	f.transmit(now)
	return false
}

// says notes what the header of a segment that leaves tells the peer. What is sent again must not tell less: the peer would take the
// window of before for what is left behind the latest acknowledgement, and send more than there is room for.
func (f *flow) says(tcp []byte) {
	copy(f.latest[:], tcp[8:16])
	if ts := timeStamps(tcp); ts != nil {
		copy(f.latestStamps[:], ts)
	}
}

// leaves notes that p is on its way from now on.
func (f *flow) leaves(p *stack.PacketBuffer, seq, end uint32, fin bool, now time.Duration) {
	if f.una == f.nxt {
		f.rackSent = 0
	}
	f.pieces = append(f.compact(), piece{
		seq: seq, end: end, base: seq, pkt: p.IncRef(), sent: now, tries: 1, fin: fin, mark: f.rate.mark(f.pipe(), now),
	})
	f.nxt = end
	if n := f.pipe(); n > f.peak || !before(f.una, f.peakUntil) {
		f.peak, f.peakUntil = n, f.nxt
	}
	f.schedule(now)
}

// compact returns the pieces with room behind them.
func (f *flow) compact() []piece {
	if f.head > 0 && (f.head == len(f.pieces) || len(f.pieces) == cap(f.pieces)) {
		n := copy(f.pieces, f.pieces[f.head:])
		clear(f.pieces[n:])
		f.pieces = f.pieces[:n]
		f.head = 0
	}
	return f.pieces
}

// sentAgain notes that the netstack repeats from seq to end, and reports whether that is of any use.
func (f *flow) sentAgain(seq, end uint32, smaller bool, now time.Duration) bool {
	if !before(f.una, end) {
		return true // a probe of a window that is closed, or of a connection that is idle
	}
	if !before(seq, f.nxt) {
		return false // it is held
	}
	useful := false
	for i := f.at(seq); i < len(f.pieces) && before(f.pieces[i].seq, end); i++ {
		c := &f.pieces[i]
		if !c.sacked && (smaller || c.lost || now-c.sent > max(f.srtt, time.Millisecond)) {
			useful = true
		}
	}
	if !useful {
		return false
	}
	f.split(seq)
	f.split(end)
	for i := f.at(seq); i < len(f.pieces) && before(f.pieces[i].seq, end); i++ {
		if c := &f.pieces[i]; !c.sacked {
			f.found(c)
			c.sent, c.mark = now, f.rate.mark(f.pipe(), now)
			c.tries++
		}
	}
	f.schedule(now)
	return true
}

// found takes c back from those that are lost.
func (f *flow) found(c *piece) {
	if c.lost {
		c.lost = false
		f.lost -= c.size()
	}
}

func (f *flow) lose(c *piece) {
	if !c.lost {
		c.lost = true
		f.lost += c.size()
		f.dropped += int64(c.size())
	}
}

// at returns the index of the piece that seq is in, or of the first one behind it.
func (f *flow) at(seq uint32) int {
	return f.head + sort.Search(len(f.pieces)-f.head, func(i int) bool { return before(seq, f.pieces[f.head+i].end) })
}

// split makes seq a border between pieces.
func (f *flow) split(seq uint32) {
	i := f.at(seq)
	if i >= len(f.pieces) || !before(f.pieces[i].seq, seq) {
		return
	}
	c := f.pieces[i]
	c.seq = seq
	if c.pkt != nil {
		c.pkt.IncRef()
	}
	f.pieces[i].end = seq
	f.pieces[i].fin = false
	f.pieces = slices.Insert(f.pieces, i+1, c)
}
