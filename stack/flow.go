package stack

import (
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet/offload"
)

// A flow is the sending side of a TCP connection as the governor sees it. Its losses are found by the times at which
// segments were sent (RACK and tail loss probes, RFC 8985), and how much it sends is up to its control.
//
// All times are since the governor was made. The lock is that of the governor.
type flow struct {
	g      *governor
	key    uint64
	agreed bool  // the handshake has come as far as the options of both
	shift  uint8 // of the peer's window
	mss    int
	fin    bool // has been sent

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

// A reason is what the timer of a flow waits for.
type reason byte

const (
	dueReorder reason = iota // something is lost unless it arrives
	dueProbe                 // acknowledgements have ceased to come
	dueTimeout               // the probe was in vain
)

const (
	minTimeout     = 200 * time.Millisecond
	maxTimeout     = 30 * time.Second
	initialTimeout = time.Second
	// delayedAck is how long peers may wait before they acknowledge a single segment.
	delayedAck = 60 * time.Millisecond
	// clockMargin is how long a busy machine may take to run a goroutine.
	clockMargin  = 10 * time.Millisecond
	dupThreshold = 3
	maxPatience  = 16
	burst        = 16
)

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

// adapt changes how late a segment may be.
func (f *flow) adapt(dsack bool) {
	if dsack && !before(f.una, f.patienceUntil) {
		f.patience = min(f.patience+1, maxPatience)
		f.patienceUntil = f.nxt
	}
}

// window returns how late a segment may be before it is lost.
func (f *flow) window() time.Duration {
	if !f.reordered && (f.recovering || f.sacked >= dupThreshold*f.mss) {
		return 0
	}
	return min(f.minRTT/4*time.Duration(f.patience), f.srtt)
}

// detect finds what is lost: what was sent before something that has arrived, and longer ago than that took.
func (f *flow) detect(now time.Duration) {
	if f.rackSent == 0 {
		return
	}
	wait := f.window()
	var later time.Duration
	any := false
	for i := f.head; i < len(f.pieces); i++ {
		c := &f.pieces[i]
		if c.sacked || c.lost {
			continue
		}
		if c.sent > f.rackSent || c.sent == f.rackSent && !before(c.end, f.rackEnd) {
			if c.tries == 1 {
				break // all behind it were sent later
			}
			continue
		}
		if rest := c.sent + f.rackRTT + wait - now; rest > 0 {
			if later == 0 || rest < later {
				later = rest
			}
			continue
		}
		f.lose(c)
		any = true
	}
	f.due = 0
	if later > 0 {
		f.due, f.dueIs = now+later, dueReorder
	}
	if any && !f.recovering {
		f.recover()
	}
}

func (f *flow) recover() {
	f.recovering, f.recoverTo, f.probing = true, f.nxt, false
	f.needed = 0
	f.g.l.s.stats.recoveries.Add(1)
	f.cc.lost()
}

// recovered ends the recovery.
func (f *flow) recovered() {
	f.recovering = false
	switch {
	case f.collapsed:
		f.cc.restored()
	case f.needed <= 0:
		f.cc.undo()
	}
	f.collapsed = false
}

// resendLost sends what is lost again, as far as the window allows.
func (f *flow) resendLost(now time.Duration) {
	for i := f.head; i < len(f.pieces) && f.lost > 0; i++ {
		if !f.pieces[i].lost {
			continue
		}
		// One segment may always go: that which was lost has left room.
		if p := f.pipe(); p > 0 && float64(p+f.mss) > f.cc.window() {
			return
		}
		if !f.may(now) || !f.resend(i, now) {
			return
		}
	}
}

// resend sends up to a segment of the piece with index i again, the rest of which becomes the next piece.
func (f *flow) resend(i int, now time.Duration) bool {
	c := &f.pieces[i]
	if c.pkt == nil {
		return false
	}
	room := min(f.mss, int(f.g.l.mtu.Load())-c.pkt.HeaderSize())
	if room <= 0 {
		return false
	}
	if c.size() > room {
		f.split(c.seq + uint32(room))
		c = &f.pieces[i]
	}
	p := f.packet(c)
	ok := f.g.l.queue.put(p, false)
	p.DecRef()
	if !ok {
		f.g.l.s.stats.outDropped.Add(1)
		return false
	}
	f.found(c)
	f.spend(c.size(), now)
	c.sent, c.mark = now, f.rate.mark(f.pipe()-c.size(), now)
	c.tries++
	f.needed++
	f.g.l.s.stats.retransmits.Add(1)
	return true
}

// packet returns c as a packet, with the acknowledgement of now.
func (f *flow) packet(c *piece) *stack.PacketBuffer {
	ip, tcp := c.pkt.NetworkHeader().Slice(), c.pkt.TransportHeader().Slice()
	size := c.size()
	if c.fin {
		size--
	}
	v := buffer.NewView(len(ip) + len(tcp) + size)
	v.Write(ip)
	v.Write(tcp)
	list, offset := c.pkt.AsViewList()
	skip := offset + len(ip) + len(tcp) + int(c.seq-c.base)
	for w := list.Front(); w != nil && size > 0; w = w.Next() {
		s := w.AsSlice()
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		s = s[:min(len(s), size)]
		v.Write(s)
		size -= len(s)
	}
	b := v.AsSlice()
	pair := addressPair(b)
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-headerLen6))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^offload.Sum(b[:len(ip)], 0))
	}
	t := b[len(ip):]
	binary.BigEndian.PutUint32(t[4:], c.seq)
	copy(t[8:12], f.latest[:4])
	copy(t[14:16], f.latest[6:8])
	if ts := timeStamps(t[:len(tcp)]); ts != nil {
		copy(ts, f.latestStamps[:])
	}
	if !c.fin {
		t[13] &^= byte(header.TCPFlagFin)
	}
	sumTCP(t, offload.Sum(pair, protoTCP))
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
}

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

