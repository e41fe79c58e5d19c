package anyconnect_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/anyconnect"
	"culvert.example/vpn/transport/login"
)

var alice = login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}

// dialer returns a Dialer for gw.
func dialer(gw *gatewaytest.Gateway) *anyconnect.Dialer {
	return &anyconnect.Dialer{Server: gw.URL, Prompter: alice, TLS: &tls.Config{RootCAs: gw.Pool}}
}

// open opens a session, which is read and ends with the test.
func open(t *testing.T, d *anyconnect.Dialer) *anyconnect.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := d.DialSession(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for b := packet.NewBatch(16, packet.MaxSize); ; {
			if _, err := s.ReadBatch(b); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		s.Close()
		reading.Wait()
	})
	return s.(*anyconnect.Session)
}

// TestCookie opens sessions with cookies from elsewhere.
func TestCookie(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	d := dialer(gw)
	ticket, err := d.Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Prompter, d.Cookie = nil, ticket.Cookie
	open(t, d)

	d = dialer(gw)
	d.Prompter, d.Cookie = nil, "bogus"
	if _, err := d.DialSession(t.Context()); !errors.Is(err, transport.ErrExpired) || strings.Count(err.Error(), "log in again") != 1 {
		t.Errorf("with an unknown cookie: %v", err)
	}
	// The credentials are there, and nobody has logged in with them lately.
	d = dialer(gw)
	d.Cookie = "bogus"
	open(t, d)
}

// TestLoginTimeout gives up on a gateway that accepts connections and says nothing.
func TestLoginTimeout(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := &anyconnect.Dialer{Server: silent.Addr().String(), Prompter: alice, LoginTimeout: 50 * time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // less than the 30 seconds of the default
	defer cancel()
	if _, err := d.DialSession(ctx); !errors.Is(err, transport.ErrUnreachable) || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("%v", err)
	}
}

// TestKinds has each failure to open a session match a kind.
func TestKinds(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	plain := httptest.NewServer(nil)
	defer plain.Close()
	for name, tt := range map[string]struct {
		server string
		tls    *tls.Config
		want   error
	}{
		"nobody there":   {gone.Addr().String(), nil, transport.ErrUnreachable},
		"no TLS":         {plain.Listener.Addr().String(), nil, transport.ErrProtocol},
		"unknown issuer": {gw.URL, nil, transport.ErrUntrusted},
		"alert":          {gw.URL, &tls.Config{RootCAs: gw.Pool, MaxVersion: tls.VersionTLS10, MinVersion: tls.VersionTLS10}, transport.ErrProtocol},
	} {
		d := &anyconnect.Dialer{Server: tt.server, Cookie: "c", TLS: tt.tls}
		if _, err := d.DialSession(t.Context()); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestThroughProxy dials through something whose connections have the address of the proxy.
func TestThroughProxy(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	var mu sync.Mutex
	var asked []string
	d := dialer(gw)
	d.Server = "https://localhost:4443"
	d.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		asked = append(asked, address)
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, gw.Addr.String())
	}
	open(t, d)
	mu.Lock()
	defer mu.Unlock()
	for _, a := range asked {
		if a != "localhost:4443" {
			t.Errorf("the proxy is asked for %s: %v", a, asked)
		}
	}
}

// TestResolve gives the address of a name that is written in another case.
func TestResolve(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	d := dialer(gw)
	_, port, _ := net.SplitHostPort(gw.Addr.String())
	d.Server = "https://VPN.Culvert.Test:" + port
	d.TLS.ServerName = "localhost"
	d.Resolve = map[string]netip.Addr{"VPN.Culvert.Test": gw.Addr.Addr()}
	open(t, d)
}

