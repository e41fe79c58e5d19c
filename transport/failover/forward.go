package failover

import (
	"sync/atomic"

	"culvert.example/vpn/packet"
)

// A sink is where packets go while Forward runs. The goroutines of the paths write to it themselves, and take turns. A channel, since
// a turn lasts as long as dst blocks, and who waits for one must notice the end.
type sink struct {
	dst     packet.Writer
	filters []packet.Filter
	turn    chan struct{}
	failed  chan error    // gets the first error of dst
	over    chan struct{} // closed when Forward is about to return
}

// deliver writes b. It waits while another path delivers and while dst blocks. After the end of Forward it drops b.
func (s *sink) deliver(b packet.Batch) {
	select {
	case s.turn <- struct{}{}:
	case <-s.over:
		return
	}
	if err := packet.Deliver(s.dst, b, s.filters...); err != nil {
		select {
		case s.failed <- err:
		default: // not the first
		}
	}
	<-s.turn
}

// Forward implements packet.Forwarder: the goroutines that read from the paths deliver what they have read themselves, in turn. The
// packets of one path arrive in order. It fails when dst does, or when the Conn has ended, with the same error as ReadBatch;
// ReadBatch and Forward may not be called at the same time.
//
// Dst may block. The path that waits for it then reads no more, and others wait if they have packets, but paths are closed and
// opened all the same, writing goes on, and Close does not wait for dst. Forward does wait for it: whoever closes a Conn has to
// unblock dst then.
func (c *Conn) Forward(dst packet.Writer, filters ...packet.Filter) error {
	s := &sink{
		dst: dst, filters: filters,
		turn: make(chan struct{}, 1), failed: make(chan error, 1), over: make(chan struct{}),
	}
	c.sink.Store(s)
	err := c.forward(s)
	c.sink.Store(nil)
	close(s.over)
	s.turn <- struct{}{} // it is never given back
	return err
}

// forward delivers what does not come from the goroutine of a path, until the end.
func (c *Conn) forward(s *sink) error {
	// What was read before Forward was called.
	if r := c.read.rest; r != nil {
		c.hand(s, r)
	}
	for {
		select {
		case <-c.done:
			return c.ended()
		default:
		}
		select {
		case r := <-c.read.full:
			c.hand(s, r)
		case <-c.tooBig.waiting:
			loan := packet.Borrow(replyBurst, max(maxReply4, maxReply6))
			s.deliver(loan.Batch[:c.tooBig.take(loan.Batch)])
			loan.Return()
		case err := <-s.failed:
			return err
		case <-c.done:
			return c.ended()
		}
	}
}

// hand delivers the packets of a reader that was given to ReadBatch.
func (c *Conn) hand(s *sink, r *reader) {
	c.read.rest = nil
	b := r.batch[r.next:r.end]
	r.next = r.end
	s.deliver(b)
	r.taken <- struct{}{}
}

// A delivery says whether the goroutine of a path is with dst, and may not come back for a while. If the connection is closed then,
// another goroutine takes its place, and it ends when dst lets go of it.
type delivery struct{ state atomic.Int32 }

const (
	away   int32 = iota // not with dst
	inside              // with dst
	closed              // the connection is closed
)

// begin notes that the goroutine goes to dst. It reports false if the connection is closed, and nobody would take its place.
func (d *delivery) begin() bool { return d.state.CompareAndSwap(away, inside) }

// end notes that it is back. It reports false if another one has taken its place.
func (d *delivery) end() bool { return d.state.CompareAndSwap(inside, away) }

// close notes that the connection is closed. It reports whether the goroutine has to be replaced.
func (d *delivery) close() bool { return d.state.Swap(closed) == inside }
