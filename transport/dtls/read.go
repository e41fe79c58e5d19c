package dtls

import (
	"fmt"
	"io"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

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

// Wait implements packet.Waiter. It deals with what is no packet on its way.
func (c *Conn) Wait() error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if c.earlyN > 0 || c.held != nil {
			return nil
		}
		r, ok := c.record()
		if !ok {
			if err := c.receive(); err != nil {
				return err
			}
			continue
		}
		if c.admits(r) {
			// The record becomes the packet where it lies, which is valid until the next datagram is looked at.
			if payload := c.open(r, r.raw[recordHeader+c.rx.explicit:][:0]); len(payload) > 0 {
				c.held = payload
			}
		}
	}
}

// read fills b as ReadBatch does. It needs readMu.
func (c *Conn) read(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	for {
		n := 0
		var bytes uint64
		if c.held != nil {
			if b[0].Set(c.held) {
				bytes += uint64(b[0].Len())
				n++
			} else {
				c.stats.oversize.Add(1)
			}
			c.held = nil
		}
		for n < len(b) {
			r, ok := c.record()
			if !ok {
				break
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
		if err := c.receive(); err != nil {
			return 0, err
		}
	}
}

// record returns the next record that is there already. It reports false if there is none.
func (c *Conn) record() (record, bool) {
	for {
		if len(c.rest) == 0 {
			if c.rest = c.in.next(); c.rest == nil {
				return record{}, false
			}
		}
		r, rest, ok := parseRecord(c.rest)
		c.rest = rest
		if ok {
			return r, true
		}
		c.stats.malformed.Add(1)
	}
}

// receive waits until there may be another record. An error says that there will be none, at least for now.
func (c *Conn) receive() error {
	if c.dead.Load() {
		return c.Err()
	}
	switch err := c.in.wait(); {
	case err == nil:
	case c.dead.Load():
		return c.Err()
	case err == errRefused:
		// Anybody who guesses the ports can have this said. The peer itself shall tell.
		c.beat.Check()
	case isTimeout(err):
		return err
	default:
		err = fmt.Errorf("receiving DTLS: %w", err)
		c.fail(err)
		return err
	}
	return nil
}

// accept opens a record and does what it asks for. It reports whether it has put a packet into buf.
func (c *Conn) accept(r record, buf *packet.Buf) bool {
	if !c.admits(r) {
		return false
	}
	n := c.rx.plainLen(r)
	if n-1 <= buf.Size() {
		payload := c.open(r, buf.SpaceWithHeadroom(1)[:0])
		if len(payload) == 0 {
			return false
		}
		buf.SetLen(len(payload))
		return true
	}
	if cap(c.big) < n {
		c.big = make([]byte, 0, maxPlain+1)
	}
	if len(c.open(r, c.big[:0])) > 0 {
		c.stats.oversize.Add(1)
	}
	return false
}

// admits reports whether a record is worth opening.
func (c *Conn) admits(r record) bool {
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
	return true
}

// open opens a record that is admitted into dst, which has room for it or is where its body lies. It returns the packet in it, or does
// what the record asks for otherwise and returns nothing.
func (c *Conn) open(r record, dst []byte) []byte {
	plain, ok := c.rx.open(dst, r)
	if !ok {
		if c.stats.forged.Add(1) > maxForged {
			c.fail(ErrRekey)
		}
		return nil
	}
	c.win.mark(r.sequence)
	if r.sequence >= c.limit && !c.dead.Load() {
		c.fail(ErrRekey)
	}
	c.final = nil
	if r.typ == typeAlert {
		c.alerted(plain)
		return nil
	}
	t, payload := wire.Type(plain[0]), plain[1:]
	if t == wire.Data && len(payload) > 0 {
		return payload
	}
	c.beat.Received(false)
	switch t {
	case wire.Data: // without a packet
	case wire.DPDRequest:
		// A request may be padded to find out which size arrives, so all of it goes back. If that is too large for this
		// direction, one byte says that the request itself has arrived.
		if c.control(wire.DPDResponse, payload) == errTooBig {
			c.control(wire.DPDResponse, nil)
		}
	case wire.DPDResponse:
		if c.credit.answer(payload) {
			break
		}
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
	return nil
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
	u := c.pool.one(len(c.final))
	defer c.pool.put(u)
	u.added(copy(u.mem, c.final))
	c.out.send(u, false)
}
