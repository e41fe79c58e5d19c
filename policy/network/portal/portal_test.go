package portal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestJudge is the decision table of captive portal detection (B.12).
func TestJudge(t *testing.T) {
	const gw = "vpn.corp.example"
	for _, c := range []struct {
		row  string
		e    Evidence
		want Verdict
		url  string
	}{
		{"the gateway answers", Evidence{TLS: Answered}, None, ""},
		{"the gateway answers, and HTTP is redirected all the same", Evidence{TLS: Answered, HTTP: Answered, Status: 302, Location: "http://portal.example/"}, None, ""},
		{"B.12: hotspots redirect HTTP", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "http://portal.example/login?x=1"}, Portal, "http://portal.example/login?x=1"},
		{"the same behind a wrong certificate", Evidence{TLS: WrongCertificate, HTTP: Answered, Status: 307, Location: "https://10.0.0.1:8443/"}, Portal, "https://10.0.0.1:8443/"},
		{"a redirect without a host", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "/login"}, Unknown, ""},
		{"a redirect to plain HTTP on the gateway", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "http://" + gw + "/hotspot"}, Portal, "http://" + gw + "/hotspot"},
		{"the gateway's own redirect to https, TLS is down", Evidence{TLS: Refused, HTTP: Answered, Status: 301, Location: "https://VPN.corp.example/"}, Unknown, ""},
		{"RFC 6585, 6: status 511", Evidence{TLS: Refused, HTTP: Answered, Status: 511, Body: "pay"}, Portal, ""},
		{"an altered answer", Evidence{TLS: Silent, HTTP: Answered, Status: 200, Body: "<html>Welcome to the hotel"}, Portal, "http://" + gw + "/"},
		{"a page that moves on", Evidence{TLS: Garbled, HTTP: Answered, Status: 200, Body: `<META HTTP-EQUIV="refresh" CONTENT="0; URL=http://hotel.example/in">`}, Portal, "http://hotel.example/in"},
		{"status 204 is no page", Evidence{TLS: Silent, HTTP: Answered, Status: 204}, Unknown, ""},
		{"a gateway's error over HTTP", Evidence{TLS: Silent, HTTP: Answered, Status: 400, Body: "Bad Request"}, Unknown, ""},
		{"B.12: a certificate with the wrong name is no portal", Evidence{TLS: WrongCertificate, HTTP: Refused}, Unknown, ""},
		{"the same, HTTP leads to https", Evidence{TLS: WrongCertificate, HTTP: Answered, Status: 301, Location: "https://" + gw + "/"}, Unknown, ""},
		{"nothing answers", Evidence{TLS: Silent, HTTP: Silent}, Unknown, ""},
		{"the name does not exist", Evidence{TLS: NoName, HTTP: NoName}, Unknown, ""},
		{"no route", Evidence{TLS: NoWay, HTTP: NoWay}, Offline, ""},
		{"a redirect to a script", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "javascript:alert(1)"}, Portal, ""},
		{"a redirect with a line break", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "http://portal.example/\x1b[2J"}, Portal, ""},
		{"a redirect with a password", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "http://u:p@portal.example/"}, Portal, ""},
		{"a redirect of a megabyte", Evidence{TLS: Silent, HTTP: Answered, Status: 302, Location: "http://portal.example/" + strings.Repeat("a", 1<<20)}, Portal, ""},
	} {
		r := Judge(gw, c.e)
		if r.Verdict != c.want || r.URL != c.url || r.Why == "" {
			t.Errorf("%s: %+v", c.row, r)
		}
	}
	for _, c := range []struct {
		in   []Verdict
		want Verdict
	}{
		{nil, Unknown},
		{[]Verdict{Offline, Offline}, Offline},
		{[]Verdict{Offline, Unknown}, Unknown},
		{[]Verdict{Unknown, Portal, Offline}, Portal},
		{[]Verdict{Portal, None, Offline}, None},
	} {
		var reports []Report
		for _, v := range c.in {
			reports = append(reports, Report{Verdict: v})
		}
		if got := Merge(reports); got.Verdict != c.want {
			t.Errorf("Merge(%v) = %v", c.in, got.Verdict)
		}
	}
}

