package cstp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// ErrRekey ends a Conn whose keys are due for renewal, unless Config.Rekey says otherwise. The session goes on over a new
// connection.
var ErrRekey = errors.New("time for new keys")

// A DisconnectError says that the peer ended the session. It matches [transport.ErrDisconnected].
type DisconnectError struct {
	// Reason and Text are what the peer said, often nothing.
	Reason wire.Reason
	Text   string
	// Terminated says that the gateway ended the session with a frame of type TERMINATE, after which the cookie is worth nothing.
	Terminated bool
}

// Error implements error.
func (e *DisconnectError) Error() string {
	switch {
	case e.Terminated:
		return "the gateway terminated the session"
	case e.Text != "":
		return fmt.Sprintf("the peer ended the session (%v): %s", e.Reason, e.Text)
	}
	return fmt.Sprintf("the peer ended the session (%v)", e.Reason)
}

// Is reports whether target is transport.ErrDisconnected.
func (e *DisconnectError) Is(target error) bool { return target == transport.ErrDisconnected }

// A Config says how a [Conn] behaves. It must not change while the Conn lives.
type Config struct {
	// MTU is the size in bytes of the largest packet to send. Zero, and more than wire.MaxPayload, mean wire.MaxPayload.
	MTU int

	// Compression is what was agreed on: wire.LZ4, wire.LZS or nothing. Compression tells an observer about the content.
	Compression string

	// Beat says when the channel is probed, kept warm, and given up. The zero Config probes under load only.
	Beat liveness.Config

	// Rekey is called when Beat.Rekey is over, and must neither block nor close the Conn. If it is nil the Conn ends itself with
	// ErrRekey.
	Rekey func()

	// ShortDPD leaves the payload out of answers to the peer's probes, as some gateways and most clients do.
	ShortDPD bool

	// Server says that this is the gateway's end.
	Server bool

	// Logger is told about what is odd. Nil means nobody is.
	Logger *slog.Logger
}

// Stats counts what has passed through a [Conn].
type Stats struct {
	// In and Out are packets, InBytes and OutBytes their bytes, before compression.
	In, Out, InBytes, OutBytes uint64
	// Dropped are packets that came and were not delivered, since they were empty, too large or could not be decompressed.
	Dropped uint64
	// Unknown are frames of types that are not known, or have no business here.
	Unknown uint64
	// Probed are probes of the peer, Probes our own.
	Probed, Probes uint64
	// RTT is the round-trip time of probes, zero while it is not known.
	RTT time.Duration
}

// A Conn is a tunnel over TLS. It implements [packet.Conn].
//
// Its errors match [transport.ErrDisconnected] (see [DisconnectError]) if the peer ended the session, [heartbeat.ErrDead] if the peer is
// not there any more, [ErrRekey], [transport.ErrProtocol] if the peer sent no frames, or are those of the network. The first one is final.
type Conn struct {
	link   *Link
	sock   *socket
	r      io.Reader // link, or what stands for it in a test
	w      io.Writer
	mtu    int
	codec  *codec
	server bool
	short  bool // Config.ShortDPD
	log    *slog.Logger
	beat   *heartbeat.Beat
	rekey  func()

	in  inbox
	out control

	wmu     sync.Mutex // held while frames are written
	scratch []byte     // a compressed frame; under wmu

	end  sync.Once
	done chan struct{}
	err  error // why done is closed
	shut atomic.Bool
	wg   sync.WaitGroup

	stats struct {
		in, out, inBytes, outBytes, dropped, unknown, probed, probes atomic.Uint64
	}
}

// NewConn returns a Conn over l, on which CONNECT has just succeeded. The Conn owns l from now on. What br holds already is read first; it
// may be nil. The owner of the Conn closes it.
func NewConn(l *Link, br *bufio.Reader, cfg Config) *Conn {
	c := newConn(l, l.sock, l, l, cfg)
	if br != nil && br.Buffered() > 0 {
		ahead, _ := br.Peek(br.Buffered())
		c.in.stash(ahead)
	}
	c.start(cfg.Beat)
	return c
}

