package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"
)

// newServer returns a Server that is closed after the test.
func newServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// dig asks s for one type of a name.
func dig(t testing.TB, s Exchanger, name string, qtype uint16) *wire.Msg {
	t.Helper()
	query, err := newQuery(name, qtype)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Exchange(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	m := new(wire.Msg)
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("%s: the answer does not parse: %v", name, err)
	}
	if answer[0] != query[0] || answer[1] != query[1] || !m.Response || !m.RecursionAvailable || m.Authoritative || m.IsEdns0() == nil {
		t.Errorf("%s: the answer is %v", name, m)
	}
	return m
}

// digest is the code and the records of an answer, without lifetimes.
func digest(m *wire.Msg) string {
	parts := []string{wire.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		parts = append(parts, f[0]+" "+strings.Join(f[3:], " "))
	}
	return strings.Join(parts, ", ")
}

// A server answers like a zone, with the SOA record of a name where there is nothing.
type authority struct {
	*zone
	apex string
}

func newAuthority(t testing.TB, apex string, lines ...string) *authority {
	return &authority{newZone(t, lines...), apex}
}

func (a *authority) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	b, err := a.zone.Exchange(ctx, query)
	if err != nil {
		return nil, err
	}
	m := new(wire.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, err
	}
	last := m.Question[0].Qtype
	if n := len(m.Answer); (n == 0 || m.Answer[n-1].Header().Rrtype != last) && (m.Rcode == wire.RcodeSuccess || m.Rcode == wire.RcodeNameError) {
		soa, err := wire.NewRR(a.apex + " 300 IN SOA ns. host. 1 2 3 4 120")
		if err != nil {
			return nil, err
		}
		m.Ns = []wire.RR{soa}
	}
	return m.Pack()
}

// split is a Server with an inside and an outside.
type split struct {
	*Server
	inside, outside *authority
}

