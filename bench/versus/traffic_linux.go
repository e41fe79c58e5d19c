package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The ports of the servers behind a gateway.
const (
	iperfPort  = 5201 // and those that follow
	httpPort   = 8080
	firstPort  = 8081 // sends one byte to whoever comes
	sinkPort   = 8082 // reads all
	sourcePort = 8083 // writes all the time
)

// chunk is the size in bytes of the reads and writes of the generators, the same as iperf3's.
const chunk = 128 << 10

// A tally is how much has been received at some time. Two of them give a rate.
type tally struct {
	Bytes uint64
	At    time.Duration // of a clock that only the process that counts has
}

// A meter counts bytes.
type meter struct {
	began time.Time
	bytes atomic.Uint64
}

func newMeter() *meter { return &meter{began: time.Now()} }

func (m *meter) tally() tally { return tally{Bytes: m.bytes.Load(), At: time.Since(m.began)} }

// drain reads until the connection ends.
func (m *meter) drain(c net.Conn) {
	defer c.Close()
	buf := make([]byte, chunk)
	for {
		n, err := c.Read(buf)
		m.bytes.Add(uint64(n))
		if err != nil {
			return
		}
	}
}

// fill writes until the connection ends.
func fill(c net.Conn) {
	defer c.Close()
	buf := make([]byte, chunk)
	for i := range buf {
		buf[i] = byte(i * 251)
	}
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// A dialFunc connects like net.Dialer.DialContext.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A generator sends to sinks and receives from sources through a tunnel inside its process.
type generator struct {
	dial   dialFunc
	target netip.Addr
	meter  *meter

	conns   []net.Conn
	running sync.WaitGroup
}

// start opens the connections, so many up and down.
func (g *generator) start(ctx context.Context, up, down int) error {
	for i := range up + down {
		port := uint16(sinkPort)
		if i >= up {
			port = sourcePort
		}
		c, err := g.dial(ctx, "tcp", netip.AddrPortFrom(g.target, port).String())
		if err != nil {
			g.stop()
			return err
		}
		g.conns = append(g.conns, c)
		if i < up {
			g.running.Go(func() { fill(c) })
		} else {
			g.running.Go(func() { g.meter.drain(c) })
		}
	}
	return nil
}

// stop closes the connections.
func (g *generator) stop() {
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
	g.running.Wait()
}

// serve answers the requests of the parent.
func (g *generator) serve(ctx context.Context, r request) (any, error) {
	switch r.Op {
	case "load":
		return nil, g.start(ctx, r.Up, r.Down)
	case "tally":
		return g.meter.tally(), nil
	case "unload":
		g.stop()
		return nil, nil
	case "http":
		return measureLatency(ctx, g.dial, netip.AddrPortFrom(g.target, httpPort).String(), r.Time)
	}
	return nil, errNoOp
}

// A sinkServer serves sinks, sources, single bytes and HTTP on listeners of whatever stack.
type sinkServer struct {
	meter     *meter
	listeners []net.Listener
}

// listen serves all ports of the address.
func (s *sinkServer) listen(addr netip.Addr, listen func(network, address string) (net.Listener, error)) error {
	s.meter = newMeter()
	for port, handle := range map[uint16]func(net.Conn){
		sinkPort: s.meter.drain, sourcePort: fill, firstPort: giveByte, httpPort: nil,
	} {
		l, err := listen("tcp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		if handle == nil {
			go serveHTTP(l)
			continue
		}
		go acceptAll(l, handle)
	}
	return nil
}

func (s *sinkServer) serve(_ context.Context, r request) (any, error) {
	if r.Op == "tally" {
		return s.meter.tally(), nil
	}
	return nil, errNoOp
}

func (s *sinkServer) close() {
	for _, l := range s.listeners {
		l.Close()
	}
}

func acceptAll(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !temporary(err) {
				return
			}
			continue
		}
		go handle(c)
	}
}

// temporary reports whether accepting may succeed later.
func temporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

// giveByte sends one byte.
func giveByte(c net.Conn) {
	defer c.Close()
	if _, err := c.Write([]byte{'!'}); err == nil {
		io.Copy(io.Discard, c) // until the other end has read it
	}
}

// takeByte connects to giveByte and waits for its byte.
func takeByte(ctx context.Context, dial dialFunc, addr string) error {
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		c.SetReadDeadline(t)
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}
