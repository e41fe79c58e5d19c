package login

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/trust"
	"culvert.example/vpn/transport/wire"
)

const (
	defaultTimeout = 30 * time.Second
	// maxReply bounds all bytes of one reply: interim replies, header, chunk framing and body.
	maxReply = wire.MaxDocument + 256<<10
	// maxHost bounds the name of a host with its port: 253 bytes are the most that the DNS knows.
	maxHost = 253 + len(":65535")
)

// An agent speaks HTTP/1.1 with one gateway over one TLS connection, because gateways tie a login to the connection. It is
// not net/http's client because cookies here have no attributes, credentials must never follow a redirection, and the
// connection must be replaceable on purpose, to show a certificate.
type agent struct {
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	client    func(nc net.Conn, cfg *tls.Config) Conn
	tls       *tls.Config
	hasCert   bool
	userAgent string
	timeout   time.Duration
	log       *slog.Logger

	url *url.URL // where the login starts: https, host, path, query
	jar []wire.Value

	conn   Conn
	br     *bufio.Reader
	budget *budget
	addr   netip.AddrPort
	cert   *x509.Certificate
	// certWanted says that the gateway asked for a client certificate on this connection.
	certWanted bool
}

// A reply is what the gateway answered, whole.
type reply struct {
	status int
	reason string // the phrase of the status line
	header http.Header
	body   []byte
}

func newAgent(cfg *Config) (*agent, error) {
	u := cfg.URL
	if u == nil || u.Hostname() == "" {
		return nil, errors.New("login: the URL of the gateway is missing")
	}
	if u.Scheme != "https" {
		return nil, fmt.Errorf("login: the URL of the gateway must be https://…, not %q", u.Scheme)
	}
	a := &agent{
		dial:      cfg.DialContext,
		client:    cfg.Client,
		userAgent: cfg.UserAgent,
		timeout:   cfg.RequestTimeout,
		log:       cfg.Logger,
		url:       &url.URL{Scheme: "https", Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery},
	}
	if a.dial == nil {
		a.dial = new(net.Dialer).DialContext
	}
	if a.userAgent == "" {
		a.userAgent = DefaultUserAgent
	}
	if strings.ContainsFunc(a.userAgent, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, fmt.Errorf("login: the user agent %q has characters that no header may have", a.userAgent)
	}
	if a.timeout <= 0 {
		a.timeout = defaultTimeout
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.tls = new(tls.Config)
	if cfg.TLS != nil {
		a.tls = cfg.TLS.Clone()
	}
	a.tls.NextProtos = []string{"http/1.1"}
	// A resumed session would not show the certificate.
	a.tls.ClientSessionCache = nil
	if a.hasCert = len(a.tls.Certificates) > 0 || a.tls.GetClientCertificate != nil; a.hasCert {
		// Old gateways ask for the certificate after the first request. The tunnel uses another connection without this.
		a.tls.Renegotiation = tls.RenegotiateFreelyAsClient
	}
	if a.client == nil || a.hasCert {
		a.client = func(nc net.Conn, cfg *tls.Config) Conn { return tls.Client(nc, cfg) }
	}
	a.tls.GetClientCertificate = a.clientCertificate(a.tls.Certificates, a.tls.GetClientCertificate)
	if a.tls.ServerName == "" {
		a.tls.ServerName = a.url.Hostname()
	}
	return a, nil
}

// clientCertificate does what crypto/tls does with the configured certificates, and notes that it was asked.
func (a *agent) clientCertificate(certs []tls.Certificate, next func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) func(
	*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		a.certWanted = true
		if next != nil {
			return next(info)
		}
		for i := range certs {
			if info.SupportsCertificate(&certs[i]) == nil {
				return &certs[i], nil
			}
		}
		return new(tls.Certificate), nil
	}
}

// hostPort returns the name and port to connect to.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// name returns the host as it stands in a URL, without the usual port.
func (a *agent) name() string {
	return strings.TrimSuffix(hostPort(a.url), ":443")
}

// moveTo turns to the host of u, or to another path on the same one. Nothing of the old host goes to a new one.
func (a *agent) moveTo(u *url.URL) (newHost bool) {
	newHost = hostPort(u) != hostPort(a.url)
	if newHost {
		a.hangUp()
		a.jar = nil
		a.tls.ServerName = u.Hostname()
	}
	a.url = &url.URL{Scheme: "https", Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	return newHost
}

// hangUp closes the connection, if there is one.
func (a *agent) hangUp() {
	if a.conn != nil {
		_ = a.conn.Close() // there is nothing left to lose on it
		a.conn = nil
	}
}

// connect makes the connection, if there is none.
func (a *agent) connect(ctx context.Context) error {
	host := hostPort(a.url)
	nc, err := a.dial(ctx, "tcp", host)
	if err != nil {
		return a.failure(ctx, "no connection to", err)
	}
	a.addr = netip.AddrPort{}
	if ta, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := ta.AddrPort()
		a.addr = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	a.certWanted = false
	conn := a.client(nc, a.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return a.failure(ctx, "no TLS with", err)
	}
	a.conn = conn
	a.budget = &budget{r: conn}
	a.br = bufio.NewReader(a.budget)
	a.setCert(conn)
	a.log.Debug("connected", "gateway", host, "address", a.addr, "tls", tls.VersionName(conn.ConnectionState().Version))
	return nil
}

func (a *agent) setCert(conn Conn) {
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		a.cert = certs[0]
	}
}

// failure describes an error of the network.
func (a *agent) failure(ctx context.Context, what string, err error) error {
	host := a.name()
	if explained := trust.Explain(err, host); errors.Is(explained, transport.ErrUntrusted) {
		return explained
	}
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(context.Cause(ctx), errSlow):
		return fmt.Errorf("%w: %s %s: it did not finish within %s", transport.ErrUnreachable, what, host, a.timeout)
	case ctx.Err() != nil:
		return fmt.Errorf("login: %s %s: %w", what, host, ctx.Err())
	case errors.Is(err, transport.ErrProtocol):
		return err
	case errors.As(err, &record):
		return fmt.Errorf("%w: %s does not speak TLS: %w", transport.ErrProtocol, host, err)
	case errors.As(err, &op) && op.Op == "remote error" && (a.certWanted || strings.Contains(err.Error(), "certificate")):
		// The alert has no type of its own, so its text has to do.
		return fmt.Errorf("%w: %s wants a client certificate that it accepts: %w", transport.ErrLogin, host, err)
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("%w: %s refuses TLS with us: %w", transport.ErrProtocol, host, err)
	}
	return fmt.Errorf("%w: %s %s: %w", transport.ErrUnreachable, what, host, err)
}

// errSlow is the cause of a request that took too long.
var errSlow = fmt.Errorf("the gateway is too slow: %w", os.ErrDeadlineExceeded)

// send sends one request to target, which must be on the host of a.url, and reads the reply. If a connection that was used
// before turns out to be closed, it makes another one, once; so it does if it may have been about a certificate.
func (a *agent) send(ctx context.Context, method string, target *url.URL, contentType string, body []byte, extra ...wire.Value) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, errSlow)
	defer cancel()
	request := a.request(method, target, contentType, body, extra)
	if a.conn != nil && a.br.Buffered() > 0 {
		a.hangUp() // what came unasked must not be taken for the reply
	}
	for again := false; ; again = true {
		fresh := a.conn == nil
		if fresh {
			if err := a.connect(ctx); err != nil {
				return nil, err
			}
		}
		a.budget.left, a.budget.total = maxReply, 0
		conn := a.conn
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		r, keep, err := a.roundTrip(request, method)
		if !stop() || !keep {
			a.hangUp()
		}
		if err == nil {
			a.setCert(conn)
			a.takeCookies(r.header)
			a.log.Debug("reply", "method", method, "path", target.Path, "status", r.status, "bytes", len(r.body))
			return r, nil
		}
		a.hangUp()
		silent := a.budget.total == 0 && ctx.Err() == nil && isClosed(err)
		switch {
		case silent && !again && (!fresh || a.certWanted):
			continue
		case silent && a.certWanted:
			// With TLS 1.3 a refused certificate shows only now, and a reset may overtake the alert that says so.
			return nil, fmt.Errorf("%w: %s asks for a client certificate and ends the connection after %s: %w", transport.ErrLogin, a.name(),
				map[bool]string{true: "it has seen ours", false: "we showed none"}[a.hasCert], err)
		}
		return nil, a.failure(ctx, "no reply from", err)
	}
}

// isClosed reports whether err says that the peer closed the connection, in whatever way.
func isClosed(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &op) && (op.Op == "read" || op.Op == "write") && !op.Timeout()
}

func (a *agent) roundTrip(request []byte, method string) (r *reply, keep bool, err error) {
	if _, err := a.conn.Write(request); err != nil {
		return nil, false, err
	}
	return a.readReply(method)
}

// readReply reads a reply, whole, and reports whether another one may follow on the connection.
func (a *agent) readReply(method string) (r *reply, keep bool, err error) {
	const maxInterim = 8
	for range maxInterim {
		resp, err := http.ReadResponse(a.br, &http.Request{Method: method})
		if err != nil {
			return nil, false, a.malformed(err)
		}
		if resp.StatusCode/100 == 1 {
			continue // it has no body
		}
		body, err := a.readBody(resp)
		if err != nil {
			return nil, false, err
		}
		_, reason, _ := strings.Cut(resp.Status, " ")
		return &reply{resp.StatusCode, reason, resp.Header, body}, !resp.Close, nil
	}
	return nil, false, fmt.Errorf("%w: %s sends interim replies without end", transport.ErrProtocol, a.name())
}

// readBody reads the body. It does not close it, because that would read what is left of a body that is too long; a body that
// was not read to its end costs the connection, and nothing else hangs on it.
func (a *agent) readBody(resp *http.Response) ([]byte, error) {
	if resp.ContentLength > wire.MaxDocument {
		return nil, fmt.Errorf("%w: %s announces a reply of %d bytes, more than any login needs", transport.ErrProtocol, a.name(),
			resp.ContentLength)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxDocument+1))
	if len(body) > wire.MaxDocument {
		return nil, fmt.Errorf("%w: %s sends a reply of more than %d bytes", transport.ErrProtocol, a.name(), wire.MaxDocument)
	}
	if err != nil {
		return nil, a.malformed(err)
	}
	return body, nil
}

// malformed tells errors of the connection from errors of what came over it.
func (a *agent) malformed(err error) error {
	var network net.Error
	var op *net.OpError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || errors.As(err, &op) {
		return err
	}
	var failed *tls.CertificateVerificationError
	if errors.As(err, &failed) || errors.Is(err, transport.ErrUntrusted) {
		return err
	}
	return fmt.Errorf("%w: the reply of %s is not HTTP: %.200q", transport.ErrProtocol, a.name(), err.Error())
}

// request renders a request. The names of headers have the case that gateways expect, byte for byte.
func (a *agent) request(method string, target *url.URL, contentType string, body []byte, extra []wire.Value) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", method, target.RequestURI(), a.name(), a.userAgent)
	if len(a.jar) > 0 {
		b.WriteString("Cookie: ")
		for i, c := range a.jar {
			if i > 0 {
				b.WriteString("; ")
			}
			b.WriteString(c.Name + "=" + c.Value)
		}
		b.WriteString("\r\n")
	}
	b.WriteString("Accept: */*\r\nAccept-Encoding: identity\r\nX-Transcend-Version: 1\r\n")
	for _, h := range extra {
		b.WriteString(h.Name + ": " + h.Value + "\r\n")
	}
	if method != http.MethodGet {
		// The padding hides how long the credentials are.
		fmt.Fprintf(&b, "X-Pad: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n", strings.Repeat("0", 64*(1+len(body)/64)-len(body)),
			contentType, len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// takeCookies stores the cookies of a reply. Gateways mean them for the whole host whatever their attributes say; an empty
// value deletes.
func (a *agent) takeCookies(h http.Header) {
	const most = 128
	for _, line := range h["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		name, value, ok := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || strings.ContainsFunc(pair, unicode.IsControl) {
			continue
		}
		for i := range a.jar {
			if a.jar[i].Name == name {
				a.jar = append(a.jar[:i], a.jar[i+1:]...)
				break
			}
		}
		if value != "" && len(a.jar) < most {
			a.jar = append(a.jar, wire.Value{Name: name, Value: value})
		}
	}
}

func (a *agent) cookie(name string) string {
	for _, c := range a.jar {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// resolve resolves a reference, from a redirection or a form, that stands in a reply to a request for from.
func (a *agent) resolve(from *url.URL, ref string) (*url.URL, error) {
	if ref == "" {
		ref = "/"
	}
	u, err := url.Parse(strings.TrimSpace(ref))
	if err != nil {
		return nil, fmt.Errorf("%w: %s names the address %.200q, which is none", transport.ErrProtocol, a.name(), ref)
	}
	// The name of a host goes into a header, and into errors.
	if len(u.Host) > maxHost || strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%w: %s names the host %.200q, which is none", transport.ErrProtocol, a.name(), u.Host)
	}
	u = from.ResolveReference(u)
	if u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%w: %s sends us to %.200q, but credentials go over https only", transport.ErrProtocol, a.name(), ref)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%w: %s sends us to %.200q, which has no valid port", transport.ErrProtocol, a.name(), ref)
		}
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	return u, nil
}

// A budget bounds how much is read for one reply.
type budget struct {
	r           io.Reader
	left, total int
}

var errBudget = errors.New("the reply is too long")

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBudget
	}
	if len(p) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= n
	b.total += n
	return n, err
}