func newSplit(t testing.TB, change func(*ServerConfig)) split {
	t.Helper()
	inside := newAuthority(t, "corp.example.",
		"git.corp.example. 60 IN A 10.0.0.1",
		"git.corp.example. 60 IN AAAA fd00::1",
		"wiki.corp.example. 60 IN CNAME wiki.cdn.example.",
		"wiki.cdn.example. 60 IN A 203.0.113.7",
		"half.corp.example. 60 IN CNAME www.example.",
		"alias.corp.example. 60 IN CNAME git.corp.example.",
		"loop.corp.example. 60 IN CNAME loop.out.example.",
		"five.0.0.10.in-addr.arpa. 60 IN PTR five.corp.example.",
		"5.0.0.10.in-addr.arpa. 60 IN PTR five.corp.example.",
		"svc.corp.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.9 ipv6hint=fd00::9",
	)
	outside := newAuthority(t, "example.",
		"www.example. 60 IN A 192.0.2.1",
		"www.example. 60 IN AAAA 2001:db8::1",
		"evil.example. 60 IN CNAME git.corp.example.",
		"git.corp.example. 60 IN A 6.6.6.6",
		"git.corp.example.lan. 60 IN A 6.6.6.6",
		"loop.out.example. 60 IN CNAME loop.corp.example.",
		"intranet. 60 IN A 6.6.6.6",
		"printer.lan. 60 IN A 192.168.0.9",
		"secret.example. 60 IN A 192.0.2.66",
		"tosecret.example. 60 IN CNAME secret.example.",
	)
	cfg := ServerConfig{Rules: Rules{
		Zones: []Zone{
			{Name: "inside", Suffixes: []string{"corp.example"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Way: Tunnel, Upstreams: []Exchanger{inside}},
			{Name: "nowhere", Suffixes: []string{"*.secret.example"}, Upstreams: []Exchanger{outside}},
			{Name: "outside", Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{outside}},
		},
		Search:      []string{"dev.corp.example", "corp.example"},
		LocalSearch: []string{"lan"},
	}}
	if change != nil {
		change(&cfg)
	}
	return split{newServer(t, cfg), inside, outside}
}

func TestServerZones(t *testing.T) {
	for _, tt := range []struct {
		name, host      string
		qtype           uint16
		want            string
		inside, outside string // who was asked for what
	}{
		{"inside", "git.corp.example.", wire.TypeA, "NOERROR, git.corp.example. A 10.0.0.1", "git.corp.example. A", ""},
		{"upper case", "GIT.Corp.Example.", wire.TypeA, "NOERROR, GIT.Corp.Example. A 10.0.0.1", "git.corp.example. A", ""},
		{"outside", "www.example.", wire.TypeA, "NOERROR, www.example. A 192.0.2.1", "", "www.example. A"},
		{"not below", "evilcorp.example.", wire.TypeA, "NXDOMAIN", "", "evilcorp.example. A"},
		{"absent inside", "none.corp.example.", wire.TypeA, "NXDOMAIN", "none.corp.example. A", ""},
		{"no such type", "git.corp.example.", wire.TypeMX, "NOERROR", "git.corp.example. MX", ""},
		{"nowhere", "secret.example.", wire.TypeA, "NXDOMAIN", "", ""},
		{"below nowhere", "a.secret.example.", wire.TypeA, "NXDOMAIN", "", ""},
		{"alias of nowhere", "tosecret.example.", wire.TypeA, "NXDOMAIN, tosecret.example. CNAME secret.example.", "", "tosecret.example. A"},
		{"reverse inside", "5.0.0.10.in-addr.arpa.", wire.TypePTR, "NOERROR, 5.0.0.10.in-addr.arpa. PTR five.corp.example.", "5.0.0.10.in-addr.arpa. PTR", ""},
		{"reverse outside", "5.0.0.11.in-addr.arpa.", wire.TypePTR, "NXDOMAIN", "", "5.0.0.11.in-addr.arpa. PTR, 5.0.0.11.in-addr.arpa. PTR"},
		{"alias", "alias.corp.example.", wire.TypeA, "NOERROR, alias.corp.example. CNAME git.corp.example., git.corp.example. A 10.0.0.1", "alias.corp.example. A", ""},
		{"alias itself", "alias.corp.example.", wire.TypeCNAME, "NOERROR, alias.corp.example. CNAME git.corp.example.", "alias.corp.example. CNAME", ""},
		{"the inside knows where its names lead", "wiki.corp.example.", wire.TypeA, "NOERROR, wiki.corp.example. CNAME wiki.cdn.example., wiki.cdn.example. A 203.0.113.7", "wiki.corp.example. A", ""},
		{"or does not", "half.corp.example.", wire.TypeAAAA, "NOERROR, half.corp.example. CNAME www.example., www.example. AAAA 2001:db8::1", "half.corp.example. AAAA", "www.example. AAAA"},
		{"the outside says where an inside name is", "evil.example.", wire.TypeA, "NOERROR, evil.example. CNAME git.corp.example., git.corp.example. A 10.0.0.1", "git.corp.example. A", "evil.example. A"},
		{"a loop through two zones", "loop.out.example.", wire.TypeA, "SERVFAIL", "loop.corp.example. A", "loop.out.example. A"},
		{"search domain of another network", "git.corp.example.lan.", wire.TypeA, "NXDOMAIN", "", ""},
		{"name of another network", "printer.lan.", wire.TypeA, "NOERROR, printer.lan. A 192.168.0.9", "", "printer.lan. A"},
		{"short", "git.", wire.TypeA, "NOERROR, git. CNAME git.corp.example., git.corp.example. A 10.0.0.1", "git.corp.example. A, git.dev.corp.example. A", ""},
		{"short without this type", "git.", wire.TypeTXT, "NOERROR, git. CNAME git.corp.example.", "git.corp.example. TXT, git.dev.corp.example. TXT", ""},
		{"short and unknown", "intranet.", wire.TypeA, "NXDOMAIN", "intranet.corp.example. A, intranet.dev.corp.example. A", ""},
		{"localhost", "foo.localhost.", wire.TypeA, "NOERROR, foo.localhost. A 127.0.0.1", "", ""},
		{"localhost IPv6", "localhost.", wire.TypeAAAA, "NOERROR, localhost. AAAA ::1", "", ""},
		{"localhost reverse", "1.0.0.127.in-addr.arpa.", wire.TypePTR, "NOERROR, 1.0.0.127.in-addr.arpa. PTR localhost.", "", ""},
		{"multicast DNS", "printer.local.", wire.TypeA, "NXDOMAIN", "", ""},
		{"onion", "abc.onion.", wire.TypeA, "NXDOMAIN", "", ""},
		{"browsers", "use-application-dns.net.", wire.TypeA, "NXDOMAIN", "", ""},
		{"designated resolver", "_dns.resolver.arpa.", wire.TypeSVCB, "NOERROR", "", ""},
		{"root", ".", wire.TypeNS, "NOERROR", "", ". NS, . NS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSplit(t, nil)
			for range 2 { // the second time from the cache
				m := dig(t, s, tt.host, tt.qtype)
				if got := digest(m); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
			if got := s.inside.questions(); got != tt.inside {
				t.Errorf("the inside was asked for %q, want %q", got, tt.inside)
			}
			if got := s.outside.questions(); got != tt.outside {
				t.Errorf("the outside was asked for %q, want %q", got, tt.outside)
			}
		})
	}
}

// TestNothingLeaks asks for names of the inside in all ways that might take them outside while the inside is down.
func TestNothingLeaks(t *testing.T) {
	s := newSplit(t, func(cfg *ServerConfig) { cfg.Rules.Search = append(cfg.Rules.Search, "lan") })
	s.inside.silent = true
	for _, name := range []string{
		"git.corp.example.", "corp.example.", "GIT.CORP.EXAMPLE.", "git.", "intranet.", "wiki.corp.example.", "a.b.c.corp.example.",
		"git.corp.example.lan.", "corp.example.lan.", "5.0.0.10.in-addr.arpa.", "git.corp.example.dev.corp.example.",
	} {
		for _, qtype := range []uint16{wire.TypeA, wire.TypeAAAA, wire.TypeHTTPS, wire.TypeTXT, wire.TypePTR, wire.TypeNS, wire.TypeANY} {
			m := dig(t, s, name, qtype)
			if m.Rcode != wire.RcodeServerFailure && m.Rcode != wire.RcodeNameError || len(m.Answer) > 0 {
				t.Errorf("%s: %s", name, digest(m))
			}
		}
	}
	if got := s.outside.questions(); got != "" {
		t.Errorf("the outside was asked for %s", got)
	}
	// The end of a chain that the outside begins.
	if m := dig(t, s, "evil.example.", wire.TypeA); m.Rcode != wire.RcodeServerFailure {
		t.Errorf("evil.example: %s", digest(m))
	}
	if got := s.outside.questions(); got != "evil.example. A" {
		t.Errorf("the outside was asked for %s", got)
	}
}

func TestTunnelAll(t *testing.T) {
	s := newSplit(t, func(cfg *ServerConfig) {
		cfg.Rules.TunnelAll = true
		cfg.Rules.Zones[0].Suffixes = []string{"corp.example", "."}
	})
	dig(t, s, "www.example.", wire.TypeA)
	if in, out := s.inside.questions(), s.outside.questions(); in != "www.example. A" || out != "" {
		t.Errorf("inside %q, outside %q", in, out)
	}
	// Without a zone of all names in the tunnel, the other names do not exist.
	r := Rules{TunnelAll: true, Zones: []Zone{
		{Name: "inside", Suffixes: []string{"corp.example"}, Way: Tunnel, Upstreams: []Exchanger{s.inside}},
		{Name: "outside", Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{s.outside}},
	}}
	if err := s.Configure(r); err != nil {
		t.Fatal(err)
	}
	if m := dig(t, s, "www.example.", wire.TypeA); m.Rcode != wire.RcodeNameError || s.outside.questions() != "" {
		t.Errorf("%s", digest(m))
	}
}

func TestFallback(t *testing.T) {
	s := newSplit(t, func(cfg *ServerConfig) {
		cfg.Rules = Rules{Zones: []Zone{
			{Suffixes: []string{"corp.example", "."}, Way: Tunnel, Upstreams: cfg.Rules.Zones[0].Upstreams, Fallback: cfg.Rules.Zones[2].Upstreams},
		}}
	})
	for name, want := range map[string]string{
		"www.example.":       "NOERROR, www.example. A 192.0.2.1",
		"git.corp.example.":  "NOERROR, git.corp.example. A 10.0.0.1",
		"none.corp.example.": "NXDOMAIN",
		"intranet.":          "NXDOMAIN",
		"both.example.":      "NXDOMAIN",
		"evil.example.":      "NOERROR, evil.example. CNAME git.corp.example., git.corp.example. A 10.0.0.1",
		"tosecret.example.":  "NOERROR, tosecret.example. CNAME secret.example., secret.example. A 192.0.2.66",
	} {
		if got := digest(dig(t, s, name, wire.TypeA)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := s.outside.questions(); got != "both.example. A, evil.example. A, tosecret.example. A, www.example. A" {
		t.Errorf("the fallback was asked for %s", got)
	}
	s.inside.silent = true
	s.Flush()
	if m := dig(t, s, "www.example.", wire.TypeA); m.Rcode != wire.RcodeServerFailure || s.outside.questions() != "" {
		t.Errorf("where the inside fails: %s", digest(m))
	}
}

func TestNoIPv6(t *testing.T) {
	s := newSplit(t, func(cfg *ServerConfig) { cfg.Rules.Zones[0].NoIPv6 = true })
	m := dig(t, s, "git.corp.example.", wire.TypeAAAA)
	if digest(m) != "NOERROR" || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != wire.TypeSOA || m.Ns[0].Header().Ttl != nowhereTTL {
		t.Errorf("AAAA: %v", m)
	}
	if got := s.inside.questions(); got != "" {
		t.Errorf("the inside was asked for %s", got)
	}
	if got := digest(dig(t, s, "svc.corp.example.", wire.TypeHTTPS)); got != `NOERROR, svc.corp.example. HTTPS 1 . alpn="h2" ipv4hint="10.0.0.9"` {
		t.Errorf("HTTPS: %s", got)
	}
	if got := digest(dig(t, s, "www.example.", wire.TypeAAAA)); got != "NOERROR, www.example. AAAA 2001:db8::1" {
		t.Errorf("outside: %s", got)
	}
	if got := digest(dig(t, s, "evil.example.", wire.TypeAAAA)); got != "NOERROR, evil.example. CNAME git.corp.example." {
		t.Errorf("through an alias: %s", got)
	}
}

func TestHosts(t *testing.T) {
	hosts, err := ParseHosts(strings.NewReader("192.0.2.9 www.example Pinned.corp.example\n0.0.0.0 ads.example\nfd00::9 www.example\n10.0.0.5 mine"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSplit(t, func(cfg *ServerConfig) { cfg.Rules.Hosts = hosts })
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"www.example.", wire.TypeA, "NOERROR, www.example. A 192.0.2.9"},
		{"www.example.", wire.TypeAAAA, "NOERROR, www.example. AAAA fd00::9"},
		{"pinned.corp.example.", wire.TypeA, "NOERROR, pinned.corp.example. A 192.0.2.9"},
		{"pinned.corp.example.", wire.TypeAAAA, "NOERROR"},
		{"ads.example.", wire.TypeA, "NOERROR, ads.example. A 0.0.0.0"},
		{"mine.", wire.TypeA, "NOERROR, mine. A 10.0.0.5"},
		{"5.0.0.10.in-addr.arpa.", wire.TypePTR, "NOERROR, 5.0.0.10.in-addr.arpa. PTR mine."},
		{"9.2.0.192.in-addr.arpa.", wire.TypePTR, "NOERROR, 9.2.0.192.in-addr.arpa. PTR www.example."},
	} {
		if got := digest(dig(t, s, tt.name, tt.qtype)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if in, out := s.inside.questions(), s.outside.questions(); in+out != "" {
		t.Errorf("inside %q, outside %q", in, out)
	}
	if dig(t, s, "www.example.", wire.TypeTXT); s.outside.questions() != "www.example. TXT" {
		t.Error("other types are not asked for")
	}
}

func TestOnAnswer(t *testing.T) {
	var mu sync.Mutex
	var told, again []string
	s := newSplit(t, func(cfg *ServerConfig) {
		cfg.OnAnswer = func(a Answer) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(a.Names, a.Addrs, a.TTL, a.Way))
		}
		cfg.OnCached = func(a Answer) {
			mu.Lock()
			defer mu.Unlock()
			again = append(again, fmt.Sprint(a.Names, a.Addrs, a.TTL, a.Way))
		}
	})
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"GIT.corp.example.", wire.TypeA, "[git.corp.example] [10.0.0.1] 1m0s tunnel"},
		{"wiki.corp.example.", wire.TypeA, "[wiki.corp.example wiki.cdn.example] [203.0.113.7] 1m0s tunnel"},
		{"evil.example.", wire.TypeA, "[evil.example git.corp.example] [10.0.0.1] 1m0s tunnel"},
		{"git.", wire.TypeAAAA, "[git git.corp.example] [fd00::1] 1m0s tunnel"},
		{"svc.corp.example.", wire.TypeHTTPS, "[svc.corp.example] [10.0.0.9 fd00::9] 1m0s tunnel"},
		{"www.example.", wire.TypeA, "[www.example] [192.0.2.1] 1m0s direct"},
		{"www.example.", wire.TypeMX, ""},
		{"none.example.", wire.TypeA, ""},
	} {
		for range 2 {
			dig(t, s, tt.name, tt.qtype)
		}
		mu.Lock()
		if got := strings.Join(told, "; "); got != tt.want {
			t.Errorf("%s: the hook was told %s, want %s", tt.name, got, tt.want)
		}
		if got := strings.Join(again, "; "); got != tt.want {
			t.Errorf("%s: the hook for answers from the cache was told %s, want %s", tt.name, got, tt.want)
		}
		told, again = nil, nil
		mu.Unlock()
	}
}

func TestServerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAuthority(t, "example.",
			"a.example. 60 IN CNAME b.example.", "b.example. 100 IN A 192.0.2.1", "b.example. 200 IN A 192.0.2.2",
			"zero.example. 0 IN A 192.0.2.3", "big.example. 4000000000 IN A 192.0.2.4", "long.example. 2000000000 IN A 192.0.2.5")
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}}}}})
		ttls := func(name string) (list []uint32) {
			m := dig(t, s, name, wire.TypeA)
			for _, rr := range slices.Concat(m.Answer, m.Ns) {
				list = append(list, rr.Header().Ttl)
			}
			return list
		}
		expect := func(name string, asked string, want ...uint32) {
			t.Helper()
			if got := ttls(name); !slices.Equal(got, want) {
				t.Errorf("%s: %d, want %d", name, got, want)
			}
			if got := up.questions(); got != asked {
				t.Errorf("%s: asked for %q, want %q", name, got, asked)
			}
		}
		expect("a.example.", "a.example. A", 60, 100, 200)
		time.Sleep(30 * time.Second)
		expect("a.example.", "", 30, 70, 170)
		time.Sleep(29*time.Second + 900*time.Millisecond)
		expect("a.example.", "", 1, 41, 141)
		time.Sleep(100 * time.Millisecond)
		expect("a.example.", "a.example. A", 60, 100, 200)
		expect("zero.example.", "zero.example. A", 0)
		expect("zero.example.", "zero.example. A", 0)
		expect("big.example.", "big.example. A", 0)
		expect("long.example.", "long.example. A", maxTTL)
		time.Sleep(maxTTL*time.Second - 1)
		expect("long.example.", "", 1)
		// What is not there is kept as long as the SOA record says: the lesser of its lifetime and its last field.
		expect("none.example.", "none.example. A", 120)
		time.Sleep(119 * time.Second)
		expect("none.example.", "", 1)
		time.Sleep(time.Second)
		expect("none.example.", "none.example. A", 120)
	})
}