func newConn(l *Link, s *socket, r io.Reader, w io.Writer, cfg Config) *Conn {
	c := &Conn{
		link:   l,
		sock:   s,
		r:      r,
		w:      w,
		mtu:    cfg.MTU,
		codec:  newCodec(cfg.Compression),
		server: cfg.Server,
		short:  cfg.ShortDPD,
		log:    cfg.Logger,
		rekey:  cfg.Rekey,
		done:   make(chan struct{}),
	}
	if c.mtu <= 0 || c.mtu > wire.MaxPayload {
		c.mtu = wire.MaxPayload
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	s.readAhead()
	return c
}

func (c *Conn) start(beat liveness.Config) {
	c.beat = heartbeat.New(beat, heartbeat.Actions{
		Probe:     c.Probe,
		Keepalive: func() error { return c.post(func(o *control) { o.keepalive = true }) },
		Rekey: func() {
			if c.rekey != nil {
				c.rekey()
				return
			}
			c.fail(ErrRekey)
		},
		Dead: c.fail,
	})
	c.beat.Start()
}

// MTU implements packet.Conn. It does not change.
func (c *Conn) MTU() int { return c.mtu }

// LocalAddr returns the address that the connection comes from, nil if it has none.
func (c *Conn) LocalAddr() net.Addr {
	if c.sock.Conn == nil {
		return nil
	}
	return c.sock.Conn.LocalAddr()
}

// Probe asks the peer for a sign of life. It does not wait, neither for the answer nor for the probe to be sent.
func (c *Conn) Probe() error {
	return c.post(func(o *control) { o.probe = true })
}

// Check has doubts about the connection, such as after a change of the network: the peer must answer within about 1.5 seconds, or
// the Conn ends with an error that matches heartbeat.ErrDead.
func (c *Conn) Check() { c.beat.Check() }

// Stats returns the counters of now.
func (c *Conn) Stats() Stats {
	s := &c.stats
	return Stats{
		In:       s.in.Load(),
		Out:      s.out.Load(),
		InBytes:  s.inBytes.Load(),
		OutBytes: s.outBytes.Load(),
		Dropped:  s.dropped.Load(),
		Unknown:  s.unknown.Load(),
		Probed:   s.probed.Load(),
		Probes:   s.probes.Load(),
		RTT:      c.beat.RTT(),
	}
}

// Done is closed when the Conn has ended, by Close or by itself.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why Done is closed, and nil before that.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		if c.shut.Load() {
			return net.ErrClosed
		}
		return c.err
	default:
		return nil
	}
}

// fail ends the Conn with err, if it has not ended, and unblocks who reads or writes. It does not wait.
func (c *Conn) fail(err error) {
	c.end.Do(func() {
		c.err = err
		close(c.done)
		// Below TLS, whose own Close would wait for a write in progress.
		_ = c.sock.Conn.Close()
	})
}

// failed ends the Conn with the error of a read or write, and returns the error that the Conn has ended with.
func (c *Conn) failed(doing string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the peer closed the connection: %w", err)
	} else if !errors.Is(err, transport.ErrProtocol) {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	c.fail(err)
	return c.Err()
}

// Disconnect tells the peer why the session ends, or pauses, and closes the Conn. It takes a second at most. The reason decides
// whether the peer keeps the session, see [wire.Reason]. An error says that the peer was not told; the Conn is closed all the same.
func (c *Conn) Disconnect(reason wire.Reason, text string) error {
	return errors.Join(c.sayLast(wire.Disconnect, wire.AppendDisconnect(nil, reason, text)), c.Close())
}

// Terminate is Disconnect for a gateway whose session ends for good, with the frame made for that.
func (c *Conn) Terminate() error {
	return errors.Join(c.sayLast(wire.Terminate, nil), c.Close())
}

func (c *Conn) sayLast(t wire.Type, payload []byte) error {
	if err := c.Err(); err != nil {
		return err
	}
	// A writer that is stuck gives up too, so that the lock is free then.
	if err := c.sock.Conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	frame := append(make([]byte, wire.HeaderLen), payload...)
	wire.PutHeader(frame, t, len(payload))
	_, err := c.w.Write(frame)
	return err
}

// Close ends the Conn without a word to the peer about the session, which may live on: the same cookie is good for another
// connection. See Disconnect for the other way.
func (c *Conn) Close() error {
	c.shut.Store(true)
	c.end.Do(func() {
		close(c.done)
		if c.link != nil && c.wmu.TryLock() {
			// Nobody writes, so TLS can say goodbye. The deadline holds for everything that may be under way below.
			c.sock.closing.Store(true)
			_ = c.sock.Conn.SetWriteDeadline(time.Now().Add(closeTime))
			_ = c.link.Conn.Close()
			c.wmu.Unlock()
		}
		_ = c.sock.Conn.Close()
	})
	if c.link != nil {
		c.link.keys.wipe()
	}
	if c.beat != nil {
		_ = c.beat.Close()
	}
	c.out.close()
	c.wg.Wait()
	return nil
}

// Wait implements packet.Waiter. It deals with frames that are no packets on its way.
func (c *Conn) Wait() error {
	for {
		if err := c.Err(); err != nil {
			return err
		}
		t, err := c.in.peek(c.r, c.sock)
		if err != nil {
			return c.failed("receive", err)
		}
		if t == wire.Data || t == wire.Compressed && c.codec != nil {
			return nil
		}
		var none packet.Buf
		t, payload, err := c.in.next(c.r, c.sock, &none, true)
		if err != nil {
			return c.failed("receive", err)
		}
		if err := c.control(t, payload); err != nil {
			c.fail(err)
			return c.Err()
		}
	}
}

