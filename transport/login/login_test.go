package login_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/trust"
	"culvert.example/vpn/transport/wire"
)

// TestASA is a login as with an ASA: everything on one page, state in the opaque, the token in document and cookie.
func TestASA(t *testing.T) {
	const opaque = `<opaque is-for="sg"><tunnel-group>TG1</tunnel-group><new-thing a='1'/> <auth-method>x</auth-method></opaque>`
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		http.SetCookie(w, &http.Cookie{Name: "webvpnLang", Value: "en"})
		switch r.doc.Kind {
		case wire.KindInit:
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>
<config-auth client="vpn" type="auth-request" aggregate-auth-version="2">%s<auth id="main"><title>Login</title><message>Hello %%s</message>
<form><input type="text" name="username" label="Username:"></input><input type="password" name="password" label="Password:"></input>
<input type="hidden" name="h" value="1"/><input type="submit" name="Login" value="Login"/><input type="mystery" name="m"/></form></auth></config-auth>`, opaque)
		case wire.KindAuthReply:
			w.Header().Add("Set-Cookie", "webvpn=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; secure")
			w.Header().Add("Set-Cookie", "webvpn=12@34@t0ken; path=/; secure")
			w.Header().Add("Set-Cookie", "webvpnc=; path=/")
			w.Header().Add("Set-Cookie", "webvpnc=bu:/CACHE/stc/&p:t&iu:1/&fu:profiles%2Fcorp.xml&fh:0123456789012345678901234567890123456789; path=/; secure")
			say(w, &wire.Document{Kind: wire.KindComplete, SessionID: "9", SessionToken: "12@34@t0ken", Auth: &wire.Auth{ID: "success",
				Message: wire.Text{Format: "Welcome %s", Param1: "alice"}, Banner: wire.Text{Format: "Be good."}},
				Config: &wire.ClientConfig{Custom: []wire.Value{{Name: "dynamic-split-exclude-domains", Value: "a.example,"}}}})
		}
	})
	cfg := g.config(alice)
	cfg.URL = g.url("/eng?x=1")
	ticket := do(t, cfg, nil)

	seen := g.requests()
	expect(t, "requests", len(seen), 2)
	hello := seen[0]
	expect(t, "path of init", hello.RequestURI, "/eng?x=1")
	expect(t, "group-access", hello.doc.GroupAccess, g.URL+"/eng")
	expect(t, "version", hello.doc.Version, "v9.12")
	for name, want := range map[string]string{"X-Aggregate-Auth": "1", "X-Transcend-Version": "1", "User-Agent": login.DefaultUserAgent,
		"Accept-Encoding": "identity"} {
		expect(t, name, hello.Header.Get(name), want)
	}
	expect(t, "length with padding", (len(hello.body)+len(hello.Header.Get("X-Pad")))%64, 0)
	reply := seen[1]
	expect(t, "path of the reply", reply.RequestURI, "/")
	expect(t, "opaque", string(reply.doc.Opaque), opaque)
	expect(t, "answers", reply.values(), "username=alice password=hush h=1")
	expect(t, "cookies", reply.Header.Get("Cookie"), "webvpnLang=en")
	expect(t, "connection", reply.conn, hello.conn)
	if !strings.Contains(reply.body, "<username>alice</username>") {
		t.Errorf("the reply is not as ocserv wants it: %s", reply.body)
	}

	expect(t, "cookie", ticket.Cookie.Reveal(), "12@34@t0ken")
	expect(t, "host", "https://"+ticket.Host, g.URL)
	expect(t, "address", ticket.Addr.String(), ticket.Host)
	expect(t, "path", ticket.URL.Path, "/eng")
	expect(t, "certificate", ticket.CertSHA256, sha256.Sum256(g.Certificate().Raw))
	expect(t, "banner", ticket.Banner, "Be good.")
	expect(t, "message", ticket.Message, "Welcome alice")
	expect(t, "session", ticket.SessionID, "9")
	expect(t, "profile", ticket.ProfileURI.String(), g.URL+"/CACHE/stc/profiles/corp.xml")
	expect(t, "domains", strings.Join(ticket.DynamicExclude, " "), "a.example")
}

// TestTwoPages is a login as with ocserv: name and password on pages of the same ID, a cookie and no token.
func TestTwoPages(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		switch r.values() {
		case "":
			ask(w, text("username"))
		case "username=alice":
			w.Header().Add("Set-Cookie", "webvpncontext=ctx/+=; Max-Age=120; Secure; HttpOnly")
			ask(w, password("password"))
		case "password=hush":
			w.Header().Add("Set-Cookie", "webvpn=b64/t0ken+=; Secure; HttpOnly")
			say(w, &wire.Document{Kind: wire.KindComplete, Auth: &wire.Auth{ID: "success"}})
		}
	})
	ticket := do(t, g.config(alice), nil)
	seen := g.requests()
	expect(t, "cookie", ticket.Cookie.Reveal(), "b64/t0ken+=")
	expect(t, "cookie of the login", seen[2].Header.Get("Cookie"), "webvpncontext=ctx/+=")
	expect(t, "connections", seen[2].conn, 1)
	expect(t, "path", seen[2].URL.Path, "/auth")
}

// TestAnyLink is a login as with AnyLink: strict about headers, token only in the document, forms that say little.
func TestAnyLink(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.Header.Get("X-Aggregate-Auth") != "1" || r.Header.Get("X-Transcend-Version") != "1" ||
			!strings.Contains(strings.ToLower(r.UserAgent()), "openconnect") {
			http.Error(w, "error request", http.StatusForbidden)
			return
		}
		switch {
		case r.doc.Kind == wire.KindInit:
			fmt.Fprint(w, `<config-auth client="vpn" type="auth-request" aggregate-auth-version="2"><opaque is-for="sg"><tunnel-group>ops</tunnel-group></opaque>
<auth id="main"><title>Login</title><message>Name</message><form><input type="text" name="username" label="Username:"/><input type="password" name="password" label="Password:"/>
<select name="group_list" label="GROUP:"><option selected="true">ops</option><option>eng</option></select></form></auth></config-auth>`)
		case r.URL.Path == "/otp-verification":
			if c, err := r.Cookie("auth-session-id"); err != nil || c.Value != "s1" || r.values() != "secondary_password=123456" {
				http.Error(w, "wrong", http.StatusForbidden)
				return
			}
			welcome(w)
		default:
			w.Header().Add("Set-Cookie", "auth-session-id=s1")
			fmt.Fprint(w, `<config-auth client="vpn" type="auth-request"><auth id="otp-verification"><title>OTP</title><message>Code</message>
<form method="post" action="/otp-verification"><input type="password" name="secondary_password" label="OTPCode:"/></form></auth></config-auth>`)
		}
	})
	p := alice
	p.Entries = map[string]transport.Secret{"otp-verification:secondary_password": "123456"}
	ticket := do(t, g.config(p), nil)
	seen := g.requests()
	expect(t, "cookie", ticket.Cookie.Reveal(), "1@t0ken")
	expect(t, "group", ticket.Group, "ops")
	expect(t, "requests", len(seen), 3)
	expect(t, "path", seen[1].URL.Path, "/")
	expect(t, "group-select", seen[1].doc.GroupSelect, "ops")
	expect(t, "answers", seen[1].values(), "username=alice password=hush")
	expect(t, "group-select of a form without groups", seen[2].doc.GroupSelect, "")
	g.requests()

	cfg := g.config(alice)
	cfg.UserAgent = "Mozilla/5.0"
	do(t, cfg, transport.ErrRefused, "403", "Mozilla/5.0", "before asking anything")
}

// TestRejected makes sure that no gateway gets a wrong password twice.
func TestRejected(t *testing.T) {
	for name, tt := range map[string]struct {
		reject func(w http.ResponseWriter, r *request)
		want   error
		parts  []string
	}{
		"ASA": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Auth: &wire.Auth{ID: "main", Error: wire.Text{ID: "13", Format: "Login failed for %s.", Param1: "alice"},
				Form: &wire.Form{Fields: []wire.Field{text("username"), password("password")}}}})
		}, transport.ErrLogin, []string{"Login failed for alice.", "not sent twice"}},
		"ocserv 1.1": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Auth: &wire.Auth{ID: "main", Message: wire.Text{Format: "Login failed.\nPlease enter your password."},
				Form: &wire.Form{Fields: []wire.Field{text("username"), password("password")}}}})
		}, transport.ErrLogin, []string{"Login failed."}},
		"401 and close": {func(w http.ResponseWriter, _ *request) {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusUnauthorized)
		}, transport.ErrLogin, []string{"401", "Unauthorized", "does not accept"}},
		"403":    {func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusForbidden) }, transport.ErrLogin, []string{"forbids"}},
		"locked": {func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusTooManyRequests) }, transport.ErrRefused, []string{"429"}},
		"down":   {func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusServiceUnavailable) }, transport.ErrRefused, []string{"503"}},
		"broken": {func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusInternalServerError) }, transport.ErrProtocol, []string{"500"}},
		"error alone": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Auth: &wire.Auth{Error: wire.Text{Format: "Account expired"}}})
		}, transport.ErrLogin, []string{"Account expired"}},
		"no token": {func(w http.ResponseWriter, _ *request) { say(w, &wire.Document{Auth: &wire.Auth{ID: "success"}}) }, transport.ErrProtocol, []string{"neither session-token nor cookie"}},
		"evil token": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Kind: wire.KindComplete, SessionToken: "a\r\nX: b", Auth: &wire.Auth{ID: "success"}})
		}, transport.ErrProtocol, []string{"characters"}},
		"asks nothing": {func(w http.ResponseWriter, _ *request) { say(w, &wire.Document{Auth: &wire.Auth{}}) }, transport.ErrProtocol, []string{"asks nothing"}},
		"only a message": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Auth: &wire.Auth{ID: "x", Message: wire.Text{Format: "Hm"}}})
		}, transport.ErrProtocol, []string{"Hm"}},
		"HTML": {func(w http.ResponseWriter, _ *request) { fmt.Fprint(w, "<!DOCTYPE html><html></html>") }, transport.ErrProtocol, []string{"no login form"}},
		"elsewhere": {func(w http.ResponseWriter, _ *request) {
			say(w, &wire.Document{Auth: &wire.Auth{ID: "main", Form: &wire.Form{Action: "https://evil.example/", Fields: []wire.Field{password("pin")}}}})
		}, transport.ErrProtocol, []string{"evil.example:443", "credentials do not go elsewhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, r *request) {
				if r.doc.Kind == wire.KindInit {
					ask(w, text("username"), password("password"))
					return
				}
				tt.reject(w, r)
			})
			p := alice
			p.Entries = map[string]transport.Secret{"pin": "1"}
			do(t, g.config(p), tt.want, tt.parts...)
			if n := len(g.requests()); n != 2 {
				t.Errorf("%d requests, want 2", n)
			}
		})
	}
}

// TestPersonTriesAgain follows a person who mistypes.
func TestPersonTriesAgain(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		d := &wire.Document{Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{text("username"), password("password")}}}}
		switch r.values() {
		case "":
		case "username=alice password=right":
			welcome(w)
			return
		default:
			d.Auth.Error.Format = "Login failed."
		}
		say(w, d)
	})
	var attempts []string
	p := login.Chain(login.Fixed{Username: "alice", Password: "hush"}, login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		attempts = append(attempts, fmt.Sprint(f.Attempt, f.Error))
		f.Field("username").Set("alice")
		f.Field("password").Set([]string{"wrong", "right"}[len(attempts)-1])
		return nil
	}))
	do(t, g.config(p), nil)
	expect(t, "attempts", strings.Join(attempts, "; "), "2Login failed.; 3Login failed.")
	if login.Unattended(p) || !login.Unattended(alice) || login.Unattended(nil) || !login.Unattended(login.Chain(alice)) {
		t.Error("Unattended is wrong")
	}
}

func groups(selected string, options ...string) wire.Field {
	f := wire.Field{Type: wire.InputSelect, Name: wire.FieldGroup, Label: "GROUP:"}
	for _, o := range options {
		value, label, _ := strings.Cut(o, "=")
		f.Options = append(f.Options, wire.Option{Value: value, Text: label, Selected: value == selected})
	}
	return f
}

func TestGroups(t *testing.T) {
	// The form of each group is another one.
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindAuthReply {
			w.Header().Add("Set-Cookie", "webvpn=t0ken")
			say(w, &wire.Document{Kind: wire.KindComplete, Auth: &wire.Auth{ID: "success"}})
			return
		}
		group := r.doc.GroupSelect
		if r.URL.Path == "/ops" {
			group = "g2"
		}
		field := password("password")
		if group == "g2" {
			field = password("pin")
		}
		ask(w, text("username"), field, groups(group, "g1=Engineering", "g2=Operations", "g3=Guests"))
	})
	p := alice
	p.Entries = map[string]transport.Secret{"pin": "1234"}
	for _, tt := range []struct {
		path, group string
		requests    int
		answers     string
		chosen      string
	}{
		{"", "", 2, "username=alice password=hush", "g1"},
		{"", "g1", 2, "username=alice password=hush", "g1"},
		{"", "g2", 3, "username=alice pin=1234", "g2"},
		{"", "operations", 3, "username=alice pin=1234", "g2"},
		{"/ops", "", 2, "username=alice pin=1234", "g2"},
		{"/ops", "Operations", 2, "username=alice pin=1234", "g2"},
	} {
		before := len(g.requests())
		p.Group = tt.group
		cfg := g.config(p)
		cfg.URL = g.url(tt.path)
		ticket := do(t, cfg, nil)
		seen := g.requests()[before:]
		last := seen[len(seen)-1]
		name := tt.path + " " + tt.group
		expect(t, name+": requests", len(seen), tt.requests)
		expect(t, name+": answers", last.values(), tt.answers)
		expect(t, name+": group-select", last.doc.GroupSelect, tt.chosen)
		expect(t, name+": group", ticket.Group, tt.chosen)
		expect(t, name+": group-select of the first", seen[0].doc.GroupSelect, "")
	}
	p.Group = "Nobody"
	do(t, g.config(p), transport.ErrLogin, "Nobody", "Engineering", "Guests")

	bad := login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		f.Fields[0].Set("g9")
		return nil
	})
	do(t, g.config(bad), transport.ErrPrompt, "Guests")
	grow := login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		f.Fields = nil
		return nil
	})
	if _, err := login.Login(t.Context(), g.config(grow)); err == nil {
		t.Error("a Prompter may take the fields away")
	}
}

// TestGroupsInCircles meets a gateway that never gives the form of the group that was asked for.
func TestGroupsInCircles(t *testing.T) {
	n := 0
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindAuthReply {
			expect(t, "group-select", r.doc.GroupSelect, "two")
			welcome(w)
			return
		}
		n++
		ask(w, password("password"), groups("one", "one", "two"))
	})
	p := alice
	p.Group = "two"
	do(t, g.config(p), nil)
	expect(t, "times that the form was asked for", n, 2)

	n = 0
	g = newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindAuthReply {
			welcome(w)
			return
		}
		n++
		ask(w, password("password"), groups("one", "one", fmt.Sprintf("x%d=two", n)))
	})
	do(t, g.config(p), nil)
	expect(t, "times that the form was asked for", n, 6)
}

// TestSecondCredentials follows what the groups of an ASA say about the second password.
func TestSecondCredentials(t *testing.T) {
	options := []wire.Option{
		{Value: "one", Text: "one"},
		{Value: "two", Text: "two", SecondAuth: true},
		{Value: "named", Text: "named", SecondAuth: true, OverrideName: "token_user", OverrideLabel: "Token user", SecondaryUsername: "bob"},
		{Value: "edit", Text: "edit", SecondAuth: true, SecondaryUsername: "bob", SecondaryUsernameEditable: true},
		{Value: "cert", Text: "cert", NoAAA: true},
	}
	second := func(f wire.Field) wire.Field {
		f.SecondAuth = true
		return f
	}
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindAuthReply {
			welcome(w)
			return
		}
		list := wire.Field{Type: wire.InputSelect, Name: wire.FieldGroup, Options: append([]wire.Option(nil), options...)}
		for i := range list.Options {
			list.Options[i].Selected = list.Options[i].Value == r.doc.GroupSelect
		}
		ask(w, list, text("username"), password("password"), second(text("secondary_username")), second(password("secondary_password")))
	})
	for group, want := range map[string]string{
		"one":   "username=alice password=hush",
		"two":   "username=alice password=hush secondary_username=carol secondary_password=2",
		"named": "username=alice password=hush token_user=bob secondary_password=2",
		"edit":  "username=alice password=hush secondary_username=carol secondary_password=2",
		"cert":  "",
	} {
		p := login.Fixed{Group: group, Username: "alice", Password: "hush", SecondUsername: "carol", SecondPassword: "2"}
		do(t, g.config(p), nil)
		seen := g.requests()
		expect(t, group, seen[len(seen)-1].values(), want)
	}
	// A preset that nobody changes stays.
	p := login.Fixed{Group: "edit", Username: "alice", Password: "hush", SecondPassword: "2"}
	do(t, g.config(p), nil)
	seen := g.requests()
	expect(t, "preset", seen[len(seen)-1].values(), "username=alice password=hush secondary_username=bob secondary_password=2")
}

// TestChallenge goes through a challenge and a change of password, whose fields have other names on the wire.
func TestChallenge(t *testing.T) {
	step := func(w http.ResponseWriter, id string, fields ...wire.Field) {
		say(w, &wire.Document{Auth: &wire.Auth{ID: id, Message: wire.Text{Format: id + " please"}, Form: &wire.Form{Fields: fields}}})
	}
	n := 0
	g := newGate(t, func(w http.ResponseWriter, _ *request) {
		switch n++; n {
		case 1:
			step(w, "main", text("username"), password("password"))
		case 2:
			step(w, "challenge", password("answer"))
		case 3:
			step(w, "change", wire.Field{Type: wire.InputHidden, Name: "old", Value: "1"}, password("new_password"), password("verify_password"))
		case 4:
			step(w, "notice")
		case 5:
			say(w, &wire.Document{Auth: &wire.Auth{ID: "main", AuthenticationComplete: true}})
		default:
			welcome(w)
		}
	})
	p := alice
	p.Entries = map[string]transport.Secret{"challenge:answer": "123456", "new_password": "b&tter"}
	var told []string
	do(t, g.config(login.PrompterFunc(func(ctx context.Context, f *login.Form) error {
		told = append(told, f.Message)
		return p.Answer(ctx, f)
	})), nil)
	expect(t, "messages", strings.Join(told, "; "), "main please; challenge please; change please; notice please")
	var answers []string
	for _, r := range g.requests()[1:] {
		answers = append(answers, r.values())
	}
	expect(t, "answers", strings.Join(answers, "; "), "username=alice password=hush; password=123456; old=1 password=b&tter; ; ")

	// A repetition that differs is asked for again, and does not reach the gateway.
	n = 2
	tries := 0
	before := len(g.requests())
	do(t, g.config(login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		if f.Field("new_password") == nil {
			return nil
		}
		tries++
		f.Field("new_password").Set("one")
		f.Field("verify_password").Set(map[bool]string{true: "one", false: "other"}[tries == 2 && f.Error != ""])
		return nil
	})), nil)
	expect(t, "tries", tries, 2)
	expect(t, "answer", g.requests()[before+1].values(), "old=1 password=one")
	n = 2
	before = len(g.requests())
	do(t, g.config(login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		f.Field("new_password").Set("one")
		f.Field("verify_password").Set("other")
		return nil
	})), transport.ErrPrompt, "differs")
	expect(t, "requests", len(g.requests())-before, 1)
}

func TestPrompterCannot(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *request) { ask(w, text("username"), password("password")) })
	do(t, g.config(nil), transport.ErrPrompt, "username")
	do(t, g.config(login.Fixed{Username: "alice"}), transport.ErrPrompt, "password")
	do(t, g.config(login.Fixed{Username: "al\x00ice", Password: "x"}), transport.ErrPrompt, "control characters")
	own := errors.New("vault is sealed")
	do(t, g.config(login.PrompterFunc(func(context.Context, *login.Form) error { return own })), own)
	do(t, g.config(login.Chain()), transport.ErrPrompt)
	if err := fmt.Errorf("%w", login.ErrCannot); !errors.Is(err, transport.ErrPrompt) {
		t.Error("ErrCannot does not match ErrPrompt")
	}
}

// TestRejectedText: one sentence, which says of the Prompter only what is more than that it has no other answers.
func TestRejectedText(t *testing.T) {
	for _, tt := range []struct {
		said string
		err  error
		want string
	}{
		{"Login failed.", login.ErrCannot, `gw rejected the answers and says "Login failed."`},
		{"Login failed.", nil, `gw rejected the answers and says "Login failed."`},
		{"", login.ErrCannot, "gw rejected the answers"},
		{"No.", fmt.Errorf("%w: there is no terminal", login.ErrCannot), `gw rejected the answers and says "No."; there is no terminal`},
		{"No.", fmt.Errorf("the code: %w", login.ErrCannot), `gw rejected the answers and says "No."; the code`},
		{"No.", context.Canceled, `gw rejected the answers and says "No."; context canceled`},
		{"No\n", login.ErrCannot, `gw rejected the answers and says "No\n"`},
	} {
		err := &login.RejectedError{Gateway: "gw", Said: tt.said, Err: tt.err}
		if want := "login refused: " + tt.want; err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if !errors.Is(err, transport.ErrLogin) || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%v does not match what it comes of", err)
		}
	}
}

func TestRedirections(t *testing.T) {
	target := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindInit {
			ask(w, text("username"), password("password"))
			return
		}
		welcome(w)
	})
	front := newGate(t, func(w http.ResponseWriter, r *request) {
		w.Header().Add("Set-Cookie", "secret=hush")
		switch {
		case r.URL.Path == "/late" && r.doc.Kind == wire.KindInit:
			say(w, &wire.Document{Opaque: `<opaque is-for="sg">hush</opaque>`, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Action: "/late", Fields: []wire.Field{password("password")}}}})
		case r.URL.Path == "/plain":
			http.Redirect(w, r.Request, "http://"+r.Host+"/", http.StatusFound)
		case r.URL.Path == "/nowhere":
			w.Header().Set("Location", "https://[::1")
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/same":
			if r.doc.Kind == wire.KindInit {
				ask(w, password("password"))
				return
			}
			welcome(w)
		default:
			http.Redirect(w, r.Request, target.URL+"/to", http.StatusTemporaryRedirect)
		}
	})
	roots := front.roots()
	roots.AddCert(target.Certificate())
	with := func(path string) *login.Config {
		cfg := front.config(alice)
		cfg.TLS.RootCAs = roots
		cfg.URL = front.url(path)
		return cfg
	}
	for _, path := range []string{"/", "/late"} {
		before := len(target.requests())
		ticket := do(t, with(path), nil)
		expect(t, path+": host", "https://"+ticket.Host, target.URL)
		expect(t, path+": address", ticket.Addr.String(), target.Listener.Addr().String())
		seen := target.requests()[before:]
		expect(t, path+": kind", seen[0].doc.Kind, wire.KindInit)
		expect(t, path+": path", seen[0].URL.Path, "/to")
		for _, r := range seen {
			expect(t, path+": cookies", r.Header.Get("Cookie"), "")
			expect(t, path+": opaque", r.doc.Opaque, "")
		}
	}
	do(t, with("/plain"), transport.ErrProtocol, "http://", "https only")
	do(t, with("/nowhere"), transport.ErrProtocol, "address")

	// Between forms, a redirection on the same host takes the answers along.
	n := 0
	same := newGate(t, func(w http.ResponseWriter, r *request) {
		switch n++; {
		case r.doc.Kind == wire.KindInit:
			ask(w, password("password"))
		case r.URL.Path == "/auth":
			http.Redirect(w, r.Request, "elsewhere", http.StatusFound)
		default:
			expect(t, "path", r.URL.Path, "/elsewhere")
			expect(t, "answers", r.values(), "password=hush")
			welcome(w)
		}
	})
	do(t, same.config(alice), nil)

	// Another host that must not be followed to gets nothing.
	other := newGate(t, func(http.ResponseWriter, *request) { t.Error("it was followed") })
	errNot := errors.New("that is not my gateway")
	first := newGate(t, func(w http.ResponseWriter, r *request) { http.Redirect(w, r.Request, other.URL+"/", http.StatusFound) })
	cfg := first.config(alice)
	cfg.Redirected = func(to string) error {
		expect(t, "to", to, other.url("").Host)
		return errNot
	}
	do(t, cfg, errNot, other.url("").Host)

	for name, where := range map[string]func(i int) string{
		"same host": func(i int) string { return fmt.Sprintf("/%d", i) },
		"two hosts": func(i int) string { return fmt.Sprintf("https://%s/", []string{"localhost", "127.0.0.1"}[i%2]) },
	} {
		t.Run("for ever/"+name, func(t *testing.T) {
			n := 0
			var g *gate
			g = newGate(t, func(w http.ResponseWriter, r *request) {
				n++
				to := strings.Replace(where(n), "localhost", "localhost:"+g.url("").Port(), 1)
				to = strings.Replace(to, "127.0.0.1", "127.0.0.1:"+g.url("").Port(), 1)
				http.Redirect(w, r.Request, to, http.StatusFound)
			})
			cfg := g.config(alice)
			pins, err := trust.Config(nil, trust.Pins{trust.PinOf(g.Certificate())})
			if err != nil {
				t.Fatal(err)
			}
			cfg.TLS = pins
			do(t, cfg, transport.ErrProtocol, "redirects more than 10 times")
			if n > 13 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestLegacy is a login at a gateway that knows forms but no config-auth around them.
func TestLegacy(t *testing.T) {
	for name, refuse := range map[string]func(w http.ResponseWriter, r *request){
		"404":  func(w http.ResponseWriter, r *request) { http.NotFound(w, r.Request) },
		"405":  func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusMethodNotAllowed) },
		"HTML": func(w http.ResponseWriter, _ *request) { fmt.Fprint(w, "<html><body>portal</body></html>") },
		"redirection": func(w http.ResponseWriter, r *request) {
			http.Redirect(w, r.Request, "/+CSCOE+/logon.html", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, r *request) {
				switch {
				case r.Header.Get("X-Aggregate-Auth") != "":
					refuse(w, r)
				case r.Method == http.MethodGet && r.URL.Path == "/eng":
					http.Redirect(w, r.Request, "/+webvpn+/index.html", http.StatusFound)
				case r.Method == http.MethodGet && r.URL.Path == "/done":
					fmt.Fprint(w, `<html>portal</html>`)
				case r.Method == http.MethodGet:
					fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><auth id="main"><title>SSL VPN</title><form method="post" action="index.html">
<select name="group_list"><option value="g1">Eng</option><option value="g2">Ops</option></select>
<input type="text" name="username" label="User:"/><input type="password" name="password"/><input type="submit" name="Login" value="Login"/></form></auth>`)
				default:
					expect(t, "path", r.URL.Path, "/+webvpn+/index.html")
					expect(t, "content type", r.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
					expect(t, "body", r.body, "username=alice&password=hush%20%26%20%3d&group_list=g2")
					w.Header().Add("Set-Cookie", "webvpn=t0ken; path=/")
					if name == "HTML" {
						http.Redirect(w, r.Request, "/done", http.StatusFound)
						return
					}
					fmt.Fprint(w, `<auth id="success"><banner>Hi</banner></auth>`)
				}
			})
			cfg := g.config(login.Fixed{Username: "alice", Password: "hush & =", Group: "Ops"})
			cfg.URL = g.url("/eng")
			ticket := do(t, cfg, nil)
			expect(t, "cookie", ticket.Cookie.Reveal(), "t0ken")
			if name != "HTML" {
				expect(t, "banner", ticket.Banner, "Hi")
			}
		})
	}
	portal := newGate(t, func(w http.ResponseWriter, _ *request) { fmt.Fprint(w, "<!DOCTYPE html><html>Welcome</html>") })
	do(t, portal.config(alice), transport.ErrProtocol, "is it an AnyConnect gateway")
	gone := newGate(t, func(w http.ResponseWriter, r *request) { http.NotFound(w, r.Request) })
	do(t, gone.config(alice), transport.ErrProtocol, "404")
}

