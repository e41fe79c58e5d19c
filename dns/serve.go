package dns

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	maxReaders  = 8                // goroutines that read from one packet socket, one packet at a time
	maxPipeline = 32               // questions of one TCP connection that are asked at the same time (RFC 7766 section 6.2.1.1)
	idleStream  = 10 * time.Second // RFC 7766 section 6.2.3
	idleFlow    = 5 * time.Second  // a flow that is given up too soon begins anew with the next packet
	writeWait   = 5 * time.Second

	// A socket that fails so often in a row is given up. A single failure may be about a packet that was sent before, to
	// somebody who does not listen any more.
	maxFailures = 100
)

// past is a deadline that ends a Read that is under way.
var past = time.Unix(1, 0)

// ServePacket answers the queries that come in on pc until the Server is closed, which closes pc, and returns nil then. It
// returns an error if pc fails for good, and then closes pc too. The answer goes out from where the socket is bound, so pc
// should be bound to one address and not to all that the machine has.
//
// On Linux a net.UDPConn is read by one goroutine, many queries at a time. Whoever wants more processors to answer at one address
// opens several sockets there, with SO_REUSEPORT.
func (s *Server) ServePacket(pc net.PacketConn) error {
	p := &packetSocket{PacketConn: pc}
	if u, ok := pc.(addrPortConn); ok {
		p.fast = u
	}
	if !s.keep(p) {
		return errClosed()
	}
	defer s.leave(p)
	// One goroutine that takes bursts does more than several that take turns, since nobody has to be woken for a turn.
	n, b := 1, newBurst(pc)
	if b == nil {
		n = min(runtime.GOMAXPROCS(0), maxReaders)
	}
	errs := make(chan error, n)
	for range n {
		s.running.Go(func() {
			errs <- s.readPackets(p, b)
			p.drain() // so that the others end too
		})
	}
	var err error
	for range n {
		if e := <-errs; err == nil || gone(err) {
			err = e
		}
	}
	p.pending.Wait()
	if s.closing.Load() {
		return nil
	}
	return fmt.Errorf("dns: %s: %w", pc.LocalAddr(), err)
}

// addrPortConn is what a net.UDPConn has beyond a net.PacketConn: it needs no memory for the addresses of its peers.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// A packetSocket is a net.PacketConn with the questions from it that are being asked.
type packetSocket struct {
	net.PacketConn
	fast    addrPortConn // the same, or nil
	pending sync.WaitGroup
}

// A peer is where a packet came from, in one of two forms.
type peer struct {
	addrPort netip.AddrPort
	addr     net.Addr
}

func (p *packetSocket) drain() { p.SetReadDeadline(past) }

func (p *packetSocket) read(b []byte) (n int, from peer, err error) {
	if p.fast != nil {
		n, from.addrPort, err = p.fast.ReadFromUDPAddrPort(b)
	} else {
		n, from.addr, err = p.ReadFrom(b)
	}
	return n, from, err
}

// write loses the answer if it cannot be sent, as the network may.
func (p *packetSocket) write(b []byte, to peer) {
	if p.fast != nil {
		p.fast.WriteToUDPAddrPort(b, to.addrPort)
	} else {
		p.WriteTo(b, to.addr)
	}
}

// readPackets answers queries on p until it fails, in bursts if b is not nil. What is in the cache is answered here and now.
func (s *Server) readPackets(p *packetSocket, b *burst) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
			err = panicked(v)
		}
	}()
	if b != nil {
		return s.readBursts(p, b)
	}
	in := make([]byte, maxQuery+1) // one more than is taken, so that a query that was cut is noticed
	out := make([]byte, 0, udpSize)
	q := new(query)
	for failures := 0; ; {
		n, from, err := p.read(in)
		if err != nil {
			if failures++; !s.retry(err, failures) {
				return err
			}
			continue
		}
		failures = 0
		answer, st := s.handle(q, in[:n], out, packetLimit)
		if st != nil {
			answer = s.later(st, q, in[:n], p, from)
		}
		if answer != nil {
			p.write(answer, from)
		}
	}
}

