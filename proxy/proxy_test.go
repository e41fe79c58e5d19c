package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	xproxy "golang.org/x/net/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves s on a loopback port until the test ends, and returns the address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return l.Addr().String()
}

// A world dials what its names say, and remembers what was asked for.
type world struct {
	mu    sync.Mutex
	names map[string]string // host:port to host:port
	asked []string
	err   error
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.asked = append(w.asked, network+" "+address)
	to, ok := w.names[address]
	err := w.err
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !ok {
		to = address
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

func (w *world) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.asked) == 0 {
		return ""
	}
	return w.asked[len(w.asked)-1]
}

// web serves a page that says what was asked for.
func web(t testing.TB) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, k := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Hop", "Keep-Alive"} {
			if v := r.Header.Get(k); v != "" {
				fmt.Fprintf(w, "LEAKED %s: %s\n", k, v)
			}
		}
		fmt.Fprintf(w, "%s %s host=%s via=%q body=%q\n", r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("Via"), body)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestClients(t *testing.T) {
	page := web(t)
	w := &world{names: map[string]string{"intra.corp.example:80": page.Listener.Addr().String()}}
	for _, auth := range []bool{false, true} {
		s := &Server{Dial: w.dial}
		var xauth *xproxy.Auth
		var user *url.Userinfo
		if auth {
			s.Auth = Password("ann", "p@ss:word")
			xauth = &xproxy.Auth{User: "ann", Password: "p@ss:word"}
			user = url.UserPassword("ann", "p@ss:word")
		}
		addr := start(t, s)
		through := map[string]*http.Transport{}
		d, err := xproxy.SOCKS5("tcp", addr, xauth, nil)
		if err != nil {
			t.Fatal(err)
		}
		through["x/net/proxy"] = &http.Transport{DialContext: d.(xproxy.ContextDialer).DialContext}
		for _, scheme := range []string{"http", "socks5h"} {
			through[scheme] = &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: addr, User: user})}
		}
		for name, tr := range through {
			t.Run(fmt.Sprintf("%s auth=%v", name, auth), func(t *testing.T) {
				defer tr.CloseIdleConnections()
				for range 2 { // the second request uses the connection of the first
					req, _ := http.NewRequest("POST", "http://intra.corp.example/a%2Fb?x=1;y&&z", strings.NewReader("hello"))
					req.Header.Set("X-Hop", "1")
					req.Header.Set("Connection", "X-Hop")
					if name != "http" {
						req.Header.Del("Connection")
						req.Header.Del("X-Hop")
					}
					resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					via := ""
					if name == "http" {
						via = "1.1 culvert"
					}
					want := fmt.Sprintf("POST /a%%2Fb?x=1;y&&z host=intra.corp.example via=%q body=\"hello\"\n", via)
					if string(body) != want {
						t.Fatalf("got  %q\nwant %q", body, want)
					}
				}
				if got := w.last(); got != "tcp intra.corp.example:80" {
					t.Errorf("Dial was asked for %q", got)
				}
			})
		}
	}
}

