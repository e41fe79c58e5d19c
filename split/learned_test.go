package split

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// epoch is when the tests begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func mustNew(t testing.TB, cfg Config) *Table {
	t.Helper()
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// A step of a scenario changes a Learned or asks it something.
type step struct {
	at     time.Duration // since the epoch
	learn  string        // "name address ..." to learn for a minute and a half, if not empty
	change bool          // what Learn or Expire is to say
	ask    string        // "host address" or "address", if not empty
	want   string        // way and rule
}

func TestLearned(t *testing.T) {
	full := Config{
		Addresses:      prefixes("10.9.0.2/24", "fd09::2/64"),
		DNS:            addrs("198.51.100.53"),
		Gateway:        addrs("203.0.113.1"),
		LocalLAN:       prefixes("192.168.1.0/24"),
		DynamicInclude: []string{"inside.video.example", "tools.example"},
		DynamicExclude: []string{"video.example"},
		User: Rules{
			Include: prefixes("192.0.2.0/28"), Exclude: prefixes("192.0.2.128/25"),
			DynamicExclude: []string{"printer.example"},
		},
	}
	part := full
	part.Include = prefixes("10.0.0.0/8")
	part.User = Rules{DynamicInclude: []string{"mine.example"}}
	v4only := full
	v4only.Addresses = full.Addresses[:1]

	for _, tt := range []struct {
		name  string
		cfg   Config
		steps []step
	}{
		{"exclude", full, []step{
			{0, "", false, "8.8.1.1", "tunnel: everything of IPv4"},
			{0, "www.Video.Example. 8.8.1.1 ::ffff:8.8.1.2 2001:db8::1", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "", false, "::ffff:8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "", false, "8.8.1.2", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "", false, "2001:db8::1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "", false, "8.8.1.3", "tunnel: everything of IPv4"},
			{0, "", false, "evil.example 8.8.1.1", "tunnel: everything of IPv4"},
			{0, "", false, "evilvideo.example 8.8.1.1", "tunnel: everything of IPv4"},
			{0, "", false, "video.example 8.8.1.9", "direct: dynamic exclude video.example"},
			{0, "", false, "8.8.1.1 8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{89 * time.Second, "", false, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{90 * time.Second, "", true, "8.8.1.1", "tunnel: everything of IPv4"},
			{90 * time.Second, "", false, "2001:db8::1", "tunnel: everything of IPv6"},
		}},
		{"include", part, []step{
			{0, "a.tools.example 8.8.2.2 192.168.1.7", true, "8.8.2.2", "tunnel: dynamic include tools.example, as the address of a.tools.example"},
			{0, "", false, "192.168.1.7", "tunnel: dynamic include tools.example, as the address of a.tools.example"},
			{0, "", false, "192.168.1.8", "direct: local network 192.168.1.0/24"},
			{0, "b.mine.example 8.8.2.3", true, "8.8.2.3", "tunnel: user dynamic include mine.example, as the address of b.mine.example"},
			{0, "other.example 8.8.2.2", false, "8.8.2.2", "tunnel: dynamic include tools.example, as the address of a.tools.example"},
			{0, "", false, "other.example 8.8.2.2", "direct: not included"},
			{80 * time.Second, "a.tools.example 8.8.2.2", false, "8.8.2.2", "tunnel: dynamic include tools.example, as the address of a.tools.example"},
			{90 * time.Second, "", true, "8.8.2.2", "tunnel: dynamic include tools.example, as the address of a.tools.example"},
			{170 * time.Second, "", true, "8.8.2.2", "direct: not included"},
		}},
		{"shared by an exclude and a name without a rule", full, []step{
			{0, "www.video.example 8.8.1.1", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{5 * time.Second, "bank.example 8.8.1.1", true, "8.8.1.1", "tunnel: everything of IPv4, because bank.example shares the address with www.video.example"},
			{5 * time.Second, "", false, "www.video.example 8.8.1.1", "direct: dynamic exclude video.example"},
			{5 * time.Second, "", false, "bank.example 8.8.1.1", "tunnel: everything of IPv4"},
			{10 * time.Second, "cdn.video.example 8.8.1.1", true, "8.8.1.1", "tunnel: everything of IPv4, because bank.example shares the address with cdn.video.example"},
			{95 * time.Second, "", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of cdn.video.example"},
			{100 * time.Second, "", true, "8.8.1.1", "tunnel: everything of IPv4"},
		}},
		{"shared, and the name without a rule came first", full, []step{
			{0, "bank.example 8.8.1.1", false, "8.8.1.1", "tunnel: everything of IPv4"},
			{5 * time.Second, "www.video.example 8.8.1.1", true, "8.8.1.1", "tunnel: everything of IPv4, because bank.example shares the address with www.video.example"},
			{90 * time.Second, "", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{91 * time.Second, "bank.example 8.8.1.1", true, "8.8.1.1", "tunnel: everything of IPv4, because bank.example shares the address with www.video.example"},
			{96 * time.Second, "", true, "8.8.1.1", "tunnel: everything of IPv4"},
			{97 * time.Second, "www.video.example 8.8.1.1", true, "8.8.1.1", "tunnel: everything of IPv4, because bank.example shares the address with www.video.example"},
		}},
		{"shared by an exclude and an include", full, []step{
			{0, "www.video.example 8.8.1.1", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{5 * time.Second, "inside.video.example 8.8.1.1", true, "8.8.1.1", "tunnel: dynamic include inside.video.example, as the address of inside.video.example"},
			{6 * time.Second, "www.video.example 8.8.1.1", false, "8.8.1.1", "tunnel: dynamic include inside.video.example, as the address of inside.video.example"},
			{6 * time.Second, "", false, "www.video.example 8.8.1.1", "direct: dynamic exclude video.example"},
			{95 * time.Second, "", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
		}},
		{"an exclude of what is direct anyway", part, []step{
			{0, "www.video.example 8.8.1.1", true, "8.8.1.1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "bank.example 8.8.1.1", true, "8.8.1.1", "direct: not included"},
		}},
		{"what is not moved", full, []step{
			{0, "www.video.example 198.51.100.53", true, "198.51.100.53", "tunnel: DNS server 198.51.100.53/32"},
			{0, "www.video.example 10.9.0.77", false, "10.9.0.77", "tunnel: on-link 10.9.0.0/24"},
			{0, "www.video.example 10.1.2.3 100.64.0.1 fd00::7", false, "10.1.2.3", "tunnel: everything of IPv4"},
			{0, "", false, "www.video.example 10.1.2.3", "direct: dynamic exclude video.example"},
			{0, "a.printer.example 10.1.2.3", true, "10.1.2.3", "tunnel: everything of IPv4, because www.video.example shares the address with a.printer.example"},
			{0, "a.printer.example 192.168.7.7", true, "192.168.7.7", "direct: user dynamic exclude printer.example, as the address of a.printer.example"},
			{0, "a.printer.example 10.9.0.78", false, "10.9.0.78", "tunnel: on-link 10.9.0.0/24"},
			{0, "a.tools.example 203.0.113.1 192.0.2.200", true, "203.0.113.1", "direct: address of the gateway"},
			{0, "", false, "192.0.2.200", "direct: user exclude 192.0.2.128/25"},
			{0, "www.video.example 192.0.2.1", true, "192.0.2.1", "tunnel: user include 192.0.2.0/28"},
			{0, "a.tools.example 127.0.0.1 ::1 0.0.0.0 :: 224.0.0.1 ff02::1", false, "127.0.0.1", "direct: loopback"},
			{0, "8.8.8.8 8.8.9.9", false, "", ""},
			{0, "a..tools.example 8.8.9.9", false, "8.8.9.9", "tunnel: everything of IPv4"},
			{0, "*.tools.example 8.8.9.9", false, "8.8.9.9", "tunnel: everything of IPv4"},
		}},
		{"a family without an address", v4only, []step{
			{0, "www.video.example 2001:db8::1", true, "2001:db8::1", "direct: dynamic exclude video.example, as the address of www.video.example"},
			{0, "a.tools.example 2001:db8::2", true, "2001:db8::2", "nowhere: the tunnel has no IPv6 address"},
		}},
	} {
		l := NewLearned(mustNew(t, tt.cfg))
		for i, s := range tt.steps {
			now := epoch.Add(s.at)
			changed, _ := l.Expire(now)
			if s.learn != "" {
				if changed {
					t.Errorf("%s, step %d: Expire changed something", tt.name, i)
				}
				fields := strings.Fields(s.learn)
				changed = l.Learn(now, fields[0], addrs(fields[1:]...), 90*time.Second)
			}
			if changed != s.change {
				t.Errorf("%s, step %d: changed=%v", tt.name, i, changed)
			}
			if s.ask == "" {
				continue
			}
			host, addr, ok := strings.Cut(s.ask, " ")
			if !ok {
				host, addr = "", s.ask
			}
			way, rule := l.Explain(host, netip.MustParseAddr(addr))
			if got := way.String() + ": " + rule; got != s.want {
				t.Errorf("%s, step %d: %s\n%s, want\n%s", tt.name, i, s.ask, got, s.want)
			}
		}
	}
}

// TestLearnedLife follows addresses through their time, used and unused.
func TestLearnedLife(t *testing.T) {
	l := NewLearned(mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}))
	a := addrs("8.8.1.1", "8.8.1.2", "8.8.1.3", "8.8.1.4")
	l.Learn(epoch, "a.video.example", a[:1], 0)
	l.Learn(epoch, "b.video.example", a[1:2], 100*time.Hour)
	l.Learn(epoch, "c.video.example", a[2:3], -time.Hour)
	l.Learn(epoch, "d.video.example", a[3:4], 2*time.Minute)
	direct := func(at time.Duration, want ...bool) {
		t.Helper()
		for i, w := range want {
			if v := l.Why("", a[i]); (v.Way == Direct) != w {
				t.Errorf("after %v %v is %v by %q", at, a[i], v.Way, v.Rule)
			}
		}
	}
	expire := func(at time.Duration, changed bool, next time.Duration) {
		t.Helper()
		c, n := l.Expire(epoch.Add(at))
		if c != changed || n != epoch.Add(next) {
			t.Errorf("after %v: changed=%v, next after %v, want %v and %v", at, c, n.Sub(epoch), changed, next)
		}
	}
	direct(0, true, true, true, true)
	expire(59*time.Second, false, time.Minute)
	direct(59*time.Second, true, true, true, true)

	// The first is used, the third is not, and the second is long before its time.
	l.Route("", a[0])
	l.Route("", a[1])
	l.Route("other.example", a[2])
	expire(time.Minute, true, 2*time.Minute)
	direct(time.Minute, true, true, false, true)
	l.Keep(a[3])
	l.Keep(netip.Addr{})
	expire(2*time.Minute, false, 6*time.Minute)
	direct(2*time.Minute, true, true, false, true)
	expire(6*time.Minute, true, 7*time.Minute)
	direct(6*time.Minute, false, true, false, true)
	expire(7*time.Minute, true, 24*time.Hour)
	direct(7*time.Minute, false, true, false, false)

	// Use prolongs to a day after the answer at most, unless the answer comes again.
	l.Learn(epoch.Add(time.Hour), "a.video.example", a[:1], time.Minute)
	for at := time.Hour; at < 25*time.Hour; at += time.Minute {
		l.Route("", a[0])
		l.Expire(epoch.Add(at))
		direct(at, true)
	}
	if changed, next := l.Expire(epoch.Add(25 * time.Hour)); !changed || !next.IsZero() {
		t.Errorf("after 25h: changed=%v, next %v", changed, next)
	}
	direct(25*time.Hour, false, false)
}

// TestLearnedAgain holds that a name that is asked for again and again stays as long as it is in use.
func TestLearnedAgain(t *testing.T) {
	l := NewLearned(mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}))
	a := addrs("8.8.1.1")
	for at := time.Duration(0); at < 100*time.Hour; at += 4 * time.Minute {
		now := epoch.Add(at)
		if at%(20*time.Hour) == 0 {
			l.Learn(now, "a.video.example", a, time.Minute)
		}
		if l.Route("", a[0]) != Direct {
			t.Fatalf("after %v it is gone", at)
		}
		l.Expire(now)
	}
}

func TestLearnedSetTable(t *testing.T) {
	var l Learned
	if way, rule := l.Explain("", netip.MustParseAddr("8.8.1.1")); way != Nowhere || rule != "no tunnel" || l.Route("a.example", netip.Addr{}) != Nowhere {
		t.Errorf("the zero Learned says %v by %q", way, rule)
	}
	if l.Learn(epoch, "a.example", addrs("8.8.1.1"), time.Minute) || l.Table() == nil {
		t.Error("the zero Learned learns")
	}
	if changed, next := l.Expire(epoch); changed || !next.IsZero() {
		t.Error("the zero Learned forgets")
	}
	l.Keep(netip.MustParseAddr("8.8.1.1"))
	if in, out := l.Prefixes(); in != nil || out != nil {
		t.Errorf("the zero Learned has prefixes %v, %v", in, out)
	}

	first := mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example", "music.example"}})
	second := mustNew(t, Config{
		Addresses: prefixes("10.9.0.2/24"), Include: prefixes("10.0.0.0/8"),
		DynamicInclude: []string{"bank.example", "video.example"},
	})
	l.SetTable(first)
	if l.Table() != first {
		t.Error("another Table")
	}
	l.Learn(epoch, "video.example", addrs("8.8.1.1"), time.Hour)
	l.Learn(epoch, "music.example", addrs("8.8.1.2"), time.Hour)
	l.Learn(epoch, "bank.example", addrs("8.8.1.3"), time.Minute)
	check := func(when string, want ...Way) {
		t.Helper()
		for i, w := range want {
			if v := l.Why("", netip.AddrFrom4([4]byte{8, 8, 1, byte(i + 1)})); v.Way != w {
				t.Errorf("%s: address %d is %v by %q, want %v", when, i+1, v.Way, v.Rule, w)
			}
		}
	}
	check("first", Direct, Direct, Tunnel)
	if in, out := l.Prefixes(); in != nil || !slices.Equal(out, prefixes("8.8.1.1/32", "8.8.1.2/32")) {
		t.Errorf("first: in %v, out %v", in, out)
	}
	l.Route("", netip.MustParseAddr("8.8.1.1"))
	l.SetTable(second)
	check("second", Tunnel, Direct, Tunnel)
	if in, out := l.Prefixes(); out != nil || !slices.Equal(in, prefixes("8.8.1.1/32", "8.8.1.3/32")) {
		t.Errorf("second: in %v, out %v", in, out)
	}
	l.Expire(epoch.Add(time.Minute))
	check("a minute later", Tunnel, Direct, Direct)
	l.Expire(epoch.Add(time.Hour)) // the first was used before the change
	check("an hour later", Tunnel, Direct, Direct)
	l.SetTable(nil)
	check("no tunnel", Nowhere, Nowhere, Nowhere)
	l.SetTable(first)
	check("first again", Direct, Tunnel, Tunnel)
}

// TestLearnedBounds floods a Learned with more than it takes.
func TestLearnedBounds(t *testing.T) {
	l := NewLearned(mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}))
	many := make([]netip.Addr, 200)
	next := uint32(1 << 24)
	fresh := func() []netip.Addr {
		for i := range many {
			next++
			many[i] = netip.AddrFrom4([4]byte{8, byte(next >> 16), byte(next >> 8), byte(next)})
		}
		return many
	}
	for i := range 2 * MaxLearned / maxAnswer {
		l.Learn(epoch, "a.video.example", fresh(), time.Hour)
		l.Learn(epoch, fmt.Sprintf("n%d.example", i), fresh(), time.Hour)
	}
	if n := len(l.listed); n != MaxLearned {
		t.Errorf("%d addresses of names with a rule", n)
	}
	if n := len(l.others); n != MaxLearned {
		t.Errorf("%d addresses of names without one", n)
	}
	if _, out := l.Prefixes(); len(out) != MaxLearned {
		t.Errorf("%d prefixes", len(out))
	}
	one := fresh()[:1]
	for i := range 100 {
		l.Learn(epoch, fmt.Sprintf("n%d.video.example", i), one, time.Duration(i)*time.Hour)
	}
	if n := len(l.listed[one[0]].listed); n != maxShared {
		t.Errorf("%d names of one address", n)
	}
	if _, next := l.Expire(epoch.Add(time.Hour)); !next.After(epoch.Add(time.Hour)) {
		t.Errorf("next is %v", next)
	}
	if changed, next := l.Expire(epoch.Add(25 * time.Hour)); !changed || !next.IsZero() || len(l.listed)+len(l.others) != 0 {
		t.Errorf("a day later: changed=%v, next %v, %d and %d addresses", changed, next, len(l.listed), len(l.others))
	}
	if _, out := l.Prefixes(); out != nil {
		t.Errorf("a day later: %d prefixes", len(out))
	}
}

// TestLearnedAnswer bounds what is taken from one answer.
func TestLearnedAnswer(t *testing.T) {
	l := NewLearned(mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}))
	var list []netip.Addr
	for i := range 200 {
		list = append(list, netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}))
	}
	l.Learn(epoch, "a.video.example", list, time.Hour)
	if in, out := l.Prefixes(); in != nil || len(out) != 64 || out[63] != netip.MustParsePrefix("8.8.8.63/32") {
		t.Errorf("in %v, out %v", in, out)
	}
}

