//go:build unix

package cstp

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A puller reads from a socket of the system, and has memory for that only when there is something to read.
type puller struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool // s.receive, kept so that it is made once
	n   int
	err error
}

func (p *puller) init(s *socket) {
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			p.raw, p.fn = raw, s.receive
		}
	}
}

// pull waits until something has come, and reads it into buf.
func (s *socket) pull() (int, error) {
	p := &s.puller
	if p.raw == nil {
		s.borrow()
		return s.Conn.Read(s.buf[:])
	}
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
	for {
		n, err := unix.Read(int(fd), s.buf[:])
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			s.release()
			return false
		}
		s.puller.n, s.puller.err = max(n, 0), err
		return true
	}
}
