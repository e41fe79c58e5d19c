package trusted

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// D1218: Trusted DNS Domains; B.1 and B.12: wildcards.
func TestMatchDomain(t *testing.T) {
	for _, c := range []struct {
		pattern, suffix string
		want            bool
	}{
		{"corp.example", "corp.example", true},
		{"corp.example", "CORP.Example.", true},
		{" corp.example ", "corp.example", true},
		{"corp.example", "eu.corp.example", false},
		{"corp.example", "evilcorp.example", false},
		{"*.corp.example", "eu.corp.example", true},
		{"*.corp.example", "a.b.corp.example", true},
		{"*.corp.example", "corp.example", false},
		{"*.corp.example", "evilcorp.example", false},
		{"*corp.example", "corp.example", true},
		{"*corp.example", "evilcorp.example", true}, // the administrator wrote that
		{"corp.*", "corp.example", true},
		{"c*p.e*e", "corp.example", true},
		{"*", "anything.example", true},
		{"*", "", false},
		{"", "corp.example", false},
		{"**.corp.example", "eu.corp.example", true},
		{"corp.example*", "corp.example.attacker.test", true},
		{"corp.example", "corp.example\x00", false},
	} {
		if got := MatchDomain(c.pattern, c.suffix); got != c.want {
			t.Errorf("MatchDomain(%q, %q) = %v", c.pattern, c.suffix, got)
		}
	}
}

// D1219: Trusted DNS Servers; B.1 and B.12: wildcards.
func TestMatchServer(t *testing.T) {
	for _, c := range []struct {
		pattern, server string
		want            bool
	}{
		{"10.0.0.53", "10.0.0.53", true},
		{"10.0.0.53", "::ffff:10.0.0.53", true},
		{"10.0.0.5", "10.0.0.53", false},
		{"10.0.0.*", "10.0.0.53", true},
		{"10.*", "10.9.8.7", true},
		{"10.*", "110.9.8.7", false},
		{"*.53", "10.0.0.53", true},
		{"*.53", "2001:db8::53", false},
		{"2001:DB8:0::1", "2001:db8::1", true},
		{"2001:db8:*", "2001:db8:1::1", true},
		{"2001:db8:*", "2001:db80::1", false},
		{"fe80::1", "fe80::1%eth0", true},
		{"*:*", "10.0.0.53", false},
		{"*", "10.0.0.53", true},
		{"*", "2001:db8::1", true},
		{"", "10.0.0.53", false},
		{"dns.corp.example", "10.0.0.53", false},
	} {
		if got := MatchServer(c.pattern, netip.MustParseAddr(c.server)); got != c.want {
			t.Errorf("MatchServer(%q, %s) = %v", c.pattern, c.server, got)
		}
	}
	if MatchServer("*", netip.Addr{}) {
		t.Error("no address matches")
	}
}

func addrs(s string) (all []netip.Addr) {
	for f := range strings.FieldsSeq(s) {
		all = append(all, netip.MustParseAddr(f))
	}
	return all
}

func link(name, suffixes, servers string) Link {
	return Link{Name: name, Suffixes: strings.Fields(suffixes), Servers: addrs(servers)}
}

