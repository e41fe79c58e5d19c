package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"
)

func TestLookup(t *testing.T) {
	records := []string{
		"a.example. 60 IN A 192.0.2.1",
		"a.example. 60 IN A 192.0.2.2",
		"a.example. 60 IN AAAA 2001:db8::1",
		"four.example. 60 IN A 192.0.2.4",
		"six.example. 60 IN AAAA 2001:db8::6",
		"six.example. 60 IN AAAA ::ffff:192.0.2.6",
		"text.example. 60 IN TXT hello",
		"alias.example. 60 IN CNAME middle.example.",
		"middle.example. 60 IN CNAME a.example.",
		"dangling.example. 60 IN CNAME nothing.example.",
		"loop.example. 60 IN CNAME pool.example.",
		"pool.example. 60 IN CNAME loop.example.",
		"git.corp.example. 60 IN A 10.0.0.1",
		"git.dev.corp.example. 60 IN A 10.0.0.2",
		"only.corp.example. 60 IN A 10.0.0.3",
		"build.dev.corp.example. 60 IN A 10.0.0.4",
		"bare. 60 IN A 10.0.0.5",
		"_sip._tcp.example. 60 IN A 192.0.2.7",
	}
	search := []string{"dev.corp.example", ".corp.example."}
	tests := []struct {
		name, network, host string
		search              []string
		ndots               int
		want                string // addresses, or what the error says
		asked               string
	}{
		{"both", "ip", "a.example", nil, 0, "192.0.2.1 192.0.2.2 2001:db8::1", "a.example. A, a.example. AAAA"},
		{"final dot", "ip", "a.example.", search, 0, "192.0.2.1 192.0.2.2 2001:db8::1", "a.example. A, a.example. AAAA"},
		{"case", "ip4", "A.EXAMPLE", nil, 0, "192.0.2.1 192.0.2.2", "A.EXAMPLE. A"},
		{"only IPv4", "ip", "four.example", nil, 0, "192.0.2.4", "four.example. A, four.example. AAAA"},
		{"no IPv6", "ip6", "four.example", nil, 0, "not found", "four.example. AAAA"},
		{"mapped", "ip6", "six.example", nil, 0, "2001:db8::6", "six.example. AAAA"},
		{"other type", "ip", "text.example", nil, 0, "not found", "text.example. A, text.example. AAAA"},
		{"unknown", "ip4", "b.example", nil, 0, "not found", "b.example. A"},
		{"alias", "ip", "alias.example", nil, 0, "192.0.2.1 192.0.2.2 2001:db8::1", "alias.example. A, alias.example. AAAA"},
		{"dangling alias", "ip4", "dangling.example", nil, 0, "not found", "dangling.example. A, nothing.example. A"},
		{"loop", "ip4", "loop.example", nil, 0, "temporary", "loop.example. A"},
		{"underscore", "ip4", "_sip._tcp.example", nil, 0, "192.0.2.7", "_sip._tcp.example. A"},

		{"search", "ip4", "git", search, 0, "10.0.0.2", "git.dev.corp.example. A"},
		{"search further", "ip4", "only", search, 0, "10.0.0.3", "only.corp.example. A, only.dev.corp.example. A"},
		{"search then bare", "ip4", "bare", search, 0, "10.0.0.5", "bare. A, bare.corp.example. A, bare.dev.corp.example. A"},
		{"search in vain", "ip4", "none", search, 0, "not found", "none. A, none.corp.example. A, none.dev.corp.example. A"},
		{"dots first as they are", "ip4", "build.dev", search, 0, "10.0.0.4", "build.dev. A, build.dev.corp.example. A, build.dev.dev.corp.example. A"},
		{"more ndots", "ip4", "build.dev", []string{"corp.example"}, 2, "10.0.0.4", "build.dev.corp.example. A"},
		{"negative ndots", "ip4", "git", []string{"corp.example"}, -1, "10.0.0.1", "git. A, git.corp.example. A"},
		{"bad search domains", "ip4", "git", []string{"", ".", "a b", strings.Repeat("a.", 124) + "aaaa", "corp.example"}, 0, "10.0.0.1", "git.corp.example. A"},

		{"literal", "ip", "192.0.2.9", search, 0, "192.0.2.9", ""},
		{"literal", "ip", "::ffff:192.0.2.9", search, 0, "192.0.2.9", ""},
		{"literal", "ip6", "2001:db8::9", search, 0, "2001:db8::9", ""},
		{"literal of the other family", "ip6", "192.0.2.9", search, 0, "not found", ""},
		{"localhost", "ip", "localhost", search, 0, "127.0.0.1 ::1", ""},
		{"localhost", "ip4", "a.LocalHost.", search, 0, "127.0.0.1", ""},

		{"empty", "ip", "", search, 0, "not found", ""},
		{"root", "ip", ".", search, 0, "not found", ""},
		{"dots", "ip", "a..example", search, 0, "not found", ""},
		{"space", "ip", "a b", search, 0, "not found", ""},
		{"escape", "ip", `a\.example`, search, 0, "not found", ""},
		{"NUL", "ip", "a\x00.example", search, 0, "not found", ""},
		{"long label", "ip", strings.Repeat("a", 64), nil, 0, "not found", ""},
		{"long name", "ip", strings.Repeat("a.", 127) + "a", nil, 0, "not found", ""},
		{"network", "tcp", "a.example", nil, 0, "network", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			z := newZone(t, records...)
			r := &Resolver{Exchanger: z, Search: tt.search, Ndots: tt.ndots}
			addrs, err := r.LookupNetIP(t.Context(), tt.network, tt.host)
			if got := describe(addrs, err); got != tt.want {
				t.Errorf("%s: %s, want %s (%v)", tt.host, got, tt.want, err)
			}
			if got := z.questions(); got != tt.asked {
				t.Errorf("asked %s, want %s", got, tt.asked)
			}
			var e *net.DNSError
			if err != nil && (!errors.As(err, &e) || e.Name != tt.host) {
				t.Errorf("the error is %#v", err)
			}
		})
	}
}

