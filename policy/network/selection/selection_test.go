package selection

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var epoch = time.Unix(1e9, 0)

// TestSequence is the decision table of backup servers (B.1, B.12).
func TestSequence(t *testing.T) {
	// walk lets everything fail and writes down who was tried, with the pauses between.
	walk := func(p Plan, n int) string {
		s, now, log := NewSequence(p), epoch, []string{}
		for range n {
			server, at, ok := s.Next()
			if !ok {
				log = append(log, "end")
				break
			}
			if at.After(now) {
				log = append(log, "+"+at.Sub(now).String())
				now = at
			}
			log = append(log, server)
			s.Failed(now)
		}
		return strings.Join(log, " ")
	}
	for _, c := range []struct {
		row  string
		plan Plan
		n    int
		want string
	}{
		{"B.12: file order", Plan{Servers: []string{"a", "b", "c"}, Rounds: 1}, 9, "a b c end"},
		{"each once", Plan{Servers: []string{"a", "b", "A.", "a:443", "c", "b"}, Rounds: 1}, 9, "a b c end"},
		{"another port is another server", Plan{Servers: []string{"a", "a:8443"}, Rounds: 1}, 9, "a a:8443 end"},
		{"the other gateways after the backups", Plan{Servers: []string{"a", "b"}, Others: []string{"c", "b", "d"}, Rounds: 1}, 9, "a b c d end"},
		{"again, with longer and longer pauses", Plan{Servers: []string{"a", "b"}, MaxPause: 15 * time.Second}, 9, "a b +5s a b +10s a b +15s a b +15s a"},
		{"two rounds", Plan{Servers: []string{"a"}, Rounds: 2}, 9, "a +5s a end"},
		{"spread", Plan{Servers: []string{"a"}, Spread: func() float64 { return 1 }}, 2, "a +2.5s a"},
		{"no servers", Plan{Servers: []string{""}}, 9, "end"},
	} {
		if got := walk(c.plan, c.n); got != c.want {
			t.Errorf("%s: %s, want %s", c.row, got, c.want)
		}
	}
	many := make([]string, 2*MaxServers)
	for i := range many {
		many[i] = fmt.Sprint("s", i)
	}
	if n := len(NewSequence(Plan{Servers: many, Members: many}).Reachable()); n != MaxServers {
		t.Error(n)
	}
}

// B.12: load balancing answers the first contact with a redirect to a member.
func TestRedirected(t *testing.T) {
	s := NewSequence(Plan{Servers: []string{"a", "m1", "b"}, Members: []string{"m2"}, ListedOnly: true, Rounds: 1})
	next := func(want string) {
		t.Helper()
		if got, _, ok := s.Next(); got != want || ok != (want != "") {
			t.Errorf("next is %q, want %q", got, want)
		}
	}
	refused := func(to string) {
		t.Helper()
		if err := s.Redirected(to); !errors.Is(err, ErrRedirect) {
			t.Errorf("to %q: %v", to, err)
		}
	}
	refused("m1") // nothing is being tried
	next("a")
	refused("a")
	refused("elsewhere.example")
	refused("")
	refused("m1\r\n")
	if err := s.Redirected("M1:443"); err != nil {
		t.Error(err)
	}
	next("M1:443")
	refused("a") // a circle
	if err := s.Redirected("m2"); err != nil {
		t.Error(err)
	}
	next("m2")
	s.Failed(epoch)
	next("b") // m1 was tried
	s.Failed(epoch)
	next("")
	s.Restart()
	next("a")
	if got := s.Reachable(); !slices.Equal(got, []string{"a", "m1", "b", "m2"}) {
		t.Error(got)
	}

	s = NewSequence(Plan{Servers: []string{"a", "b"}})
	s.Next()
	for i := range MaxRedirects {
		if err := s.Redirected(fmt.Sprint("m", i)); err != nil {
			t.Error(err)
		}
	}
	refused("m9")
	s.Failed(epoch)
	next("b")
}

const (
	home   = Location("home")
	office = Location("office")
)