// TestCurl runs the client that most people will try first.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	page := web(t)
	tlsPage := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "secret page") }))
	defer tlsPage.Close()
	_, tlsPort, _ := net.SplitHostPort(tlsPage.Listener.Addr().String())
	w := &world{names: map[string]string{
		"intra.corp.example:80":           page.Listener.Addr().String(),
		"intra.corp.example:" + tlsPort:   tlsPage.Listener.Addr().String(),
		"[fd00::1]:80":                    page.Listener.Addr().String(),
		"nowhere.corp.example:80":         "127.0.0.1:1",
		"intra.corp.example:" + "1234567": "",
	}}
	open := start(t, &Server{Dial: w.dial})
	closed := start(t, &Server{Dial: w.dial, Auth: Password("ann", "pw")})
	const ok = "GET / host=intra.corp.example"
	for _, tt := range []struct {
		name string
		args []string
		code int // exit status of curl
		want string
		ask  string
	}{
		{"socks5h", []string{"--socks5-hostname", open, "http://intra.corp.example/"}, 0, ok, "tcp intra.corp.example:80"},
		{"socks4a", []string{"--socks4a", open, "http://intra.corp.example/"}, 0, ok, "tcp intra.corp.example:80"},
		{"socks5 ipv6", []string{"--socks5", open, "http://[fd00::1]/"}, 0, "GET / host=[fd00::1]", "tcp [fd00::1]:80"},
		{"http forward", []string{"-x", "http://" + open, "http://intra.corp.example/"}, 0, ok, "tcp intra.corp.example:80"},
		{"http connect", []string{"-p", "-x", "http://" + open, "http://intra.corp.example/"}, 0, ok, "tcp intra.corp.example:80"},
		{"https", []string{"-k", "-x", "http://" + open, "https://intra.corp.example:" + tlsPort}, 0, "secret page", "tcp intra.corp.example:" + tlsPort},
		{"http ipv6", []string{"-x", "http://" + open, "http://[fd00::1]/"}, 0, "GET / host=[fd00::1]", "tcp [fd00::1]:80"},
		{"socks5 refused", []string{"--socks5-hostname", open, "http://nowhere.corp.example/"}, 97, "", ""},
		{"http refused", []string{"-x", open, "http://nowhere.corp.example/"}, 0, "Cannot reach nowhere.corp.example: the destination refused the connection.", ""},
		{"connect refused", []string{"-p", "-x", open, "http://nowhere.corp.example/"}, 56, "", ""},
		{"socks5 password", []string{"--socks5-hostname", "ann:pw@" + closed, "http://intra.corp.example/"}, 0, ok, ""},
		{"http password", []string{"-x", "http://ann:pw@" + closed, "http://intra.corp.example/"}, 0, ok, ""},
		{"socks5 wrong password", []string{"--socks5-hostname", "ann:no@" + closed, "http://intra.corp.example/"}, 97, "", ""},
		{"socks5 no password", []string{"--socks5-hostname", closed, "http://intra.corp.example/"}, 97, "", ""},
		{"socks4 where a password is needed", []string{"--socks4a", closed, "http://intra.corp.example/"}, 97, "", ""},
		{"http wrong password", []string{"-f", "-x", "http://ann:no@" + closed, "http://intra.corp.example/"}, 22, "", ""},
		{"http no password", []string{"-x", closed, "http://intra.corp.example/"}, 0, "needs a user name", ""},
		{"not a web server", []string{"http://" + open}, 0, "This is a proxy", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "curl", append([]string{"-sS", "-g", "--noproxy", ""}, tt.args...)...)
			cmd.Env = []string{"PATH=/usr/bin:/bin"}
			out, err := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Fatalf("exit status %d, not %d: %v\n%s", got, tt.code, err, out)
			}
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("output %q lacks %q", out, tt.want)
			}
			if tt.ask != "" && w.last() != tt.ask {
				t.Errorf("Dial was asked for %q, not %q", w.last(), tt.ask)
			}
		})
	}
}

// TestReasons checks what clients learn about failures.
func TestReasons(t *testing.T) {
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		err    error
		rep    byte
		status int
	}{
		{op(syscall.ECONNREFUSED), repRefused, 502},
		{op(syscall.EHOSTUNREACH), repHostUnreachable, 502},
		{op(syscall.ENETUNREACH), repNetUnreachable, 502},
		{op(&net.DNSError{IsNotFound: true}), repHostUnreachable, 502},
		{fmt.Errorf("policy: %w", ErrNotAllowed), repNotAllowed, 403},
		{op(syscall.EACCES), repNotAllowed, 403},
		{context.DeadlineExceeded, repHostUnreachable, 504},
		{op(syscall.ETIMEDOUT), repHostUnreachable, 504},
		{errors.New("tunnel is gone"), repFailed, 502},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			addr := start(t, &Server{Dial: (&world{err: tt.err}).dial})
			c := connect(t, addr)
			c.Write([]byte{5, 1, 0})
			expect(t, c, []byte{5, 0})
			c.Write([]byte{5, cmdConnect, 0, atypIPv4, 192, 0, 2, 1, 0, 80})
			expect(t, c, []byte{5, tt.rep, 0, 1, 0, 0, 0, 0, 0, 0})
			c.Close()

			for _, head := range []string{"CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://192.0.2.1/ HTTP/1.1\r\nHost: x\r\n\r\n"} {
				c := connect(t, addr)
				io.WriteString(c, head)
				var got [12]byte
				io.ReadFull(c, got[:])
				if want := fmt.Sprintf("HTTP/1.1 %d", tt.status); string(got[:]) != want {
					t.Errorf("got %q, want %q", got, want)
				}
				c.Close()
			}
		})
	}
}

