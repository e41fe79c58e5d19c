package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
)

const (
	// copyBuffer is the size in bytes of the memory for each direction of a forwarded flow. The largest datagram fits.
	copyBuffer = 64 << 10
	// keepalive is how often the client's side of a forwarded TCP connection is asked whether it is still there.
	keepalive = 2 * time.Minute
	// maxDialing is how many flows of one session may wait for their destination at a time, and maxPending how many of all
	// sessions, TCP and UDP apart.
	maxDialing, maxPending = 256, 8192
)

// errBusy is what a flow gets whose session waits for too many destinations.
var errBusy = errors.New("gateway: too many connections are being opened")

// errRefused is what reading from a UDP socket returns after an ICMP port unreachable.
const errRefused = syscall.ECONNREFUSED

// buffers are what flows copy with. Most flows are short, so their memory is used again.
var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// destination returns where an IP packet goes to.
func destination(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return netip.Addr{}, false
}

// fromClient passes on packets that s may send: to another client, or to the stack that ends all flows, also those to other clients that
// are not allowed, so that they are refused and do not wait in vain.
func (srv *Server) fromClient(s *session, b packet.Batch) {
	if srv.device != nil {
		srv.device.fromClient(s, b)
		return
	}
	// A batch seldom has a packet for another client, and goes to the stack as it is then.
	start := 0
	for i := range b {
		if !srv.cfg.ClientToClient {
			break
		}
		dst, ok := destination(b[i].Bytes())
		if !ok {
			continue // the stack counts it as malformed
		}
		to, _ := srv.table.owner(dst)
		if to == nil || to == s {
			continue
		}
		srv.toStack(b[start:i])
		start = i + 1
		to.send(b[i : i+1])
	}
	srv.toStack(b[start:])
}

func (srv *Server) toStack(b packet.Batch) {
	if len(b) > 0 {
		// It fails only when the stack is closed, and then there is nobody to tell.
		_, _ = srv.link.WriteBatch(b)
	}
}

// toClients carries what leaves the stack to the clients, until the stack is closed.
func (srv *Server) toClients() {
	b := packet.NewBatch(2*batchSize, srv.size)
	var out dispatcher
	for {
		n, err := srv.link.ReadBatch(b)
		if err != nil {
			return
		}
		out.dispatch(srv, b[:n], nil)
	}
}

// A flowSet counts the forwarded flows of a session, which end with it.
type flowSet struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	n      int
	wg     sync.WaitGroup

	dialing atomic.Int32
}

func (f *flowSet) init() { f.ctx, f.cancel = context.WithCancel(context.Background()) }

// enter counts a flow in, unless the session has too many or is over. The flow calls leave at its end.
func (f *flowSet) enter(limit int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.n >= limit {
		return false
	}
	f.n++
	f.wg.Add(1)
	return true
}

func (f *flowSet) leave() {
	f.mu.Lock()
	f.n--
	f.mu.Unlock()
	f.wg.Done()
}

// close ends all flows and waits for them.
func (f *flowSet) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
}

// flow finds the session of a flow from src, judges whether it may go to dst, and counts it in. The caller calls
// s.flows.leave, unless s is nil.
func (srv *Server) flow(src netip.Addr, dst netip.AddrPort) *session {
	s, _ := srv.table.owner(src.Unmap())
	if s == nil {
		return nil
	}
	if _, pooled := srv.table.owner(dst.Addr().Unmap()); pooled || !s.network.reaches(dst, srv.cfg.AllowSpecial) {
		return nil
	}
	if !s.flows.enter(srv.cfg.MaxFlows) {
		return nil
	}
	return s
}

// A forwarded is a TCP or UDP flow of a session whose destination has been reached.
type forwarded struct {
	ctx context.Context // ends with the session
	out net.Conn
	end func() // closes out and counts the flow out
}

