package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"culvert.example/vpn/transport/cstp"
)

const (
	// maxInbound bounds the connections that carry no tunnel. A login needs one.
	maxInbound = 1024
	// handshakeTimeout bounds the TLS handshake.
	handshakeTimeout = 15 * time.Second
)

// An inbound is a connection of a client, whose TLS handshake is done.
type inbound struct {
	*cstp.Link
	nc    net.Conn // below TLS
	chain [][]byte // the certificate that it was shown
	leave func()   // gives back its place among the connections without a tunnel; may be called again
}

// Close implements net.Conn.
func (c *inbound) Close() error {
	c.leave()
	return c.Link.Close()
}

// certificate returns the chain in DER that the client was shown, leaf first.
func (c *inbound) certificate() [][]byte { return c.chain }

func (c *inbound) state() tls.ConnectionState { return c.Link.ConnectionState() }

type connKey struct{}

// connOf returns the connection that a request came with.
func connOf(ctx context.Context) *inbound {
	c, _ := ctx.Value(connKey{}).(*inbound)
	return c
}

// tlsConfig returns the configuration for one connection. It is one for each, to learn which certificate it is shown:
// some clients compare it with what they are told.
func (s *Server) tlsConfig(c *inbound) *tls.Config { return watchCertificate(s.cfg.TLS, c) }

func watchCertificate(base *tls.Config, c *inbound) *tls.Config {
	cfg := base.Clone()
	// A resumed connection would be shown none.
	cfg.SessionTicketsDisabled = true
	if get := cfg.GetConfigForClient; get != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			other, err := get(h)
			if err != nil || other == nil {
				return nil, err
			}
			other = watchCertificate(other, c)
			other.GetConfigForClient = nil
			other.NextProtos = []string{"http/1.1"}
			other.DynamicRecordSizingDisabled = true
			return other, nil
		}
	}
	get, certs := cfg.GetCertificate, cfg.Certificates
	cfg.Certificates = nil
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := choose(h, get, certs)
		if cert != nil {
			c.chain = cert.Certificate
		}
		return cert, err
	}
	return cfg
}

// choose does what crypto/tls does by itself.
func choose(h *tls.ClientHelloInfo, get func(*tls.ClientHelloInfo) (*tls.Certificate, error), certs []tls.Certificate) (*tls.Certificate, error) {
	if get != nil && (len(certs) == 0 || h.ServerName != "") {
		if cert, err := get(h); cert != nil || err != nil {
			return cert, err
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("gateway: there is no certificate for this client")
	}
	for i := range certs {
		if h.SupportsCertificate(&certs[i]) == nil {
			return &certs[i], nil
		}
	}
	return &certs[0], nil
}

// An entrance is the listener of net/http: what comes out of it has its TLS handshake done, so that a client that is slow there
// holds up nobody.
type entrance struct {
	srv   *Server
	ln    net.Listener
	ready chan *inbound
	done  chan struct{} // closed when no more connections come
	wg    sync.WaitGroup

	mu      sync.Mutex
	err     error
	total   int
	from    map[netip.Prefix]int
	pending map[net.Conn]struct{} // in their handshake
	closed  bool
}

func newEntrance(srv *Server, ln net.Listener) *entrance {
	e := &entrance{
		srv: srv, ln: ln, ready: make(chan *inbound), done: make(chan struct{}),
		from: map[netip.Prefix]int{}, pending: map[net.Conn]struct{}{},
	}
	e.wg.Go(e.run)
	return e
}

// Accept implements net.Listener.
func (e *entrance) Accept() (net.Conn, error) {
	select {
	case c := <-e.ready:
		return c, nil
	case <-e.done:
		e.mu.Lock()
		defer e.mu.Unlock()
		return nil, e.err
	}
}

// Addr implements net.Listener.
func (e *entrance) Addr() net.Addr { return e.ln.Addr() }

// Close implements net.Listener. It does not wait; see wait.
func (e *entrance) Close() error {
	e.mu.Lock()
	e.closed = true
	for c := range e.pending {
		c.Close()
	}
	e.mu.Unlock()
	return e.ln.Close()
}

// wait waits for all goroutines, after Close.
func (e *entrance) wait() { e.wg.Wait() }

func (e *entrance) run() {
	defer close(e.done)
	for {
		nc, err := e.ln.Accept()
		if err != nil {
			if isTemporary(err) {
				e.srv.log.Warn("cannot accept connections for a moment", "err", err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
		leave, ok := e.enter(nc)
		if !ok {
			nc.Close()
			continue
		}
		e.wg.Go(func() { e.greet(nc, leave) })
	}
}

// isTemporary says that the next Accept may well succeed, as when there are too many descriptors.
func isTemporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

// enter counts the connection in, unless there are too many.
func (e *entrance) enter(nc net.Conn) (leave func(), ok bool) {
	a, _ := netip.ParseAddrPort(nc.RemoteAddr().String())
	source := sourceOf(a.Addr())
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.total >= maxInbound || e.from[source] >= e.srv.cfg.MaxConnectionsPerSource {
		return nil, false
	}
	e.total++
	e.from[source]++
	e.pending[nc] = struct{}{}
	return sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.total--
		if e.from[source]--; e.from[source] <= 0 {
			delete(e.from, source)
		}
	}), true
}

// greet does the TLS handshake.
func (e *entrance) greet(nc net.Conn, leave func()) {
	tuneTCP(nc)
	c := &inbound{nc: nc, leave: leave}
	c.Link = cstp.Server(nc, e.srv.tlsConfig(c))
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	err := c.Link.HandshakeContext(context.Background())
	e.mu.Lock()
	delete(e.pending, nc)
	closed := e.closed
	e.mu.Unlock()
	if err != nil || closed {
		if err != nil {
			e.srv.log.Debug("TLS handshake failed", "remote", nc.RemoteAddr(), "err", err)
		}
		c.Close()
		return
	}
	nc.SetDeadline(time.Time{})
	select {
	case e.ready <- c:
	case <-e.done:
		c.Close()
	}
}