// TestLearnedShareInUse holds that an address in use stays in use when another name turns up that has it.
func TestLearnedShareInUse(t *testing.T) {
	l := NewLearned(mustNew(t, Config{
		Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}, DynamicInclude: []string{"inside.example"},
	}))
	a := addrs("8.8.1.1")
	l.Learn(epoch, "a.video.example", a, time.Minute)
	l.Route("", a[0])
	l.Learn(epoch, "inside.example", a, time.Minute)
	l.Expire(epoch.Add(time.Minute))
	if v := l.Why("", a[0]); v.Rule != "dynamic include inside.example, as the address of inside.example" {
		t.Errorf("%+v", v)
	}
}

// TestLearnedKeepsInclude holds that many names with an exclude do not push out one with an include.
func TestLearnedKeepsInclude(t *testing.T) {
	l := NewLearned(mustNew(t, Config{
		Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}, DynamicInclude: []string{"inside.example"},
	}))
	l.Learn(epoch, "inside.example", addrs("8.8.1.1"), time.Minute)
	for i := range 100 {
		l.Learn(epoch, fmt.Sprintf("n%d.video.example", i), addrs("8.8.1.1"), time.Hour)
	}
	if v := l.Why("", netip.MustParseAddr("8.8.1.1")); v.Way != Tunnel {
		t.Errorf("%+v", v)
	}
}

