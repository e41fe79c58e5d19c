package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/wire"
)

func TestLogin(t *testing.T) {
	groups := []Group{{Name: "staff", Label: "The Staff"}, {Name: "guests"}}
	for _, tt := range []struct {
		name   string
		quirks string
		groups []Group
		path   string
		as     login.Fixed
		group  string
		err    error
	}{
		{name: "password", path: "/", as: login.Fixed{Username: "alice", Password: "alicepass"}},
		{name: "wrong password", path: "/", as: login.Fixed{Username: "alice", Password: "x"}, err: transport.ErrLogin},
		{name: "no password", path: "/", as: login.Fixed{Username: "alice"}, err: transport.ErrPrompt},
		{name: "default group", groups: groups, path: "/", as: login.Fixed{Username: "alice", Password: "alicepass"}, group: "staff"},
		{name: "group by name", groups: groups, path: "/", as: login.Fixed{Username: "alice", Password: "alicepass", Group: "guests"}, group: "guests"},
		{name: "group by label", groups: groups, path: "/", as: login.Fixed{Username: "alice", Password: "alicepass", Group: "The Staff"}, group: "staff"},
		{name: "group by URL", groups: groups, path: "/guests", as: login.Fixed{Username: "alice", Password: "alicepass"}, group: "guests"},
		{name: "member of the group", groups: groups, path: "/staff", as: login.Fixed{Username: "grace", Password: "gracepass"}, group: "staff"},
		{name: "not a member", groups: groups, path: "/guests", as: login.Fixed{Username: "grace", Password: "gracepass"}, err: transport.ErrLogin},
		{name: "ASA", quirks: "asa", groups: groups, path: "/", as: login.Fixed{Username: "alice", Password: "alicepass", Group: "guests"}, group: "guests"},
		{name: "ocserv", quirks: "ocserv", path: "/", as: login.Fixed{Username: "alice", Password: "alicepass"}},
		{name: "ocserv, wrong password", quirks: "ocserv", path: "/", as: login.Fixed{Username: "alice", Password: "x"}, err: transport.ErrLogin},
		{name: "AnyLink", quirks: "anylink", path: "/", as: login.Fixed{Username: "alice", Password: "alicepass"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, func(c *Config) {
				c.Groups = tt.groups
				c.Quirks.Server = tt.quirks
			})
			ticket, err := l.login(tt.as, tt.path)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("Login: %v, want %v", err, tt.err)
			}
			if err != nil {
				if n := len(l.Sessions()); n != 0 {
					t.Errorf("%d sessions after a failed login", n)
				}
				return
			}
			if len(ticket.Cookie.Reveal()) != 2*cookieSize {
				t.Errorf("the cookie has %d characters", len(ticket.Cookie.Reveal()))
			}
			s := l.only()
			if s.User != tt.as.Username || s.Group != tt.group {
				t.Errorf("session of %q in %q, want %q in %q", s.User, s.Group, tt.as.Username, tt.group)
			}
		})
	}
}

// A talk is a client that speaks HTTP by hand.
type talk struct {
	*lab
	web    *http.Client
	cookie string
}

func newTalk(l *lab) *talk { return &talk{lab: l, web: l.web()} }