// TestSelector is the decision table of automatic server selection (A.13, B.1, B.12).
func TestSelector(t *testing.T) {
	ms := time.Millisecond
	sample := func(server string, d time.Duration) Sample { return Sample{server, d, true} }
	three := []string{"us", "eu", "as"}
	now := epoch.Add(1000 * time.Hour)
	place := func(server string, at time.Time) []Place { return []Place{{home, server, at}} }
	for _, c := range []struct {
		row     string
		cfg     Config
		cache   Cache
		servers []string
		measure bool
		server  string
	}{
		{"B.12: at the first connect", Config{}, Cache{}, three, true, "us"},
		{"one gateway", Config{}, Cache{}, []string{"us"}, false, "us"},
		{"no gateway", Config{}, Cache{}, nil, false, ""},
		{"B.12: 4 h after disconnect", Config{}, Cache{Current: "eu", Ended: now.Add(-4 * time.Hour)}, three, true, "eu"},
		{"B.12: less than 4 h", Config{}, Cache{Current: "eu", Ended: now.Add(1 - 4*time.Hour)}, three, false, "eu"},
		{"B.1: AutoServerSelectionSuspendTime 1", Config{Suspend: time.Hour}, Cache{Current: "eu", Ended: now.Add(-time.Hour)}, three, true, "eu"},
		{"less than 4 h, but it is none any more", Config{}, Cache{Current: "old", Ended: now.Add(-time.Hour)}, three, true, "us"},
		{"B.12: cached for the place", Config{}, Cache{Current: "us", Ended: now.Add(-5 * time.Hour), Places: place("as", now.Add(1-TTL))}, three, false, "as"},
		{"B.12: 14 days old", Config{}, Cache{Current: "us", Ended: now.Add(-5 * time.Hour), Places: place("as", now.Add(-TTL))}, three, true, "us"},
		{"cached, but it is none any more", Config{}, Cache{Places: place("old", now)}, three, true, "us"},
		{"cached for another place", Config{}, Cache{Places: []Place{{office, "as", now}}}, three, true, "us"},
		{"an entry from the future", Config{}, Cache{Places: place("as", now.Add(time.Hour))}, three, true, "us"},
		{"a clock that was wrong", Config{}, Cache{Current: "eu", Ended: now.Add(time.Hour)}, three, false, "eu"},
	} {
		got := NewSelector(c.cfg, c.cache, now).Choose(now, home, c.servers)
		if got.Server != c.server || got.Measure != c.measure || got.Why == "" {
			t.Errorf("%s: %+v", c.row, got)
		}
	}
	for _, c := range []struct {
		row     string
		cfg     Config
		current string
		samples []Sample
		want    string
		kept    bool
	}{
		{"the fastest", Config{}, "", []Sample{sample("us", 90*ms), sample("eu", 20*ms), sample("as", 50*ms)}, "eu", true},
		{"B.12: 20 % faster", Config{}, "us", []Sample{sample("us", 100*ms), sample("eu", 80*ms)}, "eu", true},
		{"B.12: not quite", Config{}, "us", []Sample{sample("us", 100*ms), sample("eu", 81*ms)}, "us", true},
		{"B.1: AutoServerSelectionImprovement 50", Config{Improvement: 50}, "us", []Sample{sample("us", 100*ms), sample("eu", 51*ms)}, "us", true},
		{"the last one does not answer", Config{}, "us", []Sample{{Server: "us"}, sample("as", 900*ms)}, "as", true},
		{"B.12: nothing answers in 7 s", Config{}, "eu", []Sample{{Server: "us"}, {Server: "eu"}}, "eu", false},
		{"nothing at all was measured", Config{}, "", nil, "us", false},
		{"a tie goes by the order of the list", Config{}, "", []Sample{sample("as", 5*ms), sample("eu", 5*ms)}, "eu", true},
		{"nobody asked for that one", Config{}, "", []Sample{sample("evil", ms), sample("eu", 5*ms)}, "eu", true},
		{"a time that cannot be", Config{}, "", []Sample{{"as", -ms, true}, sample("eu", 5*ms)}, "eu", true},
	} {
		s := NewSelector(c.cfg, Cache{Current: c.current}, now)
		if got := s.Measured(now, home, three, c.samples); got.Server != c.want || got.Why == "" {
			t.Errorf("%s: %+v", c.row, got)
		}
		if got := len(s.Cache().Places) == 1; got != c.kept {
			t.Errorf("%s: remembered: %v", c.row, got)
		}
	}
	s := NewSelector(Config{}, Cache{}, now)
	for i := range 2 * MaxLocations {
		s.Measured(now, Location(fmt.Sprint(i)), three, []Sample{sample("eu", ms)})
	}
	if c := s.Cache(); len(c.Places) != MaxLocations || c.Places[0].Location != Location(fmt.Sprint(MaxLocations)) {
		t.Error("the cache grows", len(c.Places))
	}
	s.Used("as")
	s.Ended(now)
	if c := s.Choose(now.Add(time.Hour), office, three); c.Server != "as" {
		t.Error(c)
	}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.2")
	if x, y := LocationOf([]string{"A.example.", "b.example"}, []netip.Addr{a, b}), LocationOf([]string{"b.example", "a.example"}, []netip.Addr{b.Unmap(), a}); x != y || strings.Contains(string(x), "example") {
		t.Error(x, y)
	}
}