// target answers all dials to port 443 with one server and those to port 80 with another, "" for nobody.
type target struct{ tls, http string }

func (d target) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to := d.tls
	if strings.HasSuffix(address, ":80") {
		to = d.http
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// TestProbe asks real servers, as gateways and portals are.
func TestProbe(t *testing.T) {
	gateway := httptest.NewTLSServer(http.NotFoundHandler()) // its certificate is for example.com
	t.Cleanup(gateway.Close)
	gateway.Config.ErrorLog = log.New(io.Discard, "", 0)
	handler := func(f http.HandlerFunc) string {
		s := httptest.NewServer(f)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	redirect := handler(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://portal.example/?from="+r.Host, http.StatusFound)
	})
	own := handler(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+r.Host+"/", http.StatusMovedPermanently)
	})
	page := handler(func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			fmt.Fprint(w, "<html>Welcome to the hotel!") // much more than is read
		}
	})
	banner := listen(t, func(c net.Conn) { _, _ = fmt.Fprint(c, "SSH-2.0-OpenSSH_10.0\r\n") })
	endless := listen(t, func(c net.Conn) {
		for {
			if _, err := fmt.Fprintf(c, "HTTP/1.1 302 Found\r\nX: %s\r\n", strings.Repeat("x", 8000)); err != nil {
				return
			}
		}
	})
	silent := listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)); time.Sleep(time.Second) })
	closing := listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	nobody := "127.0.0.1:1"
	roots := x509.NewCertPool()
	roots.AddCert(gateway.Certificate())
	tlsAddr := gateway.Listener.Addr().String()
	for _, c := range []struct {
		name       string
		host       string
		tls, http  string
		want       Verdict
		tlsO, webO Outcome
	}{
		{"the gateway", "example.com", tlsAddr, nobody, None, Answered, 0},
		{"the gateway behind a portal that lets it pass", "example.com", tlsAddr, redirect, None, Answered, 0},
		{"a wrong name, nothing else", "vpn.corp.example", tlsAddr, nobody, Unknown, WrongCertificate, Refused},
		{"a wrong name, its own redirect", "vpn.corp.example", tlsAddr, own, Unknown, WrongCertificate, Answered},
		{"a portal with TLS", "vpn.corp.example", tlsAddr, redirect, Portal, WrongCertificate, Answered},
		{"a portal that refuses TLS", "example.com", nobody, redirect, Portal, Refused, Answered},
		{"a portal that swallows TLS", "example.com", silent, redirect, Portal, Silent, Answered},
		{"a portal that closes TLS", "example.com", closing, page, Portal, Refused, Answered},
		{"a portal that speaks HTTP on every port", "example.com", page, page, Portal, Garbled, Answered},
		{"another protocol", "example.com", banner, banner, Unknown, Garbled, Garbled},
		{"headers without end", "example.com", nobody, endless, Unknown, Refused, Garbled},
		{"nobody", "example.com", nobody, nobody, Unknown, Refused, Refused},
		{"silence", "example.com", silent, silent, Unknown, Silent, Silent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &Prober{Dial: target{c.tls, c.http}.dial, TLS: &tls.Config{RootCAs: roots}, Timeout: 400 * time.Millisecond}
			e := p.Evidence(t.Context(), c.host)
			if e.TLS != c.tlsO || c.webO != 0 && e.HTTP != c.webO {
				t.Errorf("TLS %v, HTTP %v", e.TLS, e.HTTP)
			}
			if len(e.Body) > maxBody {
				t.Error("the body is read without end")
			}
			if r := p.Ask(t.Context(), []string{c.host}); r.Verdict != c.want {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("pins", func(t *testing.T) {
		no := func(tls.ConnectionState) error { return fmt.Errorf("no such pin") }
		p := &Prober{Dial: target{tlsAddr, redirect}.dial, TLS: &tls.Config{RootCAs: roots, VerifyConnection: no}, Timeout: time.Second}
		if r := p.Ask(t.Context(), []string{"example.com:8443"}); r.Verdict != Portal || r.URL != "http://portal.example/?from=example.com" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("no route", func(t *testing.T) {
		p := &Prober{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, &net.DNSError{IsTimeout: true} }}
		if r := p.Ask(t.Context(), []string{"a", "b", "c", "d", "e", "f"}); r.Verdict != Offline {
			t.Errorf("%+v", r)
		}
	})
}

func listen(t *testing.T, serve func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer func() { _ = c.Close() }(); serve(c) }()
		}
	}()
	return l.Addr().String()
}