// timeout returns when a connection without acknowledgements has lost all.
func (f *flow) timeout() time.Duration {
	d := initialTimeout
	if f.srtt > 0 {
		d = max(f.srtt+4*f.rttvar, minTimeout)
	}
	return min(d<<f.backoff, maxTimeout)
}

// schedule sees to it that the timer looks after f in time.
func (f *flow) schedule(now time.Duration) {
	switch {
	case f.una == f.nxt:
		f.due = 0
	case f.due > now && f.dueIs == dueReorder:
	case !f.probing && !f.recovering && f.sacked == 0 && f.srtt > 0 && f.backoff == 0:
		d := 2*f.srtt + clockMargin
		if int(f.nxt-f.una) <= f.mss {
			d += delayedAck
		}
		f.due, f.dueIs = now+min(d, f.timeout()), dueProbe
	default:
		f.due, f.dueIs = now+f.timeout(), dueTimeout
	}
	if f.due > 0 && (f.armed == 0 || f.due < f.armed) {
		f.arm(now)
	}
}

func (f *flow) arm(now time.Duration) {
	f.armed = f.due
	d := max(f.due-now, 0)
	if f.timer == nil {
		f.timer = time.AfterFunc(d, f.look)
	} else {
		f.timer.Reset(d)
	}
}

// look is what the timer calls.
func (f *flow) look() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	f.armed = 0
	now := f.g.now()
	switch {
	case f.due == 0 || !f.agreed || f.head == len(f.pieces):
		return
	case f.due > now:
		f.arm(now)
		return
	}
	if f.g.l.queue.waiting() {
		// What is missed may not have left yet.
		f.due = now + max(f.srtt, clockMargin)
		f.arm(now)
		return
	}
	switch f.dueIs {
	case dueReorder:
		f.due = 0
		f.detect(now)
		f.transmit(now)
	case dueProbe:
		f.probing, f.probeEnd, f.probeSent = true, f.nxt, now
		last := len(f.pieces) - 1
		if c := &f.pieces[last]; c.size() > f.mss {
			f.split(c.end - uint32(f.mss))
			last++
		}
		f.due = 0
		f.resend(last, now)
	case dueTimeout:
		if f.pieces[f.head].sacked {
			// The peer has thrown away what it had (RFC 2018 section 8).
			f.g.forget(f)
			return
		}
		f.due = 0
		f.backoff = min(f.backoff+1, 8)
		f.probing = false
		for i := f.head; i < len(f.pieces); i++ {
			if c := &f.pieces[i]; !c.sacked {
				f.lose(c)
			}
		}
		f.cc.collapsed()
		f.recovering, f.collapsed, f.recoverTo = true, true, f.nxt
		f.g.l.s.stats.timeouts.Add(1)
		f.transmit(now)
	}
	f.schedule(now)
}

// option returns the option of a TCP header with the given number, or nil.
func option(tcp []byte, number byte) []byte {
	n := int(tcp[12]>>4) * 4
	if n > len(tcp) || n < header.TCPMinimumSize {
		return nil
	}
	for o := tcp[header.TCPMinimumSize:n]; len(o) > 0; {
		switch o[0] {
		case header.TCPOptionEOL:
			return nil
		case header.TCPOptionNOP:
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) < 2 || int(o[1]) > len(o) {
			return nil
		}
		if o[0] == number {
			return o[:o[1]]
		}
		o = o[o[1]:]
	}
	return nil
}

// timeStamps returns the two time stamps in a TCP header, or nil.
func timeStamps(tcp []byte) []byte {
	if o := option(tcp, header.TCPOptionTS); len(o) == header.TCPOptionTSLength {
		return o[2:]
	}
	return nil
}

// blank overwrites the option o of the TCP header tcp with padding. The checksum follows (RFC 1624).
func blank(tcp, o []byte) {
	h := tcp[header.TCPMinimumSize : int(tcp[12]>>4)*4]
	sum := uint32(^binary.BigEndian.Uint16(tcp[16:])) + uint32(^offload.Sum(h, 0))
	for i := range o {
		o[i] = header.TCPOptionNOP
	}
	sum += uint32(offload.Sum(h, 0))
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
}
