package upstream

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
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport"
)

const secret = "hunter2 secret" // no error and no log may have it

// A script is a proxy that answers each request with the next of its answers, on as many connections as it takes.
type script struct {
	t        *testing.T
	l        net.Listener
	answers  []string
	requests chan string
}

// scripted starts a proxy. An answer that ends in "#close" is the last one on its connection. After an answer with 200 the
// connection echoes.
func scripted(t *testing.T, answers ...string) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, l: l, answers: answers, requests: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return s
}

func (s *script) serve(c net.Conn) {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	br := bufio.NewReader(c)
	for len(s.answers) > 0 {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		s.requests <- r.Method + " " + r.RequestURI + " " + r.Header.Get("Proxy-Authorization")
		answer, last := strings.CutSuffix(s.answers[0], "#close")
		s.answers = s.answers[1:]
		io.WriteString(c, answer)
		if last {
			return
		}
		if strings.Contains(strings.SplitN(answer, "\r\n", 2)[0], " 200") {
			io.Copy(c, br)
			return
		}
	}
}

// dialer returns a Dialer for the proxy, with a user, and what it logs.
func (s *script) dialer() (*Dialer, *bytes.Buffer) {
	var log bytes.Buffer
	host, port, _ := net.SplitHostPort(s.l.Addr().String())
	var n uint16
	fmt.Sscan(port, &n)
	return &Dialer{
		Proxy:  Proxy{Scheme: HTTP, Host: host, Port: n, User: "alice", Password: secret},
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, &log
}

func (s *script) asked() (all []string) {
	for {
		select {
		case r := <-s.requests:
			all = append(all, r)
		default:
			return all
		}
	}
}

// echo says something and wants to hear it, after what the proxy has sent early.
func echo(t *testing.T, c net.Conn, early string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "ping")
	got := make([]byte, len(early)+4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != early+"ping" {
		t.Errorf("through the proxy came %q, %v", got, err)
	}
}

const (
	ok       = "HTTP/1.1 200 Connection established\r\n\r\n"
	basic407 = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"r\"\r\nContent-Length: 5\r\n\r\nsorry"
)

func digest407(params string) string {
	return "HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=\"r\", " + params + "\r\nContent-Length: 0\r\n\r\n"
}

// TestAnswers goes through what an HTTP proxy may answer, and what is made of it.
func TestAnswers(t *testing.T) {
	leak.Check(t)
	long := strings.Repeat("X-Long: "+strings.Repeat("a", 1000)+"\r\n", 100)
	for _, tt := range []struct {
		name    string
		answers []string
		methods Methods
		early   string // comes first, if there is no error
		kind    error
		text    string // in the error
		asked   int
	}{
		{"plain", []string{ok}, 0, "", nil, "", 1},
		{"HTTP/1.0", []string{"HTTP/1.0 200 OK\r\n\r\n"}, 0, "", nil, "", 1},
		{"bytes behind the header", []string{ok + "early"}, 0, "early", nil, "", 1},
		{"a length that does not count", []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"}, 0, "abcdef", nil, "", 1},
		{"another status of success", []string{"HTTP/1.1 204 200\r\n\r\n"}, 0, "", nil, "", 1},
		{"interim", []string{"HTTP/1.1 100 Continue\r\n\r\n" + ok}, 0, "skip", nil, "", 1},
		{"interim for ever", []string{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9)}, 0, "", ErrProtocol, "again and again", 1},
		{"403", []string{"HTTP/1.1 403 Filtered\x1b[31m\r\nContent-Length: 0\r\n\r\n"}, 0, "", ErrForbidden, "403 Filtered?[31m", 1},
		{"502", []string{"HTTP/1.0 502 Bad Gateway\r\n\r\nhtml#close"}, 0, "", ErrUnreachable, "502 Bad Gateway", 1},
		{"no reason", []string{"HTTP/1.1 504 \r\n\r\n#close"}, 0, "", ErrUnreachable, "504 Gateway Timeout", 1},
		{"a web server", []string{"HTTP/1.1 405 Method Not Allowed\r\n\r\n#close"}, 0, "", ErrProtocol, "405", 1},
		{"a redirection", []string{"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n#close"}, 0, "", ErrProtocol, "302", 1},
		{"no HTTP", []string{"SSH-2.0-OpenSSH_9.2\r\n#close"}, 0, "", ErrProtocol, "", 1},
		{"nothing", []string{"#close"}, 0, "", ErrProtocol, "closed the connection", 1},
		{"half a header", []string{"HTTP/1.1 200 OK\r\nX: y\r\n#close"}, 0, "", ErrProtocol, "closed the connection", 1},
		{"a long header", []string{"HTTP/1.1 200 OK\r\n" + long + "\r\n"}, 0, "", ErrProtocol, "longer than 65536", 1},

		{"basic", []string{basic407, ok}, 0, "", nil, "", 2},
		{"basic over HTTP/1.0", []string{"HTTP/1.0 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\nbody#close", "HTTP/1.0 200 OK\r\n\r\n"}, 0, "", nil, "", 2},
		{"basic refused", []string{basic407, basic407, ok}, 0, "", ErrCredentials, "407", 2},
		{"basic forbidden", []string{basic407, ok}, Digest, "", ErrUnsupported, "by basic; allowed are digest", 1},
		{"chunked refusal", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ok}, 0, "", nil, "", 2},
		{"long refusal", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 99999999\r\n\r\nabc#close", ok}, 0, "", nil, "", 2},
		{"digest", []string{digest407(`nonce="n", qop="auth"`), ok}, 0, "", nil, "", 2},
		{"digest refused", []string{digest407(`nonce="n", qop="auth"`), digest407(`nonce="m", qop="auth"`), ok}, 0, "", ErrCredentials, "407", 2},
		{"digest stale", []string{digest407(`nonce="n", qop="auth"`), digest407(`nonce="m", qop="auth", stale=TRUE`), ok}, 0, "", nil, "", 3},
		{"digest stale for ever", []string{digest407(`nonce="1", qop="auth"`), digest407(`nonce="2", qop="auth", stale=true`),
			digest407(`nonce="3", qop="auth", stale=true`), digest407(`nonce="4", qop="auth", stale=true`), ok}, 0, "", ErrProtocol, "4 times", 4},
		{"stale with the same nonce", []string{digest407(`nonce="n", qop="auth"`), digest407(`nonce="n", qop="auth", stale=true`), ok}, 0, "", ErrCredentials, "407", 2},
		{"digest without qop", []string{digest407(`nonce="n"`), ok}, 0, "", nil, "", 2},
		{"digest of the future", []string{digest407(`nonce="n", qop="auth", algorithm=SHA3-256`), ok}, 0, "", ErrUnsupported, "SHA3-256", 1},
		{"digest with auth-int", []string{digest407(`nonce="n", qop="auth-int"`), ok}, 0, "", ErrUnsupported, "auth-int", 1},
		{"never basic where digest is known", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x, Digest realm=r, nonce=\"n\", qop=\"auth\", algorithm=X\r\nContent-Length: 0\r\n\r\n", ok},
			0, "", ErrUnsupported, "in the clear", 1},
		{"nor if asked to", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=r, nonce=\"n\", qop=\"auth\"\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n", ok},
			Basic, "", ErrUnsupported, "--proxy-auth digest", 1},
		{"digest taken away", []string{digest407(`nonce="n", qop="auth"`), basic407, ok}, 0, "", ErrUnsupported, "in the clear", 2},
		{"ntlm", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n", ok}, 0, "", ErrUnsupported, "negotiate, ntlm", 1},
		{"407 without an offer", []string{"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", ok}, 0, "", ErrUnsupported, "nothing that it names", 1},
		{"407 with nonsense", []string{"HTTP/1.1 407 No\r\nProxy-Authenticate: \"\"\r\nContent-Length: 0\r\n\r\n", ok}, 0, "", ErrProtocol, "Proxy-Authenticate", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := scripted(t, tt.answers...)
			d, log := s.dialer()
			d.Methods = tt.methods
			c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
			if !errors.Is(err, tt.kind) || (err == nil) != (tt.kind == nil) {
				t.Errorf("error %v, want %v", err, tt.kind)
			}
			if err != nil {
				var op *net.OpError
				if !errors.As(err, &op) || op.Op != "dial" || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), s.l.Addr().String()) {
					t.Errorf("error %q: want %q and the proxy in it", err, tt.text)
				}
			} else {
				if tt.early != "skip" && !strings.Contains(tt.answers[0], "204") {
					echo(t, c, tt.early)
				}
				c.Close()
			}
			asked := s.asked()
			if len(asked) != tt.asked {
				t.Errorf("asked %d times, want %d: %q", len(asked), tt.asked, asked)
			}
			for _, a := range asked {
				if !strings.HasPrefix(a, "CONNECT vpn.example.com:443 ") {
					t.Errorf("asked %q", a)
				}
			}
			if all := fmt.Sprintf("%v %+v %#v %s", err, d.Proxy, d.Proxy, log); strings.Contains(all, secret) || strings.Contains(all, "hunter2") || strings.Contains(all, "alice") {
				t.Errorf("it tells a secret: %s", all)
			}
		})
	}
}