// A script drives a Machine and writes down what it does.
type script struct {
	m    *Machine
	now  time.Time
	next time.Time
	log  []string
	run  uint64
}

func newScript(cfg Config) *script { return &script{m: New(cfg), now: time.Unix(1e9, 0)} }

func (s *script) event(e Event) {
	if e.Kind == Reported && e.Run == 0 {
		e.Run = s.run
	}
	next, actions := s.m.Step(s.now, e)
	for _, a := range actions {
		name := [...]string{"probe", "open", "close", "found", "clean", "expired"}[a.Do]
		if a.Do == Probe {
			s.run = a.Run
		}
		if a.Do == Open {
			name += " " + a.For.String()
		}
		s.log = append(s.log, name)
	}
	s.next = next
}

// pass lets time go by, with all that becomes due.
func (s *script) pass(d time.Duration) {
	end := s.now.Add(d)
	for !s.next.IsZero() && !s.next.After(end) {
		s.now = s.next
		s.event(Event{})
	}
	s.now = end
	s.event(Event{})
}

func (s *script) report(v Verdict) { s.event(Event{Kind: Reported, Report: Report{Verdict: v}}) }

func (s *script) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := strings.Join(s.log, ", "); got != want {
		t.Errorf("%s:\n got %s\nwant %s", when, got, want)
	}
	s.log = nil
}

// TestMachine is a transcript of what a laptop goes through (B.12: three probes a second apart, every 300 s, every 15 s with a portal).
func TestMachine(t *testing.T) {
	s := newScript(Config{Window: 5 * time.Minute})
	s.event(Event{Kind: Allow})
	s.pass(time.Hour)
	s.expect(t, "nothing to find out", "")
	s.event(Event{Kind: Look})
	s.report(Unknown)
	s.pass(999 * time.Millisecond)
	s.expect(t, "the first probe", "probe")
	s.pass(time.Millisecond)
	s.report(Offline)
	s.pass(time.Second)
	s.report(Unknown)
	s.expect(t, "three probes", "probe, probe")
	s.pass(299 * time.Second)
	s.expect(t, "nothing is known, and it can wait", "")
	s.pass(time.Second)
	s.report(Portal)
	s.expect(t, "a portal", "probe, found, open 5m0s")
	s.pass(15 * time.Second)
	s.report(Unknown)
	s.pass(15 * time.Second)
	s.report(Portal)
	s.expect(t, "every 15 s", "probe, probe")
	s.pass(15 * time.Second)
	s.report(None)
	s.expect(t, "somebody has agreed to the terms", "probe, clean, close")
	if r, ok := s.m.Report(); !ok || r.Verdict != None || !s.m.Window().IsZero() {
		t.Error(r, ok)
	}
	s.event(Event{Kind: Rest})
	s.pass(time.Hour)
	s.expect(t, "a tunnel is up", "")
}

