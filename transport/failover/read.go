package failover

import (
	"errors"
	"io"
	"net"
	"sync/atomic"

	"culvert.example/vpn/packet"
)

const (
	// readBatch is how many packets are read from a path at a time.
	readBatch = 128

	// maxSwap is the largest Size of a caller's Bufs for which readers get Bufs of the same size, so that memory is exchanged instead of
	// copied.
	maxSwap = 16 << 10
)

// reads is the reading half of a Conn. Each path has a goroutine that reads a batch and delivers it itself while Forward runs.
// Otherwise it puts its reader into full, and waits until ReadBatch has taken all of it. A whole batch changes hands at once, by exchanging the memory of its Bufs for that of the
// caller's, which the path's goroutine fills next while the caller deals with the packets.
type reads struct {
	full chan *reader // each reader is in it at most once, so that putting it there hardly ever waits
	rest *reader      // what the last ReadBatch had no room for; belongs to the caller of ReadBatch
	size atomic.Int64 // the Size of the Bufs of readers
}

func (r *reads) init(paths, size int) {
	r.full = make(chan *reader, 2*paths) // each path has a retired connection at most
	r.size.Store(int64(size))
}

// A reader is a batch that travels between the goroutine of a path and ReadBatch. While Forward runs the memory is borrowed
// instead, so that idle paths, which wait without, share it.
type reader struct {
	batch packet.Batch
	size  int          // of each Buf at least
	loan  *packet.Loan // where batch comes from; nil: it is the reader's own
	busy  bool         // the last batch was large, and there may be more
	next  int          // the first packet that nobody has taken
	end   int
	given bool          // it is with ReadBatch; belongs to the goroutine of the path
	taken chan struct{} // gets one element when ReadBatch has taken all packets
}

func (r *reader) init() { r.taken = make(chan struct{}, 1) }

// release lets go of the memory, unless it is with ReadBatch.
func (r *reader) release() {
	if r.given {
		return
	}
	if r.loan != nil {
		r.loan.Return()
	}
	r.loan, r.batch, r.size = nil, nil, 0
}

// prepare makes or borrows memory for packets of up to size bytes.
func (r *reader) prepare(size int, borrow bool) {
	if r.loan != nil && !borrow {
		r.release()
	}
	if r.size >= size && (borrow || r.size == size) {
		return
	}
	r.release()
	if borrow {
		r.loan = packet.Borrow(readBatch, size)
		r.batch = r.loan.Batch
	} else {
		r.batch = packet.NewBatch(readBatch, size)
	}
	r.size = r.batch[0].Size()
}

// errReplaced ends the goroutine of a path that another one does the work of.
var errReplaced = errors.New("path has another goroutine")

// pump reads from l until it fails or is closed or the Conn ends, and returns the error of l. It may leave r with ReadBatch: if
// nobody reads, because nobody can write, the path must come back all the same.
func (c *Conn) pump(r *reader, l *live) error {
	waiter, _ := l.conn.(packet.Waiter)
	for {
		if r.given {
			select {
			case <-r.taken:
				r.given = false
			case <-l.closed:
				return net.ErrClosed
			case <-c.done:
				return c.err
			}
		}
		borrow := c.sink.Load() != nil
		if waiter != nil && !r.busy && (borrow || r.batch == nil) {
			r.release()
			if err := waiter.Wait(); err != nil {
				return err
			}
		}
		r.prepare(int(c.read.size.Load()), borrow)
		n, err := l.conn.ReadBatch(r.batch)
		if n > 0 {
			n = min(n, len(r.batch))
			r.busy = n >= packet.Brisk
			if s := c.sink.Load(); s == nil {
				r.next, r.end, r.given = 0, n, true
				select {
				case c.read.full <- r:
				case <-l.closed:
					// Nobody has read for several replacements, whose readers wait there.
					r.given = false
					return net.ErrClosed
				case <-c.done:
					r.given = false
					return c.err
				}
			} else {
				if !l.delivery.begin() {
					return net.ErrClosed
				}
				s.deliver(r.batch[:n])
				if !l.delivery.end() {
					return errReplaced
				}
			}
		}
		if err == nil && n <= 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return err
		}
	}
}

// ReadBatch implements packet.Reader. It returns packets of all paths; those of one path are in order. It waits while no path is
// open, and fails when the Conn has ended, with an error that matches net.ErrClosed and the one that [Conn.Err] returns.
func (c *Conn) ReadBatch(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	select {
	case <-c.done:
		return 0, c.ended()
	default:
	}
	if c.read.rest == nil {
		if size := int64(b[0].Size()); size > c.read.size.Load() && size <= maxSwap {
			c.read.size.Store(size)
		}
	}
	n := 0
	for n == 0 {
		if c.read.rest == nil {
			select {
			case c.read.rest = <-c.read.full:
			case <-c.tooBig.waiting:
				n = c.tooBig.take(b)
				continue
			case <-c.done:
				return 0, c.ended()
			}
		}
		n = c.take(b)
	}
	// What other paths have ready comes along.
	for n < len(b) {
		if c.read.rest == nil {
			select {
			case c.read.rest = <-c.read.full:
			default:
				return n, nil
			}
		}
		n += c.take(b[n:])
	}
	return n, nil
}

// take moves packets from the rest to b and returns how many. It lets the reader go on when it is empty.
func (c *Conn) take(b packet.Batch) int {
	r, n := c.read.rest, 0
	for n < len(b) && r.next < r.end {
		from, to := &r.batch[r.next], &b[n]
		r.next++
		if size := to.Size(); size >= r.size && from.Size() >= size {
			*from, *to = *to, *from
		} else if !to.Set(from.Bytes()) {
			continue // dropped: it does not fit
		}
		n++
	}
	if r.next == r.end {
		c.read.rest = nil
		r.taken <- struct{}{}
	}
	return n
}
