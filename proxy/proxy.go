// Package proxy serves SOCKS and HTTP proxy clients on one port and reaches their destinations through a dial function.
//
// A [Server] looks at the first byte that a client sends: 5 is SOCKS5 (RFC 1928, with user name and password by RFC 1929,
// CONNECT and UDP ASSOCIATE), 4 is SOCKS4 or 4a, and a letter is HTTP, either CONNECT or a request in absolute form
// (RFC 9110 section 7). So one address suits curl, browsers, ssh and programs that only know http_proxy:
//
//	s := &proxy.Server{Dial: tunnel.DialContext}
//	l, err := net.Listen("tcp", "127.0.0.1:1080")
//	...
//	err = s.Serve(l)
//
// Names are handed to Dial as the client wrote them, so that they are resolved on the far side. Connections carry a
// half-close through in both directions, and a reset stays a reset.
//
// A Server is never an open relay by accident: without Auth it refuses to listen on anything but a loopback address or a
// Unix socket, unless AllowOpen says so. A web page cannot use it through the browser that shows the page, since
// requests in origin form, the only ones a page can cause, are refused.
//
// For programs that know no proxy, [Server.Forward] binds a port to one destination.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Defaults of the fields of [Server] that are zero.
const (
	DefaultMaxConns         = 4096
	DefaultMaxFlows         = 1024
	DefaultHandshakeTimeout = 15 * time.Second
	DefaultDialTimeout      = time.Minute
	// DefaultIdleTimeout is the least that RFC 5382 section 5 lets a NAT forget an established connection after.
	DefaultIdleTimeout = 2*time.Hour + 4*time.Minute
	// DefaultUDPIdleTimeout is the least that RFC 4787 section 4.3 lets a NAT forget a mapping after.
	DefaultUDPIdleTimeout = 2 * time.Minute
)

const (
	// maxHeader bounds the header of an HTTP request, in bytes.
	maxHeader = 64 << 10
	// copyBuffer is the size of the pieces in which data is copied, in bytes.
	copyBuffer = 128 << 10
	// wrongPasswordDelay slows down guessing.
	wrongPasswordDelay = 500 * time.Millisecond
)

var (
	// ErrServerClosed is what Serve returns after Shutdown or Close.
	ErrServerClosed = errors.New("proxy: server closed")

	// ErrOpenRelay is what Serve returns when anybody on the network could use the server.
	ErrOpenRelay = errors.New("proxy: anybody on the network could use this proxy: listen on a loopback address, or set a user and password")

	// ErrNotAllowed is for a Dial function to wrap: the destination is forbidden. Clients are told so.
	ErrNotAllowed = errors.New("destination not allowed")

	errNoDial = errors.New("proxy: Server.Dial is not set")
)

// A Server is a SOCKS and HTTP proxy. Dial must be set; the zero value of every other field is usable. The fields must
// not change after the first call of Serve.
type Server struct {
	// Dial connects to a destination. The network is "tcp" or "udp", the address host:port, where host is a name or an IP
	// address. The context ends after DialTimeout, with the server, or when an HTTP client gives up; it does not end the connection.
	// Connections that have a CloseWrite method carry a half-close. Errors that match syscall.ECONNREFUSED,
	// EHOSTUNREACH, ENETUNREACH, [ErrNotAllowed], fs.ErrPermission, a *net.DNSError or a time-out reach the client as what they are.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Auth reports whether a user may use the proxy. Nil admits everybody without a password. It may be called by many goroutines
	// at once. See [Password].
	Auth func(user, password string) bool

	// AllowOpen permits to listen on an address that is not loopback without Auth.
	AllowOpen bool

	// MaxConns is how many client connections may be open at once, MaxFlows how many UDP flows all associations may have.
	MaxConns, MaxFlows int

	// HandshakeTimeout bounds how long a client may take to say what it wants, DialTimeout how long Dial may take.
	HandshakeTimeout, DialTimeout time.Duration

	// IdleTimeout is after how long without data in either direction a connection is closed, UDPIdleTimeout the same for a UDP
	// flow. Negative means never.
	IdleTimeout, UDPIdleTimeout time.Duration

	// Logger gets a line for each failure at level Debug and for trouble of the server itself at level Warn. Nil discards.
	Logger *slog.Logger

	once    sync.Once
	log     *slog.Logger
	http    *http.Server
	httpIn  *handover
	forward http.Handler
	backend *http.Transport
	serving sync.Once // httpIn
	buffers sync.Pool // of *[]byte, copyBuffer long
	ctx     context.Context
	cancel  context.CancelFunc

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[io.Closer]struct{}
	clients   int
	flows     int
	wg        sync.WaitGroup // what has a place in conns, and goroutines
}

// init fills in the defaults. It is not done in a constructor, so that a Server can be made like any struct.
func (s *Server) init() {
	s.once.Do(func() {
		def := func(p *time.Duration, d time.Duration) {
			if *p == 0 {
				*p = d
			}
		}
		def(&s.HandshakeTimeout, DefaultHandshakeTimeout)
		def(&s.DialTimeout, DefaultDialTimeout)
		def(&s.IdleTimeout, DefaultIdleTimeout)
		def(&s.UDPIdleTimeout, DefaultUDPIdleTimeout)
		if s.MaxConns <= 0 {
			s.MaxConns = DefaultMaxConns
		}
		if s.MaxFlows <= 0 {
			s.MaxFlows = DefaultMaxFlows
		}
		s.log = s.Logger
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[io.Closer]struct{})
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.initHTTP()
	})
}

