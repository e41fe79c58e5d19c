package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxDatagram is the largest payload of UDP, in bytes.
	maxDatagram = 65535
	// maxHeaderUDP is the largest header in front of a datagram that goes to the client: reserved, fragment, IPv6 address, port.
	maxHeaderUDP = 3 + 1 + 16 + 2
	// maxPending is how many datagrams wait while their flow is being made. What is more is lost, as it may be in UDP.
	maxPending = 16
	// perAssociation is how many flows one association may have; the one idle longest makes room for the next.
	perAssociation = 256
)

var (
	errFragment = errors.New("SOCKS5 datagram is a fragment, which is not supported")
	errReserved = errors.New("SOCKS5 datagram has reserved bytes that are not 0")
)

// An association relays datagrams between one client and many destinations for as long as the client keeps the TCP connection
// that asked for it (RFC 1928 section 7). Each destination has a flow of its own, with a connection from Dial.
type association struct {
	s      *Server
	pc     *net.UDPConn
	cancel context.CancelFunc // ends the making of flows

	// clientIP is where the client must send from, clientPort the port that it announced or first sent from, 0 before that.
	clientIP   netip.Addr
	clientPort atomic.Uint32

	mu     sync.Mutex
	closed bool
	flows  map[target]*list.Element // of *flow
	recent list.List                // the flow used last in front
	wg     sync.WaitGroup
}

// A flow carries the datagrams of one client to one destination and back.
type flow struct {
	a    *association
	dst  target
	used atomic.Int64 // when data moved last, in Unix nanoseconds

	mu      sync.Mutex
	conn    net.Conn // nil while it is being made
	closed  bool
	pending [][]byte
}

// associate opens a UDP socket beside the client's TCP connection, says where it is, and serves it until that connection
// ends.
func (s *Server) associate(c *client, announced target) error {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	if !local.IsValid() || !remote.IsValid() {
		reply(c.Conn, repCommand, nil)
		return errors.New("UDP ASSOCIATE needs a client that came by TCP")
	}
	// The address by which the client has reached this machine is one by which it can reach it again, whatever the listener
	// was bound to. So it is the right one for BND.ADDR too.
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		reply(c.Conn, repFailed, nil)
		return fmt.Errorf("UDP ASSOCIATE: %w", err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	a := &association{s: s, pc: pc, cancel: cancel, clientIP: remote.Addr().Unmap(), flows: make(map[target]*list.Element)}
	if !s.track(a) {
		return pc.Close()
	}
	defer s.untrack(a)
	// A client behind a NAT may announce an address that is not the one seen here; its port is then not to be relied on either.
	if announced.addr.IsValid() && (announced.addr.IsUnspecified() || announced.addr.Unmap() == a.clientIP.WithZone("")) {
		a.clientPort.Store(uint32(announced.port))
	}
	done := make(chan struct{})
	go func() { defer close(done); a.fromClient(ctx) }()
	err = reply(c.Conn, repSucceeded, pc.LocalAddr())
	if err == nil {
		c.SetDeadline(time.Time{})
		_, err = io.Copy(io.Discard, c.Conn)
	}
	a.Close()
	<-done
	a.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close ends all flows.
func (a *association) Close() error {
	a.cancel()
	err := a.pc.Close()
	a.mu.Lock()
	a.closed = true
	flows := make([]*flow, 0, len(a.flows))
	for e := a.recent.Front(); e != nil; e = e.Next() {
		flows = append(flows, e.Value.(*flow))
	}
	a.mu.Unlock()
	for _, f := range flows {
		f.close()
	}
	return err
}

// fromClient reads what the client sends and gives it to the flows.
func (a *association) fromClient(ctx context.Context) {
	buf := make([]byte, maxHeaderUDP+255+maxDatagram)
	for {
		n, from, err := a.pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A client port that is closed for the moment shows here on some systems.
			continue
		}
		if from.Addr().Unmap() != a.clientIP {
			continue
		}
		port := uint32(from.Port())
		if !a.clientPort.CompareAndSwap(0, port) && a.clientPort.Load() != port {
			continue
		}
		dst, payload, err := parseDatagram(buf[:n])
		if err != nil {
			a.s.log.Debug("datagram dropped", "client", from.String(), "err", err)
			continue
		}
		if f := a.flow(ctx, dst); f != nil {
			f.send(payload)
		}
	}
}

// parseDatagram takes the header off a datagram of a client.
func parseDatagram(b []byte) (dst target, payload []byte, err error) {
	if len(b) < 3 {
		return target{}, nil, io.ErrUnexpectedEOF
	}
	if b[0] != 0 || b[1] != 0 {
		return target{}, nil, errReserved
	}
	if b[2] != 0 {
		return target{}, nil, errFragment
	}
	dst, payload, err = parseAddress(b[3:])
	if err == nil && dst.port == 0 {
		err = errPort
	}
	return dst, payload, err
}

// flow returns the flow to a destination, and makes it if there is none. It returns nil if there is no room for another.
func (a *association) flow(ctx context.Context, dst target) *flow {
	f, evicted := a.lookup(dst)
	if evicted != nil {
		evicted.close()
	}
	if f != nil && f.used.Swap(time.Now().UnixNano()) == 0 {
		go f.run(ctx)
	}
	return f
}

// lookup finds or enters a flow, which has never been used if it is new. Where there is no room the one idle longest is evicted.
func (a *association) lookup(dst target) (f, evicted *flow) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, nil
	}
	if e := a.flows[dst]; e != nil {
		a.recent.MoveToFront(e)
		return e.Value.(*flow), nil
	}
	for len(a.flows) >= perAssociation || !a.s.flowStarts() {
		e := a.recent.Back()
		if e == nil || evicted != nil {
			return nil, evicted
		}
		evicted = e.Value.(*flow)
		a.forget(evicted)
	}
	f = &flow{a: a, dst: dst}
	a.flows[dst] = a.recent.PushFront(f)
	a.wg.Add(1)
	return f, evicted
}

