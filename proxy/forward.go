package proxy

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// dialApart is after how long the destination of a forward is dialed for the next client although it is still being dialed for
// the one before.
const dialApart = 2 * time.Millisecond

// Forward connects every client that l accepts to address, which is host:port as Dial takes it, without a word of
// protocol: all that a client says is for the destination, as with ssh -L. It works until Shutdown, Close or an error of
// l, closes l and always returns a non-nil error, [ErrServerClosed] after Shutdown or Close. Calls of Serve and other
// calls of Forward may run at the same time.
//
// Auth and AllowOpen do not matter here: whoever reaches l reaches that one destination and nothing else. The caller
// decides who that is by what l listens on. A client whose destination is not reached is cut off by a reset, since an
// orderly end would look like an empty answer.
//
// A client is connected before its destination is, so a program that opens several connections in a row, and takes the
// other side to see them in this order, could be disappointed. To prevent that, Dial is called in the order of the
// clients, for the next one when it has returned or after a moment.
func (s *Server) Forward(l net.Listener, address string) error {
	s.init()
	defer l.Close()
	if s.Dial == nil {
		return errNoDial
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("proxy: forward: %w", err)
	}
	before := make(chan struct{})
	close(before)
	return s.accept(l, func(c *client) {
		turn, dialed := before, make(chan struct{})
		before = dialed
		go s.run(c, func(c *client) error { return s.carry(c, address, turn, dialed) })
	})
}

// carry connects a client to address when it is its turn, and closes dialed when it is that of the next client.
func (s *Server) carry(c *client, address string, turn <-chan struct{}, dialed chan<- struct{}) error {
	select {
	case <-turn:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	next := sync.OnceFunc(func() { close(dialed) })
	moment := time.AfterFunc(dialApart, next)
	t, err := s.dial(s.ctx, "tcp", address)
	moment.Stop()
	next()
	if err != nil {
		if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0)
		}
		return err
	}
	return s.relay(c.Conn, t)
}
