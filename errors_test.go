package vpn_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// checkError fails unless err says what was done, through which gateway, and to what.
func checkError(t *testing.T, op, server, path string, err error) {
	t.Helper()
	var e *vpn.OpError
	switch {
	case err == nil:
		t.Errorf("%s %s: no error", op, path)
	case !errors.As(err, &e) || error(e) != err:
		t.Errorf("%s %s: a bare %T: %v", op, path, err, err)
	case e.Op != op || e.Server != server || e.Path != path || e.Err == nil:
		t.Errorf("%s %s: %+v", op, path, e)
	case !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), server):
		t.Errorf("%s %s: the text %q lacks the operation or the gateway", op, path, err)
	}
}

// kindly fails unless err is an OpError of Dial of the wanted kind, came soon, and says all the parts.
func kindly(t *testing.T, server string, err, want error, took time.Duration, parts ...string) {
	t.Helper()
	checkError(t, "dial", server, "", err)
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
	if took > 8*time.Second {
		t.Errorf("%v came after %v", err, took)
	}
	for _, part := range parts {
		if err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}

// A stranger is a TLS server in the place of a gateway.
type stranger struct {
	url, pin string
}

// newStranger starts a server that does something with each connection and closes it then.
func newStranger(t *testing.T, plain bool, serve func(net.Conn)) stranger {
	t.Helper()
	cert, pin, err := gateway.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if !plain {
				c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return stranger{"https://" + ln.Addr().String(), pin}
}

// says returns what serves a text to each request, and the end of the connection.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, text)
		}
	}
}

// sayOn returns what serves a text to each request, and then another for ever.
func sayOn(text, then string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		then = strings.Repeat(then, 1+4096/len(then))
		for _, err := io.WriteString(c, text); err == nil; {
			_, err = io.WriteString(c, then)
		}
	}
}

// sayAndWait returns what serves a text, and then nothing more.
func sayAndWait(text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}
}

func document(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestNoGateway logs in at servers that are none, or mean harm.
func TestNoGateway(t *testing.T) {
	leak.Check(t)
	for _, tt := range []struct {
		name  string
		plain bool
		serve func(net.Conn)
		want  error
	}{
		{"closes", true, func(net.Conn) {}, vpn.ErrUnreachable},
		{"speaks no TLS", true, sayAndWait("220 mail.example ESMTP\r\n"), vpn.ErrProtocol},
		{"closes after the handshake", false, func(c net.Conn) { c.(*tls.Conn).Handshake() }, vpn.ErrUnreachable},
		{"is a web server", false, says("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 21\r\n\r\n<html>Welcome!</html>"), vpn.ErrProtocol},
		{"knows nothing", false, says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), vpn.ErrProtocol},
		{"speaks no HTTP", false, says("SSH-2.0-OpenSSH_9.2\r\n"), vpn.ErrProtocol},
		{"never ends its body", false, sayOn("HTTP/1.1 200 OK\r\n\r\n<config-auth>", "<a>b</a>"), vpn.ErrProtocol},
		{"never ends its chunks", false, sayOn("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\n<a/>\r\n"), vpn.ErrProtocol},
		{"never ends its header", false, sayOn("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"), vpn.ErrProtocol},
		{"promises a gigabyte", false, says("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n<config-auth/>"), vpn.ErrProtocol},
		{"stops in the middle", false, says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<config-auth "), vpn.ErrUnreachable},
		{"redirects for ever", false, says("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"), vpn.ErrProtocol},
		{"redirects to plain HTTP", false, says("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"), vpn.ErrProtocol},
		{"sends no XML", false, says(document("<config-auth")), vpn.ErrProtocol},
		{"nests for ever", false, says(document(strings.Repeat("<config-auth>", 20_000))), vpn.ErrProtocol},
		{"asks for ever", false, says(document(`<config-auth client="vpn" type="auth-request"><auth id="main"><message>Hm.</message></auth></config-auth>`)), vpn.ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t, tt.plain, tt.serve)
			begin := time.Now()
			_, err := vpn.Dial(timeout(t, 20*time.Second), s.url, &vpn.Config{
				Login: login.Fixed{Username: "alice", Password: "hush"}, Pins: []string{s.pin},
			})
			kindly(t, s.url, err, tt.want, time.Since(begin), strings.TrimPrefix(s.url, "https://"))
		})
	}
}

// connected is a good answer to CONNECT, with two lines left out.
const connected = "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-DPD: 30\r\nX-CSTP-Keepalive: 20\r\n"

