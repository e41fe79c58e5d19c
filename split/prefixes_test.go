package split

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
)

func TestPrefixes(t *testing.T) {
	both := prefixes("10.9.0.2/24", "fd09::2/64")
	for _, tt := range []struct {
		name    string
		cfg     Config
		in, out []netip.Prefix
	}{
		{"nothing", Config{}, prefixes("0.0.0.0/0", "::/0"), nil},
		{"bypass", Config{Bypass: true}, nil, nil},
		{"all", Config{Addresses: both}, prefixes("0.0.0.0/0", "::/0"), nil},
		{"one family", Config{Addresses: both[:1]}, prefixes("0.0.0.0/0", "::/0"), nil},
		{"one family, bypass", Config{Addresses: both[:1], Bypass: true}, prefixes("0.0.0.0/0"), nil},
		{"default route", Config{Addresses: both[:1], Include: prefixes("0.0.0.0/0"), Bypass: true}, prefixes("0.0.0.0/0"), nil},
		{
			"exclude", Config{Addresses: both, Exclude: prefixes("10.1.0.0/16", "2001:db8::/32", "10.1.2.0/24")},
			prefixes("0.0.0.0/0", "::/0"), prefixes("10.1.0.0/16", "2001:db8::/32"),
		},
		{
			"include", Config{Addresses: both, Include: prefixes("10.0.0.0/9", "10.128.0.0/9", "192.0.2.0/24", "192.0.2.7/32", "fd00::/8")},
			prefixes("10.0.0.0/8", "192.0.2.0/24", "fd00::/8"), nil,
		},
		{
			"hole", Config{Addresses: both[:1], Bypass: true, Include: prefixes("10.0.0.0/8"), Exclude: prefixes("10.1.0.0/16", "10.1.2.3/32")},
			prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16"),
		},
		{
			"hole in a hole", Config{
				Addresses: both[:1], Bypass: true, Include: prefixes("10.0.0.0/8", "10.1.2.0/24"),
				Exclude: prefixes("10.1.0.0/16"), DNS: addrs("10.1.9.9"),
			},
			prefixes("10.0.0.0/8", "10.1.2.0/24", "10.1.9.9/32"), prefixes("10.1.0.0/16"),
		},
		{
			"half", Config{Addresses: both[:1], Bypass: true, Include: prefixes("11.0.0.0/8"), Exclude: prefixes("11.0.0.0/9")},
			prefixes("10.9.0.0/24", "11.128.0.0/9"), nil,
		},
		{
			"a network stays whole", Config{Addresses: both[:1], Bypass: true, Include: prefixes("11.0.0.0/8"), Exclude: prefixes("11.0.0.0/10")},
			prefixes("10.9.0.0/24", "11.0.0.0/8"), prefixes("11.0.0.0/10"), // and not 11.64.0.0/10 and 11.128.0.0/9
		},
		{
			"holes stay small", Config{Addresses: both[:1], Bypass: true, Exclude: prefixes("12.0.0.0/9", "12.128.0.0/10")},
			prefixes("0.0.0.0/0"), prefixes("12.0.0.0/9", "12.128.0.0/10"), // and not 12.0.0.0/8 without 12.192.0.0/10
		},
		{
			"contradiction", Config{Addresses: both[:1], Bypass: true, Include: prefixes("11.0.0.0/8"), Exclude: prefixes("11.0.0.0/9", "11.128.0.0/9")},
			prefixes("10.9.0.0/24"), nil,
		},
		{
			"seven of eight", Config{
				Addresses: prefixes("10.0.0.2/16"), Bypass: true,
				Include: prefixes("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16", "10.6.0.0/16"),
			},
			prefixes("10.0.0.0/14", "10.4.0.0/15", "10.6.0.0/16"), nil, // and not 10.0.0.0/13 without 10.7.0.0/16
		},
		{
			"gateway inside", Config{Addresses: both, Gateway: addrs("203.0.113.1", "2001:db8::1")},
			prefixes("0.0.0.0/0", "::/0"), prefixes("203.0.113.1/32", "2001:db8::1/128"),
		},
		{
			"gateway outside", Config{Addresses: both, Include: prefixes("10.0.0.0/8", "fd00::/8"), Gateway: addrs("203.0.113.1")},
			prefixes("10.0.0.0/8", "fd00::/8"), nil,
		},
		{
			"captured", Config{
				Addresses: both[:1], Bypass: true, Include: prefixes("203.0.113.1/32"), DNS: addrs("203.0.113.1"), Gateway: addrs("203.0.113.1"),
				User: Rules{Include: prefixes("203.0.113.1/32")},
			},
			prefixes("10.9.0.0/24"), nil,
		},
		{
			"the ends of the world", Config{
				Addresses: both,
				Include:   prefixes("0.0.0.0/8", "255.255.255.255/32", "::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
				Exclude:   prefixes("0.0.0.7/32", "::7/128"),
			},
			prefixes("0.0.0.0/8", "10.9.0.0/24", "255.255.255.255/32", "::/1", "fd09::/64", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
			prefixes("0.0.0.7/32", "::7/128"),
		},
		{
			"narrowed", Config{Addresses: both, User: Rules{Include: prefixes("10.1.0.0/16"), Exclude: prefixes("0.0.0.0/0", "::/0")}},
			prefixes("10.1.0.0/16"), nil,
		},
	} {
		table, err := New(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if in, out := table.Prefixes(); !slices.Equal(in, tt.in) || !slices.Equal(out, tt.out) {
			t.Errorf("%s: in %v, out %v, want %v and %v", tt.name, in, out, tt.in, tt.out)
		}
	}
	if in, out := new(Table).Prefixes(); !slices.Equal(in, prefixes("0.0.0.0/0", "::/0")) || out != nil {
		t.Errorf("the zero Table: in %v, out %v", in, out)
	}
}

// comparePrefixes holds the prefixes of a table against its way for random addresses.
func comparePrefixes(t *testing.T, r *rand.Rand, cfg Config) {
	table, err := New(cfg)
	if err != nil {
		t.Fatalf("%+v: %v", cfg, err)
	}
	in, out := table.Prefixes()
	for range 20 {
		addr := randomAddr(r)
		var m match
		m.add(in, addr, Tunnel)
		m.add(out, addr, Direct)
		if direct := table.Route("", addr) == Direct; direct != (m.way != Tunnel) {
			t.Fatalf("%v: direct=%v, but the longest prefix is %v %d\nin %v\nout %v\n%+v", addr, direct, m.way, m.bits-1, in, out, cfg)
		}
	}
}

// byLength makes a set of the addresses that are not direct: one prefix after the other, the longest last.
func byLength(in, out []netip.Prefix) *netipx.IPSet {
	type entry struct {
		prefix netip.Prefix
		in     bool
	}
	var all []entry
	for _, p := range out {
		all = append(all, entry{p, false})
	}
	for _, p := range in {
		all = append(all, entry{p, true})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return a.prefix.Bits() - b.prefix.Bits() })
	var b netipx.IPSetBuilder
	for _, e := range all {
		if e.in {
			b.AddPrefix(e.prefix)
		} else {
			b.RemovePrefix(e.prefix)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	return set
}

// TestPrefixesGolden compares whole sets of addresses, and the lists of the same rules in another order.
func TestPrefixesGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		cfg := random(r)
		comparePrefixes(t, r, cfg)
		cfg = Config{
			Addresses: prefixes("10.9.0.2/32", "fd09::2/128"), Include: cfg.Include, Exclude: cfg.Exclude,
			Gateway: cfg.Gateway,
		}
		table, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		in, out := table.Prefixes()

		// Rules of the same length that meet are equal, and Direct comes first in out and last in the table.
		rest := prefixes("0.0.0.0/0", "::/0")
		var include, exclude []netip.Prefix
		for _, p := range rest {
			if !slices.ContainsFunc(cfg.Include, func(q netip.Prefix) bool { return q.Addr().Is4() == p.Addr().Is4() }) {
				include = append(include, p)
			}
		}
		for _, a := range cfg.Gateway {
			exclude = append(exclude, netip.PrefixFrom(a, a.BitLen()))
		}
		for _, p := range cfg.Exclude {
			exclude = append(exclude, p.Masked())
		}
		for _, p := range slices.Concat(cfg.Include, cfg.Addresses) {
			if !slices.Contains(exclude, p.Masked()) {
				include = append(include, p.Masked())
			}
		}
		if got, want := byLength(in, out), byLength(include, exclude); !got.Equal(want) {
			t.Fatalf("in %v, out %v: that is %v, want %v\n%+v", in, out, got.Ranges(), want.Ranges(), cfg)
		}

		other := cfg
		other.Include = slices.Concat(cfg.Include, cfg.Include)
		other.Exclude = slices.Clone(cfg.Exclude)
		slices.Reverse(other.Include)
		slices.Reverse(other.Exclude)
		if table, err = New(other); err != nil {
			t.Fatal(err)
		}
		if in2, out2 := table.Prefixes(); !slices.Equal(in, in2) || !slices.Equal(out, out2) {
			t.Fatalf("in another order: in %v, out %v, before in %v, out %v\n%+v", in2, out2, in, out, cfg)
		}
	}
}

// TestPrefixesMinimal tries all shorter lists for the eight addresses of a network.
func TestPrefixesMinimal(t *testing.T) {
	world := netip.MustParsePrefix("10.0.0.0/29")
	var places []netip.Prefix
	for bits := world.Bits(); bits <= 32; bits++ {
		for i := 0; i < 8; i += 1 << (32 - bits) {
			places = append(places, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), bits))
		}
	}
	cover := func(p netip.Prefix) (m uint8) {
		for i := range 8 {
			if p.Contains(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})) {
				m |= 1 << i
			}
		}
		return m
	}
	// possible reports whether n prefixes of places from the i-th, which come with longer prefixes last, make have into want.
	var possible func(n, i int, have, want, covered uint8) bool
	possible = func(n, i int, have, want, covered uint8) bool {
		if have == want {
			return true
		}
		if n == 0 {
			return false
		}
		for ; i < len(places); i++ {
			m := cover(places[i])
			if m&^covered == 0 && possible(n-1, i+1, have|m, want, covered) || possible(n-1, i+1, have&^m, want, covered) {
				return true
			}
		}
		return false
	}
	r := rand.New(rand.NewPCG(5, 6))
	seen := make(map[int]int)
	for range 300 {
		pick := func(n int) (list []netip.Prefix) {
			for range r.IntN(n) {
				list = append(list, places[r.IntN(len(places))])
			}
			return list
		}
		cfg := Config{Addresses: prefixes("192.0.2.1/32"), Include: append(pick(6), netip.MustParsePrefix("192.0.2.1/32")), Exclude: pick(4), Bypass: true}
		table, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		in, out := table.Prefixes()
		n := len(in) + len(out) - 1 // without 192.0.2.1
		var want, covered uint8
		for i := range 8 {
			if table.Route("", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})) == Tunnel {
				want |= 1 << i
			}
		}
		for _, p := range cfg.Include {
			covered |= cover(p)
		}
		for _, p := range in {
			if m := cover(p); m&^covered != 0 {
				t.Fatalf("in %v: %v has more than the rules\n%+v", in, p, cfg)
			}
		}
		if n > 0 && possible(n-1, 0, 0, want, covered) {
			t.Fatalf("in %v, out %v: fewer would do\n%+v", in, out, cfg)
		}
		if !possible(n, 0, 0, want, covered) {
			t.Fatalf("in %v, out %v: the search finds no list as short, so the test is wrong\n%+v", in, out, cfg)
		}
		seen[n]++
	}
	for n := range 4 {
		if seen[n] == 0 {
			t.Errorf("no table needed %d prefixes", n)
		}
	}
}

