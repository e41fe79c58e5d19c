package proxy

import (
	"fmt"
	"net"
)

// Forward connects every client that l accepts to address, which is host:port as Dial takes it, without a word of
// protocol: all that a client says is for the destination, as with ssh -L. It works until Shutdown, Close or an error of
// l, closes l and always returns a non-nil error, [ErrServerClosed] after Shutdown or Close. Calls of Serve and other
// calls of Forward may run at the same time.
//
// Auth and AllowOpen do not matter here: whoever reaches l reaches that one destination and nothing else. The caller
// decides who that is by what l listens on. A client whose destination is not reached is cut off by a reset, since an
// orderly end would look like an empty answer.
func (s *Server) Forward(l net.Listener, address string) error {
	s.init()
	defer l.Close()
	if s.Dial == nil {
		return errNoDial
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("proxy: forward: %w", err)
	}
	return s.accept(l, func(c *client) {
		s.run(c, func(c *client) error { return s.carry(c, address) })
	})
}

// carry connects a client to address.
func (s *Server) carry(c *client, address string) error {
	t, err := s.dial(s.ctx, "tcp", address)
	if err != nil {
		if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0)
		}
		return err
	}
	return s.relay(c.Conn, t)
}
