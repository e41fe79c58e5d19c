package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"culvert.example/vpn/internal/leak"
)

func TestNetResolver(t *testing.T) {
	leak.Check(t)
	z := newZone(t,
		"a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1",
		"alias.example. 60 IN CNAME a.example.",
		"git.corp.example. 60 IN A 10.0.0.1",
		"text.example. 60 IN TXT hello",
		"_x._tcp.example. 60 IN SRV 1 2 3 a.example.",
		"1.2.0.192.in-addr.arpa. 60 IN PTR a.example.",
	)
	for i := range 100 {
		z.records = append(z.records, &wire.A{Hdr: recordHeader("many.example.", wire.TypeA), A: net.IPv4(192, 0, 2, byte(i))})
	}
	z.rcode["sick.example."] = wire.RcodeServerFailure
	r := (&Resolver{Exchanger: z, Search: []string{"corp.example"}}).NetResolver()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	for host, want := range map[string]int{"a.example.": 2, "alias.example.": 2, "many.example.": 100, "git": 1, "git.corp.example.": 1} {
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil || len(addrs) != want {
			t.Errorf("%s: %v, %v", host, addrs, err)
		}
	}
	if addrs, err := r.LookupNetIP(ctx, "ip6", "a.example."); err != nil || len(addrs) != 1 || !addrs[0].Is6() {
		t.Errorf("IPv6: %v, %v", addrs, err)
	}
	if name, err := r.LookupCNAME(ctx, "alias.example."); err != nil || name != "a.example." {
		t.Errorf("CNAME: %v, %v", name, err)
	}
	if txt, err := r.LookupTXT(ctx, "text.example."); err != nil || len(txt) != 1 || txt[0] != "hello" {
		t.Errorf("TXT: %v, %v", txt, err)
	}
	if _, srv, err := r.LookupSRV(ctx, "x", "tcp", "example."); err != nil || len(srv) != 1 || srv[0].Port != 3 {
		t.Errorf("SRV: %v, %v", srv, err)
	}
	if names, err := r.LookupAddr(ctx, "192.0.2.1"); err != nil || !slices.Equal(names, []string{"a.example."}) {
		t.Errorf("PTR: %v, %v", names, err)
	}
	var e *net.DNSError
	if _, err := r.LookupNetIP(ctx, "ip", "none.example."); !errors.As(err, &e) || !e.IsNotFound {
		t.Errorf("a name that does not exist: %v", err)
	}
	if _, err := r.LookupNetIP(ctx, "ip", "sick.example."); !errors.As(err, &e) || e.IsNotFound || !e.IsTemporary {
		t.Errorf("a server that fails: %v", err)
	}
	z.silent = true
	start := time.Now()
	if _, err := r.LookupNetIP(ctx, "ip", "a.example."); !errors.As(err, &e) || e.IsNotFound {
		t.Errorf("a server that is down: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("package net waited %v for a server that is down", took)
	}
}

// TestNetResolverReason: who looks up a name through package net reads why there was no answer.
func TestNetResolverReason(t *testing.T) {
	leak.Check(t)
	for name, tt := range map[string]struct {
		err     error
		timeout bool
		is      error // what package net lets through
	}{
		"any error":       {errors.New("the tunnel is gone"), false, nil},
		"a closed socket": {&net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}, false, nil},
		"a time-out":      {fmt.Errorf("no answer: %w", context.DeadlineExceeded), true, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Resolver{Exchanger: exchanger(func(context.Context, *wire.Msg) (*wire.Msg, error) { return nil, tt.err })}
			start := time.Now()
			_, err := r.NetResolver().LookupNetIP(t.Context(), "ip", "a.example.")
			var e *net.DNSError
			if !errors.As(err, &e) || e.Err != tt.err.Error() || e.IsNotFound || e.IsTimeout != tt.timeout || !e.IsTemporary || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %#v, want %v", err, tt.err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestDialHook speaks with the connection as package net does, for both networks.
func TestDialHook(t *testing.T) {
	leak.Check(t)
	z := newZone(t, "a.example. 60 IN A 192.0.2.1", "git.corp.example. 60 IN A 10.0.0.1")
	r := &Resolver{Exchanger: z, Search: []string{"corp.example"}}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := r.NetResolver().Dial(t.Context(), network, "198.51.100.1:53")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(net.PacketConn); ok {
			t.Fatalf("the connection for %s is a net.PacketConn, so package net does not frame messages", network)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		for name, want := range map[string]string{"a.example.": "192.0.2.1", "GIT.": "10.0.0.1"} {
			query, _ := newQuery(name, wire.TypeA)
			if err := writeFramed(conn, query); err != nil {
				t.Fatal(err)
			}
			answer, err := readFramed(conn)
			if err != nil {
				t.Fatal(err)
			}
			q, _ := parseQuery(query)
			m, err := parseAnswer(answer, uint16(query[0])<<8|uint16(query[1]), q)
			if err != nil {
				t.Fatal(err)
			}
			addrs, _, _ := chase(m, name, wire.TypeA, maxChain)
			if got := describe(addrs, nil); got != want {
				t.Errorf("%s over %s: %s", name, network, got)
			}
			if m.Question[0].Name != name {
				t.Errorf("the question came back as %s", m.Question[0].Name)
			}
		}
		conn.Close()
	}
}

func TestDialHookClose(t *testing.T) {
	leak.Check(t)
	asked := make(chan struct{})
	r := &Resolver{Exchanger: exchanger(func(ctx context.Context, q *wire.Msg) (*wire.Msg, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	})}
	conn, err := r.NetResolver().Dial(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	query, _ := newQuery("a.example.", wire.TypeA)
	if err := writeFramed(conn, query); err != nil {
		t.Fatal(err)
	}
	<-asked
	// Close ends the question that is under way; the leak check finds it otherwise.
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestDialHookNonsense(t *testing.T) {
	leak.Check(t)
	r := &Resolver{Exchanger: newZone(t)}
	conn, _ := r.NetResolver().Dial(t.Context(), "tcp", "")
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err := writeFramed(conn, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if b, err := readFramed(conn); err == nil {
		t.Errorf("nonsense was answered with %x", b)
	}
}

func TestFromResolver(t *testing.T) {
	z := newZone(t,
		"a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1",
		"four.example. 60 IN A 192.0.2.4",
		"1.2.0.192.in-addr.arpa. 60 IN PTR a.example.",
	)
	z.rcode["sick.example."] = wire.RcodeServerFailure
	x := FromResolver((&Resolver{Exchanger: z}).NetResolver())
	ask := func(name string, qtype uint16) (*wire.Msg, error) {
		query, err := newQuery(name, qtype)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := x.Exchange(t.Context(), query)
		if err != nil {
			return nil, err
		}
		q, _ := parseQuery(query)
		if !answers(answer, uint16(query[0])<<8|uint16(query[1]), q) {
			t.Errorf("%s: the answer is to something else", name)
		}
		m := new(wire.Msg)
		return m, m.Unpack(answer)
	}
	for _, tt := range []struct {
		name  string
		qtype uint16
		code  int
		want  string
	}{
		{"a.example.", wire.TypeA, wire.RcodeSuccess, "192.0.2.1"},
		{"A.example.", wire.TypeAAAA, wire.RcodeSuccess, "2001:db8::1"},
		{"four.example.", wire.TypeAAAA, wire.RcodeSuccess, ""},
		{"none.example.", wire.TypeAAAA, wire.RcodeNameError, ""},
		{`a\ b.example.`, wire.TypeA, wire.RcodeNameError, ""},
		{"1.2.0.192.in-addr.arpa.", wire.TypePTR, wire.RcodeSuccess, "a.example."},
		{"2.2.0.192.in-addr.arpa.", wire.TypePTR, wire.RcodeNameError, ""},
		{"a.example.", wire.TypePTR, wire.RcodeNameError, ""},
		{"a.example.", wire.TypeTXT, wire.RcodeNotImplemented, ""},
	} {
		m, err := ask(tt.name, tt.qtype)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := ""
		for _, rr := range m.Answer {
			f := strings.Fields(rr.String())
			got += f[len(f)-1]
		}
		if m.Rcode != tt.code || got != tt.want {
			t.Errorf("%s %s: code %d, %q", tt.name, wire.TypeToString[tt.qtype], m.Rcode, got)
		}
	}
	if _, err := ask("sick.example.", wire.TypeA); err == nil {
		t.Error("a failure of the machine's resolver is no error")
	}
	if _, err := x.Exchange(t.Context(), nil); !errors.Is(err, ErrMessage) {
		t.Errorf("no query: %v", err)
	}
}

func TestReverseAddr(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "fd00:1234:5678:9abc:def0:1234:5678:9abc"} {
		addr := netip.MustParseAddr(s)
		name, err := wire.ReverseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reverseAddr(strings.ToUpper(name)); !ok || got != addr {
			t.Errorf("%s is %v, %v", name, got, ok)
		}
	}
	for _, s := range []string{"", "in-addr.arpa.", "1.2.3.in-addr.arpa.", "1.2.3.4.5.in-addr.arpa.", "256.1.1.1.in-addr.arpa.", "01.1.1.1.in-addr.arpa.", "ip6.arpa.", "1.ip6.arpa."} {
		if a, ok := reverseAddr(s); ok {
			t.Errorf("%q is the name of %v", s, a)
		}
	}
}

// FuzzQuery gives the parts that answer in process whatever another program may send.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"a.example.", "git.", "1.2.0.192.in-addr.arpa.", "."} {
		for _, t := range []uint16{wire.TypeA, wire.TypePTR, wire.TypeTXT} {
			q, _ := newQuery(name, t)
			f.Add(q)
		}
	}
	down := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errDown }}
	machine := FromResolver(down)
	f.Fuzz(func(t *testing.T, query []byte) {
		sent := slices.Clone(query)
		x, err := NewMux(machine, map[string]Exchanger{"example": raw(func(q []byte) []byte {
			a, _ := failure(q, wire.RcodeRefused)
			return a
		})})
		if err != nil {
			t.Fatal(err)
		}
		r := &Resolver{Exchanger: x, Search: []string{"example"}}
		answer, err := r.exchange(t.Context(), query)
		if !slices.Equal(query, sent) {
			t.Error("the query was changed")
		}
		if err != nil {
			if answer, err = failure(query, wire.RcodeServerFailure); err != nil {
				return
			}
		}
		q, err := parseQuery(query)
		if err != nil || !answers(answer, uint16(query[0])<<8|uint16(query[1]), q) {
			t.Errorf("the answer to %x is %x (%v)", query, answer, err)
		}
	})
}