// TestNegativeWithoutSOA: nobody knows how long such an answer holds, so it is not kept.
func TestNegativeWithoutSOA(t *testing.T) {
	up := newZone(t, "a.example. 60 IN A 192.0.2.1")
	s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}}}}})
	for range 2 {
		if m := dig(t, s, "none.example.", wire.TypeA); m.Rcode != wire.RcodeNameError {
			t.Errorf("%s", digest(m))
		}
	}
	if got := up.questions(); got != "none.example. A, none.example. A" {
		t.Errorf("asked for %s", got)
	}
}

func TestFailuresAreKeptBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAuthority(t, "example.", "a.example. 60 IN A 192.0.2.1")
		up.silent = true
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}}}}})
		for range 3 {
			if m := dig(t, s, "a.example.", wire.TypeA); m.Rcode != wire.RcodeServerFailure {
				t.Errorf("%s", digest(m))
			}
		}
		up.silent = false
		time.Sleep(failureTTL)
		if m := dig(t, s, "a.example.", wire.TypeA); m.Rcode != wire.RcodeSuccess {
			t.Errorf("%s", digest(m))
		}
		if got := up.questions(); got != "a.example. A, a.example. A" {
			t.Errorf("asked for %s", got)
		}
	})
}

func TestStale(t *testing.T) {
	for _, stale := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			up := newAuthority(t, "example.", "a.example. 60 IN A 192.0.2.1")
			s := newServer(t, ServerConfig{Stale: stale, Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}}}}})
			dig(t, s, "a.example.", wire.TypeA)
			up.silent = true
			time.Sleep(2 * time.Minute)
			m := dig(t, s, "a.example.", wire.TypeA)
			if stale == 0 {
				if m.Rcode != wire.RcodeServerFailure {
					t.Errorf("an old answer: %v", m)
				}
				return
			}
			if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL || s.Stats().Stale != 1 {
				t.Errorf("%v, %+v", m, s.Stats())
			}
			time.Sleep(time.Hour)
			if m := dig(t, s, "a.example.", wire.TypeA); m.Rcode != wire.RcodeServerFailure {
				t.Errorf("a very old answer: %v", m)
			}
		})
	}
}

