package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport/login"
)

// A reader is a person with a browser.
type reader struct {
	t       *testing.T
	client  *http.Client
	address chan string
}

func newReader(t *testing.T) *reader {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &reader{t, &http.Client{Transport: transport, Timeout: 10 * time.Second}, make(chan string, 10)}
}

func (r *reader) open(_ context.Context, address string) error {
	r.address <- address
	return nil
}

// get reads a page.
func (r *reader) get(address string) (int, string) {
	r.t.Helper()
	res, err := r.client.Get(address)
	return r.body(res, err)
}

func (r *reader) body(res *http.Response, err error) (int, string) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

var (
	actionOf = regexp.MustCompile(`action="([^"]*)"`)
	inputs   = regexp.MustCompile(`<(?:input|select) name="(\d+)"`)
)

// post answers a page that was read from the address.
func (r *reader) post(address, page string, values url.Values) (int, string) {
	r.t.Helper()
	m := actionOf.FindStringSubmatch(page)
	if m == nil {
		r.t.Fatalf("the page asks nothing: %s", page)
	}
	u, err := url.Parse(address)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.client.PostForm(u.JoinPath(m[1]).ResolveReference(&url.URL{Path: m[1]}).String(), values)
	return r.body(res, err)
}

func everybody(_, _ netip.AddrPort) bool { return true }

func loginForm() *login.Form {
	f := &login.Form{Gateway: "vpn.example.com", Title: "<b>Login</b>", Message: "Hello \x1b[31m<script>alert(1)</script>", Error: "Wrong & bad", Attempt: 2,
		Fields: []login.Field{
			{Name: "username", Label: "Username:", Value: `al"ice`},
			{Name: "password", Label: "Password:", Kind: login.Password, Value: "preset-secret"},
			{Name: "done", Label: "Done"},
			{Name: "realm", Label: "Realm", Kind: login.Choice, Value: "b", Options: []login.Option{{Value: "a", Text: "A & A"}, {Value: "b", Text: "B"}}},
		}}
	f.Field("done").Set("already")
	return f
}

func TestPagesAnswer(t *testing.T) {
	r := newReader(t)
	var log bytes.Buffer
	p := &pages{open: r.open, same: sameUser, logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	f := loginForm()
	done := make(chan error, 1)
	go func() { done <- p.Answer(t.Context(), f) }()
	address := <-r.address
	status, page := r.get(address)
	for _, s := range []string{"&lt;b&gt;Login&lt;/b&gt;", "&lt;script&gt;", "Wrong &amp; bad", `value="al&#34;ice"`, `name="1" type="password"`, "vpn.example.com",
		`<option value="1" selected>B</option>`, "A &amp; A"} {
		if status != 200 || !strings.Contains(page, s) {
			t.Errorf("status %d, no %s in %s", status, s, page)
		}
	}
	for _, s := range []string{"preset-secret", "\x1b", "already", "<script"} {
		if strings.Contains(page, s) {
			t.Errorf("%q is in the page", s)
		}
	}
	if got := inputs.FindAllStringSubmatch(page, -1); len(got) != 3 {
		t.Errorf("the page asks for %v", got)
	}
	if status, again := r.get(address); status == 200 || strings.Contains(again, "password") {
		t.Errorf("the page opens twice: %d %s", status, again)
	}
	if status, answer := r.post(address, page, url.Values{"0": {"alice"}, "1": {"correct horse"}, "3": {"0"}}); status != 200 || strings.Contains(answer, "horse") {
		t.Errorf("status %d: %s", status, answer)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"username": "alice", "password": "correct horse", "done": "already", "realm": "a"} {
		if got := f.Field(name).Value.Reveal(); got != want || !f.Field(name).Answered {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if u, _ := url.Parse(address); strings.Contains(log.String(), "horse") || strings.Contains(log.String(), strings.Trim(u.Path, "/")) {
		t.Errorf("the log has secrets: %s", log.String())
	}
}

// TestPagesRefuse checks who gets neither the page nor an answer in.
func TestPagesRefuse(t *testing.T) {
	r := newReader(t)
	same := true
	p := &pages{open: r.open, same: func(_, _ netip.AddrPort) bool { return same }, logger: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- p.Answer(t.Context(), loginForm()) }()
	address := <-r.address
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, req *http.Request) {
		t.Helper()
		if status, page := r.body(r.client.Do(req)); status < 400 || strings.Contains(page, "<form") {
			t.Errorf("%s: %d %s", what, status, page)
		}
	}
	request := func(method, address, body string) *http.Request {
		req, err := http.NewRequest(method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req
	}
	root := "http://" + u.Host + "/"
	refused("no token", request("GET", root, ""))
	refused("a wrong token", request("GET", root+strings.Repeat("A", 26), ""))
	refused("an answer to the token of the address", request("POST", address, "0=mallory"))
	refused("an answer without token", request("POST", root, "0=mallory"))
	rebound := request("GET", address, "")
	rebound.Host = "evil.example:80"
	refused("another host", rebound)
	same = false
	refused("another user", request("GET", address, ""))
	same = true

	// None of this has used the address up.
	status, page := r.get(address)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	action := root + strings.TrimPrefix(actionOf.FindStringSubmatch(page)[1], "/")
	same = false
	refused("an answer of another user", request("POST", action, "0=mallory&1=x&3=0"))
	same = true
	refused("a long answer", request("POST", action, "0="+strings.Repeat("x", mostAnswer)))

	// The user may want the page once more, at a new address, and then not answer after all.
	p.again()
	second := <-r.address
	if second == address {
		t.Error("the address is the same")
	}
	if status, page = r.get(second); status != 200 {
		t.Errorf("status %d", status)
	}
	r.post(second, page, url.Values{"cancel": {"1"}, "0": {"alice"}})
	if err := <-done; !errors.Is(err, errDeclined) {
		t.Errorf("got %v", err)
	}
	if _, err := r.client.Get(second); err == nil {
		t.Error("the server of the page is still there")
	}
}

func TestPagesEnd(t *testing.T) {
	r := newReader(t)
	p := &pages{open: r.open, same: everybody, logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Answer(ctx, loginForm()) }()
	<-r.address
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	go func() { done <- p.show(t.Context(), "Title", "the banner") }()
	if status, page := r.get(<-r.address); status != 200 || !strings.Contains(page, "the banner") || strings.Contains(page, "<form") {
		t.Errorf("%d %s", status, page)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	go func() { done <- p.confirm(t.Context(), "Title", "the rules") }()
	address := <-r.address
	_, page := r.get(address)
	r.post(address, page, nil)
	if err := <-done; err != nil || !strings.Contains(page, "the rules") {
		t.Errorf("%v: %s", err, page)
	}

	// A choice that is not there is no answer.
	go func() { done <- p.Answer(t.Context(), loginForm()) }()
	address = <-r.address
	_, page = r.get(address)
	r.post(address, page, url.Values{"0": {"a"}, "1": {"b"}, "3": {"7"}})
	if err := <-done; !errors.Is(err, login.ErrCannot) {
		t.Errorf("got %v", err)
	}

	p.open = browser([]string{"/no/such/browser"})
	if err := p.Answer(t.Context(), loginForm()); !errors.Is(err, login.ErrCannot) || !strings.Contains(err.Error(), "browser") {
		t.Errorf("got %v", err)
	}
}
