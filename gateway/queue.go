package gateway

import (
	"sync"

	"culvert.example/vpn/packet"
)

const (
	// queueDepth is how many packets wait for a client at most: about 30 ms of a path of 200 Mbit/s. The TCP of the gateway's
	// stack fills whatever there is, so more would be delay and not throughput.
	queueDepth = 512

	// restDepth is for how many packets an empty queue keeps room, and spareBufs how much memory for packets all queues keep.
	restDepth = 32
	spareBufs = 1024
)

// A queue holds packets for one client until they are sent. It drops what does not fit, so that putting never waits. While it is
// empty it has neither a goroutine nor memory for packets. Bufs are exchanged and not copied.
type queue struct {
	spare *spare
	send  func(packet.Batch) // sends packets; called by one goroutine at a time

	mu     sync.Mutex
	ring   []packet.Buf
	head   int
	n      int
	held   bool // packets wait for release
	busy   bool // a goroutine takes packets out
	closed bool
	work   sync.WaitGroup
}

func newQueue(spare *spare, send func(packet.Batch)) *queue {
	return &queue{spare: spare, send: send, ring: make([]packet.Buf, restDepth)}
}

// put takes the packets of b, and leaves other Bufs in their place. It returns how many found no room.
func (q *queue) put(b packet.Batch) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return len(b)
	}
	took := min(len(b), queueDepth-q.n)
	if q.n+took > len(q.ring) {
		q.grow(q.n + took)
	}
	q.spare.exchange(b[:took], func(i int) *packet.Buf { return &q.ring[(q.head+q.n+i)%len(q.ring)] })
	q.n += took
	q.begin()
	return len(b) - took
}

// begin has packets sent, if there are any and nobody does it yet. The lock is held.
func (q *queue) begin() {
	if q.n > 0 && !q.busy && !q.held {
		q.busy = true
		q.work.Go(q.drain)
	}
}

// hold keeps what is put until release.
func (q *queue) hold() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = true
}

// release lets go what was held.
func (q *queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = false
	q.begin()
}

// grow makes room for n packets at least.
func (q *queue) grow(n int) {
	size := len(q.ring)
	for size < n {
		size *= 2
	}
	ring := make([]packet.Buf, size)
	k := copy(ring, q.ring[q.head:])
	copy(ring[k:], q.ring[:q.head])
	q.ring, q.head = ring, 0
}

// drain sends what the queue holds until it is empty or closed.
func (q *queue) drain() {
	b := q.spare.batch()
	defer q.spare.back(b)
	for {
		n := q.get(*b)
		if n == 0 {
			return
		}
		q.send((*b)[:n])
		q.spare.give((*b)[:n])
	}
}

// get moves up to len(b) packets to b. When it returns 0, the goroutine that calls it is one too many.
func (q *queue) get(b packet.Batch) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(len(b), q.n)
	for i := range n {
		b[i], q.ring[q.head] = q.ring[q.head], packet.Buf{}
		if q.head++; q.head == len(q.ring) {
			q.head = 0
		}
	}
	if q.n -= n; n > 0 {
		return n
	}
	q.busy, q.head = false, 0
	if len(q.ring) > restDepth {
		q.ring = make([]packet.Buf, restDepth)
	}
	return 0
}

// close forgets what the queue holds and waits for its goroutine. The caller sees to it that send returns.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.ring, q.head, q.n = make([]packet.Buf, 1), 0, 0
	q.mu.Unlock()
	q.work.Wait()
}

// A spare is memory for packets that the queues of a Server share: it goes with the packets that wait, and not with the number of
// clients.
type spare struct {
	size    int // of each Buf, in bytes
	batches sync.Pool

	mu   sync.Mutex
	bufs []packet.Buf
}

func newSpare(size int) *spare {
	s := &spare{size: size, bufs: make([]packet.Buf, 0, spareBufs)}
	s.batches.New = func() any { return new(make(packet.Batch, batchSize)) }
	return s
}

// exchange moves the Bufs of b to the slots, and puts others in their place.
func (s *spare) exchange(b packet.Batch, slot func(i int) *packet.Buf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b {
		*slot(i) = b[i]
		if k := len(s.bufs) - 1; k >= 0 {
			b[i], s.bufs[k], s.bufs = s.bufs[k], packet.Buf{}, s.bufs[:k]
		} else {
			b[i] = packet.NewBuf(s.size)
		}
	}
}

// give takes the memory of b back.
func (s *spare) give(b packet.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b {
		if len(s.bufs) < cap(s.bufs) && b[i].Size() >= s.size {
			s.bufs = append(s.bufs, b[i])
		}
		b[i] = packet.Buf{}
	}
}

// batch returns a Batch without memory for packets.
func (s *spare) batch() *packet.Batch { return s.batches.Get().(*packet.Batch) }

func (s *spare) back(b *packet.Batch) { s.batches.Put(b) }