// readBursts is readPackets for many queries at a time.
func (s *Server) readBursts(p *packetSocket, b *burst) error {
	q := new(query)
	for failures := 0; ; {
		n, err := b.receive()
		if err != nil {
			if failures++; !s.retry(err, failures) {
				return err
			}
			continue
		}
		failures = 0
		for i := range n {
			in := b.query(i)
			answer, st := s.handle(q, in, b.space(i), packetLimit)
			if st != nil {
				answer = s.later(st, q, in, p, peer{addrPort: b.from(i)})
			}
			if answer != nil {
				b.answer(i, answer)
			}
		}
		b.send()
	}
}

// retry reports whether a packet socket may be read again after so many failures in a row, and waits a little before.
func (s *Server) retry(err error, failures int) bool {
	if s.closing.Load() || gone(err) || failures >= maxFailures {
		return false
	}
	time.Sleep(time.Duration(failures) * time.Millisecond)
	return true
}

// later has q asked, and sends the answer when it is there. It returns the answer that it cannot.
func (s *Server) later(st *ruling, q *query, in []byte, p *packetSocket, from peer) []byte {
	own, b := *q, append([]byte(nil), in...)
	p.pending.Add(1)
	ok := s.join(st, q, func(e *entry) {
		defer p.pending.Done()
		s.logQuery(&own, e, false)
		p.write(s.render(e, nil, b, &own, s.now(), packetLimit), from)
	})
	if !ok {
		p.pending.Done()
		return q.fail(nil, in)
	}
	return nil
}

// Serve answers the queries on the connections that l accepts until the Server is closed, which closes l and the connections,
// and returns nil then. It returns an error if l fails for good, and then closes l too.
func (s *Server) Serve(l net.Listener) error {
	kept := &listener{l}
	if !s.keep(kept) {
		return errClosed()
	}
	defer s.leave(kept)
	for failures := 0; ; {
		conn, err := l.Accept()
		if err != nil {
			switch failures++; {
			case s.closing.Load():
				return nil
			case gone(err), failures >= maxFailures:
				return fmt.Errorf("dns: %s: %w", l.Addr(), err)
			}
			time.Sleep(time.Duration(failures) * time.Millisecond)
			continue
		}
		failures = 0
		if s.conns.Add(1) > s.maxConns {
			s.conns.Add(-1)
			s.count.refusedConns.Add(1)
			conn.Close()
			continue
		}
		s.running.Go(func() {
			defer s.conns.Add(-1)
			s.serveConn(conn, s.serveStream)
		})
	}
}

type listener struct{ net.Listener }

func (l *listener) drain() { l.Close() }

// ServeConn answers the queries that come in on one connection, until the other end closes it or says nothing for a while, and
// closes it. Network is udp for a connection that keeps the boundaries of messages, and tcp for one on which each
// message has its length in front. It serves the flows that a stack takes over from other programs. Above
// [ServerConfig.MaxConns] connections of the one kind, or [ServerConfig.MaxQuestions] of the other, it closes conn and returns an
// error.
func (s *Server) ServeConn(network string, conn net.Conn) error {
	switch {
	case strings.HasPrefix(network, "tcp"):
		if s.conns.Add(1) > s.maxConns {
			s.conns.Add(-1)
			s.count.refusedConns.Add(1)
			conn.Close()
			return fmt.Errorf("dns: %d connections are open, which is the limit", s.maxConns)
		}
		defer s.conns.Add(-1)
		return s.serveConn(conn, s.serveStream)
	case strings.HasPrefix(network, "udp"):
		if s.flows.Add(1) > s.maxQuestions {
			s.flows.Add(-1)
			s.count.refusedConns.Add(1)
			conn.Close()
			return fmt.Errorf("dns: %d flows are open, which is the limit", s.maxQuestions)
		}
		defer s.flows.Add(-1)
		return s.serveConn(conn, s.serveMessages)
	}
	conn.Close()
	return fmt.Errorf("dns: network %q is neither udp nor tcp", network)
}

// A connSocket is a connection with the questions from it that are being asked.
type connSocket struct {
	net.Conn
	pending sync.WaitGroup
	slots   chan struct{} // one for each of them

	mu sync.Mutex // held while an answer is written
}

func (c *connSocket) drain() { c.SetReadDeadline(past) }

// write sends an answer. One that cannot be sent in time ends a stream, of which nobody knows where the next would begin.
func (c *connSocket) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.SetWriteDeadline(time.Now().Add(writeWait))
	_, err := c.Write(b)
	return err
}

// wait sets how long to wait for the next query. It reports false if none is wanted.
func (s *Server) wait(c *connSocket, idle time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(idle))
	// After the deadline was set: whoever closes the Server sets one too.
	return !s.closing.Load()
}

