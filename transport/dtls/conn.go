package dtls

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/heartbeat"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

const (
	minMTU4, minMTU6 = packet.MinMTU4, packet.MinMTU6

	// earlyPackets is how many packets wait that come before the first call of ReadBatch.
	earlyPackets = 64

	// The final flight is repeated at this pace at most, and so many times.
	finalGap   = 50 * time.Millisecond
	finalTimes = 16
)

// A Conn is a DTLS channel. It is a packet.Conn. Somebody must be reading from it all the time: reading is also what answers
// the peer's requests and notices that it is alive. Writing is safe for concurrent use.
type Conn struct {
	suite *suite
	in    inbox
	out   outlet
	pool  *burstPool
	log   *slog.Logger
	beat  *heartbeat.Beat
	mark  uint32 // of the probes of this Conn

	remote         func() net.Addr
	floor, ceiling int
	outer          int // size of the headers of IP and UDP
	mtu            atomic.Int64

	// seq is the number of the next record. Packets and control frames are sealed independently of each other, and draw
	// their numbers from here, so that none is used twice.
	seq   atomic.Uint64
	limit uint64 // numbers from here on, either way, end the Conn

	writeMu sync.Mutex
	tx      *protection // under writeMu

	controlMu sync.Mutex
	ctl       *protection // under controlMu
	sinceEcho int         // padded probes since one was echoed; under controlMu
	probed    int         // payload of the last padded probe

	readMu sync.Mutex
	rx     *protection
	win    window
	rest   []byte       // of the datagram being read
	early  packet.Batch // packets that came before the first ReadBatch
	earlyN int
	big    []byte // for what does not fit a Buf

	final     []byte // the datagram that ended the handshake, until the peer shows that it has it
	finalAt   time.Time
	finalSent int

	confirmed atomic.Int64 // when it was last looked whether large packets arrive, in Unix nanoseconds
	searching atomic.Bool
	answers   chan answer
	echoes    atomic.Bool // the peer repeats probes

	stats counters

	mu    sync.Mutex
	err   error
	dead  atomic.Bool
	ended chan struct{} // closed with err
	work  sync.WaitGroup
	once  sync.Once
}

// An answer is the payload of a DPD response, as far as it matters.
type answer struct {
	size int
	echo bool
}

type counters struct {
	packetsSent, packetsReceived, bytesSent, bytesReceived atomic.Uint64
	malformed, forged, replayed, unknown, oversize         atomic.Uint64
}

// Stats are counts since the Conn was opened.
type Stats struct {
	// PacketsSent and PacketsReceived count inner packets, BytesSent and BytesReceived their bytes.
	PacketsSent, PacketsReceived, BytesSent, BytesReceived uint64
	// Malformed counts datagrams that are no DTLS, Forged records that are not from the peer, Replayed those that came again
	// or too late.
	Malformed, Forged, Replayed uint64
	// Unknown counts frames of a type that is not known, Oversize packets that fitted no Buf of the reader.
	Unknown, Oversize uint64
	// RTT is the smoothed round-trip time, 0 while it is unknown.
	RTT time.Duration
}

type connParams struct {
	client  bool
	out     *outcome
	channel channel
	pool    *burstPool
	log     *slog.Logger
	beat    liveness.Config
	mtu     int // negotiated, as far as it is known
	base    int // MTU of the outer path, as far as it is known
	remote  func() net.Addr
	outer   int // headers of the outer path
	ipv6    bool
}

// newConn makes a Conn of a completed handshake. It is inert until start.
func newConn(p connParams) (*Conn, error) {
	k := p.out.keys
	tx, err := k.protection(p.client)
	if err != nil {
		return nil, err
	}
	rx, err := k.protection(!p.client)
	if err != nil {
		return nil, err
	}
	c := &Conn{
		suite: k.suite, in: p.channel, out: p.channel, pool: p.pool, log: p.log, mark: rand.Uint32(),
		tx: tx, ctl: tx.clone(), rx: rx, final: p.out.final, remote: p.remote,
		answers: make(chan answer, 4*fanOut), ended: make(chan struct{}),
	}
	c.seq.Store(p.out.next)
	// A client opens a new channel in time; a gateway can only hang up, so it waits for longer.
	if c.limit = rekeySequence; !p.client {
		c.limit = 2 * rekeySequence
	}
	c.outer = p.outer
	c.ceiling = maxPlain - 1
	if p.mtu > 0 {
		c.ceiling = min(c.ceiling, p.mtu)
	}
	if p.base > 0 {
		c.ceiling = min(c.ceiling, p.base-p.outer-k.suite.overhead()-1)
	}
	c.floor = min(minMTU4, c.ceiling)
	if p.ipv6 {
		c.floor = minMTU6
	}
	if c.ceiling < c.floor || c.ceiling < smallProbe {
		return nil, fmt.Errorf("%w: the gateway allows only %d bytes", ErrPathTooNarrow, c.ceiling)
	}
	c.mtu.Store(int64(c.ceiling))
	c.beat = heartbeat.New(p.beat, heartbeat.Actions{
		Probe:     c.probe,
		Keepalive: func() error { return c.control(wire.Keepalive, nil) },
		Rekey:     func() { c.fail(ErrRekey) },
		Dead:      c.fail,
	})
	return c, nil
}