func (k *talk) do(method, path, body string, header ...string) (*http.Response, string) {
	k.t.Helper()
	req, err := http.NewRequest(method, k.url.String()+path, strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "Open AnyConnect VPN Agent v9.01")
	if k.cookie != "" {
		req.Header.Set("Cookie", k.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := k.web.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, c := range res.Cookies() {
		if c.Name == "webvpncontext" {
			k.cookie = "webvpncontext=" + c.Value
		}
	}
	if res.Header.Get("X-Transcend-Version") != "1" {
		k.t.Errorf("%s %s: no X-Transcend-Version", method, path)
	}
	return res, string(b)
}

const initXML = `<?xml version="1.0" encoding="UTF-8"?><config-auth client="vpn" type="init"><version who="vpn">v9</version><device-id>linux-64</device-id></config-auth>`

func replyXML(user, password string) string {
	return `<config-auth client='vpn' type='auth-reply'><auth><password>` + password + `</password><username>` + user + `</username></auth></config-auth>`
}

func TestPortalWrongPasswords(t *testing.T) {
	l := newLab(t, nil)
	k := newTalk(l)
	k.do("POST", "/", initXML)
	for n := 1; n < defaultAttempts; n++ {
		res, body := k.do("POST", "/auth", replyXML("alice", "wrong"))
		if res.StatusCode != 200 || !strings.Contains(body, "<error") || !strings.Contains(body, "password") {
			t.Fatalf("attempt %d: %d %s", n, res.StatusCode, body)
		}
	}
	res, body := k.do("POST", "/auth", replyXML("alice", "wrong"))
	if res.StatusCode != 401 || res.ContentLength != 0 || !res.Close || body != "" {
		t.Errorf("the last attempt: %d, %d bytes, close %v", res.StatusCode, res.ContentLength, res.Close)
	}
	// The next attempt of this address has to wait, even with the right password and another login.
	k.cookie = ""
	k.do("POST", "/", initXML)
	start := time.Now()
	if res, _ := k.do("POST", "/auth", replyXML("alice", "alicepass")); res.StatusCode != 200 {
		t.Errorf("the right password: %d", res.StatusCode)
	}
	if d := time.Since(start); d < firstDelay/2 {
		t.Errorf("after %d failures the next attempt took %v", defaultAttempts, d)
	}
}

func TestPortalSuccess(t *testing.T) {
	l := newLab(t, nil)
	k := newTalk(l)
	res, body := k.do("POST", "/", initXML, "Content-Type", "application/x-www-form-urlencoded")
	if !strings.Contains(body, `type="auth-request"`) || !strings.Contains(body, `action="/auth"`) {
		t.Errorf("init: %s", body)
	}
	if res.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
		t.Errorf("Content-Length %s of %d", res.Header.Get("Content-Length"), len(body))
	}
	// Every step may come by another connection.
	l.web().CloseIdleConnections()
	k.web = l.web()
	res, body = k.do("POST", "/auth?x=y", replyXML("alice", "alicepass"))
	doc, err := wire.ParseDocument([]byte(body))
	if err != nil || !doc.Succeeded() {
		t.Fatalf("%v: %s", err, body)
	}
	var names []string
	var webvpn string
	for _, c := range res.Header["Set-Cookie"] {
		name, rest, _ := strings.Cut(c, "=")
		names = append(names, name)
		if name == "webvpn" {
			webvpn, _, _ = strings.Cut(rest, ";")
		}
	}
	if got := strings.Join(names, " "); got != "webvpncontext webvpn webvpnc webvpnc" {
		t.Errorf("cookies %s", got)
	}
	if webvpn != doc.SessionToken || webvpn == "" {
		t.Error("cookie and session token differ")
	}
	if doc.Config == nil || len(doc.Config.ServerCertHash) != 40 {
		t.Errorf("config %+v", doc.Config)
	}
	// A login is good for one session.
	if res, _ := k.do("POST", "/auth", replyXML("alice", "alicepass")); res.StatusCode != 200 {
		t.Errorf("%d", res.StatusCode)
	}

	res, _ = k.do("POST", "/", `<config-auth type="logout"><session-token>`+webvpn+`</session-token></config-auth>`)
	if res.StatusCode != 200 {
		t.Errorf("logout: %d", res.StatusCode)
	}
	if l.table.find(webvpn) != nil {
		t.Error("the session survived the logout")
	}
}

func TestPortalLegacy(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Groups = []Group{{Name: "staff"}, {Name: "guests"}} })
	k := newTalk(l)
	_, body := k.do("GET", "/", "")
	if !strings.Contains(body, `<auth id="main">`) || strings.Contains(body, "config-auth") {
		t.Fatalf("GET /: %s", body)
	}
	res, body := k.do("POST", "/auth", "username=alice&group%5flist=guests&password=alicepass",
		"Content-Type", "application/x-www-form-urlencoded")
	if !strings.Contains(body, `id="success"`) || strings.Contains(body, "config-auth") {
		t.Fatalf("POST /auth: %s", body)
	}
	if !strings.Contains(fmt.Sprint(res.Header["Set-Cookie"]), "webvpn=") {
		t.Error("no cookie")
	}
	if s := l.only(); s.Group != "guests" {
		t.Errorf("group %q", s.Group)
	}
	// The oldest clients post the answer without having a cookie from a form.
	k.cookie = ""
	if _, body := k.do("POST", "/guests", "username=bob&password=bobpass"); !strings.Contains(body, `id="success"`) {
		t.Errorf("without cookie: %s", body)
	}
}

