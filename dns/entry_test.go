package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// everywhere is a ruling with one zone of all names.
func everywhere(t testing.TB) (*ruling, *realm) {
	t.Helper()
	st, err := newRuling(Rules{Zones: []Zone{
		{Name: "all", Suffixes: []string{"."}, Way: Direct, TrustAD: true},
		{Name: "inside", Suffixes: []string{"corp.example"}, Way: Tunnel},
	}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return st, st.zones[""]
}

// answerOf packs an answer to a question for a.example with these records.
func answerOf(t testing.TB, qtype uint16, answer, authority []string, change func(*wire.Msg)) []byte {
	t.Helper()
	m := new(wire.Msg).SetQuestion("a.example.", qtype)
	m.Id, m.Response = 1, true
	for i, list := range [][]string{answer, authority} {
		for _, l := range list {
			rr, err := wire.NewRR(l)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				m.Answer = append(m.Answer, rr)
			} else {
				m.Ns = append(m.Ns, rr)
			}
		}
	}
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSift(t *testing.T) {
	const soa = "example. 60 IN SOA ns. host. 1 2 3 4 5"
	for _, tt := range []struct {
		name              string
		qtype             uint16
		do                bool
		answer, authority []string
		change            func(*wire.Msg)
		want              string // the names of what is kept, "next" and the name that is to be asked for, or what the error says
		dropped           int
	}{
		{name: "plain", answer: []string{"a.example. 1 IN A 192.0.2.1"}, want: "a.example. A"},
		{name: "another name", answer: []string{"b.example. 1 IN A 6.6.6.6"}, want: "", dropped: 1},
		{name: "another name too", answer: []string{"b.example. 1 IN A 6.6.6.6", "A.Example. 1 IN A 192.0.2.1"}, want: "a.example. A", dropped: 1},
		{name: "another type", answer: []string{"a.example. 1 IN TXT x"}, want: "", dropped: 1},
		{name: "another class", answer: []string{"a.example. 1 CH A 192.0.2.1"}, want: "", dropped: 1},
		{name: "alias", answer: []string{"a.example. 1 IN CNAME b.example.", "b.example. 1 IN A 192.0.2.1"}, want: "a.example. CNAME, b.example. A"},
		{name: "alias, backwards", answer: []string{"b.example. 1 IN A 192.0.2.1", "a.example. 1 IN CNAME b.example."}, want: "a.example. CNAME, b.example. A"},
		{name: "alias in other case", answer: []string{"A.example. 1 IN CNAME B.EXAMPLE.", "b.Example. 1 IN A 192.0.2.1"}, want: "a.example. CNAME, b.example. A"},
		{name: "alias of something else", answer: []string{"a.example. 1 IN CNAME b.example.", "c.example. 1 IN A 6.6.6.6"}, want: "a.example. CNAME, next b.example.", dropped: 1},
		{name: "two aliases", answer: []string{"a.example. 1 IN CNAME b.example.", "a.example. 1 IN CNAME c.example.", "c.example. 1 IN A 6.6.6.6", "b.example. 1 IN A 192.0.2.1"}, want: "a.example. CNAME, b.example. A", dropped: 2},
		{name: "alias without the end", answer: []string{"a.example. 1 IN CNAME b.example."}, want: "a.example. CNAME, next b.example."},
		{name: "alias of nothing", answer: []string{"a.example. 1 IN CNAME b.example."}, authority: []string{soa}, want: "a.example. CNAME, example. SOA"},
		{name: "alias of itself", answer: []string{"a.example. 1 IN CNAME a.example."}, want: "does not end"},
		{name: "loop", answer: []string{"a.example. 1 IN CNAME b.example.", "b.example. 1 IN CNAME a.example."}, want: "does not end"},
		{name: "loop of others", answer: []string{"a.example. 1 IN CNAME b.example.", "b.example. 1 IN CNAME c.example.", "c.example. 1 IN CNAME b.example."}, want: "does not end"},
		{name: "into the inside", answer: []string{"a.example. 1 IN CNAME git.corp.example.", "git.corp.example. 1 IN A 6.6.6.6"}, want: "a.example. CNAME, next git.corp.example."},
		{name: "through the inside", answer: []string{"a.example. 1 IN CNAME git.corp.example.", "git.corp.example. 1 IN CNAME b.example.", "b.example. 1 IN A 6.6.6.6"}, want: "a.example. CNAME, next git.corp.example."},
		{name: "asked for the alias", qtype: wire.TypeCNAME, answer: []string{"a.example. 1 IN CNAME git.corp.example."}, want: "a.example. CNAME"},
		{name: "everything", qtype: wire.TypeANY, answer: []string{"a.example. 1 IN A 192.0.2.1", "a.example. 1 IN TXT x", "b.example. 1 IN A 6.6.6.6"}, want: "a.example. A, a.example. TXT", dropped: 1},
		{name: "DNAME", answer: []string{"example. 1 IN DNAME net.", "a.example. 1 IN CNAME a.net.", "a.net. 1 IN A 192.0.2.1"}, want: "example. DNAME, a.example. CNAME, a.net. A"},
		{name: "DNAME of others", answer: []string{"b.example. 1 IN DNAME net.", "a.example. 1 IN A 192.0.2.1"}, want: "a.example. A", dropped: 1},
		{name: "nothing", authority: []string{soa}, want: "example. SOA"},
		{name: "nothing, says another zone", authority: []string{"corp.example. 60 IN SOA ns. host. 1 2 3 4 5"}, want: ""},
		{name: "name servers", answer: []string{"a.example. 1 IN A 192.0.2.1"}, authority: []string{"example. 1 IN NS ns.example.", soa}, want: "a.example. A"},
		{name: "glue", answer: []string{"a.example. 1 IN A 192.0.2.1"}, change: func(m *wire.Msg) { m.Extra = append(m.Extra, m.Answer...) }, want: "a.example. A"},
		{name: "truncated", answer: []string{"a.example. 1 IN A 192.0.2.1"}, change: func(m *wire.Msg) { m.Truncated = true }, want: "truncated"},
		{name: "absent but there", answer: []string{"a.example. 1 IN A 192.0.2.1"}, change: func(m *wire.Msg) { m.Rcode = wire.RcodeNameError }, want: "does not exist, with records"},
		{name: "signed", do: true, answer: []string{"a.example. 1 IN A 192.0.2.1", "a.example. 1 IN RRSIG A 13 2 1 20300101000000 20200101000000 1 example. AAAA"}, want: "a.example. A, a.example. RRSIG"},
		{name: "signed, but not wanted", answer: []string{"a.example. 1 IN A 192.0.2.1", "a.example. 1 IN RRSIG A 13 2 1 20300101000000 20200101000000 1 example. AAAA"}, want: "a.example. A"},
		{
			name: "proof of nothing", do: true,
			authority: []string{
				soa, "example. 1 IN RRSIG SOA 13 2 1 20300101000000 20200101000000 1 example. AAAA",
				"0.example. 1 IN NSEC b.example. A", "0.example. 1 IN RRSIG NSEC 13 2 1 20300101000000 20200101000000 1 example. AAAA",
				"0.net. 1 IN NSEC b.net. A", "0.net. 1 IN RRSIG NSEC 13 2 1 20300101000000 20200101000000 1 net. AAAA",
			},
			want: "example. SOA, example. RRSIG, 0.example. NSEC, 0.example. RRSIG",
		},
		{name: "empty", change: func(m *wire.Msg) { m.Answer = []wire.RR{&wire.A{Hdr: recordHeader("a.example.", wire.TypeA)}} }, want: "", dropped: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.qtype == 0 {
				tt.qtype = wire.TypeA
			}
			st, z := everywhere(t)
			p, err := st.sift(answerOf(t, tt.qtype, tt.answer, tt.authority, tt.change), 1, "a.example.", tt.qtype, tt.do, z, false)
			if err != nil {
				if tt.want == "" || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %s", err, tt.want)
				}
				return
			}
			var parts []string
			for _, rr := range slices.Concat(p.answer, p.authority) {
				parts = append(parts, rr.Header().Name+" "+typeText(rr.Header().Rrtype))
			}
			if p.next != "" {
				parts = append(parts, "next "+p.next)
			}
			if got := strings.Join(parts, ", "); got != tt.want || p.dropped != tt.dropped {
				t.Errorf("kept %q and dropped %d, want %q and %d", got, p.dropped, tt.want, tt.dropped)
			}
		})
	}
}

