package gateway

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// Listen listens inside the tunnel, for TCP connections of clients to the given address, such as "10.20.0.1:80". An empty
// or unspecified host means the gateway's own inner addresses. The network is tcp, tcp4 or tcp6.
// With a Config.Device the error matches [ErrNoStack].
func (s *Server) Listen(network, address string) (net.Listener, error) {
	if s.stack == nil {
		return nil, noStack("listen", network)
	}
	addrs, err := s.inner(network, address)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 1 {
		return s.stack.Listen(network, addrs[0])
	}
	l := &listeners{conns: make(chan net.Conn), done: make(chan struct{})}
	for _, a := range addrs {
		one, err := s.stack.Listen(network, a)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.each = append(l.each, one)
		l.wg.Go(func() { l.accept(one) })
	}
	return l, nil
}

// ListenPacket listens inside the tunnel, for UDP datagrams of clients to the given address, such as "10.20.0.1:53". An empty or
// unspecified host means the first of the gateway's own inner addresses. The network is udp, udp4 or udp6.
// With a Config.Device the error matches [ErrNoStack].
func (s *Server) ListenPacket(network, address string) (net.PacketConn, error) {
	if s.stack == nil {
		return nil, noStack("listen", network)
	}
	addrs, err := s.inner(network, address)
	if err != nil {
		return nil, err
	}
	return s.stack.ListenPacket(network, addrs[0])
}

func noStack(op, network string) error { return &net.OpError{Op: op, Net: network, Err: ErrNoStack} }

// inner returns the addresses to listen at. The stack takes packets to every address there is, so it must not be asked to listen
// at all of them: that would be the flows that clients mean for others.
func (s *Server) inner(network, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, err
		}
		if !a.IsUnspecified() {
			return []string{address}, nil
		}
		if a.Is4() && !strings.HasSuffix(network, "6") {
			network = strings.TrimSuffix(network, "4") + "4"
		}
	}
	var list []string
	for _, a := range s.Addresses() {
		if a.Is4() && strings.HasSuffix(network, "6") || a.Is6() && strings.HasSuffix(network, "4") {
			continue
		}
		list = append(list, net.JoinHostPort(a.String(), port))
	}
	if len(list) == 0 {
		return nil, &net.AddrError{Err: "the gateway has no inner address of this family", Addr: address}
	}
	return list, nil
}

// listeners are several listeners as one.
type listeners struct {
	each  []net.Listener
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
	wg    sync.WaitGroup
}

func (l *listeners) accept(one net.Listener) {
	for {
		c, err := one.Accept()
		if err != nil {
			return
		}
		select {
		case l.conns <- c:
		case <-l.done:
			c.Close()
			return
		}
	}
}

// Accept implements net.Listener.
func (l *listeners) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listeners) Close() error {
	var errs []error
	l.once.Do(func() {
		close(l.done)
		for _, one := range l.each {
			errs = append(errs, one.Close())
		}
		l.wg.Wait()
	})
	return errors.Join(errs...)
}

// Addr implements net.Listener. It is the first of the addresses.
func (l *listeners) Addr() net.Addr { return l.each[0].Addr() }
