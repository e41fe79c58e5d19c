package dtls

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
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
	held   []byte       // a packet that Wait came across; part of a datagram
	early  packet.Batch // packets that came before the first ReadBatch
	earlyN int
	big    []byte // for what does not fit a Buf

	final     []byte // the datagram that ended the handshake, until the peer shows that it has it
	finalAt   time.Time
	finalSent int

	confirmed atomic.Int64 // when it was last looked whether large packets arrive, in Unix nanoseconds
	looked    atomic.Int64 // when it was last looked for an MTU larger than that of now, or when it fell, in Unix nanoseconds
	searching atomic.Bool
	answers   chan answer
	echoes    atomic.Bool // the peer repeats probes

	stats  counters
	credit credit

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
	malformed, forged, replayed, unknown, oversize, unsent atomic.Uint64
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
	// Unsent counts packets and control frames that the system refused to send for a passing reason, such as a lack of memory or, for control
	// frames, of room. They are lost as any datagram may be. The requests of Config.PeerBuffer do not count.
	Unsent uint64
	// Segmented says that the system, or the device, cuts long messages into datagrams. It goes off for good when that
	// fails.
	Segmented bool
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
	buffer  int // of the peer's socket, 0 if that is unknown
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
	c.looked.Store(time.Now().UnixNano())
	c.credit.init(p.buffer, ^c.mark)
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
		Unsent: s.unsent.Load(), Segmented: c.out.segments(),
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
		c.rest, c.held = nil, nil
		c.in.release()
		c.readMu.Unlock()
		c.work.Wait()
	})
	return nil
}