// describe returns addresses, or what the fields of a net.DNSError say.
func describe(addrs []netip.Addr, err error) string {
	var e *net.DNSError
	switch {
	case err == nil:
		return strings.Trim(fmt.Sprint(addrs), "[]")
	case !errors.As(err, &e):
		return "another error"
	case e.IsNotFound:
		return "not found"
	case e.IsTimeout:
		return "timeout"
	case e.IsTemporary:
		return "temporary"
	}
	return "network"
}

func TestLookupFailures(t *testing.T) {
	z := newZone(t, "a.example. 60 IN A 192.0.2.1")
	z.rcode["sick.example."] = wire.RcodeServerFailure
	z.rcode["odd.example."] = 14
	r := &Resolver{Exchanger: z, Search: []string{"example"}}
	for host, want := range map[string]string{"sick.example.": "SERVFAIL", "odd.example.": "14", "sick": "SERVFAIL"} {
		_, err := r.LookupNetIP(t.Context(), "ip", host)
		if got := describe(nil, err); got != "temporary" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s: %v", host, got, err)
		}
	}
	z.silent = true
	if _, err := r.LookupNetIP(t.Context(), "ip", "a.example"); !errors.Is(err, errDown) {
		t.Errorf("a server that is down: %v", err)
	}
	if _, err := new(Resolver).LookupNetIP(t.Context(), "ip", "a.example"); !errors.Is(err, ErrNoServer) {
		t.Errorf("a Resolver without an Exchanger: %v", err)
	}
}

// exchanger is an Exchanger made of a function.
type exchanger func(ctx context.Context, q *wire.Msg) (*wire.Msg, error)

func (f exchanger) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	m := new(wire.Msg)
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	r, err := f(ctx, m)
	if err != nil {
		return nil, err
	}
	return r.Pack()
}

func TestOneFamilyFails(t *testing.T) {
	z := newZone(t, "a.example. 60 IN A 192.0.2.1")
	r := &Resolver{Exchanger: exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		if q.Question[0].Qtype == wire.TypeAAAA {
			return nil, errDown
		}
		return z.answer(q), nil
	})}
	addrs, err := r.LookupNetIP(t.Context(), "ip", "a.example")
	if got := describe(addrs, err); got != "192.0.2.1" {
		t.Errorf("%s, %v", got, err)
	}
	// With no address of the family that answers, nobody knows whether the name has one.
	if _, err := r.LookupNetIP(t.Context(), "ip", "b.example"); !errors.Is(err, errDown) {
		t.Errorf("%v", err)
	}
}

func TestFamiliesAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1")
		r := &Resolver{Exchanger: exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
			time.Sleep(time.Second)
			return z.answer(q), nil
		})}
		start := time.Now()
		addrs, err := r.LookupNetIP(t.Context(), "ip", "a.example")
		if took := time.Since(start); took != time.Second || len(addrs) != 2 {
			t.Errorf("after %v: %v, %v", took, addrs, err)
		}
	})
}

func TestLookupTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := &Resolver{Search: []string{"a.example", "b.example"}, Exchanger: exchanger(func(ctx context.Context, q *wire.Msg) (*wire.Msg, error) {
			asked++
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.LookupNetIP(ctx, "ip4", "x")
		if describe(nil, err) != "timeout" || !errors.Is(err, context.DeadlineExceeded) || asked != 1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		if !dnsError("x", os.ErrDeadlineExceeded).(*net.DNSError).Timeout() {
			t.Error("a deadline of a connection is no timeout")
		}
	})
}

// TestSplitChain has an alias that leads from the outside world into the tunnel.
func TestSplitChain(t *testing.T) {
	outside := newZone(t, "www.example. 60 IN CNAME www.corp.example.")
	inside := newZone(t, "www.corp.example. 60 IN CNAME host.corp.example.", "host.corp.example. 60 IN A 10.0.0.1")
	m, err := NewMux(outside, map[string]Exchanger{"corp.example": inside})
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := (&Resolver{Exchanger: m}).LookupNetIP(t.Context(), "ip4", "www.example")
	if got := describe(addrs, err); got != "10.0.0.1" {
		t.Errorf("%s, %v", got, err)
	}
	if got := outside.questions(); got != "www.example. A" {
		t.Errorf("outside was asked %s", got)
	}
	if got := inside.questions(); got != "www.corp.example. A" {
		t.Errorf("inside was asked %s", got)
	}
}

// TestEndlessChain has a server that invents an alias for everything.
func TestEndlessChain(t *testing.T) {
	asked := 0
	r := &Resolver{Exchanger: exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		asked++
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{&wire.CNAME{Hdr: recordHeader(q.Question[0].Name, wire.TypeCNAME), Target: fmt.Sprintf("x%d.example.", asked)}}
		return m, nil
	})}
	_, err := r.LookupNetIP(t.Context(), "ip4", "a.example")
	if !errors.Is(err, ErrMessage) || asked != maxChain {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestHostileAnswers(t *testing.T) {
	query, _ := newQuery("a.example.", wire.TypeA)
	var m wire.Msg
	m.Unpack(query)
	z := newZone(t, "a.example. 60 IN A 192.0.2.1")
	honest, _ := z.answer(&m).Pack()
	change := func(f func(b []byte) []byte) func(q []byte) []byte {
		return func(q []byte) []byte {
			b := slices.Clone(honest)
			copy(b, q[:2])
			return f(b)
		}
	}
	for name, f := range map[string]func([]byte) []byte{
		"nothing":     func([]byte) []byte { return nil },
		"short":       change(func(b []byte) []byte { return b[:8] }),
		"cut":         change(func(b []byte) []byte { return b[:len(b)-2] }),
		"other id":    change(func(b []byte) []byte { b[1]++; return b }),
		"the query":   func(q []byte) []byte { return q },
		"no question": change(func(b []byte) []byte { b[5] = 0; return b }),
		"other name":  change(func(b []byte) []byte { b[13] = 'b'; return b }),
		"too long":    change(func(b []byte) []byte { return append(b, make([]byte, maxMessage)...) }),
		"pointer":     change(func(b []byte) []byte { b[12] = 0xc0; b[13] = 12; return b }),
	} {
		r := &Resolver{Exchanger: raw(f)}
		addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.example")
		if !errors.Is(err, ErrMessage) || len(addrs) > 0 {
			t.Errorf("%s: %v, %v", name, addrs, err)
		}
	}
	// The same without a change is fine.
	r := &Resolver{Exchanger: raw(change(func(b []byte) []byte { return b }))}
	if addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.example"); len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
}

// raw is an Exchanger made of a function on bytes.
type raw func(query []byte) []byte

func (f raw) Exchange(_ context.Context, query []byte) ([]byte, error) { return f(query), nil }

func TestManyAddresses(t *testing.T) {
	r := &Resolver{Exchanger: exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		m := new(wire.Msg).SetReply(q)
		m.Compress = true
		for i := range 3000 {
			m.Answer = append(m.Answer, &wire.A{Hdr: recordHeader(q.Question[0].Name, wire.TypeA), A: net.IPv4(10, 0, byte(i>>8), byte(i))})
		}
		// Records of other names do not belong to the answer.
		m.Answer = append([]wire.RR{&wire.A{Hdr: recordHeader("evil.example.", wire.TypeA), A: net.IPv4(6, 6, 6, 6)}}, m.Answer...)
		return m, nil
	})}
	addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.example")
	if err != nil || len(addrs) != maxAddresses || addrs[0] != netip.MustParseAddr("10.0.0.0") {
		t.Errorf("%d addresses, %v", len(addrs), err)
	}
}