func TestSiftRefuses(t *testing.T) {
	st, z := everywhere(t)
	good := answerOf(t, wire.TypeA, []string{"a.example. 60 IN A 192.0.2.1"}, nil, nil)
	if _, err := st.sift(good, 1, "a.example.", wire.TypeA, false, z, false); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func([]byte) []byte{
		"nothing":          func([]byte) []byte { return nil },
		"another id":       func(b []byte) []byte { b[1]++; return b },
		"a query":          func(b []byte) []byte { b[2] &^= 0x80; return b },
		"another name":     func(b []byte) []byte { b[13] = 'b'; return b },
		"another type":     func(b []byte) []byte { b[24] = 28; return b },
		"no question":      func(b []byte) []byte { b[5] = 0; return b },
		"cut in a record":  func(b []byte) []byte { return b[:len(b)-1] },
		"cut at a record":  func(b []byte) []byte { return b[:27] },
		"more than it has": func(b []byte) []byte { b[7]++; return b },
		"loop":             func(b []byte) []byte { b[27], b[28] = 0xc0, 27; return b },
		"long record":      func(b []byte) []byte { b[len(b)-5] = 5; return b },
	} {
		if p, err := st.sift(f(slices.Clone(good)), 1, "a.example.", wire.TypeA, false, z, false); err == nil {
			t.Errorf("%s: no error, but %+v", name, p)
		}
	}
}