// forward opens the way out of a flow, if it may and can be opened. The caller calls end.
func (srv *Server) forward(ctx context.Context, network string, src netip.Addr, dst netip.AddrPort) (f forwarded, ok bool) {
	s := srv.flow(src, dst)
	if s == nil {
		return f, false
	}
	ctx, cancel := s.flowContext(ctx)
	out, err := srv.dial(ctx, s, network, dst)
	if err != nil {
		cancel()
		s.flows.leave()
		return f, false
	}
	return forwarded{ctx: ctx, out: out, end: func() {
		out.Close()
		cancel()
		s.flows.leave()
	}}, true
}

// until closes both sides of the flow when the session ends. The caller calls stop when it has closed in by itself.
func (f *forwarded) until(in net.Conn) (stop func() bool) {
	return context.AfterFunc(f.ctx, func() {
		in.Close()
		f.out.Close()
	})
}

func (srv *Server) acceptTCP(ctx context.Context, r *stack.TCPRequest) {
	f, ok := srv.forward(ctx, "tcp", r.Source.Addr(), r.Destination)
	if !ok {
		r.Reject()
		return
	}
	defer f.end()
	in, err := r.Accept(f.ctx)
	if err != nil {
		return
	}
	defer in.Close()
	if k, ok := in.(interface {
		SetKeepAlivePeriod(time.Duration) error
		SetKeepAlive(bool) error
	}); ok {
		k.SetKeepAlivePeriod(keepalive)
		k.SetKeepAlive(true)
	}
	defer f.until(in)()
	splice(in, f.out)
}

// flowContext returns a context that ends with ctx and with the session, and tells whose flow it is.
func (s *session) flowContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, sessionKey{}, s))
	stop := context.AfterFunc(s.flows.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// dial opens the way out of a flow of s.
func (srv *Server) dial(ctx context.Context, s *session, network string, to netip.AddrPort) (net.Conn, error) {
	defer s.flows.dialing.Add(-1)
	if s.flows.dialing.Add(1) > maxDialing {
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return srv.cfg.Dial(ctx, network, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()).String())
}

// splice copies between two TCP connections until both directions are over.
func splice(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { pour(a, b) })
	pour(b, a)
	wg.Wait()
}

// pour copies from src to dst. When src has finished, dst is told so, and the other direction goes on. On an error both are over.
func pour(dst, src net.Conn) {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	// The wrappers keep io.Copy from choosing a way of its own with less memory.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
	if cw, ok := dst.(interface{ CloseWrite() error }); err == nil && ok && cw.CloseWrite() == nil {
		return
	}
	dst.Close()
	src.Close()
}

func (srv *Server) acceptUDP(ctx context.Context, r *stack.UDPRequest) {
	f, ok := srv.forward(ctx, "udp", r.Source.Addr(), r.Destination)
	if !ok {
		r.Reject()
		return
	}
	defer f.end()
	in, err := r.Accept()
	if err != nil {
		return
	}
	defer in.Close()
	defer f.until(in)()
	var wg sync.WaitGroup
	wg.Go(func() {
		// The flow is idle when neither side has said anything for long; the side of the client knows both.
		carry(f.out, in)
		f.out.Close()
	})
	carry(in, f.out)
	in.Close()
	wg.Wait()
}

// carry copies datagrams until reading fails for good. What cannot be sent is lost, as datagrams are.
func carry(dst, src net.Conn) {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	refused := 0
	for {
		n, err := src.Read(buf[:])
		if err != nil {
			// A refusal (ICMP port unreachable) concerns one datagram.
			if errors.Is(err, errRefused) && refused < 16 {
				refused++
				continue
			}
			return
		}
		refused = 0
		if _, err := dst.Write(buf[:n]); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (srv *Server) acceptPing(ctx context.Context, r *stack.PingRequest) {
	if srv.pings == nil {
		return
	}
	s := srv.flow(r.Source, netip.AddrPortFrom(r.Destination, 0))
	if s == nil {
		r.Unreachable()
		return
	}
	defer s.flows.leave()
	ctx, cancel := s.flowContext(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, pingTimeout)
	defer stop()
	switch err := srv.pings.ping(ctx, r.Destination, r.Payload); {
	case err == nil:
		r.Reply()
	case errors.Is(err, errNoPing):
		r.Unreachable()
	}
}