// gate is an Exchanger that waits until it is opened.
type gate struct {
	Exchanger
	open chan struct{}
}

func (g gate) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	select {
	case <-g.open:
		return g.Exchanger.Exchange(ctx, query)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAuthority(t, "example.", "a.example. 60 IN A 192.0.2.1")
		g := gate{up, make(chan struct{})}
		s := newServer(t, ServerConfig{MaxQuestions: 10, Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{g}}}}})
		codes := make(chan string, 20)
		for i := range 20 {
			go func() {
				name := "a.example."
				if i%2 == 1 {
					name = "A.eXample." // the case does not matter
				}
				codes <- name + wire.RcodeToString[dig(t, s, name, wire.TypeA).Rcode]
			}()
			synctest.Wait()
		}
		if st := s.Stats(); st.Active != 10 || st.Misses != 1 || st.Coalesced != 9 || st.Overload != 10 {
			t.Errorf("%+v", st)
		}
		close(g.open)
		count := map[string]int{}
		for range 20 {
			count[<-codes]++
		}
		if want := map[string]int{"a.example.NOERROR": 5, "A.eXample.NOERROR": 5, "a.example.SERVFAIL": 5, "A.eXample.SERVFAIL": 5}; fmt.Sprint(count) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", count, want)
		}
		if got := up.questions(); got != "a.example. A" {
			t.Errorf("asked for %s", got)
		}
		if st := s.Stats(); st.Active != 0 {
			t.Errorf("%d questions are left", st.Active)
		}
	})
}

func TestExchangeCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate{newZone(t), make(chan struct{})}
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{g}}}}})
		query, _ := newQuery("a.example.", wire.TypeA)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Exchange(ctx, query); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		// The question goes on, and ends in its own time.
		start := time.Now()
		if m := dig(t, s, "a.example.", wire.TypeA); m.Rcode != wire.RcodeServerFailure || time.Since(start) != defaultTimeout-time.Second {
			t.Errorf("after %v: %s", time.Since(start), digest(m))
		}
	})
}

func TestConfigureAndFlush(t *testing.T) {
	s := newSplit(t, nil)
	dig(t, s, "www.example.", wire.TypeA)
	dig(t, s, "www.example.", wire.TypeA)
	s.Flush()
	dig(t, s, "www.example.", wire.TypeA)
	if got := s.outside.questions(); got != "www.example. A, www.example. A" {
		t.Errorf("the outside was asked for %s", got)
	}
	if zone, way, suffix := s.Route("a.GIT.corp.example."); zone != "inside" || way != Tunnel || suffix != "corp.example" {
		t.Errorf("Route: %s %s %s", zone, way, suffix)
	}
	if err := s.Configure(Rules{Zones: []Zone{{Suffixes: []string{"a b"}}}}); err == nil || !strings.Contains(err.Error(), `"a b"`) {
		t.Errorf("Configure: %v", err)
	}
	if err := s.Configure(Rules{}); err != nil {
		t.Fatal(err)
	}
	if m := dig(t, s, "www.example.", wire.TypeA); m.Rcode != wire.RcodeNameError {
		t.Errorf("without zones: %s", digest(m))
	}
	if zone, way, suffix := s.Route("git.corp.example"); zone != "" || way != Nowhere || suffix != "" {
		t.Errorf("Route without zones: %s %s %s", zone, way, suffix)
	}
}

