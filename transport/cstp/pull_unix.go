//go:build unix

package cstp

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/transport/nap"
)

// A puller reads from a socket of the system, and has memory for that only when there is something to read.
type puller struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool // s.receive, kept so that it is made once
	n   int
	err error

	last time.Time // when pull was called last
}

// Moderation of the wake-ups under load, as network cards have it. A peer that sends one record at a time would have the reader,
// and everybody behind it, woken for each. When large packets come in quick succession and few at a time, the reader lets
// some more arrive. With ocserv that took a third off the processor time of downloads, and made them a fifth faster. Small packets are
// acknowledgements and the like, which somebody waits for: the same pause made uploads slower.
const (
	busyGap  = 200 * time.Microsecond // between two reads, at most, if the channel is busy
	busyRead = 12 << 10               // bytes in a read that is worth waiting for more
	busyNap  = 60 * time.Microsecond
)

// moderate waits a moment if what was read last was little, of large packets, and came fast.
func (s *socket) moderate() {
	now := time.Now()
	if p := &s.puller; s.bulk && p.n < busyRead && now.Sub(p.last) < busyGap {
		nap.For(busyNap)
		now = time.Now()
	}
	s.puller.last = now
}

func (p *puller) init(s *socket) {
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			p.raw, p.fn = raw, s.receive
		}
	}
}

// pools reports whether nothing is held while nothing comes.
func (p *puller) pools() bool { return p.raw != nil }

// pull waits until something has come, and reads it into buf.
func (s *socket) pull() (int, error) {
	p := &s.puller
	if p.raw == nil {
		s.borrow()
		return s.Conn.Read(s.buf[:])
	}
	s.moderate()
	if err := p.raw.Read(p.fn); err != nil {
		s.release()
		return 0, err
	}
	switch {
	case p.err != nil:
		s.release()
		return 0, &net.OpError{
			Op: "read", Net: "tcp", Source: s.Conn.LocalAddr(), Addr: s.Conn.RemoteAddr(), Err: os.NewSyscallError("read", p.err),
		}
	case p.n == 0:
		s.release()
		return 0, io.EOF
	}
	return p.n, nil
}

// receive is what the poller of package net calls until it returns true.
func (s *socket) receive(fd uintptr) bool {
	s.borrow()
	for yielded := false; ; {
		n, err := unix.Read(int(fd), s.buf[:])
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			if !yielded {
				// The goroutines that wait for what came before go first. Under load more has come when they are done.
				yielded = true
				runtime.Gosched()
				continue
			}
			s.release()
			return false
		}
		s.puller.n, s.puller.err = max(n, 0), err
		return true
	}
}