func TestUnsupported(t *testing.T) {
	for name, tt := range map[string]struct {
		doc  *wire.Document
		part string
	}{
		"single sign-on":   {&wire.Document{Auth: &wire.Auth{ID: "main", SSO: &wire.SSO{Login: "https://x/"}}}, "browser"},
		"sso field":        {&wire.Document{Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{{Type: "sso", Name: "sso-token"}}}}}, "browser"},
		"host scan":        {&wire.Document{HostScan: &wire.HostScan{Ticket: "T", Token: "K"}, Auth: &wire.Auth{ID: "main"}}, "HostScan"},
		"two certificates": {&wire.Document{MultipleCertRequest: &wire.MultipleCertRequest{Random: "AB"}}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, r *request) {
				if len(r.doc.AuthMethods) > 0 {
					t.Errorf("the client claims %q", r.doc.AuthMethods)
				}
				say(w, tt.doc)
			})
			do(t, g.config(alice), transport.ErrUnsupported, tt.part)
			expect(t, "requests", len(g.requests()), 1)
		})
	}
	g := newGate(t, func(w http.ResponseWriter, _ *request) {
		w.Header().Set("WWW-Authenticate", "Negotiate")
		w.WriteHeader(http.StatusUnauthorized)
	})
	do(t, g.config(alice), transport.ErrUnsupported, "Negotiate")
	g = newGate(t, func(w http.ResponseWriter, _ *request) { w.WriteHeader(http.StatusUnauthorized) })
	do(t, g.config(alice), transport.ErrLogin, "client certificate")
}