func TestLongChain(t *testing.T) {
	st, z := everywhere(t)
	for n, want := range map[int]bool{maxChain: true, maxChain + 1: false} {
		lines := []string{"a.example. 1 IN CNAME 0.example."}
		for i := range n - 1 {
			lines = append(lines, digits(i)+".example. 1 IN CNAME "+digits(i+1)+".example.")
		}
		lines = append(lines, digits(n-1)+".example. 1 IN A 192.0.2.1")
		_, err := st.sift(answerOf(t, wire.TypeA, lines, nil, nil), 1, "a.example.", wire.TypeA, false, z, false)
		if (err == nil) != want {
			t.Errorf("%d aliases: %v", n, err)
		}
	}
}

func digits(i int) string { return netip.AddrFrom4([4]byte{0, 0, 0, byte(i)}).String()[6:] }

// TestEntry compares answers from an entry with those that miekg/dns makes.
func TestEntry(t *testing.T) {
	var q query
	b := packed(t, edns(0, 1232), nil)
	if q.parse(b) != accepted {
		t.Fatal("the query does not parse")
	}
	r := &finding{answer: []wire.RR{
		&wire.CNAME{Hdr: wire.RR_Header{Name: "a.example.", Rrtype: wire.TypeCNAME, Class: wire.ClassINET, Ttl: 100}, Target: "b.example."},
		&wire.A{Hdr: wire.RR_Header{Name: "b.example.", Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 50}, A: []byte{192, 0, 2, 1}},
	}}
	r.ttl = r.lifetime(false)
	if r.ttl != 50*time.Second {
		t.Fatalf("it holds for %v", r.ttl)
	}
	then := stamp{wall: time.Hour, mono: time.Minute}
	e, err := newEntry(&q, r, then)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		now   stamp
		fresh bool
		ttl   uint32 // of the second record
	}{
		{then, true, 50},
		{stamp{then.wall + 10*time.Second, then.mono + 10*time.Second}, true, 40},
		{stamp{then.wall + 10*time.Second, then.mono}, true, 40},                // the machine was asleep
		{stamp{then.wall - time.Hour, then.mono + 20*time.Second}, true, 30},    // the clock was set back
		{stamp{then.wall - time.Hour, then.mono}, true, 50},                     // and nothing else
		{stamp{then.wall + 50*time.Second, then.mono + time.Second}, false, 30}, // too old
	} {
		if e.fresh(tt.now) != tt.fresh {
			t.Errorf("%v: fresh is %v", tt.now, !tt.fresh)
		}
		var m wire.Msg
		if err := m.Unpack(e.appendTo(nil, b, &q, tt.now, packetLimit)); err != nil {
			t.Fatal(err)
		}
		if got := digest(&m); got != "NOERROR, A.example. CNAME b.example., b.example. A 192.0.2.1" {
			t.Errorf("%v: %s", tt.now, got)
		}
		if m.Id != 0x1234 || m.Answer[1].Header().Ttl != tt.ttl || m.IsEdns0() == nil || m.IsEdns0().UDPSize() != udpSize {
			t.Errorf("%v: %v", tt.now, &m)
		}
	}
	// What does not fit is cut to nothing.
	var m wire.Msg
	answer := e.appendTo(nil, b, &q, then, 60)
	if err := m.Unpack(answer); err != nil || !m.Truncated || len(m.Answer) != 0 || m.IsEdns0() == nil {
		t.Errorf("%v, %v", err, &m)
	}
	for _, limit := range []int{len(answer), 512} {
		if got := len(e.appendTo(nil, b, &q, then, limit)); got > limit {
			t.Errorf("%d bytes, the limit is %d", got, limit)
		}
	}
}