// TestAnswerUnderOldRules: an answer that was asked for before the rules changed is given to who asked, and not kept.
func TestAnswerUnderOldRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate{newZone(t, "a.example. 60 IN A 192.0.2.1"), make(chan struct{})}
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{g}}}}})
		done := make(chan string)
		go func() { done <- digest(dig(t, s, "a.example.", wire.TypeA)) }()
		synctest.Wait()
		s.Configure(Rules{})
		close(g.open)
		if got := <-done; got != "NOERROR, a.example. A 192.0.2.1" {
			t.Errorf("%s", got)
		}
		if m := dig(t, s, "a.example.", wire.TypeA); m.Rcode != wire.RcodeNameError {
			t.Errorf("the old answer is in the cache: %s", digest(m))
		}
	})
}

// TestWhatUpstreamsSee: nothing that a client puts into a query gets further than it must.
func TestWhatUpstreamsSee(t *testing.T) {
	var seen *wire.Msg
	up := exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		seen = q
		return new(wire.Msg).SetReply(q), nil
	})
	s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}}}}})
	m := new(wire.Msg).SetQuestion("WWW.Example.", wire.TypeA)
	m.RecursionDesired = false
	m.CheckingDisabled = true
	opt := m.SetEdns0(4096, true).IsEdns0()
	opt.Option = append(opt.Option,
		&wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(198, 51, 100, 0)},
		&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&wire.EDNS0_LOCAL{Code: 65001, Data: []byte("who I am")})
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Exchange(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if !seen.RecursionDesired || !seen.CheckingDisabled || seen.Question[0].Name != "www.example." {
		t.Errorf("the upstream saw %v", seen)
	}
	o := seen.IsEdns0()
	if o == nil || len(o.Option) > 0 || o.UDPSize() != udpSize || !o.Do() || len(seen.Extra) != 1 {
		t.Errorf("the upstream saw %v", seen)
	}
}

