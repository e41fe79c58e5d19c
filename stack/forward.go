package stack

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A request is decided once.
type request struct {
	mu      sync.Mutex
	decided bool
}

// decide reports whether the caller is the one who decides.
func (r *request) decide() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.decided
	r.decided = true
	return first
}

func (s *Stack) forward(ctx context.Context) {
	if f := s.cfg.AcceptTCP; f != nil {
		s.gs.SetTransportProtocolHandler(tcp.ProtocolNumber, s.tcpForwarder(ctx, f))
	}
	if f := s.cfg.AcceptUDP; f != nil {
		s.gs.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
			return s.offerUDP(ctx, f, id, p)
		})
	}
	if f := s.cfg.AcceptPing; f != nil {
		s.acceptPing = func(r *PingRequest) { f(ctx, r) }
	}
}

// begin takes one of the limited places for a request of a kind that counts in pending.
func (s *Stack) begin(pending *atomic.Int64) bool {
	if pending.Add(1) > int64(s.cfg.MaxPending) {
		pending.Add(-1)
		s.stats.requestsDropped.Add(1)
		s.warn()
		return false
	}
	return true
}

// enter takes one of the limited places for a flow, and returns how to give it back.
func (s *Stack) enter() (leave func(), ok bool) {
	if s.flows.Add(1) > int64(s.cfg.MaxFlows) {
		s.flows.Add(-1)
		s.stats.flowsRefused.Add(1)
		s.warn()
		return nil, false
	}
	return func() { s.flows.Add(-1) }, true
}

func (s *Stack) warn() {
	if !s.warned.Swap(true) {
		s.log.Warn("stack: a limit of flows was reached, further ones are refused", "flows", s.cfg.MaxFlows, "pending", s.cfg.MaxPending)
	}
}