func TestClientCertificate(t *testing.T) {
	_, client := authority(t, t.TempDir())
	wants := func(s *httptest.Server) { s.TLS.ClientAuth = tls.RequestClientCert }
	shown := func(r *request) bool { return len(r.TLS.PeerCertificates) > 0 }

	// A gateway that asks for the certificate only in a connection after the first.
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		switch {
		case r.doc.ClientCertFail:
			ask(w, password("password"))
		case r.doc.Kind == wire.KindAuthReply:
			welcome(w)
		case r.conn == 1 || !shown(r):
			say(w, &wire.Document{ClientCertRequest: true})
		case r.URL.Path == "/both":
			say(w, &wire.Document{CertAuthenticated: true, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{password("password")}}}})
		default:
			welcome(w)
		}
	}, func(s *httptest.Server) {
		conns := 0
		s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cfg := s.TLS.Clone()
			cfg.GetConfigForClient = nil
			if conns++; conns > 1 {
				cfg.ClientAuth = tls.RequestClientCert
			}
			return cfg, nil
		}
	})
	cfg := g.config(nil)
	cfg.TLS.Certificates = []tls.Certificate{*client}
	cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	do(t, cfg, nil)
	seen := g.requests()
	expect(t, "requests", len(seen), 2)
	expect(t, "resumed", seen[1].TLS.DidResume, false)
	expect(t, "certificate", seen[1].TLS.PeerCertificates[0].Subject.CommonName, "alice")

	// Certificate and password.
	cfg = g.config(alice)
	cfg.TLS.Certificates = []tls.Certificate{*client}
	cfg.URL = g.url("/both")
	do(t, cfg, nil)

	// No certificate: say so, and the gateway asks for a password instead.
	before := len(g.requests())
	do(t, g.config(alice), nil)
	seen = g.requests()[before:]
	expect(t, "requests", len(seen), 3)
	expect(t, "client-cert-fail", seen[1].doc.ClientCertFail, true)

	// A gateway that insists.
	never := newGate(t, func(w http.ResponseWriter, _ *request) { say(w, &wire.Document{ClientCertRequest: true}) }, wants)
	do(t, never.config(alice), transport.ErrLogin, "none is configured")
	expect(t, "requests", len(never.requests()), 2)
	cfg = never.config(alice)
	cfg.TLS.Certificates = []tls.Certificate{*client}
	do(t, cfg, transport.ErrLogin, "does not accept the client certificate")

	// One whose TLS insists, with both versions of it.
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		strict := newGate(t, func(w http.ResponseWriter, _ *request) { welcome(w) }, func(s *httptest.Server) {
			s.TLS.ClientAuth = tls.RequireAnyClientCert
			s.TLS.MaxVersion = version
		})
		do(t, strict.config(alice), transport.ErrLogin, "client certificate")
		cfg = strict.config(alice)
		cfg.TLS.Certificates = []tls.Certificate{*client}
		do(t, cfg, nil)
	}
}

