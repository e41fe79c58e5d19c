package stack

import (
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A datagramConn is a UDP or ping socket, connected or not. It is a net.Conn and a net.PacketConn.
type datagramConn struct {
	socket
	to tcpip.FullAddress // of the write that goes on

	// idle is how long the flow may be silent, zero for ever; used is when it last was not, in nanoseconds of the
	// monotonic time since began.
	idle  time.Duration
	began time.Time
	used  atomic.Int64
	timer *time.Timer
	ended chan struct{}
}

func newDatagramConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, t target, connected bool) *datagramConn {
	c := new(datagramConn)
	local, _ := ep.GetLocalAddress()
	var remote net.Addr
	if connected {
		r, _ := ep.GetRemoteAddress()
		remote = t.netAddr(toAddrPort(r))
	}
	c.init(s, ep, wq, t, t.netAddr(toAddrPort(local)), remote)
	return c
}

// expire ends the flow when it has been silent for d. Reading then returns io.EOF.
func (c *datagramConn) expire(d time.Duration) {
	c.idle, c.began, c.ended = d, time.Now(), make(chan struct{})
	// The function of the timer uses the timer, so it must not run before there is one.
	c.timer = time.AfterFunc(time.Hour, c.checkIdle)
	c.timer.Reset(d)
}

func (c *datagramConn) checkIdle() {
	if isDone(c.closed) {
		return
	}
	silent := time.Since(c.began) - time.Duration(c.used.Load())
	if silent < c.idle {
		c.timer.Reset(c.idle - silent)
		return
	}
	close(c.ended)
	c.ep.Close() // wakes the reader
}

func (c *datagramConn) touch() {
	if c.idle > 0 {
		c.used.Store(int64(time.Since(c.began)))
	}
}

func (c *datagramConn) isEnded() bool { return c.ended != nil && isDone(c.ended) }

// Close implements net.Conn.
func (c *datagramConn) Close() error {
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.socket.Close()
}

// Read implements net.Conn. What does not fit b is lost.
func (c *datagramConn) Read(b []byte) (int, error) {
	n, _, err := c.readFrom(b, tcpip.ReadOptions{})
	return n, err
}

// ReadFrom implements net.PacketConn.
func (c *datagramConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.readFrom(b, tcpip.ReadOptions{NeedRemoteAddr: true})
	if err != nil {
		return n, nil, err
	}
	return n, c.t.netAddr(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation.
func (c *datagramConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	return c.readFrom(b, tcpip.ReadOptions{NeedRemoteAddr: true})
}

func (c *datagramConn) readFrom(b []byte, opts tcpip.ReadOptions) (int, netip.AddrPort, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.usable(&c.readBy); err != nil {
		return 0, netip.AddrPort{}, c.error("read", err)
	}
	for {
		if c.isEnded() {
			return 0, netip.AddrPort{}, io.EOF
		}
		c.sink = b
		r, err := c.ep.Read(&c.sink, opts)
		c.sink = nil
		switch err.(type) {
		case nil:
			c.touch()
			return r.Count, toAddrPort(r.RemoteAddr), nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, &c.readBy); err != nil {
				return 0, netip.AddrPort{}, c.error("read", err)
			}
		default:
			if c.isEnded() {
				return 0, netip.AddrPort{}, io.EOF
			}
			return 0, netip.AddrPort{}, c.error("read", c.failure(err))
		}
	}
}

// Write implements net.Conn.
func (c *datagramConn) Write(b []byte) (int, error) { return c.writeTo(b, netip.AddrPort{}) }

// WriteTo implements net.PacketConn.
func (c *datagramConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	var to netip.AddrPort
	switch a := addr.(type) {
	case *net.UDPAddr:
		to = a.AddrPort()
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		to = netip.AddrPortFrom(ip, 0)
	}
	if !to.Addr().IsValid() {
		return 0, opError("write", c.t.network, c.local, addr, &net.AddrError{Err: "not an address of this network", Addr: addrString(addr)})
	}
	return c.WriteToUDPAddrPort(b, to)
}

func addrString(a net.Addr) string {
	if a == nil {
		return "<nil>"
	}
	return a.String()
}

// WriteToUDPAddrPort is WriteTo without an allocation.
func (c *datagramConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if c.remote != nil {
		return 0, c.error("write", net.ErrWriteToConnected)
	}
	return c.writeTo(b, to)
}

func (c *datagramConn) writeTo(b []byte, to netip.AddrPort) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	defer c.from.Reset(nil)
	fail := func(err error) (int, error) {
		remote := c.remote
		if to.Addr().IsValid() {
			remote = c.t.netAddr(to)
		}
		return 0, opError("write", c.t.network, c.local, remote, err)
	}
	if err := c.usable(&c.writeBy); err != nil {
		return fail(err)
	}
	var opts tcpip.WriteOptions
	if to.Addr().IsValid() {
		c.to = tcpip.FullAddress{Addr: fromAddr(to.Addr()), Port: to.Port()}
		opts.To = &c.to
	}
	for {
		if c.isEnded() {
			return fail(net.ErrClosed)
		}
		c.from.Reset(b)
		_, err := c.ep.Write(&c.from, opts)
		switch err.(type) {
		case nil:
			c.touch()
			return len(b), nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.writable, &c.writeBy); err != nil {
				return fail(err)
			}
		default:
			return fail(c.failure(err))
		}
	}
}
