package packet

import (
	"io"
	"net"
	"sync"
)

// Pipe returns the two ends of a connection in memory: what is written to one end is read from the other, in order and
// without loss. Each direction holds at most depth packets of up to mtu bytes; WriteBatch waits while it is full. No memory
// is allocated for a packet: a reader whose Bufs are of Size mtu gets the memory that the packet lies in.
//
// Close of either end unblocks both. The end that was closed returns net.ErrClosed from then on; the other end may
// still read what had been written before, and returns net.ErrClosed after that.
//
// Pipe panics if mtu or depth is less than 1, or if mtu is more than [MaxSize].
func Pipe(mtu, depth int) (Conn, Conn) {
	if mtu < 1 || mtu > MaxSize || depth < 1 {
		panic("packet: Pipe with an MTU or a depth out of range")
	}
	ab, ba := newLane(mtu, depth), newLane(mtu, depth)
	return &pipeEnd{in: ba, out: ab}, &pipeEnd{in: ab, out: ba}
}

// A pipeEnd reads from one lane and writes to the other.
type pipeEnd struct{ in, out *lane }

func (p *pipeEnd) ReadBatch(b Batch) (int, error)  { return p.in.read(b) }
func (p *pipeEnd) WriteBatch(b Batch) (int, error) { return p.out.write(b) }
func (p *pipeEnd) MTU() int                        { return p.out.mtu }

func (p *pipeEnd) Close() error {
	p.in.close(true)
	p.out.close(false)
	return nil
}

// A lane is one direction of a pipe: a ring of packets. Packets are copied in, since the writer keeps its own, and
// swapped out.
type lane struct {
	mtu int

	mu       sync.Mutex
	canRead  sync.Cond
	canWrite sync.Cond
	ring     Batch
	head     int  // the oldest packet
	count    int  // packets held
	closed   bool // nothing more comes
}

func newLane(mtu, depth int) *lane {
	l := &lane{mtu: mtu, ring: NewBatch(depth, mtu)}
	l.canRead.L, l.canWrite.L = &l.mu, &l.mu
	return l
}

func (l *lane) read(b Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for l.count == 0 && !l.closed {
			l.canRead.Wait()
		}
		if l.count == 0 {
			return 0, net.ErrClosed
		}
		n := 0
		for n < len(b) && l.count > 0 {
			if l.take(&b[n]) {
				n++
			}
		}
		l.canWrite.Broadcast()
		if n > 0 {
			return n, nil
		}
	}
}

// take moves the oldest packet to b. It reports false if the packet was dropped because it does not fit.
func (l *lane) take(b *Buf) bool {
	p := &l.ring[l.head]
	l.head = (l.head + 1) % len(l.ring)
	l.count--
	// Memory is exchanged only where neither side ends up with less than it is owed.
	if b.Size() >= l.mtu && p.Size() >= b.Size() {
		*b, *p = *p, *b
		return true
	}
	return b.Set(p.Bytes())
}

func (l *lane) write(b Batch) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	for i := range b {
		for l.count == len(l.ring) && !l.closed {
			l.canRead.Broadcast()
			l.canWrite.Wait()
		}
		if l.closed {
			return i, net.ErrClosed
		}
		if b[i].Len() > l.mtu {
			l.canRead.Broadcast()
			return i, ErrTooBig
		}
		l.ring[(l.head+l.count)%len(l.ring)].Set(b[i].Bytes())
		l.count++
	}
	l.canRead.Broadcast()
	return len(b), nil
}

// close ends writing; with discard it forgets what is held, and so ends reading at once.
func (l *lane) close(discard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if discard {
		l.count = 0
	}
	l.canRead.Broadcast()
	l.canWrite.Broadcast()
}
