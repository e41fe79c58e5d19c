package login_test

import (
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
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/wire"
)

// A gate is a scripted gateway.
type gate struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	seen  []request
	conns int
}

// A request is what a gate was asked.
type request struct {
	*http.Request
	doc  *wire.Document
	body string
	conn int // the number of the connection
}

type connKey struct{}

// newGate starts a gateway whose every reply comes from serve.
func newGate(t *testing.T, serve func(w http.ResponseWriter, r *request), options ...func(*httptest.Server)) *gate {
	t.Helper()
	g := &gate{t: t}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		body, err := io.ReadAll(hr.Body)
		if err != nil {
			return // the client went away
		}
		r := &request{Request: hr, body: string(body), conn: hr.Context().Value(connKey{}).(int)}
		if len(body) > 0 {
			if r.doc, err = wire.ParseRequest(body); err != nil {
				t.Errorf("the client sends %q: %v", body, err)
				http.Error(w, "bad", http.StatusBadRequest)
				return
			}
		}
		g.mu.Lock()
		g.seen = append(g.seen, *r)
		g.mu.Unlock()
		serve(w, r)
	}))
	g.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.conns++
		return context.WithValue(ctx, connKey{}, g.conns)
	}
	g.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	for _, o := range options {
		o(g.Server)
	}
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

func (g *gate) requests() []request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]request(nil), g.seen...)
}

func (g *gate) url(path string) *url.URL {
	u, err := url.Parse(g.URL + path)
	if err != nil {
		g.t.Fatal(err)
	}
	return u
}

func (g *gate) config(p login.Prompter) *login.Config {
	return &login.Config{
		URL:            g.url(""),
		Prompter:       p,
		TLS:            &tls.Config{RootCAs: g.roots()},
		RequestTimeout: 10 * time.Second,
	}
}

func (g *gate) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(g.Certificate())
	return pool
}

// do logs in and wants an error of a kind, or nil, whose text holds the given parts.
func do(t *testing.T, cfg *login.Config, want error, parts ...string) *login.Ticket {
	t.Helper()
	var log bytes.Buffer
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticket, err := login.Login(ctx, cfg)
	if (want == nil) != (err == nil) || !errors.Is(err, want) {
		t.Fatalf("Login: %v, want %v\n%s", err, want, log.String())
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error %q lacks %q", err, p)
		}
	}
	printed := log.String() + fmt.Sprintf("%v %+v", err, ticket)
	for _, secret := range []string{"hush", "t0ken"} {
		if strings.Contains(printed, secret) {
			t.Errorf("a secret is printed: %s", printed)
		}
	}
	return ticket
}

// say sends a document.
func say(w http.ResponseWriter, d *wire.Document) {
	if d.Kind == "" {
		d.Kind = wire.KindAuthRequest
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	_, _ = w.Write(d.Append(nil)) // the client may be gone
}

// ask sends a form.
func ask(w http.ResponseWriter, fields ...wire.Field) {
	say(w, &wire.Document{Auth: &wire.Auth{ID: "main", Form: &wire.Form{Method: "post", Action: "/auth", Fields: fields}}})
}

// welcome ends the login with a token in the document.
func welcome(w http.ResponseWriter) {
	say(w, &wire.Document{Kind: wire.KindComplete, SessionID: "7", SessionToken: "1@t0ken", Auth: &wire.Auth{ID: "success"}})
}

func text(name string) wire.Field     { return wire.Field{Type: wire.InputText, Name: name} }
func password(name string) wire.Field { return wire.Field{Type: wire.InputPassword, Name: name} }

var alice = login.Fixed{Username: "alice", Password: "hush"}

// values returns the answers in a request as name=value.
func (r *request) values() string {
	if r.doc == nil || r.doc.Auth == nil {
		return ""
	}
	var s []string
	for _, v := range r.doc.Auth.Values {
		s = append(s, v.Name+"="+v.Value)
	}
	return strings.Join(s, " ")
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