// TestPrefixesHostile bounds the work for lists that are as scattered as can be.
func TestPrefixesHostile(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	cfg := Config{Addresses: prefixes("fd09::2/64", "10.9.0.2/32")}
	for i := range 20000 {
		var b [16]byte
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		b[0] = 0x20
		p := netip.PrefixFrom(netip.AddrFrom16(b), 128-i%64)
		if i%2 == 0 {
			cfg.Exclude = append(cfg.Exclude, p)
		} else {
			cfg.Include = append(cfg.Include, p)
		}
	}
	for i := range 4000 { // one in the other, in turn
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x30, byte(i / 100)}), 16+i%100)
		if i%2 == 0 {
			cfg.Exclude = append(cfg.Exclude, p)
		} else {
			cfg.Include = append(cfg.Include, p)
		}
	}
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	in, out := table.Prefixes()
	if n := len(in) + len(out); n < 10000 || n > 25000 {
		t.Errorf("%d prefixes", n)
	}
	for i, p := range slices.Concat(cfg.Include, cfg.Exclude) {
		if i%8 > 0 {
			continue
		}
		way := table.Route("", p.Addr())
		found := Direct
		for bits := 0; bits <= 128; bits++ {
			q := netip.PrefixFrom(p.Addr(), bits).Masked()
			if _, ok := slices.BinarySearchFunc(in, q, netip.Prefix.Compare); ok {
				found = Tunnel
			}
			if _, ok := slices.BinarySearchFunc(out, q, netip.Prefix.Compare); ok {
				found = Direct
			}
		}
		if found != way {
			t.Fatalf("%v: %v, want %v", p, found, way)
		}
	}
}

func ExampleTable_Prefixes() {
	table, err := New(Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")},
		Include:   []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9"), netip.MustParsePrefix("10.128.0.0/9")},
		Exclude:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		Bypass:    true,
	})
	if err != nil {
		panic(err)
	}
	in, out := table.Prefixes()
	fmt.Println("in", in)
	fmt.Println("out", out)
	// Output:
	// in [10.0.0.0/8]
	// out [10.1.0.0/16]
}