func TestAD(t *testing.T) {
	for _, trust := range []bool{false, true} {
		up := exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
			m := new(wire.Msg).SetReply(q)
			m.AuthenticatedData = true
			m.Answer = []wire.RR{addressRecord(q.Question[0].Name, netip.MustParseAddr("192.0.2.1"))}
			return m, nil
		})
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Tunnel, TrustAD: trust, Upstreams: []Exchanger{up}}}}})
		for _, asked := range []bool{false, true} {
			m := new(wire.Msg).SetQuestion("a.example.", wire.TypeA)
			m.AuthenticatedData = asked
			b, _ := m.Pack()
			answer, err := s.Exchange(t.Context(), b)
			if err != nil || m.Unpack(answer) != nil {
				t.Fatal(err)
			}
			if m.AuthenticatedData != (trust && asked) {
				t.Errorf("trusted %v, asked for %v: AD is %v", trust, asked, m.AuthenticatedData)
			}
		}
	}
}

// TestPanics: a fault in one question is no harm to others.
func TestPanics(t *testing.T) {
	up := exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		if strings.HasPrefix(q.Question[0].Name, "bad") {
			panic("upstream")
		}
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{addressRecord(q.Question[0].Name, netip.MustParseAddr("192.0.2.1"))}
		return m, nil
	})
	s := newServer(t, ServerConfig{
		Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Tunnel, Upstreams: []Exchanger{up}}}},
		OnAnswer: func(a Answer) {
			if a.Names[0] == "hook.example" {
				panic("hook")
			}
		},
	})
	for name, want := range map[string]int{"bad.example.": wire.RcodeServerFailure, "hook.example.": wire.RcodeServerFailure, "good.example.": wire.RcodeSuccess} {
		if m := dig(t, s, name, wire.TypeA); m.Rcode != want {
			t.Errorf("%s: %s", name, digest(m))
		}
	}
	if st := s.Stats(); st.Panics != 1 || st.Failures != 1 {
		t.Errorf("%+v", st)
	}
}