// MTU returns the size in bytes of the largest packet that the path is known to carry. It may change at any time.
func (c *Conn) MTU() int { return int(c.mtu.Load()) }

// RemoteAddr returns where datagrams go to. At a gateway that may change at any time, since it follows a peer that moves.
func (c *Conn) RemoteAddr() net.Addr { return c.remote() }

// CipherSuite returns the name of what protects the records, such as "PSK-AES256-GCM-SHA384".
func (c *Conn) CipherSuite() string { return c.suite.name }

// Check has the peer probed at once, such as after a change of the network. If it does not answer within about 1.5 seconds,
// the Conn ends.
func (c *Conn) Check() { c.beat.Check() }

// Stats returns counts of what has happened.
func (c *Conn) Stats() Stats {
	s := &c.stats
	return Stats{
		PacketsSent: s.packetsSent.Load(), PacketsReceived: s.packetsReceived.Load(),
		BytesSent: s.bytesSent.Load(), BytesReceived: s.bytesReceived.Load(),
		Malformed: s.malformed.Load(), Forged: s.forged.Load(), Replayed: s.replayed.Load(),
		Unknown: s.unknown.Load(), Oversize: s.oversize.Load(),
		RTT: c.beat.RTT(),
	}
}

// Done is closed when the Conn has ended.
func (c *Conn) Done() <-chan struct{} { return c.ended }

// Err returns why the Conn has ended, nil while it has not. It matches net.ErrClosed after Close.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the Conn with err, unless it has ended.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.dead.Store(true)
	close(c.ended)
	c.mu.Unlock()
	c.beat.Stop()
	c.in.interrupt()
	if !errors.Is(err, net.ErrClosed) {
		c.log.Info("DTLS channel ended", "reason", err)
	}
}

// Close tells the peer, closes the socket and waits for everything that the Conn has running.
func (c *Conn) Close() error {
	c.once.Do(func() {
		if err := c.Err(); !errors.Is(err, ErrPeerClosed) && !errors.Is(err, ErrReplaced) {
			// Some gateways take no new channel before the old one is closed.
			c.alert(alertWarning, alertCloseNotify)
		}
		c.fail(net.ErrClosed)
		c.beat.Close()
		c.in.close()
		c.readMu.Lock()
		c.rest = nil
		c.in.release()
		c.readMu.Unlock()
		c.work.Wait()
	})
	return nil
}

// WriteBatch implements packet.Writer.
func (c *Conn) WriteBatch(b packet.Batch) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	u := c.pool.get()
	defer c.pool.put(u)
	mtu := c.MTU()
	var bytes uint64
	for i := 0; i < len(b); {
		if c.dead.Load() {
			return i, c.Err()
		}
		first := i
		bytes = 0
		u.count = 0
		var tooBig, large bool
		for ; i < len(b); i++ {
			n := b[i].Len()
			if n > mtu {
				tooBig = true
				break
			}
			mem := u.room(c.tx.size(n + 1))
			if mem == nil {
				break
			}
			plain := b[i].WithHeadroom(1)
			plain[0] = byte(wire.Data)
			u.added(c.tx.seal(mem, typeData, c.number(), plain))
			bytes += uint64(n)
			large = large || n > c.floor
		}
		if u.count > 0 {
			sent, err := c.out.send(u, true)
			c.stats.packetsSent.Add(uint64(sent))
			c.stats.bytesSent.Add(bytes)
			if sent > 0 {
				c.beat.Sent(true)
			}
			if err != nil {
				return first + sent, c.writeFailed(err, b[first+sent].Len())
			}
			if large {
				c.confirm()
			}
		}
		if tooBig {
			return i, packet.ErrTooBig
		}
	}
	return len(b), nil
}