// TestLearnedFlood holds that many addresses outside do not push out those inside.
func TestLearnedFlood(t *testing.T) {
	l := NewLearned(mustNew(t, Config{
		Addresses: prefixes("10.9.0.2/24"), Include: prefixes("10.0.0.0/8"),
		DynamicExclude: []string{"video.example"}, DynamicInclude: []string{"inside.example"},
	}))
	for i := range 100 {
		l.Learn(epoch, "inside.example", []netip.Addr{netip.AddrFrom4([4]byte{9, 0, 0, byte(i)})}, time.Minute)
	}
	for i := range 2 * MaxLearned {
		l.Learn(epoch, "a.video.example", []netip.Addr{netip.AddrFrom4([4]byte{8, byte(i >> 16), byte(i >> 8), byte(i)})}, time.Hour)
	}
	if in, _ := l.Prefixes(); len(in) != 100 || len(l.listed) != MaxLearned {
		t.Errorf("%d of 100 addresses inside are left, %d in all", len(in), len(l.listed))
	}
}

// A twin is a Learned as one would write it down: a list of what was seen.
type twin struct {
	cfg  Config
	seen []seen
}

type seen struct {
	name    string
	addr    netip.Addr
	expires time.Time
}

func (w *twin) way(now time.Time, host string, addr netip.Addr) Way {
	static, level := golden(w.cfg, host, addr)
	if host != "" || !addr.IsValid() || level < 5 {
		return static
	}
	onLink := slices.ContainsFunc(w.cfg.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(addr) })
	listed, unlisted := false, false
	for _, s := range w.seen {
		if s.addr != addr || !now.Before(s.expires) {
			continue
		}
		byUser := true
		way := goldenName(w.cfg.User.DynamicInclude, w.cfg.User.DynamicExclude, s.name)
		if way == Nowhere {
			byUser = false
			way = goldenName(w.cfg.DynamicInclude, w.cfg.DynamicExclude, s.name)
		}
		switch {
		case way == Tunnel:
			way, _ = golden(w.cfg, s.name, addr) // a family may be absent
			return way
		case way == Direct && !onLink && (byUser || !addr.IsPrivate()):
			listed = true
		default:
			unlisted = true
		}
	}
	if listed && !unlisted {
		return Direct
	}
	return static
}

