package login_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/wire"
)

// rawGate starts a gateway that serves each connection with serve, after TLS. It returns a configuration that logs in to it.
func rawGate(t testing.TB, serve func(conn net.Conn)) *login.Config {
	t.Helper()
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS()
	cert := pair.TLS.Certificates[0]
	roots := pair.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	pair.Close()
	return rawConfig(t, func(nc net.Conn) {
		conn := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}})
		defer conn.Close()
		if conn.Handshake() == nil {
			serve(conn)
		}
	}, &tls.Config{RootCAs: roots})
}

// rawConfig is rawGate without TLS.
func rawConfig(t testing.TB, serve func(conn net.Conn), cfg *tls.Config) *login.Config {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		wg.Wait()
	})
	return &login.Config{
		URL:            &url.URL{Scheme: "https", Host: ln.Addr().String()},
		Prompter:       alice,
		TLS:            cfg,
		RequestTimeout: 5 * time.Second,
	}
}

// answering reads requests and answers each with a raw text.
func answering(answer func(w io.Writer, r *request)) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			hr, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(hr.Body)
			if err != nil {
				return
			}
			r := &request{Request: hr, body: string(body)}
			if len(body) > 0 {
				r.doc, _ = wire.ParseRequest(body)
			}
			answer(conn, r)
			if hr.Close {
				return
			}
		}
	}
}

func ok(d *wire.Document) string {
	body := d.Append(nil)
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

var success = &wire.Document{Kind: wire.KindComplete, SessionToken: "t0ken", Auth: &wire.Auth{ID: "success"}}

// endless writes text until the client has enough.
func endless(w io.Writer, text string) {
	b := bytes.Repeat([]byte(text), 1+4096/len(text))
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func TestHostile(t *testing.T) {
	hold := func(r net.Conn) { _, _ = io.Copy(io.Discard, r) } // until the client goes away
	for name, tt := range map[string]struct {
		serve func(conn net.Conn)
		want  error
		part  string
	}{
		"silence": {hold, transport.ErrUnreachable, "did not finish within"},
		"half a reply": {func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<config-auth")
			hold(c)
		}, transport.ErrUnreachable, "did not finish within"},
		"half a header": {func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Le")
			hold(c)
		}, transport.ErrUnreachable, "did not finish within"},
		"drops": {func(c net.Conn) {
			for {
				if _, err := fmt.Fprint(c, "H"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, transport.ErrUnreachable, "did not finish within"},
		"cut off": {func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<config-auth")
		}, transport.ErrUnreachable, "EOF"},
		"closed":             {func(net.Conn) {}, transport.ErrUnreachable, "EOF"},
		"a gigabyte to come": {answering(func(w io.Writer, _ *request) { fmt.Fprint(w, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n") }), transport.ErrProtocol, "1073741824"},
		"negative length":    {answering(func(w io.Writer, _ *request) { fmt.Fprint(w, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n") }), transport.ErrProtocol, "not HTTP"},
		"endless body": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			endless(w, "<a/>")
		}), transport.ErrProtocol, "more than"},
		"endless chunks": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			endless(w, "1\r\na\r\n")
		}), transport.ErrProtocol, ""},
		"unknown coding": {answering(func(w io.Writer, _ *request) { fmt.Fprint(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n") }), transport.ErrProtocol, "not HTTP"},
		"endless header": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, "HTTP/1.1 200 OK\r\n")
			endless(w, "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
		}), transport.ErrProtocol, "too long"},
		"endless line": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, "HTTP/1.1 200 OK\r\nX-A: ")
			endless(w, "a")
		}), transport.ErrProtocol, "too long"},
		"endless interim": {answering(func(w io.Writer, _ *request) { endless(w, "HTTP/1.1 100 Continue\r\n\r\n") }), transport.ErrProtocol, "interim"},
		"no HTTP":         {answering(func(w io.Writer, _ *request) { fmt.Fprint(w, "SSH-2.0-OpenSSH_9.2\r\n\r\n") }), transport.ErrProtocol, "not HTTP"},
		"deep": {answering(func(w io.Writer, _ *request) {
			body := "<config-auth>" + strings.Repeat("<a>", 1000)
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}), transport.ErrProtocol, "limits"},
		"forms without end": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{text("any")}}}}))
		}), transport.ErrProtocol, "came to no end"},
		"forms that ask nothing": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{{Type: "submit", Name: "x"}}}}}))
		}), transport.ErrProtocol, "circles"},
		"never complete": {answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", AuthenticationComplete: true}}))
		}), transport.ErrProtocol, "circles"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := rawGate(t, tt.serve)
			if strings.Contains(tt.part, "within") {
				cfg.RequestTimeout = 200 * time.Millisecond
			}
			cfg.Prompter = login.PrompterFunc(func(_ context.Context, f *login.Form) error {
				for i := range f.Fields {
					f.Fields[i].Set("x")
				}
				return nil
			})
			start := time.Now()
			do(t, cfg, tt.want, tt.part)
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// TestHostileTexts has errors quote a gateway that sends a lot, and what commands a terminal.
func TestHostileTexts(t *testing.T) {
	evil := "\u009b2J" + strings.Repeat("long ", 20000)
	form := func(fields ...wire.Field) func(net.Conn) {
		return answering(func(w io.Writer, _ *request) {
			fmt.Fprint(w, ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: fields}}}))
		})
	}
	for name, tt := range map[string]struct {
		serve func(conn net.Conn)
		want  error
	}{
		"kind":    {answering(func(w io.Writer, _ *request) { fmt.Fprint(w, ok(&wire.Document{Kind: wire.Kind(evil)})) }), transport.ErrProtocol},
		"label":   {form(wire.Field{Type: "text", Name: "any", Label: evil}), transport.ErrPrompt},
		"options": {form(wire.Field{Type: "select", Name: "group_list", Label: evil, Options: []wire.Option{{Value: "a", Text: evil}, {Value: evil}}}), transport.ErrLogin},
		"host": {answering(func(w io.Writer, _ *request) {
			fmt.Fprintf(w, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: https://%%C2%%9B2J%s/\r\n\r\n", strings.Repeat("a", 5000))
		}), transport.ErrProtocol},
		"path": {answering(func(w io.Writer, r *request) {
			if len(r.URL.Path) > 5000 {
				fmt.Fprint(w, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
				return
			}
			fmt.Fprintf(w, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /%%C2%%9B2J%s\r\n\r\n", strings.Repeat("a", 50000))
		}), transport.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := rawGate(t, tt.serve)
			cfg.Prompter = login.Fixed{Group: "staff", Username: "alice"}
			_, err := login.Login(t.Context(), cfg)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%.400q, want %v", err, tt.want)
			}
			if text := err.Error(); len(text) > 4096 || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("an error of %d bytes: %.400q", len(text), text)
			}
		})
	}
}