// number returns a number that no record has had.
func (c *Conn) number() uint64 {
	n := c.seq.Add(1) - 1
	if n >= c.limit && !c.dead.Load() {
		c.fail(ErrRekey)
	}
	return n
}

// writeFailed says what an error of the socket for a packet of n bytes means.
func (c *Conn) writeFailed(err error, n int) error {
	if !errors.Is(err, errTooBig) {
		if c.dead.Load() {
			return c.Err()
		}
		err = fmt.Errorf("sending DTLS: %w", err)
		c.fail(err)
		return err
	}
	// The way to the peer has changed, and its first part takes less than before.
	limit := n - 1
	if l := c.localLimit(); l > 0 {
		limit = min(limit, l)
	}
	if limit < c.floor {
		err = fmt.Errorf("%w: %d bytes", ErrPathTooNarrow, n)
		c.fail(err)
		return err
	}
	c.lower(limit)
	c.measure()
	return packet.ErrTooBig
}

// localLimit is how large a packet may be for the system to send it, in bytes, or 0 if that is unknown.
func (c *Conn) localLimit() int {
	if path := c.out.pathMTU(); path > 0 {
		return max(path-c.outer-c.suite.overhead()-1, 1)
	}
	return 0
}

func (c *Conn) lower(mtu int) {
	for {
		old := c.mtu.Load()
		if old <= int64(mtu) || c.mtu.CompareAndSwap(old, int64(mtu)) {
			return
		}
	}
}

// control sends a frame that is no packet. It does not wait for room.
func (c *Conn) control(t wire.Type, payload []byte) error {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	u := c.pool.get()
	defer c.pool.put(u)
	n := 1 + len(payload)
	if u.room(2*c.ctl.size(n)) == nil {
		return errTooBig
	}
	// The record and its plaintext must not overlap.
	plain := u.mem[c.ctl.size(n):][:n]
	plain[0] = byte(t)
	copy(plain[1:], payload)
	return c.sealed(u, typeData, plain)
}

// sealed sends plain, which may lie in u behind the place of the record. It needs controlMu.
func (c *Conn) sealed(u *burst, typ byte, plain []byte) error {
	if c.dead.Load() && typ != typeAlert {
		return c.Err()
	}
	u.added(c.ctl.seal(u.mem, typ, c.number(), plain))
	_, err := c.out.send(u, false)
	if err == nil {
		c.beat.Sent(false)
	}
	return err
}

const (
	alertWarning     = 1
	alertFatal       = 2
	alertCloseNotify = 0
)

func (c *Conn) alert(level, description byte) {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	u := c.pool.get()
	defer c.pool.put(u)
	plain := u.mem[c.ctl.size(2):][:2]
	plain[0], plain[1] = level, description
	c.sealed(u, typeAlert, plain)
}

// ReadBatch implements packet.Reader.
func (c *Conn) ReadBatch(b packet.Batch) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if n := c.takeEarly(b); n > 0 {
		return n, nil
	}
	return c.read(b)
}

func (c *Conn) takeEarly(b packet.Batch) int {
	if c.early == nil {
		return 0
	}
	n := 0
	for i := range c.earlyN {
		if n < len(b) && b[n].Set(c.early[i].Bytes()) {
			n++
		}
	}
	c.early, c.earlyN = nil, 0
	return n
}

// read fills b as ReadBatch does. It needs readMu.
func (c *Conn) read(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	for {
		n := 0
		var bytes uint64
		for n < len(b) {
			if len(c.rest) == 0 {
				if c.rest = c.in.next(); c.rest == nil {
					break
				}
			}
			r, rest, ok := parseRecord(c.rest)
			c.rest = rest
			if !ok {
				c.stats.malformed.Add(1)
				continue
			}
			if c.accept(r, &b[n]) {
				bytes += uint64(b[n].Len())
				n++
			}
		}
		if n > 0 {
			c.stats.packetsReceived.Add(uint64(n))
			c.stats.bytesReceived.Add(bytes)
			c.beat.Received(true)
			return n, nil
		}
		if c.dead.Load() {
			return 0, c.Err()
		}
		switch err := c.in.wait(); {
		case err == nil:
		case c.dead.Load():
			return 0, c.Err()
		case err == errRefused:
			// Anybody who guesses the ports can have this said. The peer itself shall tell.
			c.beat.Check()
		case isTimeout(err):
			return 0, err
		default:
			err = fmt.Errorf("receiving DTLS: %w", err)
			c.fail(err)
			return 0, err
		}
	}
}