// TestBadTunnel asks for a tunnel and gets none, or a wrong one.
func TestBadTunnel(t *testing.T) {
	leak.Check(t)
	const address, mtu = "X-CSTP-Address: 10.9.8.7\r\n", "X-CSTP-MTU: 1400\r\n"
	for _, tt := range []struct {
		name  string
		serve func(net.Conn)
		want  error
		part  string
	}{
		{"no address", says(connected + mtu + "\r\n"), vpn.ErrProtocol, "no address"},
		{"no usable address", says(connected + mtu + "X-CSTP-Address: 224.0.0.1\r\n\r\n"), vpn.ErrProtocol, "224.0.0.1"},
		{"an address of no family", says(connected + mtu + "X-CSTP-Address: 10.9.8\r\n\r\n"), vpn.ErrProtocol, "address"},
		{"no MTU", says(connected + address + "\r\n"), vpn.ErrProtocol, "MTU"},
		{"MTU 0", says(connected + address + "X-CSTP-MTU: 0\r\n\r\n"), vpn.ErrProtocol, "MTU"},
		{"MTU 100", says(connected + address + "X-CSTP-MTU: 100\r\n\r\n"), vpn.ErrProtocol, "MTU of 100"},
		{"MTU 70000", says(connected + address + "X-CSTP-MTU: 70000\r\n\r\n"), vpn.ErrProtocol, "MTU of 70000"},
		{"MTU -1", says(connected + address + "X-CSTP-MTU: -1\r\n\r\n"), vpn.ErrProtocol, "MTU"},
		{"unknown compression", says(connected + address + mtu + "X-CSTP-Content-Encoding: zip\r\n\r\n"), vpn.ErrProtocol, "zip"},
		{"no reply", says("<html>Welcome!</html>\r\n\r\n"), vpn.ErrProtocol, ""},
		{"a page", says("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), vpn.ErrProtocol, "302"},
		{"endless header", sayOn(connected, "X-CSTP-Split-Include: 10.0.0.0/255.0.0.0\r\n"), vpn.ErrProtocol, ""},
		{"endless line", sayOn(connected+"X-CSTP-Banner: ", "bla "), vpn.ErrProtocol, ""},
		{"half a reply", says(connected), vpn.ErrUnreachable, ""},
		{"unknown cookie", says("HTTP/1.1 401 Unauthorized\r\n\r\n"), vpn.ErrExpired, "401"},
		{"forbidden", says("HTTP/1.1 403 Forbidden\r\n\r\n"), vpn.ErrExpired, "403"},
		{"full", says("HTTP/1.1 503 Service Unavailable\r\nX-Reason: No address available\r\n\r\n"), vpn.ErrRefused, "No address available"},
		{"out of order", says("HTTP/1.1 500 Internal Server Error\r\n\r\n"), vpn.ErrRefused, "500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t, false, tt.serve)
			begin := time.Now()
			_, err := vpn.Dial(timeout(t, 20*time.Second), s.url, &vpn.Config{Cookie: "b1scuit", Pins: []string{s.pin}})
			kindly(t, s.url, err, tt.want, time.Since(begin), tt.part)
			if err != nil && strings.Contains(err.Error(), "b1scuit") {
				t.Errorf("the cookie is in %q", err)
			}
		})
	}
}

// frame returns a frame of the TLS channel.
func frame(kind byte, payload string) string {
	return "STF\x01" + string([]byte{byte(len(payload) >> 8), byte(len(payload)), kind, 0}) + payload
}

// TestBadFrames gets a tunnel in which things come that make no sense, or an end.
func TestBadFrames(t *testing.T) {
	leak.Check(t)
	const lease = connected + "X-CSTP-Address: 10.9.8.7\r\nX-CSTP-MTU: 1400\r\n\r\n"
	for _, tt := range []struct {
		name, frames string
		want         error // nil: the tunnel tries again
	}{
		{"no frames", "HTTP/1.1 400 Bad Request\r\n\r\n", nil},
		{"a frame of no kind, and no frame", frame(77, "what is this?") + "STF\x02\x00\x01\x00\x00x", nil},
		{"a packet that is none", frame(0, "no IP") + frame(0, "") + frame(0, strings.Repeat("x", 1400)) + frame(3, ""), nil},
		{"data that is not compressed", frame(8, "lz?"), nil},
		{"goodbye", frame(5, "\xb0the server goes down"), vpn.ErrDisconnected},
		{"the end", frame(9, ""), vpn.ErrDisconnected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var served atomic.Int32
			s := newStranger(t, false, func(c net.Conn) {
				served.Add(1)
				says(lease + tt.frames)(c)
				time.Sleep(20 * time.Millisecond)
			})
			tun, err := vpn.Dial(timeout(t, 20*time.Second), s.url, &vpn.Config{Cookie: "b1scuit", Pins: []string{s.pin}})
			if err != nil {
				t.Fatal(err)
			}
			defer tun.Close()
			if tt.want != nil {
				if err := ended(t, tun, 20*time.Second); !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				return
			}
			eventually(t, 20*time.Second, "the client comes again", func() bool { return served.Load() > 1 })
			if s := tun.Status(); tun.Err() != nil || s.Paths[len(s.Paths)-1].LastError == "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestUntrusted does not talk to whom it does not know, and says whom it saw.
func TestUntrusted(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	other := gatewaytest.New(t)
	named := "https://" + net.JoinHostPort("vpn.example.com", fmt.Sprint(gw.Addr.Port()))
	var asked atomic.Int32
	for _, tt := range []struct {
		name, server string
		config       vpn.Config
		part         string
	}{
		{"wrong pin", gw.URL, vpn.Config{Pins: []string{other.Pin}}, gw.Pin},
		{"unknown authority", gw.URL, vpn.Config{}, gw.Pin},
		{"another authority", gw.URL, vpn.Config{TLS: &tls.Config{RootCAs: other.Pool}}, gw.Pin},
		{"another name", named, vpn.Config{
			TLS: &tls.Config{RootCAs: gw.Pool}, Resolve: map[string]netip.Addr{"vpn.example.com": gw.Addr.Addr()},
		}, "vpn.example.com"},
		{"too old", gw.URL, vpn.Config{TLS: &tls.Config{
			RootCAs: gw.Pool, Time: func() time.Time { return time.Now().AddDate(3, 0, 0) },
		}}, "valid only from"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cookie := range []transport.Secret{"", "b1scuit"} {
				tt.config.Cookie = cookie
				tt.config.Login = login.PrompterFunc(func(context.Context, *login.Form) error { asked.Add(1); return nil })
				begin := time.Now()
				_, err := vpn.Dial(timeout(t, 20*time.Second), tt.server, &tt.config)
				kindly(t, tt.server, err, vpn.ErrUntrusted, time.Since(begin), tt.part)
			}
		})
	}
	if asked.Load() != 0 {
		t.Error("somebody was asked for a password")
	}
	if _, err := vpn.Dial(t.Context(), gw.URL, &vpn.Config{Pins: []string{"pin-sha256:short"}}); err == nil {
		t.Error("a pin that is none was accepted")
	} else {
		checkError(t, "dial", gw.URL, "", err)
	}
	tun := dial(t, gw.URL, &vpn.Config{Login: newPerson(), Pins: []string{other.Pin, gw.Pin}})
	tun.Close()
}

// TestCredentials is not let in.
func TestCredentials(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.Groups = []gateway.Group{{Name: "staff"}, {Name: "guests"}} }})
	broken := errors.New("the keyboard is broken")
	for _, tt := range []struct {
		name   string
		change func(*vpn.Config)
		want   error
		part   string
	}{
		{"wrong password", func(c *vpn.Config) { c.Login = login.Fixed{Username: "alice", Password: "hunter2"} }, vpn.ErrLogin, "Login failed."},
		{"nobody to ask", func(c *vpn.Config) { c.Login = nil }, vpn.ErrPrompt, "Username"},
		{"no password", func(c *vpn.Config) { c.Login = login.Fixed{Username: "alice"} }, vpn.ErrPrompt, "Password"},
		{"unknown group", func(c *vpn.Config) { c.Group = "admins" }, vpn.ErrLogin, "staff"},
		{"broken prompter", func(c *vpn.Config) {
			c.Login = login.PrompterFunc(func(context.Context, *login.Form) error { return broken })
		}, broken, "keyboard"},
		{"unknown cookie", func(c *vpn.Config) { c.Login, c.Cookie = nil, "b1scuit" }, vpn.ErrExpired, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Now()
			_, err := vpn.Dial(timeout(t, 20*time.Second), gw.URL, settings(gw, tt.change))
			kindly(t, gw.URL, err, tt.want, time.Since(begin), tt.part)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
			if tt.name == "unknown cookie" {
				return
			}
			_, err = vpn.Authenticate(timeout(t, 20*time.Second), gw.URL, settings(gw, tt.change))
			checkError(t, "authenticate", gw.URL, "", err)
			if !errors.Is(err, tt.want) {
				t.Errorf("Authenticate: %v, want %v", err, tt.want)
			}
		})
	}
	for _, group := range []string{"staff", "GUESTS"} {
		dial(t, gw.URL, settings(gw, func(c *vpn.Config) { c.Group = group })).Close()
	}
}