func TestQueryLog(t *testing.T) {
	for _, on := range []bool{false, true} {
		var b strings.Builder
		log := slog.New(slog.NewTextHandler(&b, nil))
		s := newSplit(t, func(cfg *ServerConfig) {
			cfg.Logger = log
			if on {
				cfg.QueryLog = log
			}
		})
		s.inside.silent = true
		for range 2 {
			dig(t, s, "www.example.", wire.TypeA)
		}
		dig(t, s, "git.corp.example.", wire.TypeA)
		got := b.String()
		if !on {
			if got != "" {
				t.Errorf("logged without being asked to: %s", got)
			}
			continue
		}
		for _, want := range []string{
			"name=www.example. type=A code=NOERROR cached=false", "name=www.example. type=A code=NOERROR cached=true",
			"name=git.corp.example. type=A code=SERVFAIL cached=false",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the log lacks %q: %s", want, got)
			}
		}
	}
}

func TestServerStats(t *testing.T) {
	s := newSplit(t, nil)
	dig(t, s, "www.example.", wire.TypeA)
	dig(t, s, "www.example.", wire.TypeA)
	dig(t, s, "loop.out.example.", wire.TypeA)
	st := s.Stats()
	if st.Queries != 3 || st.Hits != 1 || st.Misses != 2 || st.Failures != 1 || st.CacheEntries != 2 || st.CacheBytes <= 0 || st.Active != 0 {
		t.Errorf("%+v", st)
	}
	if len(st.Upstreams) != 3 || st.Upstreams[2].Zone != "outside" || st.Upstreams[2].Asked != 2 || !st.Upstreams[2].Healthy || st.Upstreams[2].Way != Direct {
		t.Errorf("%+v", st.Upstreams)
	}
}
