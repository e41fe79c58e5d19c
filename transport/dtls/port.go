package dtls

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	chunkSize  = 32 << 10
	portChunks = 16   // that wait for one session
	maxChunks  = 1024 // that wait for all sessions of a Listener
	idleChunks = 64   // that are kept for later
)

// A chunk holds datagrams one after the other, each behind its length.
type chunk struct {
	mem  [chunkSize]byte
	n    int
	next *chunk
}

// chunks are the memory for what waits for the sessions of a Listener. It grows with what waits, and not with the number of
// sessions.
type chunks struct {
	mu   sync.Mutex
	free *chunk
	idle int
	made int
}

// get returns an empty chunk, or nil if too many are in use.
func (s *chunks) get() *chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.free; c != nil {
		s.free, c.next, c.n = c.next, nil, 0
		s.idle--
		return c
	}
	if s.made == maxChunks {
		return nil
	}
	s.made++
	return new(chunk)
}

func (s *chunks) put(c *chunk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle == idleChunks {
		s.made--
		return
	}
	c.next, s.free = s.free, c
	s.idle++
}

// A port is the channel of one session over the socket of a Listener.
type port struct {
	l    *Listener
	id   string
	to   atomic.Pointer[route]
	conn *Conn // set before the port is known to the Listener

	mu         sync.Mutex
	head, tail *chunk
	waiting    int // chunks between them
	closed     bool

	ready   chan struct{} // has a token when there may be something to read
	stopped atomic.Bool

	cur *chunk // being read; belongs to the reading goroutine
	off int

	// The rest belongs to the goroutine of the Listener.
	trial   *protection
	touched bool
	moved   time.Time
	random  [32]byte // of the ClientHello, to know copies of it that come late
}

// push appends a datagram to what waits, and drops it if that is too much.
func (p *port) push(d []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 2 + len(d)
	if p.closed || n > chunkSize {
		return
	}
	if p.tail == nil || p.tail.n+n > chunkSize {
		if p.waiting == portChunks {
			return
		}
		c := p.l.chunks.get()
		if c == nil {
			return
		}
		if p.tail == nil {
			p.head = c
		} else {
			p.tail.next = c
		}
		p.tail = c
		p.waiting++
	}
	t := p.tail
	binary.BigEndian.PutUint16(t.mem[t.n:], uint16(len(d)))
	copy(t.mem[t.n+2:], d)
	t.n += n
}

// wake tells the reader that something has been pushed.
func (p *port) wake() {
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

func (p *port) next() []byte {
	if p.cur != nil && p.off == p.cur.n {
		p.l.chunks.put(p.cur)
		p.cur = nil
	}
	if p.cur == nil {
		p.mu.Lock()
		if p.cur = p.head; p.cur != nil {
			if p.head = p.cur.next; p.head == nil {
				p.tail = nil
			}
			p.waiting--
		}
		p.mu.Unlock()
		p.off = 0
		if p.cur == nil {
			return nil
		}
	}
	n := int(binary.BigEndian.Uint16(p.cur.mem[p.off:]))
	d := p.cur.mem[p.off+2:][:n:n]
	p.off += 2 + n
	return d
}

func (p *port) wait() error {
	for {
		if p.stopped.Load() {
			return os.ErrDeadlineExceeded
		}
		p.mu.Lock()
		some := p.head != nil
		p.mu.Unlock()
		if some {
			return nil
		}
		<-p.ready
	}
}

func (p *port) interrupt() {
	p.stopped.Store(true)
	p.wake()
}

func (p *port) resume() { p.stopped.Store(false) }

func (p *port) send(b *burst, wait bool) (int, error) { return p.l.sock.send(b, p.to.Load(), wait) }

func (p *port) segments() bool { return p.l.sock.segments() }

// pathMTU asks with a socket of its own, since the one of the Listener is not connected with anybody. That is slow, and rarely needed.
func (p *port) pathMTU() int {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.peer()))
	if err != nil {
		return 0
	}
	defer c.Close()
	s, err := newUDPSocket(c, 1)
	if err != nil {
		return 0
	}
	return s.pathMTU()
}

// close ends the port. What is being read stays valid until release.
func (p *port) close() error {
	p.l.forget(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := p.head; c != nil; {
		next := c.next
		p.l.chunks.put(c)
		c = next
	}
	p.head, p.tail, p.waiting = nil, nil, 0
	return nil
}

// release gives the memory back that next returned from. It belongs to the reading goroutine, as next does.
func (p *port) release() {
	if p.cur != nil {
		p.l.chunks.put(p.cur)
		p.cur = nil
	}
}

func (p *port) peer() netip.AddrPort { return p.to.Load().peer }
