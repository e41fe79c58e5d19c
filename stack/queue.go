package stack

import (
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A queue holds the packets that have left the stack and that nobody has read yet.
//
// It is bounded, because what waits here delays everything behind it. A writer that finds it full waits, which costs TCP less than
// a loss does when the reader is only busy for a moment. But a writer often holds the lock of a connection, or is the goroutine that
// processes the segments of many, so it waits for writeWait at most. When the reader has not come back by then the queue is
// stalled: this packet and those after it are dropped at once, and TCP learns in its own way that the path is slow, until the
// reader takes something. So nobody is held up for longer than writeWait after the last sign of life.
type queue struct {
	mu       sync.Mutex
	notEmpty sync.Cond
	room     sync.Cond

	ring    []*stack.PacketBuffer // its length is a power of two, and grows up to queuePackets
	head, n int
	bytes   int

	waiters int
	stalled bool
	closed  bool
	alarm   *time.Timer
	// progress is when the reader last made room, or when the first of the present waiters came.
	progress time.Time
}

const (
	// queueBytes is what the queue holds before writers wait: eight segments of 64 KiB, about two full batches.
	queueBytes = 512 << 10
	// queuePackets bounds small packets, such as acknowledgements. It is a power of two.
	queuePackets = 1024
	// initialRing is how many packets an idle stack has room for.
	initialRing = 16

	writeWait = 100 * time.Millisecond
)

func newQueue() *queue {
	q := &queue{ring: make([]*stack.PacketBuffer, initialRing)}
	q.notEmpty.L, q.room.L = &q.mu, &q.mu
	q.alarm = time.AfterFunc(time.Hour, q.overdue)
	q.alarm.Stop()
	return q
}

// overdue is what the alarm calls: writers have waited for long.
func (q *queue) overdue() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiters == 0 || q.closed {
		return
	}
	if wait := writeWait - time.Since(q.progress); wait > 0 {
		q.alarm.Reset(wait)
		return
	}
	q.stalled = q.full()
	q.room.Broadcast()
}

func (q *queue) full() bool { return q.bytes >= queueBytes || q.n == queuePackets }

// put appends p, of which it takes a reference of its own, and reports whether it did. Without wait it does not wait
// for room.
func (q *queue) put(p *stack.PacketBuffer, wait bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full() && !q.closed && wait && !q.stalled {
		start := time.Now()
		for q.full() && !q.closed && !q.stalled {
			if q.waiters == 0 {
				q.progress = start
				q.alarm.Reset(writeWait)
			} else if time.Since(start) > 2*writeWait {
				return false
			}
			q.waiters++
			q.room.Wait()
			q.waiters--
		}
	}
	if q.closed || q.full() {
		return false
	}
	if q.n == len(q.ring) {
		q.grow()
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = p.IncRef()
	q.n++
	q.bytes += p.Size()
	q.notEmpty.Signal()
	return true
}

// grow doubles the ring.
func (q *queue) grow() {
	ring := make([]*stack.PacketBuffer, 2*len(q.ring))
	n := copy(ring, q.ring[q.head:])
	copy(ring[n:], q.ring[:q.head])
	q.ring, q.head = ring, 0
}

// take moves packets into dst, as many as there are, but no more than one beyond size bytes. With wait it waits for the first.
// The caller owns their references.
func (q *queue) take(dst []*stack.PacketBuffer, size int, wait bool) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if wait {
		q.waitLocked()
	}
	if q.closed {
		return 0, net.ErrClosed
	}
	for n < len(dst) && size > 0 && q.n > 0 {
		p := q.ring[q.head]
		q.ring[q.head] = nil
		q.head = (q.head + 1) & (len(q.ring) - 1)
		q.n--
		q.bytes -= p.Size()
		size -= p.Size()
		dst[n] = p
		n++
	}
	if n > 0 {
		q.stalled = false
		// Writers are woken when there is room for several segments, since waking each for one costs more than it gains.
		if q.waiters > 0 && q.bytes <= queueBytes/2 && q.n <= queuePackets/2 {
			q.progress = time.Now()
			q.alarm.Reset(writeWait)
			q.room.Broadcast()
		}
	}
	return n, nil
}

// waiting reports whether packets wait for a reader, or writers for room.
func (q *queue) waiting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n > 0 || q.waiters > 0
}

// wait returns nil when there is something to take, and an error when there never will be.
func (q *queue) wait() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waitLocked()
	if q.closed {
		return net.ErrClosed
	}
	return nil
}

func (q *queue) waitLocked() {
	for q.n == 0 && !q.closed {
		q.notEmpty.Wait()
	}
}

// close drops what is queued and wakes everybody.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	q.alarm.Stop()
	for ; q.n > 0; q.n-- {
		q.ring[q.head].DecRef()
		q.ring[q.head] = nil
		q.head = (q.head + 1) & (len(q.ring) - 1)
	}
	q.bytes = 0
	q.notEmpty.Broadcast()
	q.room.Broadcast()
}
