package stack

import (
	"bytes"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A socket is what all connections are made of: an endpoint of the stack, two deadlines and a way to wait. The
// waiters are registered for as long as the socket lives, so that waiting costs no allocation.
type socket struct {
	s             *Stack
	ep            tcpip.Endpoint
	wq            *waiter.Queue
	t             target
	local, remote net.Addr

	readBy, writeBy    deadline
	readMu, writeMu    sync.Mutex
	readable, writable chan struct{}
	onRead, onWrite    waiter.Entry
	closed             chan struct{}
	closeOnce          sync.Once
	onClose            func() // may be nil
	sink               tcpip.SliceWriter
	from               bytes.Reader
}

func (c *socket) init(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, t target, local, remote net.Addr) {
	c.s, c.ep, c.wq, c.t, c.local, c.remote = s, ep, wq, t, local, remote
	c.readBy, c.writeBy = newDeadline(), newDeadline()
	c.closed = make(chan struct{})
	c.onRead, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	c.onWrite, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&c.onRead)
	wq.EventRegister(&c.onWrite)
}

// wait returns when the endpoint has signalled on ready, or with the reason why that will not be awaited.
func (c *socket) wait(ready <-chan struct{}, by *deadline) error {
	select {
	case <-ready:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-c.s.done:
		return net.ErrClosed
	case <-by.wait():
		return errTimeout
	}
}

// usable returns why an operation with the deadline by must fail before it starts.
func (c *socket) usable(by *deadline) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	case <-c.s.done:
		return net.ErrClosed
	default:
	}
	if isDone(by.wait()) {
		return errTimeout
	}
	return nil
}

// failure is that of the Stack, but says that the connection is closed once it is.
func (c *socket) failure(err tcpip.Error) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	return c.s.failure(err)
}

func (c *socket) error(op string, err error) error {
	return opError(op, c.t.network, c.local, c.remote, err)
}

// LocalAddr implements net.Conn.
func (c *socket) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *socket) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *socket) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *socket) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

// SetWriteDeadline implements net.Conn.
func (c *socket) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *socket) setDeadline(d *deadline, t time.Time) error {
	if isDone(c.closed) {
		return c.error("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

// Close implements net.Conn. What was written before is still delivered.
func (c *socket) Close() error {
	err := c.error("close", net.ErrClosed)
	c.closeOnce.Do(func() {
		close(c.closed)
		c.ep.Close()
		c.wq.EventUnregister(&c.onRead)
		c.wq.EventUnregister(&c.onWrite)
		c.readBy.stop()
		c.writeBy.stop()
		if c.onClose != nil {
			c.onClose()
		}
		err = nil
	})
	return err
}

// A tcpConn is a TCP connection. Besides net.Conn it has the methods of net.TCPConn that proxies and servers look for.
type tcpConn struct{ socket }

// writeChunk is how much one write hands to TCP at a time, in bytes: what becomes exactly one segment of the largest
// size, so that none has to be split later.
const writeChunk = gsoMaxSize - maxHeaders - 1

// maxHeaders is what the stack reserves for headers in a segment (header.TCPTotalHeaderMaximumSize).
const maxHeaders = 160

func newTCPConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, t target) *tcpConn {
	c := new(tcpConn)
	local, _ := ep.GetLocalAddress()
	remote, _ := ep.GetRemoteAddress()
	c.init(s, ep, wq, t, t.netAddr(toAddrPort(local)), t.netAddr(toAddrPort(remote)))
	return c
}

// Read implements net.Conn.
func (c *tcpConn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.usable(&c.readBy); err != nil {
		return 0, c.error("read", err)
	}
	if len(b) == 0 {
		return 0, nil
	}
	for {
		c.sink = b
		r, err := c.ep.Read(&c.sink, tcpip.ReadOptions{})
		c.sink = nil
		switch err.(type) {
		case nil:
			c.ep.ModerateRecvBuf(r.Count)
			return r.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, &c.readBy); err != nil {
				return 0, c.error("read", err)
			}
		case *tcpip.ErrClosedForReceive:
			if isDone(c.closed) || c.s.isClosed() {
				return 0, c.error("read", net.ErrClosed)
			}
			return 0, io.EOF
		default:
			return 0, c.error("read", c.failure(err))
		}
	}
}

// Write implements net.Conn.
func (c *tcpConn) Write(b []byte) (n int, _ error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	defer c.from.Reset(nil)
	if err := c.usable(&c.writeBy); err != nil {
		return 0, c.error("write", err)
	}
	for n < len(b) {
		c.from.Reset(b[n:min(len(b), n+writeChunk)])
		k, err := c.ep.Write(&c.from, tcpip.WriteOptions{})
		n += int(k)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.writable, &c.writeBy); err != nil {
				return n, c.error("write", err)
			}
		default:
			return n, c.error("write", c.failure(err))
		}
	}
	return n, nil
}

// CloseWrite tells the peer that nothing more will be written. Reading goes on.
func (c *tcpConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

// CloseRead refuses what the peer still sends. Writing goes on.
func (c *tcpConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

func (c *tcpConn) shutdown(how tcpip.ShutdownFlags) error {
	if err := c.ep.Shutdown(how); err != nil {
		return c.error("close", c.failure(err))
	}
	return nil
}

// SetNoDelay says whether small writes are sent at once, which is the default.
func (c *tcpConn) SetNoDelay(noDelay bool) error {
	c.ep.SocketOptions().SetDelayOption(!noDelay)
	return nil
}

// SetLinger says how many seconds Close tries to deliver what was written: without limit if less than zero, which is the
// default, and none with a reset of the connection if zero.
func (c *tcpConn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

// SetKeepAlive says whether probes are sent while the connection is idle. They are off by default, since they keep a
// tunnel busy.
func (c *tcpConn) SetKeepAlive(on bool) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: on, Idle: -1, Interval: -1, Count: -1})
}

// SetKeepAlivePeriod sets the time between probes.
func (c *tcpConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: d, Interval: d, Count: -1})
}

// SetKeepAliveConfig sets all about probes. Its fields mean what they mean to net.TCPConn.
func (c *tcpConn) SetKeepAliveConfig(k net.KeepAliveConfig) error {
	const defaultPeriod, defaultCount = 15 * time.Second, 9
	if d := k.Idle; d >= 0 {
		if d == 0 {
			d = defaultPeriod
		}
		v := tcpip.KeepaliveIdleOption(d)
		if err := c.ep.SetSockOpt(&v); err != nil {
			return c.error("set", c.failure(err))
		}
	}
	if d := k.Interval; d >= 0 {
		if d == 0 {
			d = defaultPeriod
		}
		v := tcpip.KeepaliveIntervalOption(d)
		if err := c.ep.SetSockOpt(&v); err != nil {
			return c.error("set", c.failure(err))
		}
	}
	if n := k.Count; n >= 0 {
		if n == 0 {
			n = defaultCount
		}
		if err := c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, n); err != nil {
			return c.error("set", c.failure(err))
		}
	}
	c.ep.SocketOptions().SetKeepAlive(k.Enable)
	return nil
}
