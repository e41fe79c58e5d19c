package failover

import (
	"errors"

	"culvert.example/vpn/packet"
)

// WriteBatch implements packet.Writer. It writes to the active path. If that fails on the way, the rest goes to the next one; while
// none is open it waits. It fails only when the Conn has ended, with an error that matches net.ErrClosed and the one that [Conn.Err]
// returns. A packet that is too large for the active path is not an error: its sender is told by an ICMP message
// from ReadBatch, as a router would do.
func (c *Conn) WriteBatch(b packet.Batch) (int, error) {
	select {
	case c.turn <- struct{}{}:
	case <-c.done:
		return 0, c.ended()
	}
	n, err := c.write(b)
	<-c.turn
	return n, err
}

// write is WriteBatch for whose turn it is.
func (c *Conn) write(b packet.Batch) (int, error) {
	n := 0
	for n < len(b) {
		v := c.view.Load()
		if v.live == nil {
			select {
			case <-v.changed:
			case <-c.done:
				return n, c.ended()
			}
			continue
		}
		if !c.announced(v) {
			continue
		}
		wrote, err := v.live.conn.WriteBatch(b[n:])
		n += min(max(wrote, 0), len(b)-n)
		switch {
		case err == nil:
			return len(b), nil
		case errors.Is(err, packet.ErrTooBig):
			if n < len(b) {
				c.refuse(v.live, &b[n])
				n++
			}
		default:
			c.abandon(v, err)
		}
	}
	return n, nil
}

// announced writes Config.Announce to the path of v if that has not been done since the data moved there. It reports whether the path
// still works. The caller has the turn.
func (c *Conn) announced(v *view) bool {
	if !v.live.unannounced.Load() {
		return true
	}
	v.live.unannounced.Store(false)
	if _, err := v.live.conn.WriteBatch(c.announce); err != nil && !errors.Is(err, packet.ErrTooBig) {
		c.abandon(v, err)
		return false
	}
	return true
}

// announceNow writes the announcement on the path of v if nobody else has done it.
func (c *Conn) announceNow(v *view) {
	select {
	case c.turn <- struct{}{}:
	case <-v.changed:
		return
	}
	if c.view.Load() == v {
		c.announced(v)
	}
	<-c.turn
}

// abandon reports that the path of v has failed, and waits until data takes another one, or none.
func (c *Conn) abandon(v *view, err error) {
	if c.tell(c.failure(v.live.path, v.live.try, err)) {
		<-v.changed
	}
}

// refuse deals with a packet that l finds too large.
func (c *Conn) refuse(l *live, b *packet.Buf) {
	c.oversize.Add(1)
	mtu := l.conn.MTU()
	if b.Len() > mtu { // or it has grown in the meantime, and there is nothing to tell
		c.tooBig.add(b.Bytes(), mtu)
	}
	if old := c.mtu.Swap(int64(mtu)); old != int64(mtu) {
		c.tell(event{kind: evResized})
	}
}