// TestMemory connects again and again with one Dialer: the proxy is not asked how, the nonce is counted, and a new one taken.
func TestMemory(t *testing.T) {
	s := scripted(t, digest407(`nonce="n", qop="auth"`), ok, ok,
		"HTTP/1.1 200 OK\r\nProxy-Authentication-Info: nextnonce=\"next\"\r\n\r\n", ok, digest407(`nonce="m", qop="auth", stale=true`), ok, basic407)
	d, _ := s.dialer()
	for i := range 6 {
		c, err := d.DialContext(t.Context(), "tcp", "[2001:db8::1]:443")
		if i == 5 {
			// A proxy that had Digest does not get the password in the clear, also not later.
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("error %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "")
		c.Close()
	}
	want := []string{"", `nonce="n"|nc=00000001`, `nonce="n"|nc=00000002`, `nonce="n"|nc=00000003`, `nonce="next"|nc=00000001`,
		`nonce="next"|nc=00000002`, `nonce="m"|nc=00000001`, `nonce="m"|nc=00000002`}
	got := s.asked()
	if len(got) != len(want) {
		t.Fatalf("asked %d times: %q", len(got), got)
	}
	for i, w := range want {
		for part := range strings.SplitSeq(w, "|") {
			if !strings.Contains(got[i], part) || w == "" && !strings.HasSuffix(got[i], ":443 ") {
				t.Errorf("request %d is %q, want %q in it", i, got[i], part)
			}
		}
	}
}

// TestWithoutPassword tells what to do.
func TestWithoutPassword(t *testing.T) {
	s := scripted(t, basic407)
	d, _ := s.dialer()
	d.Proxy.User, d.Proxy.Password = "", ""
	_, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	if !errors.Is(err, ErrCredentials) || !strings.Contains(err.Error(), "http://USER:PASSWORD@") || !strings.Contains(err.Error(), "basic") {
		t.Errorf("error %v", err)
	}
}

// TestPatience gives the proxy only so long, and obeys the context.
func TestPatience(t *testing.T) {
	leak.Check(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []Scheme{HTTP, HTTPS, SOCKS5} {
		p, err := Parse(string(scheme) + "://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&Dialer{Proxy: *p, Timeout: 50 * time.Millisecond}).DialContext(t.Context(), "tcp", "vpn.example.com:443")
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v", scheme, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err = (&Dialer{Proxy: *p}).DialContext(ctx, "tcp", "vpn.example.com:443"); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", scheme, err)
		}
	}
}

// TestOutlivesContext shows that the context bounds only the dialing.
func TestOutlivesContext(t *testing.T) {
	s := scripted(t, ok)
	d, _ := s.dialer()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := d.DialContext(ctx, "tcp", "vpn.example.com:443")
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(20 * time.Millisecond)
	echo(t, c, "")
}

// TestHTTPS speaks TLS with the proxy, verifies it by its own name, and shows it no client certificate.
func TestHTTPS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Digest that nobody knows and Basic: over TLS that is fine.
		if r.Header.Get("Proxy-Authorization") == "" {
			w.Header().Add("Proxy-Authenticate", `Digest realm="r", nonce="n", qop="auth", algorithm=FUTURE`)
			w.Header().Add("Proxy-Authenticate", `Basic realm="r"`)
			w.WriteHeader(407)
			return
		}
		if len(r.TLS.PeerCertificates) > 0 || r.TLS.ServerName != "" {
			t.Errorf("the proxy was shown %v, %q", r.TLS.PeerCertificates, r.TLS.ServerName)
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, ok)
		io.Copy(c, rw)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	p, err := Parse("https://alice:pw@" + srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := &Dialer{Proxy: *p, TLS: &tls.Config{RootCAs: roots, ServerName: "vpn.example.com", Certificates: srv.TLS.Certificates}}
	c, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c, "")
	c.Close()
	d = &Dialer{Proxy: *p, TLS: &tls.Config{RootCAs: x509.NewCertPool()}}
	var unknown x509.UnknownAuthorityError
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); !errors.As(err, &unknown) {
		t.Errorf("a proxy of a stranger: %v", err)
	}
}