// TestRedirectedWithServerName is redirected away from a host whose name for TLS is configured.
func TestRedirectedWithServerName(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	_, port, _ := net.SplitHostPort(gw.Addr.String())
	front := httptest.NewTLSServer(http.RedirectHandler("https://localhost:"+port+"/", http.StatusFound))
	defer front.Close()
	roots := gw.Pool.Clone()
	roots.AddCert(front.Certificate())
	d := &anyconnect.Dialer{Server: front.URL, Prompter: alice, TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
	open(t, d)
}

// TestOnChange uses the session in OnChange from the first call on.
func TestOnChange(t *testing.T) {
	gw := gatewaytest.New(t)
	d := dialer(gw)
	calls := make(chan string, 100)
	d.OnChange = func(s *anyconnect.Session) { calls <- s.State().Active }
	s := open(t, d)
	for active := range calls {
		if active == anyconnect.DTLS {
			break
		}
	}
	if s.Cipher(anyconnect.DTLS) == "" || s.Cipher(anyconnect.TLS) == "" {
		t.Error("open paths without cipher")
	}
	gw.CutUDP(true)
	s.NetworkChanged()
	for active := range calls {
		if active == anyconnect.TLS {
			break
		}
	}
	if c := s.Cipher(anyconnect.DTLS); c != "" {
		t.Errorf("the closed path has the cipher %s", c)
	}
}

// TestParseServer keeps what looks like a password out of errors.
func TestParseServer(t *testing.T) {
	for _, server := range []string{
		"https://alice:hunter2@vpn.example.com", "https://alice:hunter2@vpn.example.com:port", "alice:hunter2@vpn.example.com/%zz",
		"http://alice:hunter2@vpn.example.com", "https://alice:hunter2@", "https://alice:hunter2@h\x7f", "https://vpn.example.com:bad/?hunter2",
	} {
		if _, err := anyconnect.ParseServer(server); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseServer(%q): %v", server, err)
		}
	}
	for server, want := range map[string]string{
		"vpn.example.com": "https://vpn.example.com", " https://vpn.example.com:4443/group?secret ": "https://vpn.example.com:4443/group?secret",
		"[2001:db8::1]:443": "https://[2001:db8::1]:443",
	} {
		if u, err := anyconnect.ParseServer(server); err != nil || u.String() != want {
			t.Errorf("ParseServer(%q) = %v, %v", server, u, err)
		}
	}
}

// TestCloseIsTheEnd counts the connections that are tried while a session is being closed, and after.
func TestCloseIsTheEnd(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	var dials atomic.Int64
	d := dialer(gw)
	d.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	for range 20 {
		s := open(t, d)
		before := dials.Load()
		s.Close()
		if n := dials.Load() - before; n != 0 {
			t.Fatalf("%d connections were tried when the session was closed", n)
		}
	}
}

// TestLoginAgain has the gateway forget a session whose login needs no person.
func TestLoginAgain(t *testing.T) {
	gw := gatewaytest.New(t)
	d := dialer(gw)
	ticket, err := d.Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := &counting{}
	// The login was made elsewhere, so that the next may follow at once.
	d.Cookie, d.Prompter = ticket.Cookie, token
	s := open(t, d)
	if n := token.asked.Load(); n != 0 {
		t.Fatalf("the Prompter was asked %d times in spite of the cookie", n)
	}
	lease := s.Lease()
	id := gw.Sessions()[0].ID
	if err := errors.Join(gw.Expire(id), gw.Drop(id)); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); s.State().Active == "" || s.Ticket().Cookie == ticket.Cookie; time.Sleep(10 * time.Millisecond) {
		if s.Err() != nil || time.Since(start) > 10*time.Second {
			t.Fatalf("the session does not come back: %v, %+v", s.Err(), s.State())
		}
	}
	if n := token.asked.Load(); n != 1 {
		t.Errorf("the Prompter was asked %d times", n)
	}
	if got := s.Lease().Addresses; !slices.Equal(got, lease.Addresses) {
		t.Errorf("addresses %v, were %v", got, lease.Addresses)
	}
	// Again, too soon after that login: it waits, and asks nobody.
	id = gw.Sessions()[0].ID
	if err := errors.Join(gw.Expire(id), gw.Drop(id)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if n := token.asked.Load(); n != 1 || s.Err() != nil {
		t.Errorf("after half a second the Prompter was asked %d times, and the session is at %v", n, s.Err())
	}
}

// A counting Prompter needs no person, and counts what it answers.
type counting struct{ asked atomic.Int64 }

func (*counting) Unattended() bool { return true }

func (c *counting) Answer(ctx context.Context, f *login.Form) error {
	c.asked.Add(1)
	return alice.Answer(ctx, f)
}