func connect(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c.(*net.TCPConn)
}

func expect(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %x, %v; want %x", got[:n], err, want)
	}
}

// TestHostile feeds what no client should send.
func TestHostile(t *testing.T) {
	w := &world{}
	addr := start(t, &Server{Dial: w.dial, HandshakeTimeout: 300 * time.Millisecond})
	long := strings.Repeat("a", 200<<10)
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"TLS", "\x16\x03\x01\x02\x00", ""},
		{"SOCKS5 and silence", "\x05", ""},
		{"SOCKS5 without methods", "\x05\x00", "\x05\xff"},
		{"SOCKS5 with GSSAPI only", "\x05\x01\x01", "\x05\xff"},
		{"SOCKS5 of another version", "\x05\x01\x00\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00"},
		{"SOCKS5 BIND", "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"SOCKS5 with unknown address type", "\x05\x01\x00\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"SOCKS5 with empty name", "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"SOCKS5 with NUL in name", "\x05\x01\x00\x05\x01\x00\x03\x03a\x00b\x00\x50", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"SOCKS5 port 0", "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"SOCKS5 cut off", "\x05\x01\x00\x05\x01\x00\x03\xffabc", "\x05\x00"},
		{"SOCKS4 with endless user", "\x04\x01\x00\x50\x7f\x00\x00\x01" + long, "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"SOCKS4 BIND", "\x04\x02\x00\x50\x7f\x00\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"HTTP and silence", "GET http://exam", ""},
		{"HTTP with endless header", "GET http://example/ HTTP/1.1\r\nHost: example\r\nX: " + long, "HTTP/1.1 431 Request Header Fields Too Large"},
		{"HTTP garbage", "GET\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"HTTP origin form", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"HTTP asterisk form", "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"HTTP of another scheme", "GET ftp://example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "HTTP/1.1 501 Not Implemented"},
		{"CONNECT without port", "CONNECT example HTTP/1.1\r\nHost: example\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"CONNECT to port 0", "CONNECT example:0 HTTP/1.1\r\nHost: example:0\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"CONNECT to a path", "CONNECT /etc/passwd HTTP/1.1\r\nHost: example\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"request that went in circles", "GET http://example/ HTTP/1.1\r\nHost: example\r\nVia: " + strings.Repeat("1.1 culvert, ", 9) + "\r\n\r\n", "HTTP/1.1 508 Loop Detected"},
		{"both lengths", "POST http://example/ HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 400 Bad Request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, addr)
			io.WriteString(c, tt.in)
			got := make([]byte, len(tt.want))
			if n, err := io.ReadFull(c, got); err != nil || string(got) != tt.want {
				t.Fatalf("read %q, %v; want %q", got[:n], err, tt.want)
			}
			begin := time.Now()
			if tt.want == "" {
				io.Copy(io.Discard, c)
			}
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("the connection was held for %v", d)
			}
		})
	}
	if w.last() != "" {
		t.Errorf("Dial was asked for %q", w.last())
	}
}

// TestHalfClose has a client that says all it has to say, closes that half, and then reads the answer; and a server
// that does the same.
func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				h := sha256.New()
				n, _ := io.Copy(h, c)
				time.Sleep(50 * time.Millisecond)
				fmt.Fprintf(c, "%d %x", n, h.Sum(nil))
			})
		}
	})
	defer l.Close()
	data := make([]byte, 3<<20)
	rand.Read(data)
	want := fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	dials := map[string]func(context.Context, string, string) (net.Conn, error){
		"spliced": (&world{}).dial,
		"copied": func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&world{}).dial(ctx, network, address)
			return struct{ halfConn }{halfConn{c, c.(*net.TCPConn)}}, err
		},
	}
	for name, dial := range dials {
		s := &Server{Dial: dial, IdleTimeout: time.Minute}
		addr := start(t, s)
		for _, proto := range []string{"socks5", "connect"} {
			t.Run(name+" "+proto, func(t *testing.T) {
				c := connect(t, addr)
				to := l.Addr().(*net.TCPAddr).AddrPort()
				if proto == "socks5" {
					c.Write([]byte{5, 1, 0})
					expect(t, c, []byte{5, 0})
					c.Write(binary.BigEndian.AppendUint16(append([]byte{5, 1, 0, atypIPv4}, to.Addr().AsSlice()...), to.Port()))
					var r [10]byte
					io.ReadFull(c, r[:])
					if r[1] != 0 {
						t.Fatalf("reply %x", r)
					}
					c.Write(data)
				} else {
					// What comes right behind the request must not get lost.
					c.Write(append(fmt.Appendf(nil, "CONNECT %v HTTP/1.1\r\nHost: x\r\n\r\n", to), data[:1000]...))
					expect(t, c, []byte("HTTP/1.1 200 Connection established\r\n\r\n"))
					c.Write(data[1000:])
				}
				c.CloseWrite()
				got, err := io.ReadAll(c)
				if err != nil || string(got) != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			})
		}
	}
}

