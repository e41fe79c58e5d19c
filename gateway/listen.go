package gateway

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// portTries is how many free ports of the first address Listen tries to have at the others too.
const portTries = 16

// Listen listens inside the tunnel, for TCP connections of clients to the given address, such as "10.20.0.1:80". An empty
// or unspecified host means the gateway's own inner addresses, and port 0 any port that is free at each of them. The network is tcp, tcp4
// or tcp6. Accept fails when the listener or the Server is closed.
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
	each, err := listenEach(func(address string) (net.Listener, error) { return s.stack.Listen(network, address) }, addrs)
	if err != nil {
		return nil, err
	}
	l := &listeners{each: each, conns: make(chan net.Conn), done: make(chan struct{})}
	l.left.Store(int32(len(each)))
	for _, one := range each {
		l.wg.Go(func() { l.accept(one) })
	}
	return l, nil
}

// listenEach listens at all addresses, which inner has made, or at none. If the first is for any port, the others have the one that it comes to, which may be taken
// there, so that another one is tried.
func listenEach(listen func(address string) (net.Listener, error), addrs []string) ([]net.Listener, error) {
	_, asked, _ := net.SplitHostPort(addrs[0])
	anyPort := strings.Trim(asked, "0") == ""
	for tries := 1; ; tries++ {
		each, err := listenAt(listen, addrs)
		if !anyPort || tries == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return each, err
		}
	}
}

// listenAt listens at all addresses with the port of the first.
func listenAt(listen func(address string) (net.Listener, error), addrs []string) (each []net.Listener, err error) {
	for _, a := range addrs {
		if len(each) > 0 {
			host, _, _ := net.SplitHostPort(a)
			_, port, _ := net.SplitHostPort(each[0].Addr().String())
			a = net.JoinHostPort(host, port)
		}
		one, err := listen(a)
		if err != nil {
			for _, one := range each {
				one.Close()
			}
			return nil, err
		}
		each = append(each, one)
	}
	return each, nil
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
	left  atomic.Int32 // how many of them have not failed
	ended sync.Once
	done  chan struct{} // closed by end
	err   error         // set before done is closed
	once  sync.Once     // of Close
	wg    sync.WaitGroup
}

// end has Accept return err from now on.
func (l *listeners) end(err error) {
	l.ended.Do(func() {
		l.err = err
		close(l.done)
	})
}

func (l *listeners) accept(one net.Listener) {
	for {
		c, err := one.Accept()
		if err != nil {
			if l.left.Add(-1) == 0 {
				l.end(err) // nobody is left who could send to conns
			}
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
		return nil, l.err
	}
}

// Close implements net.Listener.
func (l *listeners) Close() error {
	var errs []error
	l.once.Do(func() {
		l.end(net.ErrClosed)
		for _, one := range l.each {
			errs = append(errs, one.Close())
		}
		l.wg.Wait()
	})
	return errors.Join(errs...)
}

// Addr implements net.Listener. It is the first of the addresses.
func (l *listeners) Addr() net.Addr { return l.each[0].Addr() }
