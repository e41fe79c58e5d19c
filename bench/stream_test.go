package bench

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// A stream is TCP connections that are full all the time, in one direction.
type stream struct {
	conns   []net.Conn // both ends
	running sync.WaitGroup

	mu      sync.Mutex
	more    sync.Cond
	arrived int64
	err     error
}

// stream connects the client with an address of the server and begins to send, up to the server or down to the client.
func (n *network) stream(tb testing.TB, addr netip.Addr, flows int, up bool) *stream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	ln, err := n.listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	s := new(stream)
	s.more.L = &s.mu
	for range flows {
		from, err := n.dial(ctx, "tcp", ln.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		to, err := ln.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		s.conns = append(s.conns, from, to)
		if !up {
			from, to = to, from
		}
		s.running.Go(func() { send(from) })
		s.running.Go(func() { s.receive(to) })
	}
	return s
}

func send(c net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return // the other end has it too
		}
	}
}

func (s *stream) receive(c net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		s.mu.Lock()
		s.arrived += int64(n)
		if err != nil {
			s.err = err
		}
		s.mu.Unlock()
		s.more.Signal()
		if err != nil {
			return
		}
	}
}

// await waits until n more bytes have arrived, by whichever connections.
func (s *stream) await(tb testing.TB, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for end := s.arrived + n; s.arrived < end; s.more.Wait() {
		if s.err != nil {
			tb.Fatalf("receiving: %v", s.err)
		}
	}
}

// stop ends the stream, and forgets what is under way.
func (s *stream) stop() {
	for _, c := range s.conns {
		c.(interface{ SetLinger(int) error }).SetLinger(0)
		c.Close()
	}
	s.running.Wait()
}