// TestLocal refuses a proxy on this machine where that is not allowed.
func TestLocal(t *testing.T) {
	s := scripted(t, ok)
	d, _ := s.dialer()
	d.NoLocal = true
	d.Proxy.Host = "innocent.example"
	d.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.l.Addr().String())
	}
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); !errors.Is(err, ErrLocal) {
		t.Errorf("error %v", err)
	}
	if asked := s.asked(); len(asked) > 0 {
		t.Errorf("it was asked: %q", asked)
	}
}

// TestTargets refuses what must not go into a request.
func TestTargets(t *testing.T) {
	d := &Dialer{Proxy: Proxy{Scheme: HTTP, Host: "192.0.2.1", Port: 1}, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("it was dialed")
		return nil, io.EOF
	}}
	for _, a := range []string{"", "host", "host:0", "host:65536", "host:https", "ho st:1", "a\r\nb:1", "[fe80::1%eth0]:1", "h\u00f6st:1", strings.Repeat("a", 254) + ":1"} {
		if _, err := d.DialContext(t.Context(), "tcp", a); err == nil {
			t.Errorf("%q is taken", a)
		}
	}
	if _, err := d.DialContext(t.Context(), "udp", "host:1"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("udp: %v", err)
	}
	d.Proxy.Port = 0
	if _, err := d.DialContext(t.Context(), "tcp", "host:1"); !errors.Is(err, ErrAddress) {
		t.Errorf("no port: %v", err)
	}
}