// TestJudge is the decision table of trusted network detection (A.13, B.12).
func TestJudge(t *testing.T) {
	hash := make([]byte, 32)
	domains, servers := []string{"*.corp.example", "corp.example"}, []string{"10.0.0.1", "10.0.0.2"}
	https := []Server{{Address: "a", Hash: hash}, {Address: "b", Hash: hash}}
	office := link("eth0", "lab.corp.example", "10.0.0.1 10.0.0.2")
	cafe := link("wlan0", "cafe.example", "192.168.1.1")
	for _, c := range []struct {
		row    string
		rules  Rules
		links  []Link
		local  Verdict
		ask    Answers
		want   Verdict
		rule   string
		proven bool
	}{
		{"D1216: no rules, nothing is trusted", Rules{}, []Link{office}, Untrusted, Answers{}, Untrusted, "", false},
		{"D1218: a suffix of the list", Rules{Domains: domains}, []Link{office}, Trusted, Answers{}, Trusted, "TrustedDNSDomains", false},
		{"D1218: another suffix", Rules{Domains: domains}, []Link{cafe}, Untrusted, Answers{}, Untrusted, "TrustedDNSDomains", false},
		{"D1219: servers of the list", Rules{Servers: servers}, []Link{office}, Trusted, Answers{}, Trusted, "TrustedDNSServers", false},
		{"D1219: some of the list are enough", Rules{Servers: servers}, []Link{link("eth0", "", "10.0.0.2")}, Trusted, Answers{}, Trusted, "TrustedDNSServers", false},
		{"D1219: a stranger among them", Rules{Servers: servers}, []Link{link("eth0", "", "10.0.0.1 192.168.1.1")}, Untrusted, Answers{}, Untrusted, "TrustedDNSServers", false},
		{"D1219: no server at all", Rules{Servers: servers}, []Link{link("eth0", "corp.example", "")}, Untrusted, Answers{}, Untrusted, "TrustedDNSServers", false},
		{"D1219: a resolver of this machine says nothing", Rules{Servers: servers}, []Link{link("", "", "127.0.0.53")}, Untrusted, Answers{}, Untrusted, "TrustedDNSServers", false},
		{"B.12: both lists, both match", Rules{Domains: domains, Servers: servers}, []Link{office}, Trusted, Answers{}, Trusted, "TrustedDNSServers", false},
		{"B.12: both lists, only the suffix matches", Rules{Domains: domains, Servers: servers}, []Link{link("wlan0", "corp.example", "192.168.1.1")}, Untrusted, Answers{}, Untrusted, "TrustedDNSServers", false},
		{"B.12: both lists, only the server matches", Rules{Domains: domains, Servers: servers}, []Link{link("wlan0", "cafe.example", "10.0.0.1")}, Untrusted, Answers{}, Untrusted, "TrustedDNSDomains", false},
		{"B.12: both lists, on different interfaces", Rules{Domains: domains, Servers: servers}, []Link{link("a", "corp.example", "192.168.1.1"), link("b", "cafe.example", "10.0.0.1")}, Untrusted, Answers{}, Untrusted, "TrustedDNSDomains", false},
		{"one of several interfaces", Rules{Domains: domains}, []Link{cafe, office}, Trusted, Answers{}, Trusted, "TrustedDNSDomains", false},
		{"no interface", Rules{Domains: domains}, nil, Untrusted, Answers{}, Untrusted, "", false},
		{"B.12: every server answers", Rules{Servers: servers}, []Link{office}, Trusted, Answers{DNS: []Answer{Genuine, Genuine}}, Trusted, "TrustedDNSServers", false},
		{"B.12: one dead server of the list", Rules{Servers: servers}, []Link{office}, Trusted, Answers{DNS: []Answer{Genuine, Unreachable}}, Untrusted, "TrustedDNSServers", false},
		{"B.12: one was not asked", Rules{Servers: servers}, []Link{office}, Trusted, Answers{DNS: []Answer{Genuine}}, Untrusted, "TrustedDNSServers", false},
		{"B.12: servers with a star are not asked", Rules{Servers: []string{"10.*"}}, []Link{office}, Trusted, Answers{DNS: []Answer{}}, Trusted, "TrustedDNSServers", false},
		{"B.1: HTTPS proves", Rules{HTTPS: https}, []Link{cafe}, Unknown, Answers{HTTPS: []Answer{Genuine}}, Trusted, "TrustedHttpsServerList", true},
		{"B.1: the first is dead, the second proves", Rules{HTTPS: https}, nil, Unknown, Answers{HTTPS: []Answer{Unreachable, Genuine}}, Trusted, "TrustedHttpsServerList", true},
		{"B.1: another certificate ends it", Rules{HTTPS: https}, []Link{office}, Unknown, Answers{HTTPS: []Answer{Other, Genuine}}, Untrusted, "TrustedHttpsServerList", false},
		{"B.1: none can be reached", Rules{HTTPS: https}, []Link{office}, Unknown, Answers{HTTPS: []Answer{Unreachable, Unreachable}}, Untrusted, "TrustedHttpsServerList", false},
		{"B.1: none was asked", Rules{HTTPS: https}, []Link{office}, Unknown, Answers{}, Untrusted, "TrustedHttpsServerList", false},
		{"B.12: DNS matches, HTTPS proves", Rules{Domains: domains, Servers: servers, HTTPS: https}, []Link{office}, Unknown, Answers{HTTPS: []Answer{Genuine}}, Trusted, "TrustedHttpsServerList", true},
		{"B.12: DNS matches, HTTPS does not", Rules{Domains: domains, HTTPS: https}, []Link{office}, Unknown, Answers{HTTPS: []Answer{Unreachable, Other}}, Untrusted, "TrustedHttpsServerList", false},
		{"B.12: HTTPS counts only if DNS matches", Rules{Domains: domains, HTTPS: https}, []Link{cafe}, Untrusted, Answers{HTTPS: []Answer{Genuine}}, Untrusted, "TrustedDNSDomains", false},
	} {
		if f := c.rules.Links(c.links); f.Verdict != c.local {
			t.Errorf("%s: the links alone say %v (%s)", c.row, f.Verdict, f.Why)
		}
		f := c.rules.Judge(c.links, c.ask)
		if f.Verdict != c.want || f.Rule != c.rule || f.Proven != c.proven || f.Why == "" {
			t.Errorf("%s: %+v", c.row, f)
		}
	}
}

