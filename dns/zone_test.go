package dns

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	wire "github.com/miekg/dns"
)

var errDown = errors.New("server is down")

// A zone is an Exchanger that knows some records, by their names and types, and remembers what it was asked. A name
// without any records does not exist, unless a name below it does.
type zone struct {
	records []wire.RR
	rcode   map[string]int // for names that fail
	silent  bool           // fails every question

	mu    sync.Mutex
	asked []string
}

func newZone(t testing.TB, lines ...string) *zone {
	t.Helper()
	z := &zone{rcode: make(map[string]int)}
	for _, l := range lines {
		rr, err := wire.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		z.records = append(z.records, rr)
	}
	return z
}

func (z *zone) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	var m wire.Msg
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Question[0]
	z.mu.Lock()
	z.asked = append(z.asked, q.Name+" "+wire.TypeToString[q.Qtype])
	z.mu.Unlock()
	if z.silent {
		return nil, errDown
	}
	return z.answer(&m).Pack()
}

func (z *zone) answer(m *wire.Msg) *wire.Msg {
	q := m.Question[0]
	r := new(wire.Msg).SetRcode(m, wire.RcodeNameError)
	if code, ok := z.rcode[q.Name]; ok {
		r.Rcode = code
		return r
	}
	// Answers follow CNAMEs within the zone, as those of a real server.
	for name := q.Name; len(r.Answer) < 50; {
		next := ""
		for _, rr := range z.records {
			h := rr.Header()
			if wire.IsSubDomain(strings.ToLower(name), h.Name) {
				r.Rcode = wire.RcodeSuccess
			}
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			if h.Rrtype == q.Qtype {
				r.Answer = append(r.Answer, rr)
			} else if c, ok := rr.(*wire.CNAME); ok {
				r.Answer = append(r.Answer, rr)
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return r
}

// questions returns what was asked, sorted, since A and AAAA are asked at once.
func (z *zone) questions() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := slices.Clone(z.asked)
	z.asked = nil
	slices.Sort(s)
	return strings.Join(s, ", ")
}
