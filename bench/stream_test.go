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
	meter
	conns   []net.Conn // both ends
	running sync.WaitGroup
	count   func() counts
	began   counts
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
	s := &stream{count: n.down}
	if up {
		s.count = n.up
	}
	s.init()
	s.began = s.count()
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
		s.add(int64(n), err)
		if err != nil {
			return
		}
	}
}

func (s *stream) tally() tally {
	now := s.count()
	packets := int64(now.arrived - s.began.arrived)
	return tally{packets: packets, bytes: s.total(), lost: int64(now.sent-s.began.sent) - packets}
}

func (s *stream) stop() {
	for _, c := range s.conns {
		c.(interface{ SetLinger(int) error }).SetLinger(0)
		c.Close()
	}
	s.running.Wait()
}