func TestNoTLS(t *testing.T) {
	cfg := rawConfig(t, answering(func(w io.Writer, _ *request) { fmt.Fprint(w, "HTTP/1.1 400 Bad Request\r\n\r\n") }), nil)
	cfg.RequestTimeout = 300 * time.Millisecond
	// An HTTP server waits for the end of a request, so this one is slow rather than wrong.
	if _, err := login.Login(t.Context(), cfg); !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrProtocol) {
		t.Errorf("Login: %v", err)
	}
	cfg = rawConfig(t, func(c net.Conn) {
		fmt.Fprint(c, "220 mail.example.com ESMTP\r\n")
		_, _ = io.Copy(io.Discard, c) // until the client goes away
	}, nil)
	do(t, cfg, transport.ErrProtocol, "does not speak TLS")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.URL = &url.URL{Scheme: "https", Host: ln.Addr().String()}
	ln.Close()
	do(t, cfg, transport.ErrUnreachable, "no connection to")
}

// TestMemory logs in to a gateway that sends as much as it can.
func TestMemory(t *testing.T) {
	cfg := rawGate(t, answering(func(w io.Writer, _ *request) {
		fmt.Fprint(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<config-auth>")
		endless(w, "<a>text</a>")
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do(t, cfg, transport.ErrProtocol)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("%d bytes were allocated", got)
	}
}

// TestFramings logs in to gateways that frame their replies in every way that is allowed, or nearly.
func TestFramings(t *testing.T) {
	body := string(success.Append(nil))
	for name, reply := range map[string]string{
		"HTTP/1.0":                "HTTP/1.0 200 OK\r\n\r\n" + body,
		"HTTP/1.1 without length": "HTTP/1.1 200 OK\r\n\r\n" + body,
		"chunks":                  fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		"interim replies":         "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + ok(success),
		"folded lines":            fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		"odd case":                fmt.Sprintf("HTTP/1.1 200\r\ncontent-LENGTH:%d\r\n\r\n%s", len(body), body),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := rawGate(t, func(conn net.Conn) {
				br := bufio.NewReader(conn)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				fmt.Fprint(conn, reply)
			})
			expect(t, "cookie", do(t, cfg, nil).Cookie.Reveal(), "t0ken")
		})
	}
}

// TestUnaskedReply makes sure that what a gateway sends in advance is not taken for the answer to credentials.
func TestUnaskedReply(t *testing.T) {
	conns := 0
	cfg := rawGate(t, func(conn net.Conn) {
		conns++
		first := conns == 1
		answering(func(w io.Writer, _ *request) {
			if !first {
				fmt.Fprint(w, ok(success))
				return
			}
			form := ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{password("password")}}}})
			fmt.Fprint(w, form+"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		})(conn)
	})
	do(t, cfg, nil)
	expect(t, "connections", conns, 2)
}