// unicast reports whether a host can be at a.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// endpoints returns the two ends of a flow.
func endpoints(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return netip.AddrPortFrom(toAddr(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(toAddr(id.LocalAddress), id.LocalPort)
}

// A TCPRequest is a connection that a peer wants to open. The peer waits until the request is accepted or rejected.
type TCPRequest struct {
	// Source is the peer, Destination where it wants to connect to.
	Source, Destination netip.AddrPort

	request
	s      *Stack
	r      *tcp.ForwarderRequest
	quoted []byte // the front of the SYN, if it is known
}

func (s *Stack) tcpForwarder(ctx context.Context, accept func(context.Context, *TCPRequest)) func(stack.TransportEndpointID, *stack.PacketBuffer) bool {
	// The forwarder counts the requests that are in flight and gives each a goroutine.
	window := min(initialBuffer, s.cfg.ReceiveBuffer)
	f := tcp.NewForwarder(s.gs, window, s.cfg.MaxPending, func(fr *tcp.ForwarderRequest) {
		r := &TCPRequest{s: s, r: fr, quoted: s.syns.take(fr.ID())}
		r.Source, r.Destination = endpoints(fr.ID())
		if !s.run(func() {
			defer r.Reject()
			accept(ctx, r)
		}) {
			fr.Complete(false)
		}
	})
	return func(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
		src, dst := endpoints(id)
		if !unicast(src.Addr()) || !unicast(dst.Addr()) {
			return true
		}
		s.syns.note(id, p)
		return f.HandlePacket(id, p)
	}
}

// run is start, but in the goroutine of the caller.
func (s *Stack) run(f func()) bool {
	s.callsMu.Lock()
	if s.ended {
		s.callsMu.Unlock()
		return false
	}
	s.calls.Add(1)
	s.callsMu.Unlock()
	defer s.calls.Done()
	f()
	return true
}

// Accept completes the handshake with the peer and returns the connection, which the caller closes. It waits for the peer, which
// may have gone away without a word, until ctx is done. The local address of the Conn is the Destination.
func (r *TCPRequest) Accept(ctx context.Context) (net.Conn, error) {
	t := target{network: "tcp", kind: "tcp"}
	fail := func(err error) (net.Conn, error) {
		return nil, opError("accept", "tcp", t.netAddr(r.Source), t.netAddr(r.Destination), err)
	}
	if !r.decide() {
		return fail(net.ErrClosed)
	}
	leave, ok := r.s.enter()
	if !ok {
		r.r.Complete(true)
		return fail(r.s.failure(&tcpip.ErrNoBufferSpace{}))
	}
	wq := new(waiter.Queue)
	over := make(chan struct{})
	id := r.r.ID()
	stop := context.AfterFunc(ctx, func() { r.s.abort(id, over) })
	ep, err := r.r.CreateEndpoint(wq)
	close(over)
	r.r.Complete(false)
	if !stop() && err == nil {
		ep.Close()
		err = &tcpip.ErrAborted{}
	}
	if err != nil {
		leave()
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		return fail(r.s.failure(err))
	}
	c := newTCPConn(r.s, ep, wq, t)
	c.onClose = leave
	return r.s.keep(c, fail)
}

// abort ends the handshake of the endpoint with the given id. It tries until over is closed, because that endpoint may not
// exist yet.
func (s *Stack) abort(id stack.TransportEndpointID, over <-chan struct{}) {
	network := header.IPv6ProtocolNumber
	if id.LocalAddress.Len() == header.IPv4AddressSize {
		network = header.IPv4ProtocolNumber
	}
	tick := time.NewTicker(abortInterval)
	defer tick.Stop()
	for {
		// What is found instead may be a listener.
		if ep, ok := s.gs.FindTransportEndpoint(network, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint); ok && ep.TransportEndpointInfo.ID == id {
			ep.Abort()
		}
		select {
		case <-over:
			return
		case <-tick.C:
		}
	}
}

// Reject answers the peer with a RST, as a host does on whose port nobody listens. It does nothing after another decision.
func (r *TCPRequest) Reject() {
	if r.decide() {
		r.r.Complete(true)
	}
}

// A UDPRequest is the first datagram of a flow: of a pair of addresses and ports between which none is open.
type UDPRequest struct {
	// Source is the peer, Destination where it sends to.
	Source, Destination netip.AddrPort

	request
	s      *Stack
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	quoted []byte
	leave  func()
}

// offerUDP makes the datagram p a request. It runs in the goroutine that injects packets. It reports false if the peer
// is to be told that the port is unreachable.
func (s *Stack) offerUDP(ctx context.Context, accept func(context.Context, *UDPRequest), id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	src, dst := endpoints(id)
	if !unicast(src.Addr()) || !unicast(dst.Addr()) || s.isClosed() {
		return true
	}
	// Nothing may come into being for a packet that was damaged or forged badly.
	if length, sum := header.UDPValid(p.TransportHeader().Slice(), p.Data().Checksum, uint16(p.Data().Size()), p.NetworkProtocolNumber,
		id.RemoteAddress, id.LocalAddress, p.RXChecksumValidated); !length || !sum {
		s.stats.checksum.Add(1)
		return true
	}
	if !s.begin(&s.pendingUDP) {
		return true
	}
	leave, ok := s.enter()
	if !ok {
		s.pendingUDP.Add(-1)
		return false
	}
	// The endpoint exists from the first datagram on, so that it keeps those which follow until the decision.
	r := &UDPRequest{Source: src, Destination: dst, s: s, wq: new(waiter.Queue), leave: leave, quoted: quotePacket(p)}
	ep, err := udp.NewForwarderRequest(s.gs, id, p).CreateEndpoint(r.wq)
	if err != nil {
		// Somebody else has just made it.
		leave()
		s.pendingUDP.Add(-1)
		return true
	}
	r.ep = ep
	ep.SocketOptions().SetReceiveBufferSize(flowDatagramBuffer, true)
	if !s.start(func() {
		defer r.Reject()
		accept(ctx, r)
	}) {
		ep.Close()
		leave()
		s.pendingUDP.Add(-1)
	}
	return true
}

// quotePacket returns a copy of the front of p.
func quotePacket(p *stack.PacketBuffer) []byte {
	b := make([]byte, 0, min(p.Size(), quote6))
	list, offset := p.AsViewList()
	for v := list.Front(); v != nil && len(b) < cap(b); v = v.Next() {
		s := v.AsSlice()
		if offset >= len(s) {
			offset -= len(s)
			continue
		}
		b = append(b, s[offset:min(len(s), offset+cap(b)-len(b))]...)
		offset = 0
	}
	return quote(b)
}

// Accept returns the flow as a connection, from which the first datagram can be read. The caller closes it. After
// Config.UDPIdle without a datagram in either direction, Read returns io.EOF.
func (r *UDPRequest) Accept() (net.Conn, error) {
	t := target{network: "udp", kind: "udp"}
	fail := func(err error) (net.Conn, error) {
		return nil, opError("accept", "udp", t.netAddr(r.Source), t.netAddr(r.Destination), err)
	}
	if !r.decide() {
		return fail(net.ErrClosed)
	}
	r.s.pendingUDP.Add(-1)
	c := newDatagramConn(r.s, r.ep, r.wq, t, true)
	c.onClose = r.leave
	if d := r.s.cfg.UDPIdle; d > 0 {
		c.expire(d)
	}
	return r.s.keep(c, fail)
}

// Reject answers the peer with an ICMP port unreachable. It does nothing after another decision.
func (r *UDPRequest) Reject() {
	if !r.decide() {
		return
	}
	r.s.pendingUDP.Add(-1)
	r.ep.Close()
	r.leave()
	r.s.sendError(unreachablePacket(r.Destination.Addr(), r.Source.Addr(), codePort4, codePort6, r.quoted))
}

// A PingRequest is an ICMP echo request to a foreign address.
type PingRequest struct {
	// Source is the peer, Destination the address it pings.
	Source, Destination netip.Addr
	// Payload is what the peer wants to get back. It must not be changed.
	Payload []byte

	request
	s       *Stack
	id, seq uint16
	quoted  []byte
}

// offerPing makes the echo request m in p a PingRequest, and reports whether that is all that happens to it.
func (s *Stack) offerPing(p, m []byte, ip *ipInfo, src, dst netip.Addr) bool {
	if !s.forwarding {
		return false
	}
	if !unicast(src) || !unicast(dst) {
		return true
	}
	if !ip.headerSumValid(p) || !ip.transportSumValid(p) {
		s.stats.checksum.Add(1)
		return true
	}
	if s.acceptPing == nil {
		s.sendError(unreachablePacket(dst, src, codeHost4, codeAddress6, quote(p[:ip.total])))
		return true
	}
	if !s.begin(&s.pendingPing) {
		return true
	}
	c := append([]byte(nil), p[:ip.total]...)
	r := &PingRequest{
		Source: src, Destination: dst, s: s, Payload: c[ip.header+icmpHeaderLen:], quoted: quote(c),
		id: binary.BigEndian.Uint16(m[4:]), seq: binary.BigEndian.Uint16(m[6:]),
	}
	if !s.start(func() {
		defer s.pendingPing.Add(-1)
		defer r.Unreachable()
		s.acceptPing(r)
	}) {
		s.pendingPing.Add(-1)
	}
	return true
}

// Reply answers the peer in the name of the Destination. It does nothing after another decision.
func (r *PingRequest) Reply() {
	if r.decide() {
		r.s.link.send(echoPacket(r.Destination, r.Source, true, r.id, r.seq, r.Payload), true)
	}
}

// Unreachable tells the peer that the host cannot be reached. It does nothing after another decision.
func (r *PingRequest) Unreachable() {
	if r.decide() {
		r.s.sendError(unreachablePacket(r.Destination, r.Source, codeHost4, codeAddress6, r.quoted))
	}
}
