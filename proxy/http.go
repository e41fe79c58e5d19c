package proxy

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	realm = `Basic realm="culvert", charset="UTF-8"`
	// pseudonym is how the proxy calls itself in Via (RFC 9110 section 7.6.3), which also shows it a request that went in a circle.
	pseudonym = "culvert"
)

// initHTTP makes what serves and forwards HTTP requests. net/http brings the limits on headers and the rules of hop-by-hop fields.
func (s *Server) initHTTP() {
	s.httpIn = &handover{conns: make(chan net.Conn), done: make(chan struct{})}
	s.backend = &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			c, err := s.dial(ctx, "tcp", address)
			if err != nil || s.IdleTimeout <= 0 {
				return c, err
			}
			return newIdleConn(c, s.IdleTimeout), nil
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		MaxIdleConns:           256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 4 * maxHeader,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// The destination shall see the query that the client wrote, not one that net/url finds neat.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.Out.Host = r.In.URL.Host
			r.Out.Header.Add("Via", fmt.Sprintf("%d.%d %s", r.In.ProtoMajor, r.In.ProtoMinor, pseudonym))
			// ReverseProxy removes these fields, as a server's front must. To a forward proxy they are the client's business.
			for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[k]; ok {
					r.Out.Header[k] = v
				}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Add("Via", fmt.Sprintf("%d.%d %s", r.ProtoMajor, r.ProtoMinor, pseudonym))
			return nil
		},
		Transport:     s.backend,
		FlushInterval: -1,
		BufferPool:    (*bufferPool)(&s.buffers),
		ErrorLog:      errorLog,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.sayFailed(w, r.URL.Host, err)
		},
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: s.HandshakeTimeout,
		IdleTimeout:       DefaultUDPIdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          errorLog,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		// OPTIONS * is in origin form, so it is refused like the rest.
		DisableGeneralOptionsHandler: true,
	}
}

// serveHTTP serves one request of an HTTP client.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	g := new(goroutine)
	if !s.track(g) {
		return
	}
	defer s.untrack(g)
	if s.Auth != nil {
		user, pass, given := basic(r.Header.Get("Proxy-Authorization"))
		if !given || !s.allowed(user, pass) {
			w.Header().Set("Proxy-Authenticate", realm)
			http.Error(w, "This proxy needs a user name and a password.", http.StatusProxyAuthRequired)
			return
		}
	}
	switch {
	case r.Method == http.MethodConnect:
		s.connect(w, r)
	case !r.URL.IsAbs():
		http.Error(w, "This is a proxy, not a web server. Set it as the HTTP or SOCKS proxy of a program.", http.StatusBadRequest)
	case r.URL.Scheme != "http":
		http.Error(w, "This proxy fetches http:// addresses; for "+strconv.Quote(r.URL.Scheme)+" use CONNECT.", http.StatusNotImplemented)
	case !validAuthority(r.URL.Host):
		http.Error(w, "The request names no host that can be connected to.", http.StatusBadRequest)
	case looped(r.Header["Via"]):
		http.Error(w, "The request has been through this proxy already.", http.StatusLoopDetected)
	default:
		s.forward.ServeHTTP(w, r)
	}
}

// basic parses credentials of the scheme Basic (RFC 7617).
func basic(field string) (user, password string, ok bool) {
	scheme, rest, _ := strings.Cut(field, " ")
	if subtle.ConstantTimeCompare([]byte(strings.ToLower(scheme)), []byte("basic")) != 1 {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(b), ":")
}

// looped reports whether this proxy is among those that a request has passed, often enough that it is no accident of two
// proxies of one name in a row.
func looped(via []string) bool {
	return strings.Count(strings.Join(via, ","), pseudonym) > 8
}

// validAuthority reports whether a host with or without port can be handed to Dial.
func validAuthority(authority string) bool {
	t, err := parseAuthority(authority, 80)
	return err == nil && t.port != 0
}

// parseAuthority parses host:port; without a port it is the given one.
func parseAuthority(authority string, port uint16) (target, error) {
	host, p, err := net.SplitHostPort(authority)
	if err != nil {
		if port == 0 {
			return target{}, err
		}
		host = authority
		if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
			host = host[1 : len(host)-1]
		}
	} else {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return target{}, errPort
		}
		port = uint16(n)
	}
	t := target{port: port}
	if addr, ok := parseAddr(host); ok {
		t.addr = addr
	} else if t.name = host; !validName(host) {
		return target{}, errName
	}
	return t, nil
}

// connect serves CONNECT.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	dst, err := parseAuthority(r.Host, 0)
	if err != nil {
		http.Error(w, "CONNECT needs host:port.", http.StatusBadRequest)
		return
	}
	t, err := s.dial(r.Context(), "tcp", dst.String())
	if err != nil {
		s.sayFailed(w, dst.String(), err)
		return
	}
	nc, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Close()
		s.log.Debug("cannot take the connection over", "err", err)
		return
	}
	defer nc.Close()
	if err := s.handOver(nc, brw.Reader, t); err != nil {
		s.log.Debug("client failed", "client", nc.RemoteAddr().String(), "err", err)
	}
}

// handOver tells the client that it is connected, passes on what it has sent too early, and relays.
func (s *Server) handOver(nc net.Conn, br *bufio.Reader, t net.Conn) error {
	c := nc
	if cl, ok := nc.(*client); ok && len(cl.first) == 0 {
		c = cl.Conn // what is beneath may be spliced
	}
	c.SetDeadline(time.Now().Add(s.HandshakeTimeout))
	_, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	if early, _ := br.Peek(br.Buffered()); err == nil && len(early) > 0 {
		_, err = t.Write(early)
	}
	if err != nil {
		t.Close()
		return err
	}
	c.SetDeadline(time.Time{})
	return s.relay(c, t)
}

// sayFailed answers a request whose destination was not reached. The body says why in words, without what the error
// might tell about this machine.
func (s *Server) sayFailed(w http.ResponseWriter, host string, err error) {
	why := reasonOf(err)
	if errors.Is(err, context.Canceled) {
		s.log.Debug("request given up", "host", host)
	}
	http.Error(w, fmt.Sprintf("Cannot reach %s: %v.", host, why), why.status())
}

// A handover is a listener whose connections were accepted elsewhere.
type handover struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// give hands a connection to Accept. It reports false if the listener is closed.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// A bufferPool lends the buffers of a Server to httputil.
type bufferPool sync.Pool

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return *(*sync.Pool)(p).Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { (*sync.Pool)(p).Put(&b) }

// An idleConn closes itself once it has neither read nor written for a while.
type idleConn struct {
	net.Conn
	after time.Duration
	timer *time.Timer
}

func newIdleConn(c net.Conn, after time.Duration) *idleConn {
	return &idleConn{Conn: c, after: after, timer: time.AfterFunc(after, func() { c.Close() })}
}

// Read implements net.Conn.
func (c *idleConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.timer.Reset(c.after)
	}
	return n, err
}

// Write implements net.Conn.
func (c *idleConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.timer.Reset(c.after)
	}
	return n, err
}

// Close implements net.Conn.
func (c *idleConn) Close() error {
	c.timer.Stop()
	return c.Conn.Close()
}

// CloseWrite carries a half-close.
func (c *idleConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return c.Conn.Close()
}