// compareLearned does the same to a Learned and its twin, and asks both.
func compareLearned(t *testing.T, r *rand.Rand, ways map[Way]int) {
	cfg := random(r)
	cfg.DynamicInclude = append(cfg.DynamicInclude, "a.example")
	cfg.DynamicExclude = append(cfg.DynamicExclude, "b.example")
	w := twin{cfg: cfg}
	l := NewLearned(mustNew(t, cfg))
	address := func() netip.Addr {
		if r.IntN(2) == 0 {
			return randomAddr(r)
		}
		return netip.AddrFrom4([4]byte{8, 8, 8, byte(r.IntN(3))})
	}
	name := func() string { // no more of them than one address remembers
		return []string{"example", "a.Example.", "b.example", "ab.example", "a.b.example", "evilexample", "a.evilexample"}[r.IntN(7)]
	}
	now := epoch
	for range 40 {
		switch r.IntN(8) {
		case 0:
			now = now.Add(time.Duration(r.IntN(90)) * time.Second)
		case 1, 2, 3:
			s := seen{name(), address(), now.Add(time.Duration(60+r.IntN(120)) * time.Second)}
			l.Learn(now, s.name, []netip.Addr{s.addr}, s.expires.Sub(now))
			w.seen = append(w.seen, s)
		case 4:
			if r.IntN(4) == 0 {
				l.SetTable(l.Table())
			}
		default:
			l.Expire(now)
			host := ""
			if r.IntN(3) == 0 {
				host = randomName(r)
			}
			addr := address()
			got := l.Why(host, addr)
			if want := w.way(now, host, addr); got.Way != want {
				t.Fatalf("%q %v: %+v, want %v\n%+v\nseen %+v at %v", host, addr, got, want, cfg, w.seen, now)
			}
			ways[got.Way]++

			// The lists for the machine agree.
			in, out := l.Table().Prefixes()
			in2, out2 := l.Prefixes()
			var m match
			m.add(slices.Concat(in, in2), addr, Tunnel)
			m.add(slices.Concat(out, out2), addr, Direct)
			if slices.Contains(in2, hostPrefix(addr)) {
				m.way = Tunnel
			}
			if direct := l.Why("", addr).Way == Direct; direct != (m.way != Tunnel) {
				t.Fatalf("%v: direct=%v, but the longest prefix is %v %d\n%+v\nseen %+v at %v", addr, direct, m.way, m.bits-1, cfg, w.seen, now)
			}
		}
	}
}

func TestLearnedGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	ways := make(map[Way]int)
	for range 2000 {
		compareLearned(t, r, ways)
	}
	for _, w := range []Way{Nowhere, Direct, Tunnel} {
		if ways[w] < 2000 {
			t.Errorf("only %d destinations were %v", ways[w], w)
		}
	}
}

func FuzzLearned(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("names and addresses and what becomes of them over time, in the order of these letters"))
	f.Fuzz(func(t *testing.T, data []byte) {
		compareLearned(t, rand.New(&fuzzSource{data: data}), make(map[Way]int))
	})
}

// FuzzLearn takes any answer at all.
func FuzzLearn(f *testing.F) {
	f.Add("www.video.example", []byte{8, 8, 8, 8}, int64(60))
	f.Add("*.video.example", make([]byte, 16), int64(-1))
	f.Add("a..", []byte{}, int64(1<<62))
	f.Fuzz(func(t *testing.T, name string, addr []byte, ttl int64) {
		l := NewLearned(mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}))
		a, _ := netip.AddrFromSlice(addr)
		if l.Learn(epoch, name, []netip.Addr{a}, time.Duration(ttl)) {
			if v := l.Why("", a); l.Route(name, netip.Addr{}) != Direct || v.Way != Direct {
				t.Errorf("%q %v was learned, but is %+v", name, a, v)
			}
		}
		if _, next := l.Expire(epoch.Add(maxLife)); !next.IsZero() {
			t.Errorf("%q %v stays until %v", name, a, next)
		}
	})
}

