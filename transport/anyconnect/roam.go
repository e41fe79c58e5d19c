package anyconnect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/cstp"
)

const (
	// grantTimeout bounds the answer of the gateway to the request for the tunnel over another network. It gives the session
	// away at some moment before it answers, so that this is not given up lightly.
	grantTimeout = 10 * time.Second

	// fallbackDelay is how long a way that the session was moved to is tried alone before the usual one is tried beside it.
	fallbackDelay = time.Second
)

// ErrSuperseded is what the error of Roam matches when a later call has taken its place.
var ErrSuperseded = errors.New("superseded by a later move")

// A way is what connections are made with: that of the Dialer, or one over a certain network.
type way struct {
	dial, dialUDP DialFunc
	own           bool // it is that of the Dialer
}

// own returns the way of the Dialer.
func (s *Session) own() *way { return &way{dial: s.dialer.Dial, dialUDP: s.dialer.DialUDP, own: true} }

// A roam is one call of Roam.
type roam struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Roam moves the session to another network without a break: it connects with dial, which is bound to that network, asks the
// gateway for the session there, has the data take the new connection, and only then gives up the old ones. DTLS follows over
// dialUDP; if dial is given and dialUDP is not, there is none from then on. If both are nil they are those of the Dialer, for
// whose connections the routes of the machine may have changed. What works goes on to be used when the session
// has to reconnect, but there the way of the Dialer is tried as well.
//
// Roam returns when data takes the new connection. If none comes about, or what answers is not the gateway, the old ones stay in use
// and the error says why; it matches a kind of package transport, or ErrSuperseded. A later call takes the place of one that is under
// way. The end of ctx ends Roam, unless the gateway has just been asked, whose answer is waited for, for 10 seconds at most.
// While the session has no connection, Roam may be what brings it back.
func (s *Session) Roam(ctx context.Context, dial, dialUDP DialFunc) error {
	via := &way{dial: dial, dialUDP: dialUDP}
	if dial == nil && dialUDP == nil {
		via = s.own()
	}
	if !s.begin() {
		return net.ErrClosed
	}
	defer s.roams.Done()
	return s.move(ctx, via)
}

// begin has Close wait until s.roams.Done is called. It reports false if Close was called already.
func (s *Session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.roams.Add(1)
	return true
}

// move is Roam for whom Close waits for.
func (s *Session) move(ctx context.Context, via *way) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(net.ErrClosed) })()
	r := &roam{cancel: cancel, done: make(chan struct{})}
	defer close(r.done)
	s.mu.Lock()
	before := s.roam
	s.roam = r
	s.mu.Unlock()
	if before != nil {
		before.cancel(ErrSuperseded)
	}
	err := s.conn.Replace(ctx, TLS, func(ctx context.Context, hold func()) (packet.Conn, error) {
		conn, err := s.connectBeside(ctx, via, hold)
		if err != nil {
			return nil, err
		}
		return conn, nil
	})
	s.mu.Lock()
	if s.roam == r {
		s.roam = nil
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case s.conn.Err() != nil:
		return s.conn.Err()
	case errors.Is(context.Cause(ctx), ErrSuperseded):
		return ErrSuperseded
	}
	return fmt.Errorf("the session stays where it is: %w", kind(err))
}

// connectBeside opens a TLS connection while another one is in use. It calls hold right before the gateway is asked for the
// session, which ends the other one.
func (s *Session) connectBeside(ctx context.Context, via *way, hold func()) (*cstp.Conn, error) {
	early, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	nc, err := s.dialWay(early, via)
	if err != nil {
		return nil, err
	}
	link, err := s.secure(early, nc, s.Ticket().Host)
	if err != nil {
		nc.Close()
		return nil, err
	}
	if err := s.ask(early); err != nil {
		link.Close()
		return nil, err
	}
	defer s.answered()
	late, cancel := context.WithTimeout(s.life, grantTimeout)
	defer cancel()
	hold()
	conn, err := s.request(late, link, via, true)
	if err != nil {
		link.Close()
		return nil, err
	}
	return conn, nil
}