// accept opens a record and does what it asks for. It reports whether it has put a packet into buf.
func (c *Conn) accept(r record, buf *packet.Buf) bool {
	if r.typ != typeData && r.typ != typeAlert {
		if r.typ == typeHandshake || r.typ == typeChangeCipherSpec {
			c.repeatFinal()
		}
		return false
	}
	n := c.rx.plainLen(r)
	if r.epoch != epochData || n < 1 || n > maxPlain+1 {
		c.stats.malformed.Add(1)
		return false
	}
	if !c.win.fresh(r.sequence) {
		c.stats.replayed.Add(1)
		return false
	}
	fits := n-1 <= buf.Size()
	var dst []byte
	if fits {
		dst = buf.SpaceWithHeadroom(1)[:0]
	} else {
		if cap(c.big) < n {
			c.big = make([]byte, 0, maxPlain+1)
		}
		dst = c.big[:0]
	}
	plain, ok := c.rx.open(dst, r)
	if !ok {
		if c.stats.forged.Add(1) > maxForged {
			c.fail(ErrRekey)
		}
		return false
	}
	c.win.mark(r.sequence)
	if r.sequence >= c.limit && !c.dead.Load() {
		c.fail(ErrRekey)
	}
	c.final = nil
	if r.typ == typeAlert {
		c.alerted(plain)
		return false
	}
	t, payload := wire.Type(plain[0]), plain[1:]
	if t == wire.Data {
		switch {
		case len(payload) == 0:
			c.beat.Received(false)
		case !fits:
			c.stats.oversize.Add(1)
		default:
			buf.SetLen(len(payload))
			return true
		}
		return false
	}
	c.beat.Received(false)
	switch t {
	case wire.DPDRequest:
		// A request may be padded to find out which size arrives, so all of it goes back. If that is too large for this
		// direction, one byte says that the request itself has arrived.
		if c.control(wire.DPDResponse, payload) == errTooBig {
			c.control(wire.DPDResponse, nil)
		}
	case wire.DPDResponse:
		c.beat.Answered()
		c.answered(payload)
	case wire.Keepalive:
	case wire.Disconnect:
		reason, text := wire.ParseDisconnect(payload)
		c.fail(fmt.Errorf("%w: %s %s", transport.ErrDisconnected, reason, text))
	case wire.Terminate:
		c.fail(fmt.Errorf("%w: %s", transport.ErrDisconnected, t))
	default:
		c.stats.unknown.Add(1)
	}
	return false
}

func (c *Conn) alerted(p []byte) {
	switch {
	case len(p) != 2:
		c.stats.malformed.Add(1)
	case p[1] == alertCloseNotify:
		c.fail(ErrPeerClosed)
	case p[0] == alertFatal:
		c.fail(fmt.Errorf("%w: alert %d", ErrPeerClosed, p[1]))
	}
}

// repeatFinal sends the end of the handshake again. The peer repeats its own flight because it has not seen it.
func (c *Conn) repeatFinal() {
	if c.final == nil || c.finalSent >= finalTimes {
		return
	}
	now := time.Now()
	if now.Sub(c.finalAt) < finalGap {
		return
	}
	c.finalAt = now
	c.finalSent++
	u := c.pool.get()
	defer c.pool.put(u)
	if mem := u.room(len(c.final)); mem != nil {
		u.added(copy(mem, c.final))
		c.out.send(u, false)
	}
}

// probe sends a request that is padded to the MTU, so that the answer shows that packets of that size still arrive. From the
// second one without an echo on, a small one goes with it: if that is answered, the path lives and has become narrower.
func (c *Conn) probe() error {
	if c.searching.Load() {
		// The search sends probes enough, and an answer to another one could mislead it.
		if c.echoes.Load() {
			return c.sendProbe(smallProbe)
		}
		return nil
	}
	c.controlMu.Lock()
	c.sinceEcho++
	since := c.sinceEcho
	size := c.MTU()
	c.probed = size
	c.controlMu.Unlock()
	err := c.sendProbe(size)
	if errors.Is(err, errTooBig) {
		c.measure()
	}
	if since > 1 || err != nil {
		return c.sendProbe(smallProbe)
	}
	return nil
}

