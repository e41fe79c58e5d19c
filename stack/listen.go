package stack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections may wait for Accept, as many as a Linux of today allows.
const backlog = 4096

// Listen listens like net.Listen on the networks "tcp", "tcp4" and "tcp6". An empty host means all addresses of the stack,
// and port 0 any free one. The Conns are those of [Stack.DialContext].
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	t, err := parseTarget(network, address)
	if err == nil && t.kind != "tcp" {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	t = t.listening()
	fail := func(err error) (net.Listener, error) {
		return nil, opError("listen", network, nil, t.netAddr(t.addr), err)
	}
	ep, wq, err := s.newEndpoint(t)
	if err != nil {
		return fail(err)
	}
	terr := ep.Bind(fullAddress(t.addr))
	if terr == nil {
		terr = ep.Listen(backlog)
	}
	if terr != nil {
		ep.Close()
		return fail(s.failure(terr))
	}
	local, _ := ep.GetLocalAddress()
	l := &listener{s: s, ep: ep, wq: wq, t: t, addr: t.netAddr(toAddrPort(local)), closed: make(chan struct{})}
	l.onReady, l.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&l.onReady)
	if s.isClosed() {
		l.Close()
		return fail(net.ErrClosed)
	}
	return l, nil
}

// ListenPacket listens like net.ListenPacket on the networks "udp" and "ping", each also with 4 or 6 behind it. Plain "ping"
// without a host is IPv4. The PacketConns of "ping" are described at [Stack.DialContext].
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	t, err := parseTarget(network, address)
	if err == nil && t.kind == "tcp" {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, opError("listen", network, nil, nil, err)
	}
	if t.kind == "ping" && t.family == 0 && !t.addr.Addr().IsValid() {
		t.family = 4
	}
	t = t.listening()
	fail := func(err error) (net.PacketConn, error) {
		return nil, opError("listen", network, nil, t.netAddr(t.addr), err)
	}
	ep, wq, err := s.newEndpoint(t)
	if err != nil {
		return fail(err)
	}
	if err := ep.Bind(fullAddress(t.addr)); err != nil {
		ep.Close()
		return fail(s.failure(err))
	}
	c := newDatagramConn(s, ep, wq, t, false)
	if s.isClosed() {
		c.Close()
		return fail(net.ErrClosed)
	}
	return c, nil
}

// listening returns t with the address to bind: an unspecified one is left out, after it has decided the family.
func (t target) listening() target {
	if a := t.addr.Addr(); a.IsUnspecified() {
		if a.Is4() {
			t.family = 4
		}
		t.addr = netip.AddrPortFrom(netip.Addr{}, t.addr.Port())
	}
	return t
}

type listener struct {
	s         *Stack
	ep        tcpip.Endpoint
	wq        *waiter.Queue
	t         target
	addr      net.Addr
	onReady   waiter.Entry
	ready     chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	fail := func(err error) (net.Conn, error) { return nil, opError("accept", l.t.network, nil, l.addr, err) }
	for {
		if isDone(l.closed) || l.s.isClosed() {
			return fail(net.ErrClosed)
		}
		ep, wq, err := l.ep.Accept(nil)
		switch err.(type) {
		case nil:
			// Another Accept may be waiting for the connection behind this one.
			select {
			case l.ready <- struct{}{}:
			default:
			}
			return l.s.keep(newTCPConn(l.s, ep, wq, target{network: l.t.network, kind: "tcp"}), fail)
		case *tcpip.ErrWouldBlock:
			select {
			case <-l.ready:
			case <-l.closed:
			case <-l.s.done:
			}
		default:
			if isDone(l.closed) {
				return fail(net.ErrClosed)
			}
			return fail(l.s.failure(err))
		}
	}
}

// Close implements net.Listener. Connections that were accepted live on.
func (l *listener) Close() error {
	err := opError("close", l.t.network, nil, l.addr, net.ErrClosed)
	l.closeOnce.Do(func() {
		close(l.closed)
		l.ep.Close()
		l.wq.EventUnregister(&l.onReady)
		err = nil
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }
