package split

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// golden is a Table as one would write it down: it looks at every rule. It returns which of the rules of Table decided, too.
func golden(cfg Config, host string, addr netip.Addr) (Way, int) {
	addr = addr.Unmap().WithZone("")
	for _, g := range cfg.Gateway {
		if g.Unmap() == addr {
			return Direct, 1
		}
	}
	if addr.IsValid() && addr.IsLoopback() {
		return Direct, 1
	}
	for _, p := range prefixes("fe80::/10", "ff00::/8") {
		if p.Contains(addr) {
			return Direct, 1
		}
	}
	present := !addr.IsValid()
	for _, p := range cfg.Addresses {
		present = present || p.Addr().Is4() == addr.Is4()
	}
	absent := Nowhere
	if cfg.Bypass {
		absent = Direct
	}
	via := func(w Way, level int) (Way, int) {
		if w == Tunnel && !present {
			return absent, level
		}
		return w, level
	}

	if w := goldenName(cfg.User.DynamicInclude, cfg.User.DynamicExclude, host); w != Nowhere {
		return via(w, 2)
	}
	if addr.IsValid() {
		var m match
		for _, a := range cfg.DNS {
			m.add([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, addr, Tunnel)
		}
		m.add(cfg.User.Include, addr, Tunnel)
		m.add(cfg.User.Exclude, addr, Direct)
		if m.bits > 0 {
			return via(m.way, 3)
		}
	}
	if w := goldenName(cfg.DynamicInclude, cfg.DynamicExclude, host); w != Nowhere {
		return via(w, 4)
	}
	if !addr.IsValid() {
		return Nowhere, 0
	}
	var m match
	m.add(cfg.Addresses, addr, Tunnel)
	m.add(cfg.Include, addr, Tunnel)
	for _, p := range cfg.Exclude {
		void := false
		for _, l := range cfg.Addresses {
			void = void || cfg.OnLinkFirst && l.Bits() <= p.Bits() && l.Masked().Contains(p.Addr())
		}
		if !void {
			m.add([]netip.Prefix{p}, addr, Direct)
		}
	}
	m.add(cfg.LocalLAN, addr, Direct) // none is public
	if m.bits > 0 {
		return via(m.way, 6)
	}
	if !present {
		return absent, 7
	}
	for _, p := range cfg.Include {
		if p.Addr().Is4() == addr.Is4() {
			return Direct, 7
		}
	}
	return Tunnel, 7
}

// A match is the longest prefix so far; among equals Direct is better. Bits is one more than its length, 0 if there is none.
type match struct {
	bits int
	way  Way
}

func (m *match) add(list []netip.Prefix, addr netip.Addr, w Way) {
	for _, p := range list {
		if n := p.Bits() + 1; p.Masked().Contains(addr) && (n > m.bits || n == m.bits && w == Direct) {
			m.bits, m.way = n, w
		}
	}
}

func goldenName(include, exclude []string, host string) Way {
	labels := func(s string) []string {
		s = strings.ToLower(strings.TrimSuffix(s, "."))
		if s == "" || len(s) > 253 {
			return nil
		}
		return strings.Split(s, ".")
	}
	h := labels(host)
	if len(h) == 0 || strings.Contains(host, ":") || strings.Trim(h[len(h)-1], "0123456789") == "" {
		return Nowhere
	}
	best, way := -1, Nowhere
	for i, list := range [][]string{include, exclude} {
		for _, s := range list {
			l := labels(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "*"), "."))
			if len(l) > len(h) || strings.Join(h[len(h)-len(l):], ".") != strings.Join(l, ".") {
				continue
			}
			if w := []Way{Tunnel, Direct}[i]; len(l) > best || len(l) == best && w == Direct {
				best, way = len(l), w
			}
		}
	}
	return way
}

// A fuzzSource makes random numbers of what a fuzzer gives, and goes on with others when that is used up.
type fuzzSource struct {
	data []byte
	rest rand.PCG
}

func (s *fuzzSource) Uint64() uint64 {
	if len(s.data) < 2 {
		return s.rest.Uint64()
	}
	v := uint64(binary.LittleEndian.Uint16(s.data))
	s.data = s.data[2:]
	return v | v<<16 | v<<32 | v<<48
}

