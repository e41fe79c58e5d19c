package dns

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const mediaType = "application/dns-message" // RFC 8484 section 6

// An HTTPSClient is an [Exchanger] that asks one server over HTTPS (RFC 8484), with the POST method, over HTTP/2 where the
// server has it. The server must prove its name, redirections are not followed, and no cookies are kept. Queries are
// padded. It must not be changed once it is used, and must be closed.
type HTTPSClient struct {
	// URL is where queries are sent, such as https://dns.example/dns-query, without a template.
	URL string

	// Servers are the addresses of the host in URL, tried in their order, since there may be nobody yet to ask for them. They
	// may be left out if the host is an address. The port 0 means that of the URL.
	Servers []netip.AddrPort

	// TLS, Dial and Timeout are as in a [TLSClient].
	TLS     *tls.Config
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Timeout time.Duration

	// Idle is how long connections are kept without a question. Zero means 10 seconds.
	Idle time.Duration

	mu        sync.Mutex
	closed    bool
	transport *http.Transport
	url       *url.URL
	ctx       context.Context // of all requests; ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup
}

// String returns the URL without what may be secret in it.
func (c *HTTPSClient) String() string {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "https"
	}
	return "https://" + u.Host
}

// Exchange implements [Exchanger].
func (c *HTTPSClient) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	msg, err := padded(query, 0) // RFC 8484 section 4.1
	if err != nil {
		return nil, err
	}
	transport, life, err := c.begin()
	if err != nil {
		return nil, fmt.Errorf("dns: server %s: %w", c, err)
	}
	defer c.running.Done()
	ctx, cancel := context.WithTimeout(ctx, positive(c.Timeout, secureWait))
	defer cancel()
	stop := context.AfterFunc(life, cancel)
	defer stop()
	answer, err := c.post(ctx, transport, msg)
	if err == nil && !answers(answer, 0, q) {
		err = fmt.Errorf("%w: an answer to something that was not asked", ErrMessage)
	}
	if err != nil {
		return nil, fmt.Errorf("dns: server %s, name %s: %w", c, q.name, err)
	}
	binary.BigEndian.PutUint16(answer, binary.BigEndian.Uint16(query))
	return answer, nil
}

// Close ends all questions and closes the connections.
func (c *HTTPSClient) Close() error {
	c.mu.Lock()
	c.closed = true
	transport := c.transport
	if c.cancel != nil {
		c.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
	if transport != nil {
		transport.CloseIdleConnections()
	}
	return nil
}

// begin counts a question in c.running, and sets up the transport for the first.
func (c *HTTPSClient) begin() (*http.Transport, context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, net.ErrClosed
	}
	if c.transport == nil {
		if err := c.prepare(); err != nil {
			return nil, nil, err
		}
	}
	c.running.Add(1)
	return c.transport, c.ctx, nil
}

func (c *HTTPSClient) prepare() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("the URL of the server must be https://HOST/PATH")
	}
	cfg, err := secure(c.TLS, u.Hostname())
	if err != nil {
		return err
	}
	port := uint64(443)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return fmt.Errorf("the URL of the server has the port %q", u.Port())
		}
	}
	servers := c.Servers
	if len(servers) == 0 {
		addr, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return fmt.Errorf("the addresses of %s must be given: asking for them would need a server", u.Hostname())
		}
		servers = []netip.AddrPort{netip.AddrPortFrom(addr, uint16(port))}
	}
	c.url = u
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.transport = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, servers, uint16(port)) },
		TLSClientConfig:        cfg,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxConnsPerHost:        4,
		MaxIdleConns:           2,
		IdleConnTimeout:        positive(c.Idle, secureIdle),
		TLSHandshakeTimeout:    positive(c.Timeout, secureWait),
		ResponseHeaderTimeout:  positive(c.Timeout, secureWait),
		MaxResponseHeaderBytes: 16 << 10,
	}
	return nil
}

func (c *HTTPSClient) dial(ctx context.Context, servers []netip.AddrPort, port uint16) (net.Conn, error) {
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var errs []error
	for _, server := range servers {
		if server.Port() == 0 {
			server = netip.AddrPortFrom(server.Addr(), port)
		}
		conn, err := dial(ctx, "tcp", server.String())
		if err == nil {
			return conn, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (c *HTTPSClient) post(ctx context.Context, transport *http.Transport, msg []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(msg))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	req.Header.Set("User-Agent", "") // which leaves it out
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered HTTP status %d", resp.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != mediaType {
		return nil, errors.New("the server answered with something that is no DNS message")
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	if err != nil {
		return nil, err
	}
	if len(answer) < headerLen || len(answer) > maxMessage {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrMessage, len(answer))
	}
	// What lay in caches on the way holds for less time (RFC 8484 section 5.1).
	if age, err := strconv.ParseUint(resp.Header.Get("Age"), 10, 31); err == nil && age > 0 {
		return aged(answer, uint32(age)), nil
	}
	return answer, nil
}

// aged reduces the lifetimes in the message b. A message that does not parse is left to whoever reads it.
func aged(b []byte, seconds uint32) []byte {
	off := headerLen
	for range binary.BigEndian.Uint16(b[4:]) {
		end, ok := skipName(b, off)
		if off = end + 4; !ok || off > len(b) {
			return b
		}
	}
	records := int(binary.BigEndian.Uint16(b[6:])) + int(binary.BigEndian.Uint16(b[8:]))
	for range records {
		end, ok := skipName(b, off)
		if !ok || end+10 > len(b) {
			return b
		}
		ttl := b[end+4 : end+8]
		v := binary.BigEndian.Uint32(ttl)
		binary.BigEndian.PutUint32(ttl, v-min(v, seconds))
		off = end + 10 + int(binary.BigEndian.Uint16(b[end+8:]))
	}
	return b
}