func TestPortalPaths(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Groups = []Group{{Name: "staff"}} })
	k := newTalk(l)
	for _, tt := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{"GET", "/", "", []string{"Connection", "close"}, 200, "VPN gateway"},
		{"GET", "/", "", []string{"User-Agent", "Mozilla/5.0"}, 200, "VPN gateway"},
		{"GET", "/", "", []string{"X-Transcend-Version", "1"}, 200, "<auth"},
		{"GET", "/staff", "", nil, 200, "<auth"},
		{"GET", "/nosuch", "", nil, 404, ""},
		{"POST", "/nosuch", initXML, nil, 404, ""},
		{"POST", "/VPN", initXML, nil, 200, "auth-request"},
		{"GET", "/1/VPNManifest.xml", "", nil, 200, "<vpn rev"},
		{"GET", "/VPNManifest.xml", "", nil, 200, "<vpn rev"},
		{"GET", "/1/binaries/update.txt", "", nil, 200, "0,0,0000"},
		{"GET", "/1/binaries/vpndownloader.sh", "", nil, 200, "exit 0"},
		{"GET", "/1/Linux_64", "", nil, 200, "html"},
		{"GET", "/+CSCOT+/translation-table?textdomain=AnyConnect&type=manifest", "", nil, 200, "<vpn rev"},
		{"GET", "/+CSCOE+/logon.html", "", nil, 302, ""},
		{"GET", "/logout", "", nil, 200, ""},
		{"GET", "/cert.pem", "", nil, 200, "BEGIN CERTIFICATE"},
		{"GET", "/ca.cer", "", nil, 200, ""},
		{"GET", "/profiles/corp.xml", "", nil, 404, ""},
		{"DELETE", "/", "", nil, 405, ""},
		{"POST", "/", "<config-auth", nil, 400, ""},
		{"POST", "/", strings.Repeat("x", maxBody+1), nil, 413, ""},
		{"POST", "/", `<config-auth type="complete"><auth id="success"/></config-auth>`, nil, 400, ""},
	} {
		res, body := k.do(tt.method, tt.path, tt.body, tt.header...)
		if res.StatusCode != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: %d %.200s, want %d %q", tt.method, tt.path, res.StatusCode, body, tt.status, tt.want)
		}
	}
	if n := len(l.Sessions()); n != 0 {
		t.Errorf("%d sessions without a login", n)
	}
}

// The older dialect of clients that call themselves version 3.
func TestPortalV3(t *testing.T) {
	k := newTalk(newLab(t, nil))
	_, body := k.do("POST", "/", initXML, "User-Agent", "Open AnyConnect VPN Agent v3.20")
	if !strings.Contains(body, "<auth id=") || strings.Contains(body, "config-auth") {
		t.Errorf("%s", body)
	}
}

func TestPortalASAWantsItsStateBack(t *testing.T) {
	k := newTalk(newLab(t, func(c *Config) { c.Quirks.Server = "asa" }))
	_, body := k.do("POST", "/", initXML)
	doc, err := wire.ParseDocument([]byte(body))
	if err != nil || doc.Opaque == "" || strings.Contains(body, "action=") {
		t.Fatalf("%v: %s", err, body)
	}
	if _, body := k.do("POST", "/", replyXML("alice", "alicepass")); strings.Contains(body, "success") {
		t.Error("a reply without the opaque element is accepted")
	}
	with := strings.Replace(replyXML("alice", "alicepass"), "<auth>", string(doc.Opaque)+"<auth>", 1)
	if _, body := k.do("POST", "/", with); !strings.Contains(body, "success") {
		t.Errorf("with it: %s", body)
	}
}

// A slow or failing authenticator must not look like a wrong password.
func TestAuthenticatorTrouble(t *testing.T) {
	broken := errors.New("directory unreachable")
	l := newLab(t, func(c *Config) {
		c.Auth = Passwords(VerifierFunc(func(context.Context, string, string) error { return broken }))
	})
	k := newTalk(l)
	k.do("POST", "/", initXML)
	for range 2 * defaultAttempts {
		res, body := k.do("POST", "/auth", replyXML("alice", "alicepass"))
		if res.StatusCode != 200 || !strings.Contains(body, "cannot check") || strings.Contains(body, "directory") {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
	}
	if w := l.portal.throttle.wait("alice", l.addr.Addr(), time.Now()); w != 0 {
		t.Errorf("the trouble of the gateway slows the user by %v", w)
	}
}

// Many may knock at once, but not without end.
func TestInboundLimit(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxConnectionsPerSource = 5 })
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	refused := false
	for range l.cfg.MaxConnectionsPerSource + 20 {
		c, err := net.Dial("tcp", l.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// Those beyond the limit are closed at once.
	last := conns[len(conns)-1]
	last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		var timeout net.Error
		refused = !errors.As(err, &timeout) || !timeout.Timeout()
	}
	if !refused {
		t.Error("there is no limit")
	}
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "the places are free again", func() bool {
		l.mu.Lock()
		e := l.entrance
		l.mu.Unlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.total == 0 && len(e.pending) == 0
	})
	if l.cookie("alice") == "" {
		t.Error("no login after the flood")
	}
}