// TestLearnedRace reads without waiting while another goroutine writes.
func TestLearnedRace(t *testing.T) {
	tables := []*Table{
		mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), DynamicExclude: []string{"video.example"}}),
		mustNew(t, Config{Addresses: prefixes("10.9.0.2/24"), Include: prefixes("8.0.0.0/8"), DynamicInclude: []string{"video.example"}}),
	}
	l := NewLearned(tables[0])
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 3 {
		readers.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				a := netip.AddrFrom4([4]byte{8, 8, 8, byte(n)})
				if way := l.Route("", a); way == Nowhere {
					t.Error("nowhere")
					return
				}
				l.Keep(a)
				l.Explain("", a)
				l.Prefixes()
			}
		})
	}
	now := epoch
	for i := range 300 {
		now = now.Add(10 * time.Second)
		l.Learn(now, "a.video.example", []netip.Addr{netip.AddrFrom4([4]byte{8, 8, 8, byte(i)})}, time.Minute)
		l.Learn(now, "b.example", []netip.Addr{netip.AddrFrom4([4]byte{8, 8, 8, byte(i + 1)})}, time.Minute)
		l.Expire(now)
		l.SetTable(tables[i/50%2])
	}
	close(stop)
	readers.Wait()
}

func TestSoonest(t *testing.T) {
	m := make(map[netip.Addr]time.Time)
	for i := range 10 {
		m[netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})] = epoch.Add(time.Duration(10-i) * time.Second)
	}
	if got := soonest(m, func(t time.Time) time.Time { return t }); got != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("the soonest of %v is %v", slices.Collect(maps.Keys(m)), got)
	}
}

func ExampleLearned() {
	table, err := New(Config{
		Addresses:      []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")},
		DynamicExclude: []string{"video.example"},
	})
	if err != nil {
		panic(err)
	}
	learned := NewLearned(table)
	addr := netip.MustParseAddr("198.51.100.7")
	learned.Learn(time.Now(), "cdn.video.example", []netip.Addr{addr}, time.Minute)
	for _, host := range []string{"", "cdn.video.example", "bank.example"} {
		v := learned.Why(host, addr)
		fmt.Printf("%q: %v by the %v: %s\n", host, v.Way, v.Origin, v.Rule)
	}
	// Output:
	// "": direct by the gateway: dynamic exclude video.example, as the address of cdn.video.example
	// "cdn.video.example": direct by the gateway: dynamic exclude video.example
	// "bank.example": tunnel by the lease: everything of IPv4
}
