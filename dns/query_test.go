package dns

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

// packed returns a query for a.example, changed by f before and by g after it is in wire format.
func packed(t testing.TB, f func(*wire.Msg), g func([]byte) []byte) []byte {
	t.Helper()
	m := new(wire.Msg).SetQuestion("A.example.", wire.TypeA)
	m.Id = 0x1234
	if f != nil {
		f(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if g != nil {
		b = g(b)
	}
	return b
}

func edns(version uint8, size uint16) func(*wire.Msg) {
	return func(m *wire.Msg) { m.SetEdns0(size, false).IsEdns0().SetVersion(version) }
}

func TestParseQuery(t *testing.T) {
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	tests := []struct {
		name  string
		query []byte
		want  verdict
		code  int // of the answer, with the extended bits
		size  int
	}{
		{"plain", packed(t, nil, nil), accepted, -1, 512},
		{"EDNS", packed(t, edns(0, 900), nil), accepted, -1, 900},
		{"EDNS with a small size", packed(t, edns(0, 100), nil), accepted, -1, 512},
		{"EDNS with a large size", packed(t, edns(0, 65535), nil), accepted, -1, udpSize},
		{"bytes behind", packed(t, nil, func(b []byte) []byte { return append(b, 1, 2, 3) }), accepted, -1, 512},
		{"nothing", nil, ignored, -1, 0},
		{"short", packed(t, nil, nil)[:11], ignored, -1, 0},
		{"an answer", packed(t, func(m *wire.Msg) { m.Response = true }, nil), ignored, -1, 0},
		{"no question", packed(t, func(m *wire.Msg) { m.Question = nil }, nil), formatErr, wire.RcodeFormatError, 0},
		{"two questions", packed(t, func(m *wire.Msg) { m.Question = append(m.Question, m.Question[0]) }, nil), formatErr, wire.RcodeFormatError, 0},
		{"no room for the question", packed(t, nil, nil)[:20], formatErr, wire.RcodeFormatError, 0},
		{"no class", packed(t, nil, func(b []byte) []byte { return b[:len(b)-2] }), formatErr, wire.RcodeFormatError, 0},
		{"a pointer to itself", packed(t, nil, func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), formatErr, wire.RcodeFormatError, 0},
		{"a pointer forward", packed(t, nil, func(b []byte) []byte { b[12], b[13] = 0xc0, 14; return b }), formatErr, wire.RcodeFormatError, 0},
		{"a reserved label", packed(t, nil, set(12, 0x41)), formatErr, wire.RcodeFormatError, 0},
		{"a long name", longQuery(250), formatErr, wire.RcodeFormatError, 0},
		{"an answer in it", packed(t, nil, set(7, 1)), formatErr, wire.RcodeFormatError, 0},
		{"a record that is not there", packed(t, nil, set(11, 1)), formatErr, wire.RcodeFormatError, 0},
		{"many records", packed(t, nil, set(11, 200)), formatErr, wire.RcodeFormatError, 0},
		{"two OPT", packed(t, func(m *wire.Msg) { edns(0, 900)(m); m.Extra = append(m.Extra, m.Extra[0]) }, nil), formatErr, wire.RcodeFormatError, 0},
		{"OPT with a name", packed(t, func(m *wire.Msg) { edns(0, 900)(m); m.Extra[0].Header().Name = "x." }, nil), formatErr, wire.RcodeFormatError, 0},
		{"an option that is too long", packed(t, func(m *wire.Msg) {
			edns(0, 900)(m)
			m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_LOCAL{Code: 65001, Data: []byte("ab")}}
		}, func(b []byte) []byte { b[len(b)-3] = 9; return b }), formatErr, wire.RcodeFormatError, 0},
		{"huge", append(packed(t, nil, nil), make([]byte, maxQuery)...), formatErr, wire.RcodeFormatError, 0},
		{"EDNS of the future", packed(t, edns(7, 900), nil), badVersion, wire.RcodeBadVers, 0},
		{"notify", packed(t, func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify }, nil), notImplemented, wire.RcodeNotImplemented, 0},
		{"update", packed(t, func(m *wire.Msg) { m.Opcode = wire.OpcodeUpdate }, nil), notImplemented, wire.RcodeNotImplemented, 0},
		{"chaos", packed(t, func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }, nil), refused, wire.RcodeRefused, 0},
		{"any class", packed(t, func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassANY }, nil), refused, wire.RcodeRefused, 0},
		{"zone transfer", packed(t, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR }, nil), refused, wire.RcodeRefused, 0},
		{"TKEY", packed(t, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeTKEY }, nil), notImplemented, wire.RcodeNotImplemented, 0},
		{"OPT asked for", packed(t, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeOPT }, nil), notImplemented, wire.RcodeNotImplemented, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var q query
			v := q.parse(tt.query)
			if v != tt.want {
				t.Fatalf("verdict %d, want %d", v, tt.want)
			}
			switch v {
			case ignored:
				return
			case accepted:
				if q.size != tt.size || string(q.key()) != "\x01a\x07example\x00\x00\x01\x00" {
					t.Errorf("size %d, key %q", q.size, q.key())
				}
				return
			}
			var m wire.Msg
			if err := m.Unpack(q.appendVerdict(nil, tt.query, v)); err != nil {
				t.Fatal(err)
			}
			if m.Rcode != tt.code || m.Id != 0x1234 || !m.Response || m.Opcode != int(tt.query[2]>>3&0xf) {
				t.Errorf("the answer is %v", &m)
			}
			if v == badVersion && (m.IsEdns0() == nil || m.IsEdns0().Version() != 0) {
				t.Errorf("the answer does not say which version is known: %v", &m)
			}
		})
	}
}