// A halfConn is a connection that is no *net.TCPConn but can be closed halfway.
type halfConn struct {
	net.Conn
	half *net.TCPConn
}

func (c halfConn) CloseWrite() error       { return c.half.CloseWrite() }
func (c halfConn) SetLinger(sec int) error { return c.half.SetLinger(sec) }

// TestReset checks that what was cut off does not look complete.
func TestReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "half of ")
		io.ReadFull(c, make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}()
	addr := start(t, &Server{Dial: (&world{}).dial})
	c := connect(t, addr)
	fmt.Fprintf(c, "CONNECT %v HTTP/1.1\r\nHost: x\r\n\r\n", l.Addr())
	expect(t, c, []byte("HTTP/1.1 200 Connection established\r\n\r\nhalf of "))
	c.Write([]byte{1})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading after the reset: %v", err)
	}
}

func TestIdle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	const idle = 400 * time.Millisecond
	for _, wrap := range []bool{false, true} {
		addr := start(t, &Server{IdleTimeout: idle, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&world{}).dial(ctx, network, address)
			if wrap {
				c = halfConn{c, c.(*net.TCPConn)}
			}
			return c, err
		}})
		c := connect(t, addr)
		fmt.Fprintf(c, "CONNECT %v HTTP/1.1\r\nHost: x\r\n\r\n", l.Addr())
		expect(t, c, []byte("HTTP/1.1 200 Connection established\r\n\r\n"))
		for range 8 { // longer than the time-out in all, but never silent for as long
			time.Sleep(idle / 4)
			c.Write([]byte("x"))
			expect(t, c, []byte("x"))
		}
		begin := time.Now()
		_, err := c.Read(make([]byte, 1))
		if d := time.Since(begin); err == nil || errors.Is(err, syscall.EAGAIN) || d < idle/2 || d > 4*idle {
			t.Errorf("wrap=%v: idle connection ended after %v with %v", wrap, d, err)
		}
	}
}

func TestOpenRelay(t *testing.T) {
	for _, tt := range []struct {
		listen string
		s      *Server
		open   bool
	}{
		{"127.0.0.1:0", &Server{}, false},
		{"0.0.0.0:0", &Server{}, true},
		{":0", &Server{}, true},
		{":0", &Server{AllowOpen: true}, false},
		{":0", &Server{Auth: Password("a", "b")}, false},
	} {
		l, err := net.Listen("tcp", tt.listen)
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.s.Permits(l.Addr()); errors.Is(err, ErrOpenRelay) != tt.open {
			t.Errorf("before listening on %q: %v", tt.listen, err)
		}
		tt.s.Dial = (&world{}).dial
		time.AfterFunc(50*time.Millisecond, func() { tt.s.Close() })
		err = tt.s.Serve(l)
		if got := errors.Is(err, ErrOpenRelay); got != tt.open {
			t.Errorf("listening on %q: %v", tt.listen, err)
		}
	}
	if err := new(Server).Serve(nilListener{}); err == nil || !strings.Contains(err.Error(), "Dial") {
		t.Errorf("without Dial: %v", err)
	}
}

type nilListener struct{ net.Listener }

func (nilListener) Close() error { return nil }