func TestUntrusted(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *request) { welcome(w) })
	cfg := g.config(alice)
	cfg.TLS = nil
	do(t, cfg, transport.ErrUntrusted, "127.0.0.1", "Acme Co", trust.PinOf(g.Certificate()))
	cfg.TLS = &tls.Config{RootCAs: g.roots(), ServerName: "other.test"}
	do(t, cfg, transport.ErrUntrusted, "example.com")
	expect(t, "requests", len(g.requests()), 0)
	pinned, err := trust.Config(nil, trust.Pins{trust.PinOf(g.Certificate())})
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLS = pinned
	do(t, cfg, nil)
	if pinned, err = trust.Config(nil, trust.Pins{"sha1:00000000"}); err != nil {
		t.Fatal(err)
	}
	cfg.TLS = pinned
	do(t, cfg, transport.ErrUntrusted, "not the pinned one", trust.PinOf(g.Certificate()))
}

// TestClosedConnection meets a gateway that closes each connection after a reply without saying so.
func TestClosedConnection(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		d := &wire.Document{Kind: wire.KindComplete, SessionToken: "t0ken", Auth: &wire.Auth{ID: "success"}}
		if r.values() == "" {
			d = &wire.Document{Kind: wire.KindAuthRequest, Auth: &wire.Auth{ID: "main", Form: &wire.Form{Fields: []wire.Field{password("password")}}}}
		}
		body := d.Append(nil)
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		_ = buf.Flush() // the client notices
	})
	do(t, g.config(alice), nil)
	seen := g.requests()
	expect(t, "requests", len(seen), 2)
	expect(t, "connection", seen[1].conn, 2)
}