// dialWay connects to the gateway.
func (s *Session) dialWay(ctx context.Context, via *way) (net.Conn, error) {
	s.mu.Lock()
	ticket, lease := s.ticket, s.lease
	s.mu.Unlock()
	// Only the member of a cluster that made the session knows it, so the address is kept, unless it is said to change. What a
	// dialer of the caller's connects to may be a proxy, whose address that is then.
	address := ticket.Host
	if ticket.Addr.IsValid() && (s.dialer.Dial == nil || s.dialer.Plain) && (lease == nil || !lease.DynamicAddress) {
		address = ticket.Addr.String()
	}
	nc, err := s.dialer.dialWith(ctx, via.dial, "tcp", address)
	if err == nil || ctx.Err() != nil || address == ticket.Host {
		return nc, err
	}
	network := "tcp"
	if via.own {
		// Another address may be that of another member. But if the machine has no IPv4 any more, or no IPv6, that does not matter.
		if !noWay(err) {
			return nil, err
		}
		if network = "tcp6"; !ticket.Addr.Addr().Unmap().Is4() {
			network = "tcp4"
		}
	}
	// The other network may have no way to this address, such as one without IPv4.
	if named, e := s.dialer.dialWith(ctx, via.dial, network, ticket.Host); e == nil {
		return named, nil
	}
	return nil, err
}

// noWay reports whether a connection failed because the machine has no way to such an address at all.
func noWay(err error) bool {
	const wsaAddrNotAvail, wsaNetUnreach syscall.Errno = 10049, 10051 // what Windows calls them
	return slices.ContainsFunc([]error{syscall.ENETUNREACH, syscall.EADDRNOTAVAIL, wsaAddrNotAvail, wsaNetUnreach}, func(no error) bool {
		return errors.Is(err, no)
	})
}

// reach connects to the gateway by the way in use. If that is one that the session was moved to, it may have gone, and the way
// of the Dialer is tried beside it after a moment.
func (s *Session) reach(ctx context.Context) (net.Conn, *way, error) {
	s.mu.Lock()
	via := s.via
	s.mu.Unlock()
	if via.own {
		nc, err := s.dialWay(ctx, via)
		return nc, via, err
	}
	type result struct {
		nc  net.Conn
		via *way
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, 2)
	try := func(via *way) {
		nc, err := s.dialWay(ctx, via)
		results <- result{nc, via, err}
	}
	go try(via)
	fallback := time.NewTimer(fallbackDelay)
	defer fallback.Stop()
	var first error
	for tried, failed := 1, 0; ; {
		select {
		case <-fallback.C:
			if tried == 1 {
				tried++
				go try(s.own())
			}
		case r := <-results:
			if r.err == nil {
				cancel()
				if tried-failed > 1 {
					// The other one comes to nothing soon, or too late.
					if r := <-results; r.nc != nil {
						r.nc.Close()
					}
				}
				return r.nc, r.via, nil
			}
			if failed++; failed == 2 {
				return nil, nil, errors.Join(first, r.err)
			}
			first = r.err
			fallback.Reset(0)
		}
	}
}

// NetworkChanged checks the open paths and tries the closed ones, at once. If the machine would now reach the gateway from
// another address, as when another network has become the preferred one, the session moves there as by Roam, in the background, if
// the connections are made by the session itself: where those of a function of the caller's would lead is not known. It does not block.
func (s *Session) NetworkChanged() {
	s.conn.NetworkChanged()
	if s.dialer.Dial != nil || !s.begin() {
		return
	}
	s.mu.Lock()
	busy := s.follow
	s.follow, s.again = true, busy
	s.mu.Unlock()
	if busy {
		s.roams.Done()
		return
	}
	go func() {
		defer s.roams.Done()
		for again := true; again; {
			if s.moved() {
				// It is in the state and the log if this fails.
				_ = s.move(s.life, s.own())
			}
			s.mu.Lock()
			again = s.again && !s.closing
			s.follow, s.again = again, false
			s.mu.Unlock()
		}
	}()
}

// moved reports whether a new connection to the gateway would come from another address than the one in use.
func (s *Session) moved() bool {
	s.mu.Lock()
	control, via, lease, busy := s.control, s.via, s.lease, s.roam != nil
	s.mu.Unlock()
	if busy || !via.own || control == nil || control.Err() != nil {
		return false
	}
	from := addrPort(control.LocalAddr()).Addr()
	if !from.IsValid() {
		return false
	}
	// No packet is sent by connecting a UDP socket, but the system chooses the source address.
	c, err := net.Dial("udp", lease.Gateway.String())
	if err != nil {
		return false
	}
	defer c.Close()
	now := addrPort(c.LocalAddr()).Addr()
	// A tunnel cannot lead through itself.
	inside := slices.ContainsFunc(lease.Addresses, func(p netip.Prefix) bool { return p.Addr() == now })
	return now.IsValid() && now != from && !inside
}