// longQuery has a name of so many bytes in labels of one letter, beyond what fits.
func longQuery(n int) []byte {
	b := make([]byte, headerLen)
	b[5] = 1
	binary.BigEndian.PutUint16(b, 0x1234)
	for range (n + 10) / 2 {
		b = append(b, 1, 'a')
	}
	return append(b, 0, 0, 1, 0, 1)
}

func TestLongestName(t *testing.T) {
	name := strings.Repeat("a.", 127) // 254 bytes, 255 on the wire
	b, err := new(wire.Msg).SetQuestion(name, wire.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	if v := q.parse(b); v != accepted || q.keyLen != maxWireName+3 {
		t.Errorf("verdict %d, key of %d bytes", v, q.keyLen)
	}
	s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{newZone(t, name+" 60 IN A 192.0.2.1")}}}}})
	if m := dig(t, s, name, wire.TypeA); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// FuzzServer hands any packet to a Server. Each answer must be one to the query, and must parse; what the parser takes,
// miekg/dns must take too.
func FuzzServer(f *testing.F) {
	f.Add(packed(f, nil, nil))
	f.Add(packed(f, edns(0, 1232), nil))
	f.Add(packed(f, edns(1, 1232), nil))
	f.Add(packed(f, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR }, nil))
	f.Add(packed(f, nil, func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }))
	f.Add(longQuery(250))
	up := newAuthority(f, "example.", "a.example. 60 IN A 192.0.2.1", "www.example. 60 IN CNAME a.example.")
	s := newServer(f, ServerConfig{CacheBytes: 1 << 16, Rules: Rules{
		Zones:  []Zone{{Suffixes: []string{"."}, Way: Tunnel, Upstreams: []Exchanger{up}}},
		Search: []string{"example"},
	}})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q query
		sent := slices.Clone(b)
		v := q.parse(b)
		answer, err := s.Exchange(t.Context(), b)
		if !slices.Equal(b, sent) {
			t.Fatal("the query was changed")
		}
		up.questions()
		if v == ignored {
			if err == nil {
				t.Fatal("an answer to what is no query")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if answer[0] != b[0] || answer[1] != b[1] || answer[2]&0x80 == 0 {
			t.Fatalf("not an answer to it: %x", answer)
		}
		var m wire.Msg
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("the answer does not parse: %v: %x", err, answer)
		}
		if v != accepted {
			return
		}
		question, err := parseQuery(b)
		if err != nil {
			t.Fatalf("the query does not parse: %v", err)
		}
		if len(m.Question) != 1 || m.Question[0].Name != question.name || m.Question[0].Qtype != question.qtype {
			t.Fatalf("the answer repeats %v, want %v", m.Question, question)
		}
	})
}