// TestParse parses addresses of proxies.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Proxy
	}{
		{"proxy.example:3128", Proxy{HTTP, "proxy.example", 3128, "", ""}},
		{" proxy.example ", Proxy{HTTP, "proxy.example", 80, "", ""}},
		{"HTTP://192.0.2.1:8080/", Proxy{HTTP, "192.0.2.1", 8080, "", ""}},
		{"https://proxy.example", Proxy{HTTPS, "proxy.example", 443, "", ""}},
		{"socks5h://[2001:db8::1]", Proxy{SOCKS5, "2001:db8::1", 1080, "", ""}},
		{"socks://a:9", Proxy{SOCKS5, "a", 9, "", ""}},
		{"http://alice:p%40w%3A%23@proxy.example:3128", Proxy{HTTP, "proxy.example", 3128, "alice", "p@w:#"}},
		{"alice:pw@proxy.example:3128", Proxy{HTTP, "proxy.example", 3128, "alice", "pw"}},
		{"socks5://a%3Ab:c@d", Proxy{SOCKS5, "d", 1080, "a:b", "c"}},
	} {
		got, err := Parse(tt.text)
		if err != nil || *got != tt.want {
			t.Errorf("%q: %v, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{"", "http://", "ftp://p:1", "socks4://p:1", "http://p:0", "http://p:65536", "http://p:x", "http://p/pac", "http://p?x", "http://p#x",
		"http://u:se#cret@p:1", "http://u:se/cret@p:1", "http://u:%zzsecret@p", "http://u:secret@p p:1", "http://u%3Av:secret@p", "http://:secret@p", "http://u:se%0acret@p",
		"http://u:" + strings.Repeat("secret", 50) + "@p", "http://u:secret@" + strings.Repeat("p", 3000), "http://u:secret@b\u00fccher.example"} {
		_, err := Parse(text)
		if !errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	p := Proxy{Scheme: HTTP, Host: "p", Port: 1, User: "alice", Password: transport.Secret(secret)}
	if all := fmt.Sprintf("%v %+v %#v %s %q %v", p, p, p, p, p, &p); strings.Contains(all, "alice") || strings.Contains(all, secret) {
		t.Error(all)
	}
}

// TestMethods parses --proxy-auth.
func TestMethods(t *testing.T) {
	for text, want := range map[string]Methods{"": 0, "basic": Basic, "Digest": Digest, "Basic, DIGEST": Basic | Digest} {
		if got, err := ParseMethods(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"ntlm", "Negotiate,basic", "x", ","} {
		if _, err := ParseMethods(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