// TestServerNames names no gateway.
func TestServerNames(t *testing.T) {
	leak.Check(t)
	for _, server := range []string{"", "http://vpn.example.com", "ftp://vpn.example.com", "https://", "::", "https://[::1", "a b", "vpn.example.com:port"} {
		_, err := vpn.Dial(timeout(t, 5*time.Second), server, nil)
		checkError(t, "dial", server, "", err)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %v", server, err)
		}
		_, err = vpn.Authenticate(timeout(t, 5*time.Second), server, nil)
		checkError(t, "authenticate", server, "", err)
	}
	_, err := vpn.Dial(timeout(t, 5*time.Second), "https://alice:hush@vpn.example.com", nil)
	if checkError(t, "dial", "https://vpn.example.com", "", err); strings.Contains(err.Error(), "hush") {
		t.Errorf("the password is in %q", err)
	}
}

// TestDialEnds gives up with its context, whatever it waits for.
func TestDialEnds(t *testing.T) {
	leak.Check(t)
	slow := gatewaytest.New(t, gatewaytest.Options{Quirks: gateway.Quirks{LoginDelay: time.Minute}})
	gw := gatewaytest.New(t)
	cut := gatewaytest.New(t)
	cut.CutTCP(true)
	silent := newStranger(t, false, func(c net.Conn) { c.(*tls.Conn).Handshake(); io.Copy(io.Discard, c) })
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, tt := range []struct {
		name, server string
		config       *vpn.Config
	}{
		{"slow login", slow.URL, settings(slow)},
		{"nothing comes back", cut.URL, settings(cut)},
		{"no reply", silent.url, &vpn.Config{Pins: []string{silent.pin}}},
		{"no tunnel", silent.url, &vpn.Config{Pins: []string{silent.pin}, Cookie: "b1scuit"}},
		{"the person is away", gw.URL, settings(gw, func(c *vpn.Config) {
			c.Login = login.PrompterFunc(func(ctx context.Context, _ *login.Form) error { return hang(ctx) })
		})},
		{"no connection", gw.URL, settings(gw, func(c *vpn.Config) {
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, hang(ctx) }
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := vpn.Dial(ctx, tt.server, tt.config)
			checkError(t, "dial", tt.server, "", err)
			var ne net.Error
			if d := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() || d > 8*time.Second {
				t.Errorf("%v after %v, want a time-out", err, d)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			if _, err := vpn.Dial(ctx, tt.server, tt.config); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want that it was canceled", err)
			}
		})
	}
}