// Serve answers the clients that l accepts until Shutdown, Close or an error of l. It closes l and always returns a non-nil
// error, [ErrServerClosed] after Shutdown or Close, and [ErrOpenRelay] at once if everybody on the network could use the server. Several
// calls may run at the same time.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	defer l.Close()
	if s.Dial == nil {
		return errNoDial
	}
	if err := s.Permits(l.Addr()); err != nil {
		return err
	}
	return s.accept(l, func(c *client) { go c.serve() })
}

// Permits returns [ErrOpenRelay] if Serve would refuse to listen on addr.
func (s *Server) Permits(addr net.Addr) error {
	if s.Auth == nil && !s.AllowOpen && !private(addr) {
		return fmt.Errorf("%w (listening on %v)", ErrOpenRelay, addr)
	}
	return nil
}

// accept calls handle for every client that l accepts and there is room for. It must not block.
func (s *Server) accept(l net.Listener, handle func(*client)) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()

	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return ErrServerClosed
			}
			if errors.Is(err, net.ErrClosed) || !temporary(err) {
				return err
			}
			// Most likely there are no descriptors left. They come back as connections end.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("cannot accept a connection", "err", err, "retry_in", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			continue
		}
		pause = 0
		c := &client{Conn: nc, s: s}
		if !s.admit(c) {
			nc.Close()
			continue
		}
		handle(c)
	}
}

// temporary reports whether Accept may succeed when it is called again.
func temporary(err error) bool {
	t, ok := err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

// private reports whether only programs of this machine can reach a listener.
func private(a net.Addr) bool {
	if a.Network() == "unix" {
		return true
	}
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// admit gives a client a place, unless the server is full or closed.
func (s *Server) admit(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.clients >= s.MaxConns {
		s.log.Warn("too many clients", "max", s.MaxConns, "client", c.RemoteAddr().String())
		return false
	}
	s.clients++
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

// track registers something that Close shall close and wait for until untrack. It reports false if the server is closed.
func (s *Server) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && s.ctx.Err() != nil {
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) untrack(c io.Closer) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Shutdown stops listening and waits until the clients are done, or until the context ends, when it closes the
// connections that are left and returns the error of the context.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.stopListening()
	err := s.http.Shutdown(ctx)
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, s.Close())
}

// Close stops listening, closes all connections, and waits until everything that the server started has ended.
func (s *Server) Close() error {
	s.init()
	s.stopListening()
	s.cancel()
	s.mu.Lock()
	open := make([]io.Closer, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	s.http.Close()
	for _, c := range open {
		c.Close()
	}
	s.backend.CloseIdleConnections()
	s.wg.Wait()
	return nil
}

func (s *Server) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
}

// dial calls Dial within its time.
func (s *Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s.DialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.DialTimeout)
		defer cancel()
	}
	c, err := s.Dial(ctx, network, address)
	if err != nil {
		s.log.Debug("cannot connect", "network", network, "address", address, "err", err)
		return nil, err
	}
	return c, nil
}

// A client is the connection of one client. Its owner is the goroutine that runs serve, and net/http after handing it over.
type client struct {
	net.Conn
	s     *Server
	first []byte // read already, comes before what Conn holds
	close sync.Once
}

// Read implements net.Conn.
func (c *client) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Close closes the connection and gives its place free.
func (c *client) Close() error {
	err := net.ErrClosed
	c.close.Do(func() {
		err = c.Conn.Close()
		c.s.mu.Lock()
		c.s.clients--
		c.s.mu.Unlock()
		c.s.untrack(c)
	})
	return err
}

// serve finds out what the client speaks.
func (c *client) serve() {
	s := c.s
	c.SetDeadline(time.Now().Add(s.HandshakeTimeout))
	var first [1]byte
	if _, err := io.ReadFull(c.Conn, first[:]); err != nil {
		c.Close()
		return
	}
	switch b := first[0]; {
	case b == socks5Version:
		s.run(c, s.socks5)
	case b == socks4Version:
		s.run(c, s.socks4)
	case 'A' <= b && b <= 'Z', 'a' <= b && b <= 'z', b == '\r', b == '\n':
		c.first = first[:]
		c.SetDeadline(time.Time{})
		s.serving.Do(func() { s.wg.Go(func() { s.http.Serve(s.httpIn) }) })
		if !s.httpIn.give(c) {
			c.Close()
		}
	default:
		s.log.Debug("neither SOCKS nor HTTP", "client", c.RemoteAddr().String(), "first_byte", b)
		c.Close()
	}
}

// run keeps the server waiting for a protocol's goroutine, which outlives the client's connection by a moment when Close
// closes that from outside.
func (s *Server) run(c *client, serve func(*client) error) {
	defer c.Close()
	g := new(goroutine)
	if !s.track(g) {
		return
	}
	defer s.untrack(g)
	if err := serve(c); err != nil {
		s.log.Debug("client failed", "client", c.RemoteAddr().String(), "err", err)
	}
}

// A goroutine is waited for by Close; what it blocks on is closed by itself.
type goroutine struct{ _ byte }

func (*goroutine) Close() error { return nil }