func TestValidate(t *testing.T) {
	many := make([]string, MaxPatterns+1)
	for i := range many {
		many[i] = "10.0.0.1"
	}
	for setting, r := range map[string]Rules{
		"TrustedDNSDomains":      {Domains: many},
		"1 to 253":               {Domains: []string{"."}},
		"TrustedDNSServers":      {Servers: many},
		"neither an IP address":  {Servers: []string{"dns.corp.example"}},
		"an entry of 99":         {Servers: []string{strings.Repeat("*", 99)}},
		"TrustedHttpsServerList": {HTTPS: make([]Server, MaxHTTPS+1)},
		"name or address":        {HTTPS: []Server{{}}},
		"write its SHA-256":      {HTTPS: []Server{{Address: "a", Hash: make([]byte, sha1.Size)}}},
	} {
		if err := r.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: %v", setting, err)
		}
	}
	good := Rules{Domains: []string{"*"}, Servers: []string{"10.*", "2001:db8::1"}, HTTPS: []Server{{Address: "a", Hash: make([]byte, 64)}}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func server(t *testing.T, s *httptest.Server) Server {
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return Server{Address: u.Hostname(), Port: uint16(port)}
}

// TestHTTPS asks real servers over TLS.
func TestHTTPS(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	sum, long, old := sha256.Sum256(s.Certificate().Raw), sha512.Sum512(s.Certificate().Raw), sha1.Sum(s.Certificate().Raw)
	with := func(s Server, hash []byte) Server { s.Hash = hash; return s }
	good := with(server(t, s), sum[:])
	silence := silent.Addr().(*net.TCPAddr)
	p := &Prober{Timeout: 300 * time.Millisecond}
	for name, c := range map[string]struct {
		server Server
		want   Answer
	}{
		"its SHA-256":       {good, Genuine},
		"its SHA-512":       {with(good, long[:]), Genuine},
		"SHA-1 is refused":  {with(good, old[:]), Other},
		"another hash":      {with(good, bytes.Repeat([]byte{1}, 32)), Other},
		"no hash":           {with(good, nil), Other},
		"no TLS":            {with(server(t, plain), sum[:]), Unreachable},
		"silence":           {Server{"127.0.0.1", uint16(silence.Port), sum[:]}, Unreachable},
		"nobody":            {Server{"127.0.0.1", 1, sum[:]}, Unreachable},
		"no address at all": {Server{"", 1, sum[:]}, Unreachable},
	} {
		if got := p.HTTPS(t.Context(), c.server); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// The first that answers ends the asking.
	a := p.Ask(t.Context(), Rules{HTTPS: []Server{{"127.0.0.1", 1, sum[:]}, good, good}})
	if len(a.HTTPS) != 2 || a.HTTPS[0] != Unreachable || a.HTTPS[1] != Genuine || a.DNS != nil {
		t.Errorf("%+v", a)
	}
}

// TestDNS asks servers over UDP that answer at once, the second time, with something else, and never.
func TestDNS(t *testing.T) {
	serve := func(answer func(n int, q []byte) []byte) netip.AddrPort {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 512)
			for i := 0; ; i++ {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				if a := answer(i, bytes.Clone(b[:n])); a != nil {
					_, _ = c.WriteTo(a, from)
				}
			}
		}()
		return c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	reply := func(q []byte) []byte { q[2] |= 0x80; q[3] = 5; return q } // REFUSED is an answer
	p := &Prober{Timeout: 300 * time.Millisecond}
	for name, c := range map[string]struct {
		answer func(int, []byte) []byte
		ok     bool
	}{
		"answers":       {func(_ int, q []byte) []byte { return reply(q) }, true},
		"the second":    {func(n int, q []byte) []byte { return map[bool][]byte{true: reply(q)}[n > 0] }, true},
		"echoes":        {func(_ int, q []byte) []byte { return q }, false},
		"short":         {func(_ int, q []byte) []byte { return reply(q)[:11] }, false},
		"another's":     {func(_ int, q []byte) []byte { q[0]++; return reply(q) }, false},
		"never answers": {func(int, []byte) []byte { return nil }, false},
	} {
		if err := p.DNS(t.Context(), serve(c.answer)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	start := time.Now()
	if err := (&Prober{}).DNS(ctx, serve(func(int, []byte) []byte { return nil })); err == nil || time.Since(start) > 2*time.Second {
		t.Error("a context that ends does not end the asking", err)
	}
}

// slowMatch is what a star means, without cleverness.
func slowMatch(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return slowMatch(p[1:], s) || s != "" && slowMatch(p, s[1:])
	}
	return s != "" && p[0] == s[0] && slowMatch(p[1:], s[1:])
}

func FuzzMatch(f *testing.F) {
	f.Add("*.corp.example", "eu.corp.example", []byte{10, 0, 0, 1})
	f.Add("10.*.1", "corp", []byte{10, 0, 0, 1})
	f.Add("a*a*a*b", "aaaaaaaaaaaa", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, pattern, text string, addr []byte) {
		if strings.Count(pattern, "*") < 6 && len(text) < 24 && len(pattern) < 24 && match(pattern, text) != slowMatch(pattern, text) {
			t.Errorf("match(%q, %q) = %v", pattern, text, match(pattern, text))
		}
		a, _ := netip.AddrFromSlice(addr)
		_ = MatchServer(pattern, a)
		_ = MatchDomain(pattern, text)
		r := Rules{Domains: []string{pattern}, Servers: []string{text}}
		_ = r.Validate()
		if f := r.Judge([]Link{{Suffixes: []string{text}, Servers: []netip.Addr{a}}}, Answers{}); f.Verdict == Unknown {
			t.Error("no verdict without HTTPS servers")
		}
	})
}