func TestLimits(t *testing.T) {
	addr := start(t, &Server{Dial: (&world{}).dial, MaxConns: 2})
	a, b := connect(t, addr), connect(t, addr)
	for _, c := range []net.Conn{a, b} {
		c.Write([]byte{5, 1, 0})
		expect(t, c, []byte{5, 0})
	}
	c := connect(t, addr)
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("a third client was served %d bytes", n)
	}
	a.Close()
	for i := 0; ; i++ {
		c := connect(t, addr)
		c.Write([]byte{5, 1, 0})
		if _, err := io.ReadFull(c, make([]byte, 2)); err == nil {
			break
		}
		if i == 50 {
			t.Fatal("the place of a client that left was not given to another")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestShutdown(t *testing.T) {
	block := make(chan struct{})
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-block; io.WriteString(w, "done") }))
	defer page.Close()
	s := &Server{Dial: (&world{}).dial}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	got := make(chan string, 1)
	go func() {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()})}
		resp, err := (&http.Client{Transport: tr}).Get(page.URL)
		if err != nil {
			got <- err.Error()
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		tr.CloseIdleConnections()
		got <- string(body)
	}()
	time.Sleep(100 * time.Millisecond)
	time.AfterFunc(200*time.Millisecond, func() { close(block) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if g := <-got; g != "done" {
		t.Errorf("the request that was under way got %q", g)
	}
	if err := <-served; !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve returned %v", err)
	}
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l2); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Shutdown returned %v", err)
	}

	// Whoever does not finish in time is cut off.
	s2 := &Server{Dial: (&world{}).dial}
	addr := start(t, s2)
	c := connect(t, addr)
	c.Write([]byte{5, 1, 0})
	expect(t, c, []byte{5, 0})
	short, cancel2 := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel2()
	if err := s2.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown with a client that stays: %v", err)
	}
}

// echoUDP echoes datagrams until the test ends.
func echoUDP(t testing.TB) netip.AddrPort {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				pc.WriteToUDPAddrPort(b[:n], from)
			}
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// associate asks for a UDP association and returns the TCP connection that keeps it, and where to send.
func associate(t testing.TB, addr string, announce uint16) (*net.TCPConn, netip.AddrPort) {
	t.Helper()
	c := connect(t, addr)
	c.Write([]byte{5, 1, 0})
	expect(t, c, []byte{5, 0})
	c.Write(binary.BigEndian.AppendUint16([]byte{5, cmdAssociate, 0, atypIPv4, 0, 0, 0, 0}, announce))
	var r [10]byte
	if _, err := io.ReadFull(c, r[:]); err != nil || r[1] != repSucceeded || r[3] != atypIPv4 {
		t.Fatalf("reply %x, %v", r, err)
	}
	return c, netip.AddrPortFrom(netip.AddrFrom4([4]byte(r[4:8])), binary.BigEndian.Uint16(r[8:]))
}

func datagram(frag byte, host any, port uint16, payload string) []byte {
	b := []byte{0, 0, frag}
	switch h := host.(type) {
	case string:
		b = append(append(b, atypDomain, byte(len(h))), h...)
	case netip.Addr:
		typ := byte(atypIPv4)
		if h.Is6() {
			typ = atypIPv6
		}
		b = append(append(b, typ), h.AsSlice()...)
	}
	return append(binary.BigEndian.AppendUint16(b, port), payload...)
}

