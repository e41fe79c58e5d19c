package gateway

import (
	"sync"

	"culvert.example/vpn/packet"
)

// queueDepth is how many packets wait for a client at most: about 30 ms of a path of 200 Mbit/s. The TCP of the gateway's stack
// fills whatever there is, so more would be delay and not throughput.
const queueDepth = 512

// A queue holds packets for one client. It drops what does not fit, so that putting never waits. Bufs are exchanged and not
// copied, so all of them must have the same Size.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	ring   []packet.Buf
	size   int // of each Buf, in bytes
	head   int
	n      int
	closed bool
}

func newQueue(size int) *queue {
	q := &queue{ring: make([]packet.Buf, queueDepth), size: size}
	q.filled.L = &q.mu
	return q
}

// put takes the packets of b, and leaves other Bufs in their place. It returns how many found no room.
func (q *queue) put(b packet.Batch) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return len(b)
	}
	took := min(len(b), len(q.ring)-q.n)
	for i := range took {
		slot := &q.ring[(q.head+q.n+i)%len(q.ring)]
		if slot.Size() < q.size {
			// Memory comes with the backlog, since most clients never have one.
			*slot = packet.NewBuf(q.size)
		}
		*slot, b[i] = b[i], *slot
	}
	if q.n == 0 && took > 0 {
		q.filled.Signal()
	}
	q.n += took
	return len(b) - took
}

// get waits for packets and exchanges up to len(b) of them for Bufs of b, which may be zero Bufs. It reports false after close.
func (q *queue) get(b packet.Batch) (n int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 && !q.closed {
		q.filled.Wait()
	}
	if q.closed {
		return 0, false
	}
	n = min(len(b), q.n)
	for i := range n {
		slot := &q.ring[q.head]
		*slot, b[i] = b[i], *slot
		if q.head++; q.head == len(q.ring) {
			q.head = 0
		}
	}
	if q.n -= n; q.n == 0 {
		// Begin again at the front, so that a short backlog uses few slots, however often it comes.
		q.head = 0
	}
	return n, true
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ring, q.n = nil, 0
	q.filled.Broadcast()
}
