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