// FuzzEntry takes any answer of an upstream to the cache and back. What comes out must parse, must be about the question, and
// must not hold longer than it was said to.
func FuzzEntry(f *testing.F) {
	for _, lines := range [][]string{
		{"a.example. 60 IN A 192.0.2.1"},
		{"a.example. 60 IN CNAME b.example.", "b.example. 30 IN A 192.0.2.1"},
		{"a.example. 60 IN CNAME a.example."},
		{"example. 60 IN DNAME net.", "a.example. 60 IN CNAME a.net.", "a.net. 60 IN A 192.0.2.1"},
		{"a.example. 4294967295 IN A 192.0.2.1"},
	} {
		f.Add(answerOf(f, wire.TypeA, lines, nil, nil), uint16(wire.TypeA), uint32(10))
	}
	f.Add(answerOf(f, wire.TypeMX, []string{"a.example. 60 IN MX 10 mail.example."}, nil, nil), uint16(wire.TypeMX), uint32(10))
	f.Add(answerOf(f, wire.TypeA, nil, []string{"example. 60 IN SOA ns. host. 1 2 3 4 5"}, nil), uint16(wire.TypeA), uint32(10))
	f.Add(answerOf(f, wire.TypeHTTPS, []string{"a.example. 60 IN HTTPS 1 . alpn=h2 ipv6hint=::1"}, nil, nil), uint16(wire.TypeHTTPS), uint32(10))
	f.Fuzz(func(t *testing.T, b []byte, qtype uint16, age uint32) {
		st, z := everywhere(t)
		z.noIPv6 = age%2 == 1
		if len(b) > headerLen {
			b[0], b[1] = 0, 1
		}
		p, err := st.sift(b, 1, "a.example.", qtype, true, z, false)
		if err != nil {
			return
		}
		query, err := new(wire.Msg).SetQuestion("a.example.", qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q parsed
		if q.parse(query) != accepted {
			return
		}
		r := &finding{rcode: p.rcode & 0xf, answer: p.answer, authority: p.authority}
		r.ttl = r.lifetime(!p.final)
		e, err := newEntry(&q, r, stamp{})
		if err != nil {
			return
		}
		later := time.Duration(age) * time.Second
		for _, limit := range []int{packetLimit, maxMessage} {
			answer := e.appendTo(nil, query, &q, stamp{wall: later}, limit)
			if limit == packetLimit && len(answer) > q.size {
				t.Fatalf("%d bytes, the limit is %d", len(answer), q.size)
			}
			var m wire.Msg
			if err := m.Unpack(answer); err != nil {
				t.Fatalf("%v: %x from %x", err, answer, b)
			}
			if limit == maxMessage && (len(m.Answer) != len(p.answer) || len(m.Ns) != len(p.authority)) {
				t.Fatalf("%d records became %v", len(p.answer), &m)
			}
			for _, rr := range m.Answer {
				if ttl := rr.Header().Ttl; ttl > maxTTL || later < e.life && time.Duration(ttl)*time.Second < e.life-later-time.Second {
					t.Fatalf("a lifetime of %d after %v of %v", ttl, later, e.life)
				}
			}
		}
	})
}

// parsed is query, whose name a variable has.
type parsed = query