// TestErrors takes an error from every method and wants to know what it was about.
func TestErrors(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t, func(c *vpn.Config) {
		c.Policy = policy.DeciderFunc(func(_ context.Context, f policy.Flow) (policy.Decision, error) {
			return policy.Decision{Allow: f.Host != "denied.example", Reason: "not that one"}, nil
		})
	})
	echo := gw.Echo.String()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(when string) {
		for _, tt := range []struct {
			op, path string
			call     func() error
		}{
			{"dial", "denied.example:80", func() error { _, err := tun.DialContext(t.Context(), "tcp", "denied.example:80"); return err }},
			{"dial", "nowhere", func() error { _, err := tun.Dial("tcp", "nowhere"); return err }},
			{"dial", echo, func() error { _, err := tun.DialContext(ctx, "tcp", echo); return err }},
			{"dial", echo, func() error { _, err := tun.DialContext(t.Context(), "sctp", echo); return err }},
			{"ping", "denied.example", func() error { _, err := tun.Ping(t.Context(), "denied.example"); return err }},
			{"ping", "", func() error { _, err := tun.Ping(t.Context(), ""); return err }},
			{"listen", "nowhere:1", func() error { _, err := tun.Listen("tcp", "nowhere:1"); return err }},
			{"listen", ":1", func() error { _, err := tun.Listen("udp", ":1"); return err }},
			{"listen", ":1", func() error { _, err := tun.ListenPacket("tcp", ":1"); return err }},
			{"explain", "", func() error { _, err := tun.Explain(t.Context(), ""); return err }},
		} {
			err := tt.call()
			checkError(t, tt.op, gw.URL, tt.path, err)
			if ne := net.Error(nil); err != nil && !errors.As(err, &ne) {
				t.Errorf("%s, %s: %v is no net.Error", when, tt.op, err)
			}
		}
	}
	check("while the tunnel is up")
	_, err := tun.Resolver().LookupHost(t.Context(), "nobody."+gatewaytest.Zone)
	var notFound *net.DNSError
	if !errors.As(err, &notFound) {
		t.Errorf("Resolver: %T %v", err, err)
	}
	checkError(t, "watch", gw.URL, "", tun.Watch(ctx, func(vpn.Status) {}))
	conn, err := tun.Dial("tcp", echo)
	if err != nil {
		t.Fatal(err)
	}
	checkError(t, "close", gw.URL, "", tun.Shutdown(ctx))
	if _, err := conn.Write([]byte("x")); !errors.As(err, new(*net.OpError)) {
		t.Errorf("Write: %T %v", err, err)
	}
	check("after the end")
	checkError(t, "tunnel", gw.URL, "", tun.Err())
	_, err = tun.Capture(io.Discard)
	checkError(t, "capture", gw.URL, "", err)
}