// forget takes a flow out of the table, if it is still in there. The caller holds a.mu.
func (a *association) forget(f *flow) {
	if e := a.flows[f.dst]; e != nil && e.Value == f {
		delete(a.flows, f.dst)
		a.recent.Remove(e)
		a.s.flowEnds()
	}
}

func (s *Server) flowStarts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows >= s.MaxFlows {
		return false
	}
	s.flows++
	return true
}

func (s *Server) flowEnds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows--
}

// send sends a datagram, or keeps it while the flow is being made.
func (f *flow) send(payload []byte) {
	f.mu.Lock()
	conn := f.conn
	if conn == nil {
		if !f.closed && len(f.pending) < maxPending {
			f.pending = append(f.pending, append([]byte(nil), payload...))
		}
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.used.Store(time.Now().UnixNano())
	conn.Write(payload) // an error is a lost datagram, or comes back in reading
}

// run makes the connection of the flow, and carries what comes back to the client.
func (f *flow) run(ctx context.Context) {
	a := f.a
	defer a.wg.Done()
	defer func() {
		f.close()
		a.mu.Lock()
		a.forget(f)
		a.mu.Unlock()
	}()
	conn, err := a.s.dial(ctx, "udp", f.dst.String())
	if err != nil {
		return // SOCKS5 has no way to tell
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		conn.Close()
		return
	}
	for _, p := range f.pending {
		conn.Write(p)
	}
	f.pending, f.conn = nil, conn
	f.mu.Unlock()

	// The header names the address that answers, as RFC 1928 section 7 has it, even where the client gave a name.
	from := conn.RemoteAddr()
	if !addrPort(from).IsValid() {
		from = net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.dst.addr, f.dst.port))
	}
	buf := make([]byte, maxHeaderUDP+maxDatagram)
	head := len(appendAddress(append(buf[:0], 0, 0, 0), from))
	idle := a.s.UDPIdleTimeout
	refused := 0
	for {
		if idle > 0 {
			left := time.Until(time.Unix(0, f.used.Load()).Add(idle))
			if left <= 0 {
				return
			}
			conn.SetReadDeadline(time.Now().Add(left))
		}
		n, err := conn.Read(buf[head:])
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue // used again meanwhile, or else the flow ends above
			}
			// An ICMP error concerns one datagram. Many in a row mean that nobody is there.
			if refused++; reasonOf(err) == failed || refused > maxPending {
				return
			}
			continue
		}
		refused = 0
		f.used.Store(time.Now().UnixNano())
		to := netip.AddrPortFrom(a.clientIP, uint16(a.clientPort.Load()))
		if _, err := a.pc.WriteToUDPAddrPort(buf[:head+n], to); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// close ends the flow: run returns.
func (f *flow) close() {
	f.mu.Lock()
	f.closed, f.pending = true, nil
	conn := f.conn
	f.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}
