package dns

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	secureWait    = 3 * time.Second  // for a connection, and for an answer
	secureIdle    = 10 * time.Second // that a connection is kept without questions
	maxInFlight   = 1024             // questions on one connection
	protocolOfDoT = "dot"            // RFC 7858 as registered for ALPN
)

// errInsecure reports a TLS configuration that would believe anybody.
var errInsecure = errors.New("InsecureSkipVerify is set: the server must be verified; set RootCAs, or VerifyConnection")

// A TLSClient is an [Exchanger] that asks one server over TLS (RFC 7858), in the strict profile of RFC 8310: the server must
// prove its name, and there is nothing to fall back to. The connection is kept for a while, and carries several questions at
// a time. Queries are padded. It must not be changed once it is used, and must be closed.
type TLSClient struct {
	// Server is the address of the server. The port 0 means 853.
	Server netip.AddrPort

	// Name is what the certificate of the server must be for: a host name or an address.
	Name string

	// TLS may have more to say about the verification, such as RootCAs. Nil means the roots of the system. A configuration
	// with InsecureSkipVerify is an error, unless it verifies for itself.
	TLS *tls.Config

	// Dial connects to the server; network is tcp. Nil means a [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Timeout is how long the connection may take, and then an answer. Zero means 3 seconds.
	Timeout time.Duration

	// Idle is how long the connection is kept without a question. Zero means 10 seconds.
	Idle time.Duration

	mu      sync.Mutex
	closed  bool
	line    *tlsLine
	opening *tlsOpening
	cache   tls.ClientSessionCache
	running sync.WaitGroup
}

// String returns the name and address of the server.
func (c *TLSClient) String() string { return fmt.Sprintf("tls://%s (%s)", c.Name, c.address()) }

func (c *TLSClient) address() netip.AddrPort {
	if c.Server.Port() == 0 {
		return netip.AddrPortFrom(c.Server.Addr(), 853)
	}
	return c.Server
}

// Exchange implements [Exchanger]. A question on a connection that turns out to be dead is asked once more on a new one.
func (c *TLSClient) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*positive(c.Timeout, secureWait))
	defer cancel()
	for again := false; ; again = true {
		line, used, err := c.connect(ctx)
		if err != nil {
			return nil, fmt.Errorf("dns: server %s: %w", c, err)
		}
		answer, err := line.exchange(ctx, q, query)
		if err == nil {
			return withID(answer, binary.BigEndian.Uint16(query)), nil
		}
		if !used || again || ctx.Err() != nil {
			return nil, fmt.Errorf("dns: server %s, name %s: %w", c, q.name, err)
		}
	}
}

// Close closes the connection and waits for everything that was started.
func (c *TLSClient) Close() error {
	c.mu.Lock()
	c.closed = true
	line := c.line
	if c.opening != nil {
		c.opening.cancel()
	}
	c.mu.Unlock()
	if line != nil {
		line.fail(net.ErrClosed)
	}
	c.running.Wait()
	return nil
}

// A tlsOpening is a connection that is being made, for all who wait for it.
type tlsOpening struct {
	cancel context.CancelFunc
	done   chan struct{}
	line   *tlsLine // after done
	err    error
}