// random makes tables whose rules meet often: few addresses, few names.
func random(r *rand.Rand) Config {
	list := func(n int) (p []netip.Prefix) {
		for range r.IntN(n) {
			a := randomAddr(r)
			p = append(p, netip.PrefixFrom(a, a.BitLen()-r.IntN(25)))
		}
		return p
	}
	names := func() (s []string) {
		for range r.IntN(3) {
			s = append(s, randomName(r))
		}
		return s
	}
	cfg := Config{
		Addresses: list(3), Include: list(4), Exclude: list(4), LocalLAN: list(2),
		DynamicInclude: names(), DynamicExclude: names(),
		Bypass: r.IntN(2) == 0, OnLinkFirst: r.IntN(2) == 0, PublicLAN: r.IntN(2) == 0,
	}
	if r.IntN(3) == 0 {
		cfg.DNS = []netip.Addr{randomAddr(r)}
	}
	if r.IntN(3) == 0 {
		cfg.Gateway = []netip.Addr{randomAddr(r)}
	}
	if r.IntN(2) == 0 {
		cfg.User = Rules{Include: list(3), Exclude: list(3), DynamicInclude: names(), DynamicExclude: names()}
	}
	return cfg
}

func randomAddr(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(3))})
	}
	return netip.AddrFrom16([16]byte{0xfd, 13: byte(r.IntN(3)), 14: byte(r.IntN(3)), 15: byte(r.IntN(3))})
}

func randomName(r *rand.Rand) string {
	s := []string{"example", "EXAMPLE.", "evilexample"}[r.IntN(3)]
	for range r.IntN(3) {
		s = []string{"a.", "B.", "ab."}[r.IntN(3)] + s
	}
	return s
}

// compare asks a table and its golden twin about a few destinations, and counts the ways.
func compare(t *testing.T, r *rand.Rand, cfg Config, ways map[Way]int) {
	table, err := New(cfg)
	if err != nil {
		t.Fatalf("%+v: %v", cfg, err)
	}
	for range 20 {
		host := ""
		if r.IntN(2) == 0 {
			host = randomName(r)
		}
		var addr netip.Addr
		if r.IntN(10) > 0 {
			addr = randomAddr(r)
		}
		got, rule := table.Explain(host, addr)
		if want, level := golden(cfg, host, addr); got != want {
			t.Fatalf("%q %v: %v by %q, want %v by rule %d\n%+v", host, addr, got, rule, want, level, cfg)
		}
		if way := table.Route(host, addr); way != got {
			t.Fatalf("%q %v: Route says %v, Explain %v\n%+v", host, addr, way, got, cfg)
		}
		ways[got]++
	}
}

func TestGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ways := make(map[Way]int)
	for range 5000 {
		compare(t, r, random(r), ways)
	}
	for _, w := range []Way{Nowhere, Direct, Tunnel} {
		if ways[w] < 5000 {
			t.Errorf("only %d destinations were %v", ways[w], w)
		}
	}
}

// FuzzTable makes tables of the fuzzer's choice.
func FuzzTable(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a table of letters, which is as good as any other, if it is only long enough to fill the lists"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := rand.New(&fuzzSource{data: data})
		cfg := random(r)
		compare(t, r, cfg, make(map[Way]int))
		comparePrefixes(t, r, cfg)
	})
}

func FuzzRoute(f *testing.F) {
	f.Add("corp.example", "video.example", "git.corp.example", []byte{10, 0, 0, 1}, []byte{10, 0, 0, 0}, uint8(8))
	f.Add("*.a", "a.", "A", []byte{}, []byte{10, 0, 0, 0}, uint8(32))
	f.Add("a..b", "", ".", make([]byte, 16), make([]byte, 16), uint8(129))
	f.Add("a", "b", "c", append([]byte{0xfe, 0xbf}, make([]byte, 14)...), append([]byte{0xfe, 0xbf}, make([]byte, 14)...), uint8(16))
	f.Add("a", "b", "b", append([]byte{0xff, 0x0e}, make([]byte, 14)...), make([]byte, 16), uint8(1))
	f.Add("1", "a.1", "10.0.0.1", make([]byte, 4), make([]byte, 4), uint8(32))
	f.Fuzz(func(t *testing.T, include, exclude, host string, addr, prefix []byte, bits uint8) {
		a, _ := netip.AddrFromSlice(addr)
		p, _ := netip.AddrFromSlice(prefix)
		cfg := Config{Addresses: prefixes("10.9.0.2/24"), DynamicInclude: []string{include}, User: Rules{DynamicExclude: []string{exclude}}}
		if q := netip.PrefixFrom(p, int(bits)); q.IsValid() && !p.Is4In6() && !p.IsUnspecified() {
			cfg.Include = []netip.Prefix{q}
		}
		table, err := New(cfg)
		if err != nil {
			return
		}
		got := table.Route(host, a)
		if want, level := golden(cfg, host, a); got != want {
			t.Errorf("%q %v: %v, want %v by rule %d\n%+v", host, a, got, want, level, cfg)
		}
	})
}