// serveConn has serve answer the queries of a connection, and closes it.
func (s *Server) serveConn(conn net.Conn, serve func(*connSocket) error) (err error) {
	c := &connSocket{Conn: conn, slots: make(chan struct{}, maxPipeline)}
	if !s.keep(c) {
		return errClosed()
	}
	defer s.leave(c)
	defer c.pending.Wait()
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
			err = panicked(v)
		}
	}()
	return serve(c)
}

// serveStream answers queries that have their lengths in front (RFC 1035 section 4.2.2, RFC 7766). Answers may overtake one
// another.
func (s *Server) serveStream(c *connSocket) error {
	r := bufio.NewReaderSize(c, maxQuery+2)
	q := new(query)
	out, framed := make([]byte, 0, udpSize), make([]byte, 0, 2+udpSize)
	for s.wait(c, idleStream) {
		b, err := readQuery(r)
		if err != nil {
			if err == io.EOF || gone(err) {
				return nil
			}
			return fmt.Errorf("dns: %w", err)
		}
		answer, st := s.handle(q, b, out, maxMessage)
		if st != nil {
			answer = s.pipeline(st, q, b, c)
		}
		if answer == nil {
			continue
		}
		framed = frame(framed, answer)
		if err := c.write(framed); err != nil {
			return fmt.Errorf("dns: %w", err)
		}
	}
	return nil
}

// readQuery returns the next query in the memory of r. One of a length that no query has ends the stream.
func readQuery(r *bufio.Reader) ([]byte, error) {
	size, err := r.Peek(2)
	if err != nil {
		if len(size) == 1 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size))
	if n < headerLen || n > maxQuery {
		return nil, fmt.Errorf("%w: a query of %d bytes", ErrMessage, n)
	}
	b, err := r.Peek(2 + n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	r.Discard(2 + n)
	return b[2:], nil
}

// frame writes the length and the message into the memory of dst.
func frame(dst, msg []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst[:0], uint16(len(msg)))
	return append(dst, msg...)
}

// pipeline has q asked, and sends the answer when it is there. It waits while too many questions of the connection are
// being asked. It returns the answer that it cannot.
func (s *Server) pipeline(st *ruling, q *query, in []byte, c *connSocket) []byte {
	own, b := *q, append([]byte(nil), in...)
	c.slots <- struct{}{}
	c.pending.Add(1)
	ok := s.join(st, q, func(e *entry) {
		// Not here: whoever does not read his answers must not keep others from theirs.
		s.running.Go(func() {
			defer c.pending.Done()
			defer func() { <-c.slots }()
			s.logQuery(&own, e, false)
			if c.write(frame(nil, s.render(e, nil, b, &own, s.now(), maxMessage))) != nil {
				c.drain()
			}
		})
	})
	if !ok {
		c.pending.Done()
		<-c.slots
		return q.fail(nil, in)
	}
	return nil
}

// serveMessages answers queries on a connection that keeps the boundaries of messages.
func (s *Server) serveMessages(c *connSocket) error {
	in := make([]byte, maxQuery+1)
	out := make([]byte, 0, udpSize)
	q := new(query)
	for failures := 0; s.wait(c, idleFlow); {
		n, err := c.Read(in)
		if err != nil {
			failures++
			switch {
			case err == io.EOF, gone(err):
				return nil
			case failures >= maxFailures:
				return fmt.Errorf("dns: %w", err)
			}
			time.Sleep(time.Duration(failures) * time.Millisecond)
			continue
		}
		failures = 0
		answer, st := s.handle(q, in[:n], out, packetLimit)
		if st != nil {
			answer = s.pipelinePacket(st, q, in[:n], c)
		}
		if answer != nil {
			c.write(answer)
		}
	}
	return nil
}

// pipelinePacket is pipeline for messages, of which one that cannot be sent is lost.
func (s *Server) pipelinePacket(st *ruling, q *query, in []byte, c *connSocket) []byte {
	own, b := *q, append([]byte(nil), in...)
	c.pending.Add(1)
	ok := s.join(st, q, func(e *entry) {
		defer c.pending.Done()
		s.logQuery(&own, e, false)
		c.write(s.render(e, nil, b, &own, s.now(), packetLimit))
	})
	if !ok {
		c.pending.Done()
		return q.fail(nil, in)
	}
	return nil
}