// connect returns the connection, and whether it was used before.
func (c *TLSClient) connect(ctx context.Context) (line *tlsLine, used bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, false, net.ErrClosed
	}
	if c.line != nil && c.line.alive() {
		defer c.mu.Unlock()
		return c.line, true, nil
	}
	o := c.opening
	if o == nil {
		// Others wait for it too, so it must not end with the one who came first.
		var wide context.Context
		o = &tlsOpening{done: make(chan struct{})}
		wide, o.cancel = context.WithTimeout(context.WithoutCancel(ctx), positive(c.Timeout, secureWait))
		c.opening = o
		c.running.Go(func() { c.open(wide, o) })
	}
	c.mu.Unlock()
	select {
	case <-o.done:
		return o.line, false, o.err
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

func (c *TLSClient) open(ctx context.Context, o *tlsOpening) {
	defer o.cancel()
	conn, err := c.dial(ctx)
	c.mu.Lock()
	c.opening = nil
	if err == nil && c.closed {
		conn.Close()
		err = net.ErrClosed
	}
	if o.err = err; err == nil {
		idle, wait := positive(c.Idle, secureIdle), positive(c.Timeout, secureWait)
		o.line = &tlsLine{conn: conn, idle: idle, wait: wait, pending: make(map[uint16]*pending)}
		o.line.rest()
		c.line = o.line
		c.running.Go(o.line.read)
	}
	c.mu.Unlock()
	close(o.done)
}

func (c *TLSClient) dial(ctx context.Context) (*tls.Conn, error) {
	cfg, err := secure(c.TLS, c.Name)
	if err != nil {
		return nil, err
	}
	cfg.NextProtos = []string{protocolOfDoT}
	if cfg.ClientSessionCache == nil {
		c.mu.Lock()
		if c.cache == nil {
			c.cache = tls.NewLRUClientSessionCache(1)
		}
		cfg.ClientSessionCache = c.cache
		c.mu.Unlock()
	}
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", c.address().String())
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// secure returns a copy of cfg that verifies that the server is name.
func secure(cfg *tls.Config, name string) (*tls.Config, error) {
	if cfg == nil {
		cfg = new(tls.Config)
	}
	if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil && cfg.VerifyPeerCertificate == nil {
		return nil, errInsecure
	}
	cfg = cfg.Clone()
	cfg.ServerName = name
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	return cfg, nil
}

// A tlsLine is one connection and the questions on it.
type tlsLine struct {
	conn       net.Conn
	idle, wait time.Duration
	write      sync.Mutex

	mu      sync.Mutex
	err     error // why it can not be used any more
	pending map[uint16]*pending
}

// A pending is a question on its way.
type pending struct {
	q      question
	answer chan []byte // has room for the answer; closed if there will be none
}

func (l *tlsLine) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && len(l.pending) < maxInFlight
}

// rest puts off the end of a connection without questions. One with questions ends if nothing comes back for as long as an
// answer may take.
func (l *tlsLine) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := l.idle
	if len(l.pending) > 0 {
		wait = max(wait, l.wait)
	}
	l.conn.SetReadDeadline(time.Now().Add(wait))
}

func (l *tlsLine) exchange(ctx context.Context, q question, query []byte) ([]byte, error) {
	id, p, err := l.register(q)
	if err != nil {
		return nil, err
	}
	defer l.forget(id, p)
	msg, err := padded(query, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	l.rest()
	if err := l.send(msg); err != nil {
		l.fail(err)
		return nil, err
	}
	select {
	case answer, ok := <-p.answer:
		if !ok {
			return nil, l.why()
		}
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *tlsLine) send(msg []byte) error {
	l.write.Lock()
	defer l.write.Unlock()
	l.conn.SetWriteDeadline(time.Now().Add(l.wait))
	return writeFramed(l.conn, msg)
}

// register finds an id for a question.
func (l *tlsLine) register(q question) (uint16, *pending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, nil, l.err
	}
	if len(l.pending) >= maxInFlight {
		return 0, nil, fmt.Errorf("%d questions are waiting for an answer", maxInFlight)
	}
	id := randomID()
	for l.pending[id] != nil {
		id++
	}
	p := &pending{q: q, answer: make(chan []byte, 1)}
	l.pending[id] = p
	return id, p, nil
}

func (l *tlsLine) forget(id uint16, p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[id] == p {
		delete(l.pending, id)
	}
}

// read hands answers to those who wait for them, until the connection ends.
func (l *tlsLine) read() {
	for {
		answer, err := readFramed(l.conn)
		if err == nil {
			err = l.deliver(answer)
		}
		if err != nil {
			l.fail(err)
			return
		}
		l.rest()
	}
}

// deliver takes an answer to whoever waits for it. An answer that comes too late finds nobody. One to something else than was
// asked under its id shows that the server is confused.
func (l *tlsLine) deliver(answer []byte) error {
	if len(answer) < headerLen {
		return fmt.Errorf("%w: an answer of %d bytes", ErrMessage, len(answer))
	}
	id := binary.BigEndian.Uint16(answer)
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending[id]
	if p == nil {
		return nil
	}
	if !answers(answer, id, p.q) {
		return fmt.Errorf("%w: an answer to something that was not asked", ErrMessage)
	}
	delete(l.pending, id)
	p.answer <- answer
	return nil
}

// fail ends the connection, and all questions on it.
func (l *tlsLine) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	for _, p := range l.pending {
		close(p.answer)
	}
	clear(l.pending)
	l.mu.Unlock()
	l.conn.Close() // which may wait for a moment to say goodbye
}

func (l *tlsLine) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