// TestMeasure: three exchanges each, the lowest counts, 7 seconds and no longer (B.12).
func TestMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		start := time.Now()
		samples := Measure(t.Context(), []string{"a", "dead", "flaky"}, func(ctx context.Context, server string) (time.Duration, error) {
			switch server {
			case "dead":
				<-ctx.Done()
				return 0, ctx.Err()
			case "flaky":
				return 0, errors.New("no")
			}
			return time.Duration(30-10*(asked.Add(1)%3)) * time.Millisecond, nil
		})
		if d := time.Since(start); d != Patience || asked.Load() != Probes {
			t.Errorf("%v, %d", d, asked.Load())
		}
		if want := []Sample{{"a", 10 * time.Millisecond, true}, {Server: "dead"}, {Server: "flaky"}}; !slices.Equal(samples, want) {
			t.Error(samples)
		}
	})
}

// TestRoundTrip measures three gateways with different delays (A.13).
func TestRoundTrip(t *testing.T) {
	gateway := func(delay time.Duration) *httptest.Server {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Listener = slowListener{s.Listener, delay}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	slow, fast, middle := gateway(60*time.Millisecond), gateway(0), gateway(25*time.Millisecond)
	roots := x509.NewCertPool()
	roots.AddCert(fast.Certificate())
	servers := []string{}
	for _, s := range []*httptest.Server{slow, middle, fast} {
		servers = append(servers, s.Listener.Addr().String())
	}
	p := &Prober{TLS: &tls.Config{RootCAs: roots}}
	samples := Measure(t.Context(), append(servers, "127.0.0.1:1"), p.RoundTrip)
	if samples[3].OK {
		t.Error("nobody has answered")
	}
	s := NewSelector(Config{}, Cache{}, epoch)
	if c := s.Measured(epoch, home, servers, samples); c.Server != servers[2] {
		t.Errorf("%+v of %v", c, samples)
	}
	if _, err := (&Prober{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}).RoundTrip(t.Context(), servers[2]); err == nil {
		t.Error("a server that is not trusted has a time")
	}
}

type slowListener struct {
	net.Listener
	delay time.Duration
}

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	time.Sleep(l.delay)
	return c, err
}

func FuzzSequence(f *testing.F) {
	f.Add("a,b,c", "m", []byte{0, 0, 1, 0, 2})
	f.Add("a:443,A.,[::1]:443,::1", "", []byte{1, 1, 1, 1, 1, 1, 1, 0, 0})
	f.Fuzz(func(t *testing.T, servers, members string, events []byte) {
		s := NewSequence(Plan{Servers: strings.Split(servers, ","), Members: strings.Split(members, ","), Rounds: 3})
		to := s.Reachable()
		now, round, seen := epoch, 0, map[string]bool{}
		for _, e := range events {
			server, at, ok := s.Next()
			if !ok {
				return
			}
			if s.Round() != round {
				round = s.Round()
				clear(seen)
			}
			if at.After(now) {
				if at.Sub(now) > DefaultMaxPause {
					t.Fatal(at)
				}
				now = at
			}
			switch {
			case e == 255:
				s.Restart()
				round, seen = 0, map[string]bool{}
			case e%2 == 0 || len(to) == 0:
				if seen[Canonical(server)] {
					t.Fatalf("%s is tried twice in a round", server)
				}
				seen[Canonical(server)] = true
				s.Failed(now)
			default:
				if s.Redirected(to[int(e)%len(to)]) == nil {
					seen[Canonical(server)] = true
				}
			}
		}
	})
}