// ReadBatch implements packet.Reader. It deals with frames that are no packets on its way.
func (c *Conn) ReadBatch(b packet.Batch) (n int, err error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	if err := c.Err(); err != nil {
		return 0, err
	}
	bytes := 0
frames:
	for n < len(b) {
		t, payload, err := c.in.next(c.r, c.sock, &b[n], n == 0)
		if err != nil {
			if n > 0 {
				// Either nothing more is there, or the next call comes to the same end.
				if err != errWait {
					_ = c.failed("receive", err)
				}
				break frames
			}
			return 0, c.failed("receive", err)
		}
		switch t {
		case wire.Data:
			if !c.deliver(&b[n], payload) {
				c.stats.dropped.Add(1)
				c.beat.Received(false)
				continue
			}
		case wire.Compressed:
			if c.codec == nil {
				c.odd(t, len(payload))
				continue
			}
			if !c.codec.decompress(&b[n], payload) {
				c.stats.dropped.Add(1)
				c.beat.Received(false)
				continue
			}
		default:
			if err := c.control(t, payload); err != nil {
				c.fail(err)
				if n > 0 {
					break frames
				}
				return 0, c.Err()
			}
			continue
		}
		bytes += b[n].Len()
		n++
	}
	c.sock.bulk = bytes >= n*busySize
	c.beat.Received(true)
	c.stats.in.Add(uint64(n))
	c.stats.inBytes.Add(uint64(bytes))
	return n, nil
}

// deliver makes payload the packet of b. It reports false if it is none, or does not fit.
func (c *Conn) deliver(b *packet.Buf, payload []byte) bool {
	if len(payload) == 0 || len(payload) > b.Size() {
		return false
	}
	if &payload[0] == &b.Space()[0] {
		b.SetLen(len(payload))
		return true
	}
	return b.Set(payload)
}

// control deals with a frame that is no packet. An error ends the Conn.
func (c *Conn) control(t wire.Type, payload []byte) error {
	switch t {
	case wire.DPDRequest:
		c.beat.Received(false)
		c.stats.probed.Add(1)
		if c.short {
			payload = nil
		}
		_ = c.post(func(o *control) { o.answer(payload) })
	case wire.DPDResponse:
		c.beat.Answered()
	case wire.Keepalive:
		c.beat.Received(false)
	case wire.Disconnect:
		reason, text := wire.ParseDisconnect(payload)
		return &DisconnectError{Reason: reason, Text: text}
	case wire.Terminate:
		if !c.server {
			return &DisconnectError{Terminated: true}
		}
		c.odd(t, len(payload))
	default:
		c.odd(t, len(payload))
	}
	return nil
}

// odd takes note of a frame that is ignored. Only the first is logged: the peer decides how many there are.
func (c *Conn) odd(t wire.Type, n int) {
	c.beat.Received(false)
	if c.stats.unknown.Add(1) == 1 && c.log.Enabled(context.Background(), slog.LevelDebug) {
		c.log.Debug("frame ignored", "type", t, "bytes", n)
	}
}

// WriteBatch implements packet.Writer. If it fails for another reason than the size of a packet, it is not known which packets have
// reached the peer, and it returns 0.
func (c *Conn) WriteBatch(b packet.Batch) (n int, err error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.Err(); err != nil {
		return 0, err
	}
	// Before the write: a write that is stuck is a reason to ask whether the peer is still there.
	c.beat.Sent(true)
	c.sock.hold()
	bytes := 0
	var failure error
	for n < len(b) {
		size := b[n].Len()
		if size > c.mtu {
			err = packet.ErrTooBig
			break
		}
		if size > 0 {
			if _, failure = c.w.Write(c.frame(&b[n])); failure != nil {
				break
			}
		}
		bytes += size
		n++
	}
	if e := c.sock.flush(); failure == nil {
		failure = e
	}
	if failure != nil {
		return 0, c.failed("send", failure)
	}
	c.stats.out.Add(uint64(n))
	c.stats.outBytes.Add(uint64(bytes))
	return n, err
}

// frame returns the frame for a packet, which is in the headroom of b unless it could be compressed.
func (c *Conn) frame(b *packet.Buf) []byte {
	if c.codec != nil && b.Len() >= minCompress {
		if cap(c.scratch) < wire.HeaderLen+b.Len() {
			c.scratch = make([]byte, wire.HeaderLen+c.mtu)
		}
		if n := c.codec.compress(c.scratch[wire.HeaderLen:cap(c.scratch)], b.Bytes()); n > 0 {
			frame := c.scratch[:wire.HeaderLen+n]
			wire.PutHeader(frame, wire.Compressed, n)
			return frame
		}
	}
	frame := b.WithHeadroom(wire.HeaderLen)
	wire.PutHeader(frame, wire.Data, b.Len())
	return frame
}
