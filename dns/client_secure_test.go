package dns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/internal/leak"
	wire "github.com/miekg/dns"
)

// certificate returns a certificate for dns.example and 127.0.0.1, and a pool that trusts it.
func certificate() (tls.Certificate, *x509.CertPool) {
	c := issue.New(x509.Certificate{
		DNSNames: []string{"dns.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}, nil)
	return c.TLS(), c.Pool()
}

// A secureServer is a DNS server over TLS that answers as handle says.
type secureServer struct {
	addr  netip.AddrPort
	pool  *x509.CertPool
	conns atomic.Int32
	sizes sync.Map // lengths of queries
}

// startTLS starts one. Handle gets each query and the connection to answer on, and returns false to close it.
func startTLS(t testing.TB, handle func(c net.Conn, q *wire.Msg) bool) *secureServer {
	t.Helper()
	cert, pool := certificate()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &secureServer{addr: l.Addr().(*net.TCPAddr).AddrPort(), pool: pool}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				for {
					b, err := readFramed(c)
					if err != nil {
						return
					}
					s.sizes.Store(len(b), true)
					q := new(wire.Msg)
					if q.Unpack(b) != nil || !handle(c, q) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return s
}

func (s *secureServer) client(t testing.TB) *TLSClient {
	c := &TLSClient{Server: s.addr, Name: "dns.example", TLS: &tls.Config{RootCAs: s.pool}}
	t.Cleanup(func() { c.Close() })
	return c
}

// respond answers q on c as a good server does.
func respond(c net.Conn, q *wire.Msg) bool {
	b, err := good("", q)[0].Pack()
	return err == nil && writeFramed(c, b) == nil
}

func lookupA(t testing.TB, x Exchanger, name string) error {
	t.Helper()
	query, err := newQuery(name, wire.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := x.Exchange(t.Context(), query)
	if err != nil {
		return err
	}
	q, _ := parseQuery(query)
	if !answers(answer, uint16(query[0])<<8|uint16(query[1]), q) {
		t.Errorf("%s: not an answer to it: %x", name, answer)
	}
	return nil
}

func TestTLSClient(t *testing.T) {
	leak.Check(t)
	s := startTLS(t, respond)
	c := s.client(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for _, name := range []string{"a.example.", "a.rather.long.name.that.is.padded.example."} {
				if err := lookupA(t, c, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	s.sizes.Range(func(k, _ any) bool {
		if k != padBlock {
			t.Errorf("a query of %d bytes", k)
		}
		return true
	})
	if got := c.String(); !strings.HasPrefix(got, "tls://dns.example (127.0.0.1:") {
		t.Errorf("%s", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := lookupA(t, c, "a.example."); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestTLSReconnect: a server may close the connection whenever it likes.
func TestTLSReconnect(t *testing.T) {
	leak.Check(t)
	s := startTLS(t, func(c net.Conn, q *wire.Msg) bool {
		respond(c, q)
		return false
	})
	c := s.client(t)
	for range 4 {
		if err := lookupA(t, c, "a.example."); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n := s.conns.Load(); n < 4 {
		t.Errorf("%d connections", n)
	}
}

func TestTLSIdle(t *testing.T) {
	leak.Check(t)
	s := startTLS(t, respond)
	c := s.client(t)
	c.Idle, c.Timeout = 50*time.Millisecond, 10*time.Second
	for range 2 {
		if err := lookupA(t, c, "a.example."); err != nil {
			t.Error(err)
		}
		alive := true
		for range 200 {
			c.mu.Lock()
			alive = c.line.alive()
			c.mu.Unlock()
			if !alive {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if alive {
			t.Error("the connection is still there")
		}
	}
}

// TestTLSOrder: answers may come in another order.
func TestTLSOrder(t *testing.T) {
	leak.Check(t)
	var mu sync.Mutex
	var first *wire.Msg
	s := startTLS(t, func(c net.Conn, q *wire.Msg) bool {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = q
			return true
		}
		return respond(c, q) && respond(c, first)
	})
	c := s.client(t)
	var wg sync.WaitGroup
	for _, name := range []string{"a.example.", "b.example."} {
		wg.Go(func() {
			if err := lookupA(t, c, name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestTLSHostile(t *testing.T) {
	leak.Check(t)
	for name, tt := range map[string]struct {
		handle func(net.Conn, *wire.Msg) bool
		want   error
	}{
		"silent":       {func(net.Conn, *wire.Msg) bool { return true }, context.DeadlineExceeded},
		"closes":       {func(net.Conn, *wire.Msg) bool { return false }, io.EOF},
		"short":        {func(c net.Conn, _ *wire.Msg) bool { return writeFramed(c, []byte{1, 2}) == nil }, ErrMessage},
		"another name": {func(c net.Conn, q *wire.Msg) bool { q.Question[0].Name = "evil.example."; return respond(c, q) }, ErrMessage},
		"another id":   {func(c net.Conn, q *wire.Msg) bool { q.Id++; return respond(c, q) }, context.DeadlineExceeded},
		"the query":    {func(c net.Conn, q *wire.Msg) bool { b, _ := q.Pack(); return writeFramed(c, b) == nil }, ErrMessage},
	} {
		t.Run(name, func(t *testing.T) {
			c := startTLS(t, tt.handle).client(t)
			c.Timeout = 100 * time.Millisecond
			start := time.Now()
			if err := lookupA(t, c, "a.example."); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "dns.example") {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestTLSVerifies(t *testing.T) {
	leak.Check(t)
	s := startTLS(t, respond)
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	for name, tt := range map[string]struct {
		change func(*TLSClient)
		want   any
	}{
		"another name":      {func(c *TLSClient) { c.Name = "evil.example" }, &host},
		"another authority": {func(c *TLSClient) { c.TLS = nil }, &unknown},
	} {
		c := s.client(t)
		tt.change(c)
		if err := lookupA(t, c, "a.example."); !errors.As(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := s.client(t)
	c.TLS = &tls.Config{InsecureSkipVerify: true}
	if err := lookupA(t, c, "a.example."); !errors.Is(err, errInsecure) {
		t.Errorf("without verification: %v", err)
	}
	c = s.client(t)
	c.Name = "127.0.0.1"
	if err := lookupA(t, c, "a.example."); err != nil {
		t.Errorf("the name is an address: %v", err)
	}
}

func TestTLSDial(t *testing.T) {
	c := &TLSClient{Server: netip.MustParseAddrPort("192.0.2.53:0"), Name: "dns.example", Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
		if network != "tcp" || addr != "192.0.2.53:853" {
			t.Errorf("dialled %s %s", network, addr)
		}
		return nil, errDown
	}}
	defer c.Close()
	if err := lookupA(t, c, "a.example."); !errors.Is(err, errDown) {
		t.Errorf("%v", err)
	}
}

// TestTLSCloseWhileDialing: Close ends a connection that is being made.
func TestTLSCloseWhileDialing(t *testing.T) {
	leak.Check(t)
	started := make(chan struct{})
	c := &TLSClient{Server: netip.MustParseAddrPort("192.0.2.53:0"), Name: "dns.example", Timeout: time.Minute, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(started)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	go func() {
		<-started
		c.Close()
	}()
	start := time.Now()
	if err := lookupA(t, c, "a.example."); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	c.Close()
}

// startHTTPS starts a server that answers queries, or does what change says instead.
func startHTTPS(t testing.TB, change func(w http.ResponseWriter, r *http.Request, q *wire.Msg) bool) (*httptest.Server, *HTTPSClient, *atomic.Int32) {
	t.Helper()
	cert, pool := certificate()
	conns := new(atomic.Int32)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		q := new(wire.Msg)
		if err != nil || q.Unpack(b) != nil {
			t.Errorf("a request that does not parse: %v", err)
			return
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != mediaType || r.Header.Get("User-Agent") != "" || len(b) != padBlock || q.Id != 0 || r.Host != "dns.example" || r.ProtoMajor != 2 {
			t.Errorf("%s %s %v of %d bytes, id %d", r.Method, r.Proto, r.Header, len(b), q.Id)
		}
		if change != nil && change(w, r, q) {
			return
		}
		answer, err := good("", q)[0].Pack()
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Age", "20")
		w.Write(answer)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	c := &HTTPSClient{
		URL:     "https://dns.example/dns-query",
		Servers: []netip.AddrPort{netip.MustParseAddrPort(s.Listener.Addr().String())},
		TLS:     &tls.Config{RootCAs: pool},
	}
	t.Cleanup(func() { c.Close() })
	return s, c, conns
}

func TestHTTPSClient(t *testing.T) {
	leak.Check(t)
	_, c, conns := startHTTPS(t, nil)
	var wg sync.WaitGroup
	lookupA(t, c, "first.example.")
	for range 10 {
		wg.Go(func() {
			if err := lookupA(t, c, "a.example."); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	query, _ := newQuery("a.example.", wire.TypeA)
	answer, err := c.Exchange(t.Context(), query)
	var m wire.Msg
	if err != nil || m.Unpack(answer) != nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 40 {
		t.Errorf("%v, %v", err, &m)
	}
	if c.String() != "https://dns.example" {
		t.Error(c.String())
	}
	c.Close()
	if err := lookupA(t, c, "a.example."); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestHTTPSHostile(t *testing.T) {
	leak.Check(t)
	for name, tt := range map[string]struct {
		change func(http.ResponseWriter, *http.Request, *wire.Msg) bool
		want   string
	}{
		"status": {func(w http.ResponseWriter, _ *http.Request, _ *wire.Msg) bool { w.WriteHeader(503); return true }, "HTTP status 503"},
		"redirect": {func(w http.ResponseWriter, r *http.Request, _ *wire.Msg) bool {
			http.Redirect(w, r, "https://evil.example/", http.StatusTemporaryRedirect)
			return true
		}, "HTTP status 307"},
		"another type": {func(w http.ResponseWriter, _ *http.Request, _ *wire.Msg) bool {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>")
			return true
		}, "no DNS message"},
		"endless": {func(w http.ResponseWriter, _ *http.Request, _ *wire.Msg) bool {
			w.Header().Set("Content-Type", mediaType)
			for range 100 {
				w.Write(make([]byte, 1000))
			}
			return true
		}, "65536 bytes"},
		"short": {func(w http.ResponseWriter, _ *http.Request, _ *wire.Msg) bool {
			w.Header().Set("Content-Type", mediaType)
			w.Write([]byte{1})
			return true
		}, "1 bytes"},
		"another name": {func(_ http.ResponseWriter, _ *http.Request, q *wire.Msg) bool {
			q.Question[0].Name = "evil.example."
			return false
		}, "not asked"},
		"silent": {func(_ http.ResponseWriter, r *http.Request, _ *wire.Msg) bool {
			<-r.Context().Done()
			return true
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, c, _ := startHTTPS(t, tt.change)
			c.Timeout = time.Second
			start := time.Now()
			err := lookupA(t, c, "a.example.")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "https://dns.example") {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			c.Close() // before the server waits for its connections
		})
	}
}

func TestHTTPSVerifies(t *testing.T) {
	leak.Check(t)
	_, c, _ := startHTTPS(t, nil)
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	other := &HTTPSClient{URL: c.URL, Servers: c.Servers}
	defer other.Close()
	if err := lookupA(t, other, "a.example."); !errors.As(err, &unknown) {
		t.Errorf("another authority: %v", err)
	}
	name := &HTTPSClient{URL: "https://evil.example/", Servers: c.Servers, TLS: c.TLS}
	defer name.Close()
	if err := lookupA(t, name, "a.example."); !errors.As(err, &host) {
		t.Errorf("another name: %v", err)
	}
	for url, want := range map[string]string{
		"http://dns.example/":        "must be https://",
		"dns.example":                "must be https://",
		"https:///x":                 "must be https://",
		"https://dns.example/":       "addresses of dns.example must be given",
		"https://dns.example:99999/": "port",
		"https://\x7f/":              "must be https://",
	} {
		c := &HTTPSClient{URL: url}
		if err := lookupA(t, c, "a.example."); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
		c.Close()
	}
	insecure := &HTTPSClient{URL: c.URL, Servers: c.Servers, TLS: &tls.Config{InsecureSkipVerify: true}}
	if err := lookupA(t, insecure, "a.example."); !errors.Is(err, errInsecure) {
		t.Errorf("without verification: %v", err)
	}
}

func TestPadded(t *testing.T) {
	for _, name := range []string{"a.", "a.example.", strings.Repeat("abcdefg.", 30)} {
		for _, change := range []func(*wire.Msg){nil, edns(0, 900), func(m *wire.Msg) {
			edns(0, 900)(m)
			m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_PADDING{Padding: make([]byte, 7)}}
		}} {
			b := packed(t, func(m *wire.Msg) {
				m.Question[0].Name = name
				if change != nil {
					change(m)
				}
			}, nil)
			got, err := padded(b, 7)
			var m wire.Msg
			if err != nil || m.Unpack(got) != nil || m.Id != 7 || len(got)%padBlock != 0 || len(got) > len(b)+2*padBlock || len(m.IsEdns0().Option) != 1 {
				t.Errorf("%s: %v, %d bytes", name, err, len(got))
			}
		}
	}
	if _, err := padded([]byte{1, 2, 3}, 0); !errors.Is(err, ErrMessage) {
		t.Errorf("%v", err)
	}
}

// TestMixCase: names go out in a random case, and only who has seen it can answer.
func TestMixCase(t *testing.T) {
	const server = "192.0.2.53:53"
	var seen []string
	honest := func(n string, q *wire.Msg) []*wire.Msg {
		seen = append(seen, q.Question[0].Name)
		return good(n, q)
	}
	blind := func(n string, q *wire.Msg) []*wire.Msg {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		if n == "tcp" {
			return nil
		}
		return good(n, q)
	}
	const name = "a.rather.long.name.in.example."
	for answer, want := range map[string]bool{"honest": true, "blind": false} {
		n := &network{servers: map[string]func(string, *wire.Msg) []*wire.Msg{server: map[string]func(string, *wire.Msg) []*wire.Msg{"honest": honest, "blind": blind}[answer]}}
		c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(server)}, Dial: n.dial, MixCase: true, Timeout: 50 * time.Millisecond}
		query, _ := newQuery(name, wire.TypeA)
		b, err := c.Exchange(t.Context(), query)
		if (err == nil) != want {
			t.Errorf("%s: %v", answer, err)
		}
		if err == nil {
			if q, err := parseQuestion(b); err != nil || q.name != name {
				t.Errorf("the answer repeats %v, %v", q, err)
			}
		}
	}
	if len(seen) != 1 || seen[0] == name || !strings.EqualFold(seen[0], name) {
		t.Errorf("asked for %v", seen)
	}
}

// TestForgeries: somebody who sends many wrong answers makes the Client ask over TCP, where he cannot.
func TestForgeries(t *testing.T) {
	const server = "192.0.2.53:53"
	n := &network{servers: map[string]func(string, *wire.Msg) []*wire.Msg{server: func(n string, q *wire.Msg) []*wire.Msg {
		if n == "tcp" {
			return good(n, q)
		}
		var list []*wire.Msg
		for i := range maxForged {
			m := good(n, q)[0]
			m.Id = q.Id + uint16(i) + 1
			m.Answer[0].(*wire.A).A = net.IPv4(6, 6, 6, 6)
			list = append(list, m)
		}
		return list
	}}}
	c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(server)}, Dial: n.dial}
	r := &Resolver{Exchanger: c}
	addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.example")
	if err != nil || len(addrs) != 1 || addrs[0] != netip.MustParseAddr("192.0.2.1") || n.dials() != "udp "+server+", tcp "+server {
		t.Errorf("%v, %v, dialled %s", addrs, err, n.dials())
	}
}

// TestHTTPSClose: Close ends questions that are being asked, and has waited for them when it returns.
func TestHTTPSClose(t *testing.T) {
	leak.Check(t)
	asked := make(chan struct{})
	_, c, _ := startHTTPS(t, func(_ http.ResponseWriter, r *http.Request, _ *wire.Msg) bool {
		close(asked)
		<-r.Context().Done()
		return true
	})
	c.Timeout = time.Minute
	ended := make(chan error, 1)
	go func() { ended <- lookupA(t, c, "a.example.") }()
	<-asked
	start := time.Now()
	c.Close()
	if err := <-ended; err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}