func TestWindow(t *testing.T) {
	portal := func(cfg Config) *script {
		s := newScript(cfg)
		s.event(Event{Kind: Allow})
		s.event(Event{Kind: Look})
		s.report(Portal)
		return s
	}
	cfg := Config{Window: 5 * time.Minute, PortalRecheck: time.Hour}
	s := portal(cfg)
	s.log = nil
	s.pass(5*time.Minute - 1)
	s.expect(t, "still open", "")
	s.pass(1)
	s.expect(t, "the time is up", "close, expired")
	s.pass(20 * time.Minute)
	s.expect(t, "it does not open by itself", "")
	s.event(Event{Kind: Again})
	s.report(Portal)
	s.expect(t, "a person asks", "probe, open 5m0s")
	s.pass(time.Minute)
	s.event(Event{Kind: Forbid})
	s.expect(t, "the firewall is open anyway", "close")

	// A network that comes and goes does not keep it open.
	s = portal(cfg)
	s.pass(5 * time.Minute)
	s.log = nil
	s.event(Event{Kind: Look})
	s.report(Portal)
	s.expect(t, "another network at once", "probe, found")
	s.pass(4 * time.Minute)
	s.expect(t, "as long as it was open", "")
	s.pass(time.Minute)
	s.expect(t, "as long as it was open", "open 5m0s")

	s = portal(Config{Window: 100 * time.Minute, PortalRecheck: 24 * time.Hour}) // B.1: up to 100 minutes
	s.pass(3 * time.Hour)
	s.expect(t, "a window longer than an opening", "probe, found, open 1h0m0s, open 1h0m0s, open 40m0s, close, expired")

	s = portal(Config{Window: 0})
	s.expect(t, "B.12: default disabled", "probe, found")
	s = portal(cfg)
	s.m.Configure(Config{Window: time.Minute})
	s.log = nil
	s.pass(time.Minute)
	s.expect(t, "a shorter window while it is open", "close, expired")
	s = portal(cfg)
	s.log = nil
	s.event(Event{Kind: Rest})
	s.expect(t, "no tunnel is wanted", "close")

	s = newScript(cfg)
	s.event(Event{Kind: Look})
	s.event(Event{Kind: Look})
	s.event(Event{Kind: Reported, Run: 1, Report: Report{Verdict: Portal}})
	s.expect(t, "an answer about the last network", "probe, probe")
	s.pass(29 * time.Second)
	s.expect(t, "an answer that does not come", "")
	s.pass(time.Second)
	s.expect(t, "an answer that does not come", "probe")
}

func FuzzMachine(f *testing.F) {
	f.Add(uint16(5), []byte{4, 1, 0x23, 0, 1, 0x23})
	f.Add(uint16(100), []byte{4, 1, 0x23, 255, 255, 6, 255, 2})
	f.Add(uint16(1440), []byte{4, 1, 0x23, 1, 0x23, 1, 0x23, 200})
	f.Fuzz(func(t *testing.T, minutes uint16, events []byte) {
		cfg := Config{Window: time.Duration(minutes) * time.Minute}
		m, now := New(cfg), time.Unix(1e9, 0)
		var run uint64
		var until time.Time // by which what was opened closes by itself
		var opened, began time.Time
		open := false
		for _, b := range events {
			e := Event{Kind: Kind(b % 7), Run: run, Report: Report{Verdict: Verdict(b >> 4 & 3)}}
			if b >= 128 {
				e = Event{}
				now = now.Add(time.Duration(b-127) * 10 * time.Second)
			}
			next, actions := m.Step(now, e)
			if !next.IsZero() && !next.After(now) {
				t.Fatalf("due at %v, which is not after %v", next, now)
			}
			if len(actions) > 4 {
				t.Fatal("too much to do", actions)
			}
			for _, a := range actions {
				switch a.Do {
				case Probe:
					run = a.Run
				case Open:
					if !open {
						opened, open = now, true
						if began.IsZero() {
							began = now
						}
					}
					if a.For <= 0 || a.For > MaxOpening || now.Add(a.For).After(opened.Add(cfg.Window)) {
						t.Fatalf("open for %v", a.For)
					}
					until = now.Add(a.For)
				case Close:
					open = false
				}
			}
			if open != !m.Window().IsZero() {
				t.Fatal("the window is not as it was told")
			}
			if open && now.After(opened.Add(cfg.Window)) {
				t.Fatal("open for too long", until)
			}
		}
	})
}

func FuzzJudge(f *testing.F) {
	f.Add("vpn.corp.example", byte(4), 302, "http://portal.example/", "")
	f.Add("2001:db8::1", byte(3), 200, "", `<meta http-equiv=refresh content="0;url='//x/y'">`)
	f.Add("vpn", byte(3), 200, "", "İrefresh url=http://x/")
	f.Fuzz(func(t *testing.T, host string, o byte, status int, location, body string) {
		r := Judge(host, Evidence{TLS: Outcome(o), HTTP: Answered, Status: status, Location: location, Body: body})
		if len(r.URL) > MaxURL || strings.ContainsFunc(r.URL, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
			t.Errorf("%q", r.URL)
		}
		if r.URL != "" && !strings.HasPrefix(r.URL, "http://") && !strings.HasPrefix(r.URL, "https://") {
			t.Errorf("%q", r.URL)
		}
	})
}