// A notebook is a slog.Handler that keeps all that is logged, at every level, as text and as JSON.
type notebook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notebook) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(b)
}

func (n *notebook) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

func (n *notebook) logger(who string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(n, &slog.HandlerOptions{Level: slog.Level(-100), AddSource: true})).With("who", who)
}

// TestSecrets has a tunnel live through a lot with all that it does written down, and looks for its secrets there.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const password, code = "correct horse battery staple", "314159"
	var notes notebook
	list := &codes{good: []string{code, code}}
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.Auth, c.Logger = list, notes.logger("gateway") }})
	cfg := settings(gw, func(c *vpn.Config) {
		c.Login = login.Fixed{Username: gatewaytest.User, Password: password, Entries: map[string]transport.Secret{"answer": code}}
		c.Logger = notes.logger("client")
		c.ReconnectTimeout = time.Second
	})
	note := func(what string, v any) {
		fmt.Fprintf(&notes, "%s: %v %+v %#v\n", what, v, v, v)
		if b, err := json.Marshal(v); err == nil {
			fmt.Fprintf(&notes, "%s: %s\n", what, b)
		}
	}
	ticket, err := vpn.Authenticate(timeout(t, 20*time.Second), gw.URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	cookie := ticket.Cookie.Reveal()
	cfg.Cookie = ticket.Cookie
	note("ticket", ticket.Cookie)
	note("config", *cfg)
	tun := dial(t, gw.URL, cfg)
	note("status", tun.Status())
	over(t, tun, "dtls", 10*time.Second)
	f := flowTo(t, tun, gw.Echo)
	gw.CutUDP(true)
	over(t, tun, "tls", 20*time.Second)
	gw.ResetTCP()
	again(t, tun, "tls", 2)
	f.finish(t)
	note("status", tun.Status())
	gw.CutTCP(true)
	gw.ResetTCP()
	note("end", ended(t, tun, 10*time.Second))
	note("status", tun.Status())
	gw.CutTCP(false)

	// Others are refused, each for what it lacks.
	for _, change := range []func(*vpn.Config){
		func(c *vpn.Config) { c.Cookie = transport.Secret(cookie[1:] + "0"); c.Login = nil },
		func(c *vpn.Config) {
			c.Cookie = ""
			c.Login = login.Fixed{Username: gatewaytest.User, Password: password}
		},
		func(c *vpn.Config) { list.good = nil; c.Cookie = "" },
		func(c *vpn.Config) { c.Pins = []string{"pin-sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="} },
	} {
		other := *cfg
		change(&other)
		_, err := vpn.Dial(timeout(t, 20*time.Second), gw.URL, &other)
		if err == nil {
			t.Error("a tunnel that should not be")
		}
		note("error", err)
	}
	written := notes.String()
	if len(written) < 5000 || !strings.Contains(written, "path opened") {
		t.Errorf("too little was written down: %d bytes", len(written))
	}
	for what, secret := range map[string]string{"password": password, "code": code, "cookie": cookie, "half of the cookie": cookie[:len(cookie)/2]} {
		if i := strings.Index(written, secret); i >= 0 {
			t.Errorf("the %s was written down: %q", what, written[max(0, i-200):min(len(written), i+50)])
		}
	}
}
