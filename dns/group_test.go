package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"
)

// An actor is an upstream that answers after a while, perhaps with an error code, or not at all.
type actor struct {
	name  string
	after time.Duration // negative: never
	code  int
	err   error
	asked int
	ended int // by whoever asked
}

func (a *actor) String() string { return a.name }

func (a *actor) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	a.asked++
	var timer <-chan time.Time
	if a.after >= 0 {
		timer = time.After(a.after)
	}
	select {
	case <-timer:
	case <-ctx.Done():
		a.ended++
		return nil, context.Cause(ctx)
	}
	if a.err != nil {
		return nil, a.err
	}
	q := new(wire.Msg)
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(wire.Msg).SetRcode(q, a.code)
	if a.code == wire.RcodeSuccess {
		// The lifetime is zero, so that nothing is kept.
		rr := &wire.TXT{Hdr: wire.RR_Header{Name: q.Question[0].Name, Rrtype: wire.TypeTXT, Class: wire.ClassINET}, Txt: []string{a.name}}
		m.Answer = []wire.RR{rr}
	}
	return m.Pack()
}

func TestRace(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		actors []*actor
		want   string
		took   time.Duration
		asked  string
	}{
		{"the first", []*actor{{after: 100 * ms}, {}}, "0", 100 * ms, "1 0"},
		{"the first is slow", []*actor{{after: 300 * ms}, {after: 200 * ms}}, "0", 300 * ms, "1 1"},
		{"the second is faster", []*actor{{after: 900 * ms}, {after: 50 * ms}}, "1", 250 * ms, "1 1"},
		{"the first fails", []*actor{{err: errDown}, {after: 50 * ms}}, "1", 50 * ms, "1 1"},
		{"the first fails late", []*actor{{err: errDown, after: 150 * ms}, {after: 50 * ms}}, "1", 200 * ms, "1 1"},
		{"the first cannot", []*actor{{code: wire.RcodeServerFailure}, {after: 50 * ms}}, "1", 50 * ms, "1 1"},
		{"the first will not", []*actor{{code: wire.RcodeRefused}, {}}, "1", 0, "1 1"},
		{"all silent but the last", []*actor{{after: -1}, {after: -1}, {after: 10 * ms}}, "2", 410 * ms, "1 1 1"},
		{"no such name", []*actor{{code: wire.RcodeNameError}, {}}, "NXDOMAIN", 0, "1 0"},
		{"all cannot", []*actor{{code: wire.RcodeServerFailure}, {code: wire.RcodeRefused, after: 10 * ms}}, "SERVFAIL", 10 * ms, "1 1"},
		{"all fail", []*actor{{err: errDown}, {err: errDown}}, "SERVFAIL", 0, "1 1"},
		{"all silent", []*actor{{after: -1}, {after: -1}}, "SERVFAIL", defaultTimeout, "1 1"},
		{"nobody", nil, "SERVFAIL", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var list []Exchanger
				for i, a := range tt.actors {
					a.name = fmt.Sprint(i)
					list = append(list, a)
				}
				s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Tunnel, Upstreams: list}}}})
				start := time.Now()
				m := dig(t, s, "a.example.", wire.TypeTXT)
				got := wire.RcodeToString[m.Rcode]
				if len(m.Answer) > 0 {
					got = m.Answer[0].(*wire.TXT).Txt[0]
				}
				if took := time.Since(start); got != tt.want || took != tt.took {
					t.Errorf("%s after %v, want %s after %v", got, took, tt.want, tt.took)
				}
				synctest.Wait()
				var asked []string
				for _, a := range tt.actors {
					asked = append(asked, fmt.Sprint(a.asked))
				}
				if got := strings.Join(asked, " "); got != tt.asked {
					t.Errorf("asked %s, want %s", got, tt.asked)
				}
			})
		})
	}
}

// TestHealth: an upstream that is silent costs time twice, and then now and again.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &actor{name: "first", after: -1}, &actor{name: "second", after: 10 * time.Millisecond}
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Name: "z", Suffixes: []string{"."}, Way: Tunnel, Upstreams: []Exchanger{first, second}}}}})
		ask := func() time.Duration {
			start := time.Now()
			if m := dig(t, s, "a.example.", wire.TypeTXT); len(m.Answer) != 1 {
				t.Errorf("%s", digest(m))
			}
			synctest.Wait()
			return time.Since(start)
		}
		const slow, fast = 210 * time.Millisecond, 10 * time.Millisecond
		for i, want := range []time.Duration{slow, slow, fast, fast} {
			if got := ask(); got != want {
				t.Errorf("question %d took %v, want %v", i, got, want)
			}
		}
		st := s.Stats().Upstreams
		if st[0].Healthy || !st[1].Healthy || st[0].Lost != 2 || st[0].Failed != 0 || st[0].Asked != 2 || st[1].Asked != 4 || st[1].RTT != fast || st[0].Name != "first" {
			t.Errorf("%+v", st)
		}
		if first.ended != 2 {
			t.Errorf("%d questions were ended", first.ended)
		}
		// After its rest it is tried once more, and rests for twice as long.
		time.Sleep(minRest)
		if got := ask(); got != slow {
			t.Errorf("after the rest: %v", got)
		}
		time.Sleep(minRest)
		if got := ask(); got != fast {
			t.Errorf("it rests for as long as before: %v", got)
		}
		time.Sleep(minRest)
		first.after = 0
		if got := ask(); got != 0 || !s.Stats().Upstreams[0].Healthy {
			t.Errorf("it is back: %v", got)
		}
		// Forgiven at once after a change of the network.
		first.after = -1
		ask()
		ask()
		if s.Stats().Upstreams[0].Healthy {
			t.Error("it is healthy")
		}
		s.Flush()
		if !s.Stats().Upstreams[0].Healthy {
			t.Error("nothing was forgiven")
		}
	})
}

// TestCloseEndsQuestions: Close does not wait for upstreams to run out of time, and holds nothing against them.
func TestCloseEndsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &actor{after: -1}
		s := newServer(t, ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Tunnel, Upstreams: []Exchanger{a}}}}})
		done := make(chan int)
		go func() { done <- dig(t, s, "a.example.", wire.TypeTXT).Rcode }()
		time.Sleep(time.Second)
		start := time.Now()
		go s.Close()
		if code := <-done; code != wire.RcodeServerFailure || time.Since(start) != 0 {
			t.Errorf("code %d after %v", code, time.Since(start))
		}
		if st := s.Stats().Upstreams[0]; st.Failed != 0 {
			t.Errorf("%+v", st)
		}
		synctest.Wait()
		query, _ := newQuery("b.example.", wire.TypeA)
		if _, err := s.Exchange(t.Context(), query); err == nil {
			t.Error("a closed Server asks")
		}
	})
}

func TestClients(t *testing.T) {
	servers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
	list := Clients(servers, new(network).dial)
	if len(list) != 2 || fmt.Sprint(list) != "[192.0.2.53:53 [2001:db8::53]:53]" {
		t.Errorf("%v", list)
	}
	query, _ := newQuery("a.example.", wire.TypeA)
	if _, err := list[0].Exchange(t.Context(), query); err == nil || errors.Is(err, ErrNoServer) {
		t.Errorf("%v", err)
	}
	if got := (&Client{Servers: servers}).String(); got != "192.0.2.53:53, [2001:db8::53]:53" {
		t.Errorf("%s", got)
	}
}