func FuzzAnswer(f *testing.F) {
	query, _ := newQuery("a.example.", wire.TypeA)
	var m wire.Msg
	m.Unpack(query)
	for _, lines := range [][]string{
		{"a.example. 60 IN A 192.0.2.1"},
		{"a.example. 60 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.1"},
		{"a.example. 60 IN CNAME a.example."},
		{"a.example. 60 IN AAAA 2001:db8::1"},
	} {
		b, _ := newZone(f, lines...).answer(&m).Pack()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		asked := 0
		r := &Resolver{Exchanger: raw(func(q []byte) []byte {
			asked++
			b := slices.Clone(answer)
			if len(b) >= 2 {
				copy(b, q[:2])
			}
			return b
		})}
		addrs, err := r.LookupNetIP(t.Context(), "ip4", "a.example")
		if (len(addrs) == 0) == (err == nil) || asked > maxChain+1 || len(addrs) > maxAddresses {
			t.Errorf("asked %d times: %v, %v", asked, addrs, err)
		}
		for _, a := range addrs {
			if !a.Is4() {
				t.Errorf("address %v", a)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"a.example", "a.example.", ".", "", "a..b", `a\.b`, "a b", strings.Repeat("a", 64), strings.Repeat("a.", 127)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !validName(s) {
			return
		}
		// A name that is good enough to be asked for comes back the same from a message.
		query, err := newQuery(wire.Fqdn(s), wire.TypeA)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		q, err := parseQuery(query)
		if err != nil || q.name != wire.Fqdn(s) {
			t.Errorf("%q came back as %q, %v", s, q.name, err)
		}
	})
}

// TestSearchStopsAtFailure does not take a server that fails for one that says that there is no such name: another host may have
// the name that would be asked for next, and another server may answer for it.
func TestSearchStopsAtFailure(t *testing.T) {
	z := newZone(t, "git. 60 IN A 192.0.2.66", "git.example.example. 60 IN A 192.0.2.67")
	z.rcode["git.corp.example."] = wire.RcodeServerFailure
	z.rcode["git.example."] = wire.RcodeServerFailure
	r := &Resolver{Exchanger: z, Search: []string{"corp.example"}}
	addrs, err := r.LookupNetIP(t.Context(), "ip", "git")
	if got := describe(addrs, err); got != "temporary" {
		t.Errorf("git: %s, %v", got, err)
	}
	addrs, err = r.NetResolver().LookupNetIP(t.Context(), "ip", "git.")
	if err == nil {
		t.Errorf("git by package net: %v", addrs)
	}
	r.Search = []string{"example"}
	addrs, err = r.LookupNetIP(t.Context(), "ip", "git.example")
	if got := describe(addrs, err); got != "temporary" {
		t.Errorf("git.example: %s, %v", got, err)
	}
}

// TestNetResolverMixesNoNames takes both families of a short name from the same full name.
func TestNetResolverMixesNoNames(t *testing.T) {
	z := newZone(t, "git.corp.example. 60 IN A 10.0.0.1", "git. 60 IN AAAA 2001:db8::66")
	r := (&Resolver{Exchanger: z, Search: []string{"corp.example"}}).NetResolver()
	addrs, err := r.LookupNetIP(t.Context(), "ip", "git.")
	if err != nil || len(addrs) != 1 || !addrs[0].Is4() {
		t.Errorf("git: %v, %v, want the address of git.corp.example", addrs, err)
	}
}
