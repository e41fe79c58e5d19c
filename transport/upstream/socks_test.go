package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/proxy"
)

// TestSOCKS connects through a real proxy: the one that this module serves.
func TestSOCKS(t *testing.T) {
	leak.Check(t)
	asked := make(chan string, 10)
	srv := &proxy.Server{Auth: proxy.Password("alice", secret), Dial: func(_ context.Context, _, address string) (net.Conn, error) {
		asked <- address
		switch {
		case strings.HasPrefix(address, "forbidden"):
			return nil, proxy.ErrNotAllowed
		case strings.HasPrefix(address, "unknown"):
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}
		a, b := net.Pipe()
		go func() { io.Copy(b, b); b.Close() }()
		return a, nil
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	defer func() { srv.Close(); <-done }()
	p, err := Parse("socks5://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.User, p.Password = "alice", secret
	d := &Dialer{Proxy: *p}
	for _, address := range []string{"gateway.example:443", "192.0.2.1:443", "[2001:db8::1]:8443"} {
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != address {
			t.Errorf("the proxy was asked for %s", got)
		}
		echo(t, c, "")
		c.Close()
	}
	for address, kind := range map[string]error{"forbidden.example:1": ErrForbidden, "unknown.example:1": ErrUnreachable} {
		if _, err := d.DialContext(t.Context(), "tcp", address); !errors.Is(err, kind) {
			t.Errorf("%s: %v", address, err)
		}
	}
	d.Proxy.Password = "wrong"
	if _, err := d.DialContext(t.Context(), "tcp", "gateway.example:443"); !errors.Is(err, ErrCredentials) {
		t.Errorf("wrong password: %v", err)
	}
	d.Proxy.User, d.Proxy.Password = "", ""
	if _, err := d.DialContext(t.Context(), "tcp", "gateway.example:443"); !errors.Is(err, ErrCredentials) || !strings.Contains(err.Error(), "socks5://USER") {
		t.Errorf("no password: %v", err)
	}
}

// A stream answers with what it holds, whatever is written.
type stream struct{ bytes.Reader }

func (*stream) Write(b []byte) (int, error) { return len(b), nil }

func answering(b []byte) *stream {
	s := new(stream)
	s.Reset(b)
	return s
}

// TestSOCKSAnswers refuses answers that are none.
func TestSOCKSAnswers(t *testing.T) {
	d := &Dialer{Proxy: Proxy{User: "u", Password: "p"}}
	for answer, kind := range map[string]error{"\x04\x00": ErrProtocol, "HT": ErrProtocol, "\x05\x01": ErrProtocol, "\x05\xff": ErrUnsupported,
		"\x05\x02\x07\x00": ErrProtocol, "\x05\x02\x01\x01": ErrCredentials, "\x05": io.ErrUnexpectedEOF, "": io.EOF, "\x05\x00": nil, "\x05\x02\x01\x00": nil, "\x05\x02\x05\x00": nil} {
		if err := d.greet(answering([]byte(answer))); !errors.Is(err, kind) {
			t.Errorf("%q: %v, want %v", answer, err, kind)
		}
	}
	for answer, kind := range map[string]error{"\x05\x02\x00\x01": ErrForbidden, "\x05\x01\x00\x01": ErrUnreachable, "\x05\x07\x00\x01": ErrUnsupported, "\x05\xc8\x00\x01": ErrUnreachable,
		"\x04\x5a\x00\x00": ErrProtocol, "\x05\x00\x00\x02": ErrProtocol, "\x05\x00\x00\x01abcd1": io.ErrUnexpectedEOF,
		"\x05\x00\x00\x01abcd12rest": nil, "\x05\x00\x00\x03\x03abc12": nil, "\x05\x00\x00\x0412345678123456781": io.ErrUnexpectedEOF, "\x05\x00\x00\x04123456781234567812": nil} {
		s := answering([]byte(answer))
		if err := socksRequest(s, target{host: "h", port: 1}); !errors.Is(err, kind) {
			t.Errorf("%q: %v, want %v", answer, err, kind)
		}
		if strings.HasSuffix(answer, "rest") && s.Len() != 4 {
			t.Errorf("%q: %d bytes were left", answer, s.Len())
		}
	}
}

// FuzzAnswers takes any answer of a proxy of either kind without a panic.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{ok, basic407, digest407(`nonce="n", qop="auth"`), "\x05\x02\x01\x00\x05\x00\x00\x01abcd12", "HTTP/1.0 200\r\n\r\nearly"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &Dialer{Proxy: Proxy{Scheme: HTTP, Host: "p", Port: 1, User: "u", Password: "p"}}
		s := answering(b)
		if d.greet(s) == nil {
			socksRequest(s, target{host: "h", port: 1})
		}
		a, c := net.Pipe()
		const request = "CONNECT h:1 HTTP/1.1\r\n\r\n"
		go func() {
			io.ReadFull(a, make([]byte, len(request)))
			a.Write(b)
			a.Close()
		}()
		w := newWire(c)
		defer c.Close()
		answer, err := w.ask(request)
		if err != nil {
			return
		}
		if answer.StatusCode == 407 {
			d.answer(shown{}, answer.Header, "h:1", &StatusError{Code: 407, Text: reason(answer)})
			w.drain(answer)
			return
		}
		tunnel, err := w.tunnel()
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, tunnel)
	})
}
