package dtls

import (
	"errors"
	"fmt"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/wire"
)

// WriteBatch implements packet.Writer. It leaves all packets as they were, those that it has sent among them: when the channel ends,
// nobody knows which of them have arrived, and they can go another way.
func (c *Conn) WriteBatch(b packet.Batch) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	u := c.pool.get()
	defer c.pool.put(u)
	mtu := c.MTU()
	for i := 0; i < len(b); {
		room := c.credit.wait(c.ended)
		if c.dead.Load() {
			return i, c.Err()
		}
		first := i
		u.reset()
		var tooBig, large bool
		for ; i < len(b) && room > 0; i++ {
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
			large = large || n >= c.floor
			room -= min(room, c.credit.add(n))
			if mem := u.room(c.tx.size(1 + creditLen)); mem != nil && c.echoes.Load() {
				if ask := c.credit.request(); ask != nil {
					room -= min(room, requestCost)
					u.asks |= 1 << u.count
					u.added(c.tx.seal(mem, typeData, c.number(), ask))
				}
			}
		}
		if u.count > 0 {
			sent, err := c.out.send(u, true)
			c.count(u, sent)
			if sent > 0 {
				c.beat.Sent(true)
			}
			if err != nil {
				c.credit.settle() // what was counted has not left
				next := first + sent - u.requests(sent)
				return next, c.writeFailed(err, b[min(next, len(b)-1)].Len())
			}
			if large {
				c.confirm()
			}
		}
		if tooBig {
			if mtu < c.ceiling {
				c.confirm() // which looks for a larger MTU if it is time for that
			}
			return i, packet.ErrTooBig
		}
	}
	return len(b), nil
}

// count takes note of what became of a burst of packets, of which sent are dealt with.
func (c *Conn) count(u *burst, sent int) {
	requests := u.requests(sent)
	left := sent - requests - u.lost
	c.stats.packetsSent.Add(uint64(left))
	c.stats.bytesSent.Add(uint64(u.start(sent) - u.lostBytes - requests*c.tx.size(1+creditLen) - left*c.tx.size(1)))
	if u.lost > 0 {
		c.stats.unsent.Add(uint64(u.lost))
	}
}

// number returns a number that no record has had. Each record draws its own, rather than a batch a range of them: a control frame
// that leaves meanwhile would be ahead of a whole batch, and some gateways forget all that is 64 behind.
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

// control sends a frame that is no packet. It does not wait for room.
func (c *Conn) control(t wire.Type, payload []byte) error {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	n := 1 + len(payload)
	u := c.pool.one(2 * c.ctl.size(n))
	defer c.pool.put(u)
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
	switch {
	case u.lost > 0:
		c.stats.unsent.Add(1)
	case err == nil:
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
	u := c.pool.one(2 * c.ctl.size(2))
	defer c.pool.put(u)
	plain := u.mem[c.ctl.size(2):][:2]
	plain[0], plain[1] = level, description
	c.sealed(u, typeAlert, plain)
}
