package stack

import (
	"context"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialContext connects like net.Dialer.DialContext, from the first address of the stack that is of the same family. The
// networks are "tcp", "udp" and "ping", each also with 4 or 6 behind it. The host must be an IP literal; an empty one
// is the stack itself. The context bounds only the dialing. Errors are *net.OpError.
//
// TCP connections have the methods CloseRead, CloseWrite, SetKeepAlive, SetKeepAlivePeriod, SetKeepAliveConfig,
// SetLinger and SetNoDelay of *net.TCPConn. UDP connections are net.PacketConns too. A ping connection writes ICMP echo requests and
// reads echo replies, both with their ICMP header; the stack sets identifier and checksum.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := parseTarget(network, address)
	if err != nil {
		return nil, opError("dial", network, nil, nil, err)
	}
	if !t.addr.Addr().IsValid() {
		self, ok := s.self(t.family)
		if !ok {
			return nil, opError("dial", network, nil, nil, &net.AddrError{Err: "no address of this family", Addr: address})
		}
		t.addr = netip.AddrPortFrom(self, t.addr.Port())
	}
	return s.dial(ctx, t, netip.AddrPort{})
}

// DialTCP connects to remote from local, of which the address, the port or both may be left out.
func (s *Stack) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	return s.dial(ctx, target{network: "tcp", kind: "tcp", addr: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}, local)
}

func (s *Stack) self(family byte) (netip.Addr, bool) {
	for _, p := range *s.addrs.Load() {
		if family == 0 || (family == 4) == p.Addr().Is4() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func (s *Stack) dial(ctx context.Context, t target, local netip.AddrPort) (net.Conn, error) {
	var source net.Addr
	if local.IsValid() {
		source = t.netAddr(local)
	}
	remote := t.netAddr(t.addr)
	fail := func(err error) (net.Conn, error) { return nil, opError("dial", t.network, source, remote, err) }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	ep, wq, err := s.newEndpoint(t)
	if err != nil {
		return fail(err)
	}
	if local.Addr().IsValid() || local.Port() != 0 {
		if err := ep.Bind(fullAddress(local)); err != nil {
			ep.Close()
			return fail(s.failure(err))
		}
	}
	if t.kind != "tcp" {
		if err := ep.Connect(fullAddress(t.addr)); err != nil {
			ep.Close()
			return fail(s.failure(err))
		}
		return s.keep(newDatagramConn(s, ep, wq, t, true), fail)
	}

	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr := ep.Connect(fullAddress(t.addr))
	if _, ok := terr.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			ep.Close()
			return fail(ctx.Err())
		case <-s.done:
			ep.Abort()
			ep.Close()
			return fail(net.ErrClosed)
		}
	}
	if terr != nil {
		ep.Close()
		return fail(s.failure(terr))
	}
	return s.keep(newTCPConn(s, ep, wq, t), fail)
}

// keep returns c unless the stack has been closed since it was made.
func (s *Stack) keep(c net.Conn, fail func(error) (net.Conn, error)) (net.Conn, error) {
	if s.isClosed() {
		c.Close()
		return fail(net.ErrClosed)
	}
	return c, nil
}

// newEndpoint returns an endpoint for t. One for both families is of IPv6.
func (s *Stack) newEndpoint(t target) (tcpip.Endpoint, *waiter.Queue, error) {
	four := t.family == 4 || t.addr.Addr().Is4()
	network := header.IPv6ProtocolNumber
	if four {
		network = header.IPv4ProtocolNumber
	}
	var protocol tcpip.TransportProtocolNumber
	switch {
	case t.kind == "tcp":
		protocol = tcp.ProtocolNumber
	case t.kind == "udp":
		protocol = udp.ProtocolNumber
	case four:
		protocol = icmp.ProtocolNumber4
	default:
		protocol = icmp.ProtocolNumber6
	}
	// The lock keeps an endpoint from being born after Close has counted them.
	s.callsMu.Lock()
	defer s.callsMu.Unlock()
	if s.ended {
		return nil, nil, net.ErrClosed
	}
	wq := new(waiter.Queue)
	ep, err := s.gs.NewEndpoint(protocol, network, wq)
	if err != nil {
		return nil, nil, s.failure(err)
	}
	if t.family == 6 {
		ep.SocketOptions().SetV6Only(true)
	}
	return ep, wq, nil
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = fromAddr(a.Addr())
	}
	return f
}