func TestManyCookies(t *testing.T) {
	n := 0
	cfg := rawGate(t, answering(func(w io.Writer, r *request) {
		if n++; n == 5 {
			fmt.Fprint(w, ok(success))
			return
		}
		if got := len(r.Header.Get("Cookie")); got > 8000 {
			t.Errorf("%d bytes of cookies come back", got)
		}
		var b strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&b, "Set-Cookie: c%d-%d=%030d\r\n", n, i, i)
		}
		fmt.Fprint(w, strings.Replace(ok(&wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: strconv.Itoa(n), Form: &wire.Form{Fields: []wire.Field{password("password")}}}}),
			"Content-Length", b.String()+"Content-Length", 1))
	}))
	do(t, cfg, nil)
}

func TestCancel(t *testing.T) {
	cfg := rawGate(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	if _, err := login.Login(ctx, cfg); !errors.Is(err, context.Canceled) || time.Since(start) > 2*time.Second {
		t.Errorf("Login: %v after %s", err, time.Since(start))
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := login.Login(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Login: %v", err)
	}

	// A person may take longer than any request.
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindInit {
			ask(w, password("password"))
			return
		}
		welcome(w)
	})
	cfg = g.config(login.PrompterFunc(func(ctx context.Context, f *login.Form) error {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		return alice.Answer(ctx, f)
	}))
	cfg.RequestTimeout = 200 * time.Millisecond
	do(t, cfg, nil)
}

// TestTranscripts logs in as TestOcserv does, with the recorded words of ocserv.
func TestTranscripts(t *testing.T) {
	for _, tt := range ocservCases {
		if tt.direct {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "ocserv-"+tt.name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(string(text), "=== ")[1:]
			next := func(who string) string {
				if len(parts) == 0 {
					return ""
				}
				head, body, _ := strings.Cut(parts[0], "\n")
				if !strings.HasPrefix(head, who) {
					t.Errorf("it is the turn of %q, not of %s", head, who)
				}
				parts = parts[1:]
				return strings.TrimSuffix(body, "\n")
			}
			var mu sync.Mutex
			var cfg *login.Config
			cfg = rawGate(t, answering(func(w io.Writer, r *request) {
				mu.Lock()
				defer mu.Unlock()
				_, want, _ := strings.Cut(next("client"), "\n\n")
				got := strings.ReplaceAll(r.body, cfg.URL.Host, "127.0.0.1:4443")
				if got != want {
					t.Errorf("the client says\n%s\nand said to ocserv\n%s", got, want)
				}
				head, body, _ := strings.Cut(next("gateway"), "\n\n")
				fmt.Fprint(w, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"+body)
			}))
			cfg.Prompter = tt.answer
			cfg.UserAgent = tt.agent
			cfg.Device = wire.Device{Platform: "linux-64"}
			ticket := do(t, cfg, tt.want)
			mu.Lock()
			defer mu.Unlock()
			if len(parts) != 0 {
				t.Errorf("%d parts of the transcript are left", len(parts))
			}
			if tt.want == nil {
				expect(t, "group", ticket.Group, tt.group)
				expect(t, "length of the cookie", len(ticket.Cookie.Reveal()), 44)
			}
		})
	}
}
