package login

import (
	"bufio"
	"bytes"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// FuzzReply takes arbitrary bytes for the reply of a gateway, from HTTP to the answers.
func FuzzReply(f *testing.F) {
	form := &wire.Document{Kind: wire.KindAuthRequest, Opaque: wire.OpaqueOf(wire.Value{Name: "a", Value: "b"}), Auth: &wire.Auth{ID: "main",
		Form: &wire.Form{Action: "x", Fields: []wire.Field{
			{Type: wire.InputText, Name: "username"}, {Type: wire.InputPassword, Name: "new_password"}, {Type: wire.InputPassword, Name: "verify_password"},
			{Type: wire.InputSelect, Name: wire.FieldGroup, Options: []wire.Option{{Value: "a", NoAAA: true}, {Value: "b", SecondAuth: true}}},
		}}}}
	f.Add([]byte("HTTP/1.1 200 OK\r\nSet-Cookie: webvpn=1; Path=/\r\nSet-Cookie: webvpnc=bu:/&fu:x\r\n\r\n" + string(form.Append(nil))))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n<config-auth type='complete'><session-token>1@a</session-token><auth id='success'/></config-auth>"))
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: https://[::1]:99999/\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 401 No\r\nWWW-Authenticate: Basic\r\nRetry-After: 1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		here := &url.URL{Scheme: "https", Host: "vpn.example.com", Path: "/a/b"}
		a := &agent{url: here, log: slog.New(slog.DiscardHandler), budget: &budget{r: bytes.NewReader(text), left: maxReply}}
		a.br = bufio.NewReader(a.budget)
		c := &conversation{agent: a, at: here}
		r, _, err := a.readReply(http.MethodPost)
		if err != nil {
			return
		}
		a.takeCookies(r.header)
		if request := string(a.request(http.MethodPost, here, "text/xml", nil, nil)); strings.Count(request, "\n") != strings.Count(request, "\r\n") ||
			strings.Count(request, "\r") != strings.Count(request, "\n") || strings.Count(request, "\r\n\r\n") != 1 {
			t.Fatalf("a cookie broke the request: %q", request)
		}
		to, err := c.redirection(here, r)
		if err == nil && to != nil && (to.Scheme != "https" || to.Hostname() == "" || to.User != nil) {
			t.Fatalf("redirected to %q", to)
		}
		doc, err := c.document(r, true)
		if err != nil {
			return
		}
		if c.take(doc) {
			ticket, err := c.ticket(doc)
			if err == nil && (ticket.Cookie == "" || strings.ContainsAny(ticket.Cookie.Reveal(), "\r\n;, ")) {
				t.Fatalf("the ticket holds %q", ticket.Cookie.Reveal())
			}
			return
		}
		if doc.Auth == nil || doc.Auth.Form == nil {
			return
		}
		for _, option := range append([]wire.Option{{}}, wire.Option{NoAAA: true}, wire.Option{SecondAuth: true, OverrideName: "x", SecondaryUsername: "y"}) {
			form := c.form(doc.Auth)
			for _, in := range c.inputs(doc.Auth.Form, &option) {
				form.Fields = append(form.Fields, in.field())
			}
			form.missing()
			form.differs()
			for i := range form.Fields {
				form.Fields[i].Value = transport.Secret("x")
			}
			if err := form.check(); err != nil && len(form.Fields) == 0 {
				t.Fatalf("an empty form: %v", err)
			}
		}
	})
}