func TestUDP(t *testing.T) {
	echo := echoUDP(t)
	w := &world{names: map[string]string{"dns.corp.example:53": echo.String()}}
	s := &Server{Dial: w.dial}
	addr := start(t, s)
	c, relay := associate(t, addr, 0)
	if relay.Addr() != netip.MustParseAddr("127.0.0.1") || relay.Port() == 0 {
		t.Fatalf("BND.ADDR is %v, where nobody can send to", relay)
	}
	uc, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	recv := func(uc *net.UDPConn, wait time.Duration) string {
		b := make([]byte, 65536)
		uc.SetReadDeadline(time.Now().Add(wait))
		n, err := uc.Read(b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	big := strings.Repeat("x", 60000)
	for _, payload := range []string{"one", "", big} {
		for _, d := range [][]byte{datagram(0, echo.Addr(), echo.Port(), payload), datagram(0, "dns.corp.example", 53, payload), datagram(0, "127.0.0.1", echo.Port(), payload)} {
			uc.Write(d)
			if got, want := recv(uc, 2*time.Second), string(datagram(0, echo.Addr(), echo.Port(), payload)); got != want {
				t.Fatalf("sent %.40q, got %.40q back", d, got)
			}
		}
	}
	if got := w.last(); got != "udp dns.corp.example:53" {
		t.Errorf("Dial was asked for %q", got)
	}
	if len(w.asked) != 2 {
		t.Errorf("%d flows for 2 destinations: %q", len(w.asked), w.asked)
	}

	for _, d := range [][]byte{
		datagram(1, echo.Addr(), echo.Port(), "fragment"), datagram(0x81, echo.Addr(), echo.Port(), "last fragment"),
		datagram(0, echo.Addr(), 0, "port 0"), datagram(0, "", echo.Port(), "no name"), {0, 0, 0}, {0, 0, 0, 9, 1, 2, 3, 4, 5, 6}, {1, 0, 0, 1, 127, 0, 0, 1, 0, 1}, {}, {0},
	} {
		uc.Write(d)
		if got := recv(uc, 50*time.Millisecond); got != "" {
			t.Errorf("%q was answered with %q", d, got)
		}
	}

	// Another program of the same machine must not use the association.
	other, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.Write(datagram(0, echo.Addr(), echo.Port(), "stolen"))
	if got := recv(other, 100*time.Millisecond) + recv(uc, 50*time.Millisecond); got != "" {
		t.Errorf("another port was served: %q", got)
	}

	// The end of the TCP connection is the end of the association.
	c.Close()
	for i := 0; ; i++ {
		uc.Write(datagram(0, echo.Addr(), echo.Port(), "late"))
		if recv(uc, 50*time.Millisecond) == "" {
			break
		}
		if i == 20 {
			t.Fatal("the association outlives its TCP connection")
		}
	}
	s.Close()
	if s.flows != 0 || s.clients != 0 {
		t.Errorf("%d flows and %d clients left", s.flows, s.clients)
	}
}

func TestUDPAnnouncedPort(t *testing.T) {
	echo := echoUDP(t)
	addr := start(t, &Server{Dial: (&world{}).dial})
	uc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	port := uc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	_, relay := associate(t, addr, port)
	first, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	first.Write(datagram(0, echo.Addr(), echo.Port(), "not the announced port"))
	uc.WriteToUDPAddrPort(datagram(0, echo.Addr(), echo.Port(), "mine"), relay)
	b := make([]byte, 1500)
	uc.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, err := uc.Read(b)
	if err != nil || !strings.HasSuffix(string(b[:n]), "mine") {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// TestUDPFamilies checks that BND.ADDR can be reached whatever the listener is bound to, and however the client came.
func TestUDPFamilies(t *testing.T) {
	echo := echoUDP(t)
	for _, tt := range []struct{ listen, dial string }{{"[::1]:0", "::1"}, {":0", "127.0.0.1"}, {":0", "::1"}, {"0.0.0.0:0", "127.0.0.1"}} {
		t.Run(tt.listen+" "+tt.dial, func(t *testing.T) {
			l, err := net.Listen("tcp", tt.listen)
			if err != nil {
				t.Skip("no such address here: ", err)
			}
			s := &Server{Dial: (&world{}).dial, AllowOpen: true}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			defer func() { s.Close(); <-served }()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := net.Dial("tcp", net.JoinHostPort(tt.dial, port))
			if err != nil {
				t.Skip("no such address here: ", err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write([]byte{5, 1, 0})
			expect(t, c, []byte{5, 0})
			c.Write([]byte{5, cmdAssociate, 0, atypIPv6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
			head := make([]byte, 3)
			if _, err := io.ReadFull(c, head); err != nil || head[1] != repSucceeded {
				t.Fatalf("reply %x, %v", head, err)
			}
			bound := make([]byte, 19)
			n := 7
			if want := netip.MustParseAddr(tt.dial); want.Is6() {
				n = 19
			}
			if _, err := io.ReadFull(c, bound[:n]); err != nil {
				t.Fatal(err)
			}
			relay, rest, err := parseAddress(bound[:n])
			if err != nil || len(rest) != 0 || relay.addr.String() != tt.dial {
				t.Fatalf("BND.ADDR is %v, %v", relay, err)
			}
			uc, err := net.Dial("udp", relay.String())
			if err != nil {
				t.Fatal(err)
			}
			defer uc.Close()
			sent := datagram(0, echo.Addr(), echo.Port(), "hello")
			uc.Write(sent)
			uc.SetReadDeadline(time.Now().Add(2 * time.Second))
			got := make([]byte, 1500)
			m, err := uc.Read(got)
			if err != nil || !bytes.Equal(got[:m], sent) {
				t.Errorf("%q, %v", got[:m], err)
			}
		})
	}
}

// TestUDPFlows checks that flows end when idle, that too many evict the oldest, and that a slow Dial loses nothing it need not.
func TestUDPFlows(t *testing.T) {
	echo := echoUDP(t)
	release := make(chan struct{})
	w := &world{names: map[string]string{}}
	for i := range 8 {
		w.names[fmt.Sprintf("h%d:7", i)] = echo.String()
	}
	s := &Server{MaxFlows: 3, UDPIdleTimeout: 300 * time.Millisecond, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return w.dial(ctx, network, address)
	}}
	addr := start(t, s)
	_, relay := associate(t, addr, 0)
	uc, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	uc.Write(datagram(0, "h0", 7, "a"))
	uc.Write(datagram(0, "h0", 7, "b"))
	time.Sleep(50 * time.Millisecond)
	close(release)
	b := make([]byte, 1500)
	for _, want := range []string{"a", "b"} {
		uc.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := uc.Read(b)
		if err != nil || !strings.HasSuffix(string(b[:n]), want) {
			t.Fatalf("%q, %v; want %q", b[:n], err, want)
		}
	}
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.flows
	}
	for i := range 8 {
		uc.Write(datagram(0, fmt.Sprintf("h%d", i), 7, "c"))
		uc.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := uc.Read(b); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		if n := count(); n > 3 {
			t.Fatalf("%d flows", n)
		}
	}
	for begin := time.Now(); count() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 3*time.Second {
			t.Fatalf("%d idle flows are still there", count())
		}
	}
}

func FuzzSOCKS5(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x03\x0bexample.com\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x03\x00\x04\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, dst, err := readRequest(r)
		if err != nil {
			return
		}
		host, _, err := net.SplitHostPort(dst.String())
		if err != nil {
			t.Fatalf("%q is no host:port: %v", dst, err)
		}
		if dst.addr.IsValid() == (dst.name != "") || host == "" {
			t.Fatalf("%+v is neither an address nor a name, or both", dst)
		}
		readMethods(bytes.NewReader(b))
		readPassword(bytes.NewReader(b))
	})
}

func FuzzSOCKS4(f *testing.F) {
	f.Add([]byte("\x01\x00\x50\x00\x00\x00\x01user\x00example.com\x00"))
	f.Add([]byte("\x01\x00\x50\x7f\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dst, err := readRequest4(bytes.NewReader(b))
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(dst.String()); err != nil || dst.port == 0 {
			t.Fatalf("%q is no host:port: %v", dst, err)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(datagram(0, "example.com", 53, "payload"))
	f.Add(datagram(0, netip.MustParseAddr("127.0.0.1"), 53, "payload"))
	f.Add(datagram(0, netip.MustParseAddr("fd00::1"), 53, "payload"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dst, payload, err := parseDatagram(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, payload) || dst.port == 0 {
			t.Fatalf("%q: destination %v, payload %q", b, dst, payload)
		}
		if dst.addr.IsValid() && !bytes.Equal(b[3:len(b)-len(payload)], appendAddress(nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst.addr, dst.port)))) &&
			b[3] != atypDomain && !(b[3] == atypIPv6 && dst.addr.Is4()) {
			t.Fatalf("%q does not survive a round trip", b)
		}
	})
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"example.com:443", "[fd00::1]:443", "example.com", "[fd00::1]", "fd00::1", ":80", "a:b:c", "[::1%25lo]:80", "x:99999"} {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		dst, err := parseAuthority(s, port)
		if err != nil {
			return
		}
		if host, _, err := net.SplitHostPort(dst.String()); err != nil || host == "" {
			t.Fatalf("%q became %q: %v", s, dst, err)
		}
	})
}

// BenchmarkRelay measures one connection through the proxy, with destinations that can be spliced and with those that cannot.
func BenchmarkRelay(b *testing.B) {
	for _, wrap := range []bool{false, true} {
		b.Run(fmt.Sprintf("copied=%v", wrap), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() { io.Copy(io.Discard, c); c.Close() }()
				}
			}()
			addr := start(b, &Server{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil && wrap {
					c = halfConn{c, c.(*net.TCPConn)}
				}
				return c, err
			}})
			c := connect(b, addr)
			c.SetDeadline(time.Time{})
			fmt.Fprintf(c, "CONNECT %v HTTP/1.1\r\nHost: x\r\n\r\n", l.Addr())
			expect(b, c, []byte("HTTP/1.1 200 Connection established\r\n\r\n"))
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			c.CloseWrite()
			io.Copy(io.Discard, c)
		})
	}
}