func TestDialoguesAreBounded(t *testing.T) {
	const maxFrom = 10
	d := newDialogues(time.Minute, maxFrom)
	for range 2 * maxFrom {
		d.add(&dialogue{source: testPool4.Addr(), began: time.Now()})
	}
	if n := d.order.Len(); n != maxFrom {
		t.Errorf("%d logins of one source", n)
	}
	a := testPool4.Addr()
	for range 2 * maxDialogues {
		a = a.Next()
		d.add(&dialogue{source: a, began: time.Now()})
	}
	if n := d.order.Len(); n > maxDialogues {
		t.Errorf("%d logins", n)
	}
	if len(d.counts) > maxDialogues || len(d.byID) != d.order.Len() {
		t.Errorf("%d sources, %d ids of %d", len(d.counts), len(d.byID), d.order.Len())
	}
	old := &dialogue{source: a, began: time.Now().Add(-2 * time.Minute)}
	if id, ok := d.add(old); ok && d.get(id) != nil {
		t.Error("an old login is still good")
	}
}

// What comes before the login is from anybody.
func FuzzPortal(f *testing.F) {
	f.Add("/", []byte(initXML), "")
	f.Add("/auth", []byte(replyXML("alice", "wrong")), "webvpncontext=x")
	f.Add("/auth", []byte("username=a&password=b"), "a=b; webvpn=\"")
	f.Add("/staff", []byte(`<config-auth type="init"><group-select>guests</group-select></config-auth>`), "")
	l := newLab(f, func(c *Config) { c.Groups = []Group{{Name: "staff"}, {Name: "guests"}} })
	f.Fuzz(func(t *testing.T, path string, body []byte, cookie string) {
		r, err := http.NewRequest("POST", "https://gateway/", bytes.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header["Cookie"] = []string{cookie}
		// Guesses are slowed, which is not what this is about.
		l.portal.throttle = newThrottle()
		rec := &recorder{header: http.Header{}}
		in := &inbound{chain: [][]byte{{1}}}
		in.Link = nullLink()
		l.portal.ServeHTTP(rec, r.WithContext(context.WithValue(context.Background(), connKey{}, in)))
		if rec.status >= 500 && rec.status != http.StatusServiceUnavailable {
			t.Errorf("status %d", rec.status)
		}
	})
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

// A stranger who begins logins must not fill the memory with what he says.
func TestDialoguesAreSmall(t *testing.T) {
	// With the name on a page of its own, which is kept until the password comes.
	l := newLab(t, func(c *Config) { c.Auth = onePageEach{c.Auth} })
	k := newTalk(l)
	long := strings.Repeat("x", 100_000)
	k.do("POST", "/", strings.Replace(initXML, "<device-id>", `<device-id computer-name="`+long+`">`, 1))
	k.do("POST", "/auth", replyXML(long, "wrong"))
	for _, e := range l.portal.logins.byID {
		d := e.Value.(*dialogue)
		size := len(d.platform) + len(d.hostname)
		for _, f := range d.answered {
			for _, field := range f.Fields {
				size += len(field.Value)
			}
		}
		if size > 10_000 {
			t.Errorf("a login keeps %d bytes", size)
		}
	}
	if len(l.portal.logins.byID) != 1 {
		t.Errorf("%d logins", len(l.portal.logins.byID))
	}
}

func TestNoPassword(t *testing.T) {
	a := Passwords(VerifierFunc(func(context.Context, string, string) error { return nil }))
	form, _, err := a.Authenticate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	form.Field(fieldUser).Set("alice")
	if _, user, err := a.Authenticate(t.Context(), []login.Form{*form}); !errors.Is(err, transport.ErrLogin) {
		t.Errorf("a directory that takes all logged %q in without a password: %v", user, err)
	}
}