func TestConfigErrors(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *request) { welcome(w) })
	for name, change := range map[string]func(*login.Config){
		"no URL":     func(c *login.Config) { c.URL = nil },
		"http":       func(c *login.Config) { c.URL.Scheme = "http" },
		"no host":    func(c *login.Config) { c.URL.Host = "" },
		"user agent": func(c *login.Config) { c.UserAgent = "a\r\nX: y" },
	} {
		cfg := g.config(alice)
		change(cfg)
		if _, err := login.Login(t.Context(), cfg); err == nil {
			t.Errorf("%s: Login accepts it", name)
		}
	}
	expect(t, "requests", len(g.requests()), 0)
}

func TestLogout(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *request) {
		if r.doc.Kind == wire.KindLogout {
			w.WriteHeader(http.StatusOK)
			return
		}
		welcome(w)
	})
	cfg := g.config(alice)
	ticket := do(t, cfg, nil)
	if err := login.Logout(t.Context(), cfg, ticket); err != nil {
		t.Fatal(err)
	}
	seen := g.requests()
	last := seen[len(seen)-1]
	expect(t, "kind", last.doc.Kind, wire.KindLogout)
	expect(t, "token", last.doc.SessionToken, "1@t0ken")
	expect(t, "cookie", last.Header.Get("Cookie"), "webvpn=1@t0ken")
	// The login may have been redirected from a host whose name for TLS was configured, and may have gone through a proxy.
	moved := *cfg
	moved.URL, moved.TLS = &url.URL{Scheme: "https", Host: "front.example"}, cfg.TLS.Clone()
	moved.TLS.ServerName = "front.example"
	moved.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		expect(t, "address", address, ticket.Host)
		return new(net.Dialer).DialContext(ctx, network, g.Listener.Addr().String())
	}
	proxied := *ticket
	proxied.Addr = netip.MustParseAddrPort("192.0.2.1:3128")
	if err := login.Logout(t.Context(), &moved, &proxied); err != nil {
		t.Error(err)
	}
	g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := login.Logout(ctx, cfg, ticket); !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("Logout of a gateway that is gone: %v", err)
	}
}

// TestRejectedName: when the gateway has rejected the answers, the person who is asked next finds the name, and nothing is sent
// without being asked.
func TestRejectedName(t *testing.T) {
	f := &login.Form{Gateway: "gw", Attempt: 2, Fields: []login.Field{{Name: "username"}, {Name: "password", Kind: login.Password}}}
	var name, password string
	person := login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		for i := range f.Fields {
			if f.Fields[i].Answered {
				t.Errorf("%s is answered already", f.Fields[i].Name)
			}
		}
		name, password = f.Fields[0].Value.Reveal(), f.Fields[1].Value.Reveal()
		return nil
	})
	if err := login.Chain(login.Fixed{Username: "alice", Password: "pass"}, person).Answer(t.Context(), f); err != nil || name != "alice" || password != "" {
		t.Errorf("preset are %q and %q, %v", name, password, err)
	}
}
