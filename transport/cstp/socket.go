package cstp

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHeld is how much a socket holds back at most before it writes, in bytes.
	maxHeld = 256 << 10

	// busySize is the least size in bytes, on average, of packets that are called large.
	busySize = 512

	// closeTime is how long a goodbye may take.
	closeTime = 250 * time.Millisecond
)

// A socket is the connection under TLS. It holds back what TLS writes until all records of a batch are there, reads ahead, and sees the
// hello of the server as it passes.
type socket struct {
	net.Conn

	hello    hello
	incoming bool // the hello of the server comes in, as it does at a client

	// What was read ahead is buf[r:w]. Only the goroutine that reads touches these. While nowait is set, Read gives
	// errWait instead of waiting for the network.
	ahead  bool // reads ahead
	buf    *chunk
	r, w   int
	nowait bool
	bulk   bool // the last packets were large, so that nobody minds a moment more
	puller puller

	// mu is held during a write to the network, so that what others write in between comes behind what is held.
	mu      sync.Mutex
	holding bool
	held    []byte

	closing atomic.Bool // deadlines for writing are short from now on
}

// errWait is what a socket gives instead of waiting. For TLS it is temporary: the connection goes on after it, even within
// a record.
var errWait net.Error = waitError{}

type waitError struct{}

func (waitError) Error() string   { return "cstp: nothing there yet" }
func (waitError) Timeout() bool   { return true }
func (waitError) Temporary() bool { return true }

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if s.r < s.w {
		n := copy(p, s.buf[s.r:s.w])
		s.r += n
		return n, nil
	}
	if s.nowait {
		return 0, errWait
	}
	if !s.ahead {
		n, err := s.Conn.Read(p)
		if s.incoming {
			s.hello.see(p[:n])
		}
		return n, err
	}
	n, err := s.pull()
	s.r, s.w = 0, n
	if n == 0 {
		return 0, err
	}
	s.r = copy(p, s.buf[:n])
	return s.r, nil
}

// readAhead makes Read take what the network has, some dozens of packets, and not only what it is asked for.
func (s *socket) readAhead() {
	s.ahead = true
	s.puller.init(s)
}

// borrow has memory for what is read.
func (s *socket) borrow() {
	if s.buf == nil {
		s.buf = chunks.Get().(*chunk)
	}
}

// release gives that memory back. Nothing is in it.
func (s *socket) release() {
	if s.buf != nil {
		chunks.Put(s.buf)
		s.buf = nil
	}
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.incoming {
		s.hello.see(p)
	}
	if !s.holding {
		return s.Conn.Write(p)
	}
	if len(s.held)+len(p) > maxHeld {
		if err := s.writeHeld(); err != nil {
			return 0, err
		}
	}
	s.held = append(s.held, p...)
	return len(p), nil
}

// hold makes Write gather until flush.
func (s *socket) hold() {
	s.mu.Lock()
	s.holding = true
	s.mu.Unlock()
}

// flush writes all that is held.
func (s *socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	return s.writeHeld()
}

func (s *socket) writeHeld() error {
	if len(s.held) == 0 {
		return nil
	}
	_, err := s.Conn.Write(s.held)
	s.held = s.held[:0]
	return err
}

// SetWriteDeadline implements net.Conn. TLS asks for seconds to say goodbye to a peer that may not listen any more; a socket
// that is closing does not grant them.
func (s *socket) SetWriteDeadline(t time.Time) error {
	if s.closing.Load() {
		if soon := time.Now().Add(closeTime); t.IsZero() || t.After(soon) {
			t = soon
		}
	}
	return s.Conn.SetWriteDeadline(t)
}