func (c *Conn) sendProbe(size int) error {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	u := c.pool.get()
	defer c.pool.put(u)
	plain := u.mem[c.ctl.size(size+1):][:size+1]
	plain[0] = byte(wire.DPDRequest)
	putProbe(plain[1:], c.mark)
	return c.sealed(u, typeData, plain)
}

// answered takes note of the payload of an answer.
func (c *Conn) answered(payload []byte) {
	a := answer{size: len(payload), echo: isEcho(payload, c.mark)}
	if a.echo {
		c.echoes.Store(true)
	}
	if c.searching.Load() {
		select {
		case c.answers <- a:
		default:
		}
		return
	}
	c.controlMu.Lock()
	narrow := false
	switch {
	case a.echo && a.size >= c.probed, !a.echo && !c.echoes.Load() && c.sinceEcho < 2:
		c.sinceEcho = 0
	case c.sinceEcho > 1:
		narrow = true
		c.sinceEcho = 0
	}
	c.controlMu.Unlock()
	if narrow {
		c.measure()
	}
}

const (
	// confirmPace is how often it is looked at least whether large packets arrive, while any are sent.
	confirmPace = time.Second
	// confirmTries is how many probes in succession stay without an echo before it is left to the Beat to find out whether
	// anything arrives at all.
	confirmTries = 4
)

// confirm has probes show that large packets arrive, unless that was done a moment ago. The Beat probes only who is silent, and a
// path that has become narrower keeps nobody silent: small packets go on in both directions, and the large ones are lost for ever.
func (c *Conn) confirm() {
	now, last := time.Now().UnixNano(), c.confirmed.Load()
	if now-last < int64(confirmPace) || c.searching.Load() || !c.confirmed.CompareAndSwap(last, now) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.work.Go(func() {
		for range confirmTries {
			c.probe()
			select {
			case <-time.After(max(firstWait, 2*c.beat.RTT())):
			case <-c.ended:
				return
			}
			c.controlMu.Lock()
			missing := c.sinceEcho
			c.controlMu.Unlock()
			if missing == 0 || c.searching.Load() {
				return
			}
		}
	})
}

// measure searches for the MTU in the background, unless that is going on.
func (c *Conn) measure() {
	if !c.searching.CompareAndSwap(false, true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.searching.Store(false)
		return
	}
	c.work.Go(func() { c.searchAndAgain(func() {}) })
}

// searchAgain is when the search is repeated that nobody answered, and how often.
const (
	searchAgain  = 3 * time.Second
	searchRounds = 3
)

// searchAndAgain finds the MTU, and calls first when that is done for the first time. A peer may be deaf at first: openconnect
// answers nobody before it has set up its interface.
func (c *Conn) searchAndAgain(first func()) {
	for i := range searchRounds {
		answered := c.search()
		c.searching.Store(false)
		if i == 0 {
			first()
		}
		if answered {
			return
		}
		select {
		case <-time.After(searchAgain << i):
		case <-c.ended:
			return
		}
		if !c.searching.CompareAndSwap(false, true) {
			return
		}
	}
	c.searching.Store(false)
}

// search finds the MTU, and reports whether the peer answered. Somebody must be reading meanwhile.
func (c *Conn) search() bool {
	for len(c.answers) > 0 {
		<-c.answers
	}
	start := time.Now()
	now := func() time.Duration { return time.Since(start) + 1 }
	s := newSearch(c.floor, c.MTU(), c.beat.RTT(), now())
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		send, next, done := s.step(now())
		if done {
			break
		}
		for _, size := range send {
			if errors.Is(c.sendProbe(size), errTooBig) {
				s.tooBig(size)
				if l := c.localLimit(); l > 0 && l < size {
					s.limit(l)
					next = now()
					break
				}
			}
		}
		timer.Reset(next - now())
		select {
		case <-timer.C:
		case a := <-c.answers:
			s.answer(now(), a.size, a.echo)
		case <-c.ended:
			return true
		}
	}
	mtu, err := s.result()
	if err != nil {
		c.fail(err)
		return true
	}
	if old := c.MTU(); mtu != old {
		c.log.Info("DTLS channel: MTU found", "mtu", mtu, "before", old)
	}
	c.mtu.Store(int64(mtu))
	return s.answered
}
