package split

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range s {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func addrs(s ...string) []netip.Addr {
	var a []netip.Addr
	for _, s := range s {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

func TestTable(t *testing.T) {
	full := Config{Addresses: prefixes("10.9.0.2/24", "fd09::2/64")}
	split := Config{
		Addresses:      prefixes("10.9.0.2/24", "fd09::2/64"),
		Include:        prefixes("10.0.0.0/8", "172.16.5.5/12", "192.0.2.0/24"),
		Exclude:        prefixes("10.1.0.0/16", "192.0.2.0/24"),
		LocalLAN:       prefixes("10.2.3.0/24"),
		DNS:            addrs("198.51.100.53", "10.1.0.53"),
		Gateway:        addrs("203.0.113.1", "10.0.0.1"),
		DynamicInclude: []string{"corp.example", "*.Deep.Video.example.", " cloud.example "},
		DynamicExclude: []string{"video.example", ".cloud.example"},
	}
	only4 := Config{Addresses: prefixes("10.9.0.2/32"), Exclude: prefixes("2001:db8::/32")}
	bypass := only4
	bypass.Bypass = true

	tests := []struct {
		name       string
		cfg        Config
		host, addr string
		want       Way
		rule       string
	}{
		{"full", full, "", "192.0.2.1", Tunnel, "everything of IPv4"},
		{"full", full, "", "2001:db8::1", Tunnel, "everything of IPv6"},
		{"full", full, "", "::ffff:192.0.2.1", Tunnel, "everything of IPv4"},
		{"full", full, "", "127.0.0.1", Direct, "loopback"},
		{"full", full, "", "::1", Direct, "loopback"},
		{"full", full, "x.example", "", Nowhere, "no address"},
		{"split", split, "", "10.0.0.2", Tunnel, "include 10.0.0.0/8"},
		{"split", split, "", "::ffff:10.0.0.2", Tunnel, "include 10.0.0.0/8"},
		{"split", split, "", "11.0.0.2", Direct, "not included"},
		{"split", split, "", "172.31.255.255", Tunnel, "include 172.16.0.0/12"},
		{"split", split, "", "10.1.2.3", Direct, "exclude 10.1.0.0/16"},
		{"split", split, "", "192.0.2.1", Direct, "exclude 192.0.2.0/24"},
		{"split", split, "", "10.2.3.4", Direct, "local network 10.2.3.0/24"},
		{"split", split, "", "10.9.0.77", Tunnel, "on-link 10.9.0.0/24"},
		{"split", split, "", "198.51.100.53", Tunnel, "DNS server 198.51.100.53/32"},
		{"split", split, "", "10.1.0.53", Tunnel, "DNS server 10.1.0.53/32"},
		{"split", split, "", "10.0.0.1", Direct, "address of the gateway"},
		{"split", split, "git.corp.example", "10.0.0.1", Direct, "address of the gateway"},
		{"split", split, "", "fd00::1", Tunnel, "everything of IPv6"},
		{"split", split, "", "fe80::1%eth0", Tunnel, "everything of IPv6"},
		{"name", split, "corp.example", "11.0.0.1", Tunnel, "dynamic include corp.example"},
		{"name", split, "GIT.Corp.EXAMPLE.", "11.0.0.1", Tunnel, "dynamic include corp.example"},
		{"name", split, "git.corp.example", "", Tunnel, "dynamic include corp.example"},
		{"name", split, "evilcorp.example", "11.0.0.1", Direct, "not included"},
		{"name", split, "corp.example.org", "11.0.0.1", Direct, "not included"},
		{"name", split, "example", "11.0.0.1", Direct, "not included"},
		{"name", split, "www.video.example", "10.0.0.2", Direct, "dynamic exclude video.example"},
		{"name", split, "a.deep.video.example", "11.0.0.1", Tunnel, "dynamic include deep.video.example"},
		{"name", split, "cloud.example", "10.0.0.2", Direct, "dynamic exclude cloud.example"},
		{"one family", only4, "", "2001:db9::1", Nowhere, "the tunnel has no IPv6 address"},
		{"one family", only4, "", "2001:db8::1", Direct, "exclude 2001:db8::/32"},
		{"one family", only4, "", "1.2.3.4", Tunnel, "everything of IPv4"},
		{"bypass", bypass, "", "2001:db9::1", Direct, "the tunnel has no IPv6 address, bypass"},
		{"nothing", Config{}, "", "1.2.3.4", Nowhere, "the tunnel has no IPv4 address"},
		{
			"default route", Config{Addresses: prefixes("10.9.0.2/32"), Include: prefixes("0.0.0.0/0")},
			"", "1.2.3.4", Tunnel, "include 0.0.0.0/0",
		},
		{
			"include of a family without address", Config{Addresses: prefixes("10.9.0.2/32"), Include: prefixes("fd00::/8")},
			"", "fd00::1", Nowhere, "the tunnel has no IPv6 address",
		},
		{
			"name of a family without address", Config{Addresses: prefixes("10.9.0.2/32"), DynamicInclude: []string{"a.example"}},
			"a.example", "fd00::1", Nowhere, "the tunnel has no IPv6 address",
		},
		{
			"mapped prefix", Config{Addresses: prefixes("10.9.0.2/32"), Include: prefixes("::ffff:10.0.0.0/104")},
			"", "10.1.1.1", Tunnel, "include 10.0.0.0/8",
		},
	}
	for _, tt := range tests {
		table, err := New(tt.cfg)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var addr netip.Addr
		if tt.addr != "" {
			addr = netip.MustParseAddr(tt.addr)
		}
		way, rule := table.Explain(tt.host, addr)
		if way != tt.want || rule != tt.rule {
			t.Errorf("%s: %s %s: %v by %q, want %v by %q", tt.name, tt.host, tt.addr, way, rule, tt.want, tt.rule)
		}
		if got := table.Route(tt.host, addr); got != way {
			t.Errorf("%s: %s %s: Route says %v, Explain %v", tt.name, tt.host, tt.addr, got, way)
		}
	}
}

func TestZeroTable(t *testing.T) {
	var table Table
	if way, rule := table.Explain("a.example", netip.MustParseAddr("1.2.3.4")); way != Nowhere || rule != "no tunnel" {
		t.Errorf("the zero Table says %v by %q", way, rule)
	}
}

func TestNewErrors(t *testing.T) {
	for name, cfg := range map[string]Config{
		"address":        {Addresses: make([]netip.Prefix, 1)},
		"include":        {Include: make([]netip.Prefix, 1)},
		"exclude":        {Exclude: make([]netip.Prefix, 1)},
		"local network":  {LocalLAN: make([]netip.Prefix, 1)},
		"DNS server":     {DNS: make([]netip.Addr, 1)},
		"gateway":        {Gateway: make([]netip.Addr, 1)},
		"mixed":          {Include: prefixes("::ffff:0.0.0.0/90")},
		"empty name":     {DynamicInclude: []string{""}},
		"only wildcard":  {DynamicInclude: []string{"*."}},
		"only dots":      {DynamicExclude: []string{".."}},
		"empty label":    {DynamicExclude: []string{"a..b"}},
		"inner wildcard": {DynamicExclude: []string{"a.*.b"}},
		"space":          {DynamicExclude: []string{"a b"}},
		"control":        {DynamicExclude: []string{"a\x00b"}},
		"long label":     {DynamicExclude: []string{strings.Repeat("a", 64)}},
		"long name":      {DynamicExclude: []string{strings.Repeat("a.", 127) + "a"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		} else if !strings.HasPrefix(err.Error(), "split: ") {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}

// golden is a Table as one would write it down: it looks at every rule.
func golden(cfg Config, host string, addr netip.Addr) Way {
	addr = addr.Unmap().WithZone("")
	for _, g := range cfg.Gateway {
		if g.Unmap() == addr {
			return Direct
		}
	}
	if addr.IsValid() && addr.IsLoopback() {
		return Direct
	}
	present := !addr.IsValid()
	for _, p := range cfg.Addresses {
		present = present || p.Addr().Is4() == addr.Is4()
	}
	absent := Nowhere
	if cfg.Bypass {
		absent = Direct
	}

	// The best rule has the most labels, or bits; among equals Direct is better.
	best, way := -1, Nowhere
	better := func(n int, w Way) {
		if n > best || n == best && w == Direct {
			best, way = n, w
		}
	}
	labels := func(s string) []string {
		s = strings.ToLower(strings.TrimSuffix(s, "."))
		if s == "" || len(s) > 253 {
			return nil
		}
		return strings.Split(s, ".")
	}
	h := labels(host)
	name := func(list []string, w Way) {
		for _, s := range list {
			l := labels(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "*"), "."))
			if len(l) <= len(h) && strings.Join(h[len(h)-len(l):], ".") == strings.Join(l, ".") && h != nil {
				better(len(l), w)
			}
		}
	}
	name(cfg.DynamicInclude, Tunnel)
	name(cfg.DynamicExclude, Direct)
	if best >= 0 {
		if way == Tunnel && !present {
			return absent
		}
		return way
	}
	if !addr.IsValid() {
		return Nowhere
	}

	included := false
	for _, p := range cfg.Include {
		included = included || p.Addr().Is4() == addr.Is4()
	}
	prefix := func(list []netip.Prefix, w Way) {
		for _, p := range list {
			if p.Masked().Contains(addr) {
				better(p.Bits(), w)
			}
		}
	}
	prefix(cfg.Addresses, Tunnel)
	prefix(cfg.Include, Tunnel)
	for _, a := range cfg.DNS {
		prefix([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, Tunnel)
	}
	prefix(cfg.LocalLAN, Direct)
	prefix(cfg.Exclude, Direct)
	switch {
	case best >= 0 && way == Direct:
		return Direct
	case !present:
		return absent
	case best < 0 && included:
		return Direct
	}
	return Tunnel
}

// random makes tables whose rules meet often: few addresses, few names.
func random(r *rand.Rand) Config {
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(3))})
		}
		return netip.AddrFrom16([16]byte{0xfd, 13: byte(r.IntN(3)), 14: byte(r.IntN(3)), 15: byte(r.IntN(3))})
	}
	list := func(n int) (p []netip.Prefix) {
		for range r.IntN(n) {
			a := addr()
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
		DynamicInclude: names(), DynamicExclude: names(), Bypass: r.IntN(2) == 0,
	}
	if r.IntN(3) == 0 {
		cfg.DNS = []netip.Addr{addr()}
	}
	if r.IntN(3) == 0 {
		cfg.Gateway = []netip.Addr{addr()}
	}
	return cfg
}

func randomName(r *rand.Rand) string {
	s := []string{"example", "EXAMPLE.", "evilexample"}[r.IntN(3)]
	for range r.IntN(3) {
		s = []string{"a.", "B.", "ab."}[r.IntN(3)] + s
	}
	return s
}

func TestGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ways := make(map[Way]int)
	for range 3000 {
		cfg := random(r)
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
			switch r.IntN(10) {
			case 0:
			case 1, 2, 3, 4:
				addr = netip.AddrFrom16([16]byte{0xfd, 13: byte(r.IntN(3)), 14: byte(r.IntN(3)), 15: byte(r.IntN(3))})
			default:
				addr = netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(3))})
			}
			got, rule := table.Explain(host, addr)
			if want := golden(cfg, host, addr); got != want {
				t.Fatalf("%q %v: %v by %q, want %v\n%+v", host, addr, got, rule, want, cfg)
			}
			ways[got]++
		}
	}
	for _, w := range []Way{Nowhere, Direct, Tunnel} {
		if ways[w] < 5000 {
			t.Errorf("only %d destinations were %v", ways[w], w)
		}
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("corp.example", "video.example", "git.corp.example", []byte{10, 0, 0, 1}, []byte{10, 0, 0, 0}, uint8(8))
	f.Add("*.a", "a.", "A", []byte{}, []byte{10, 0, 0, 0}, uint8(32))
	f.Add("a..b", "", ".", make([]byte, 16), make([]byte, 16), uint8(129))
	f.Fuzz(func(t *testing.T, include, exclude, host string, addr, prefix []byte, bits uint8) {
		a, _ := netip.AddrFromSlice(addr)
		p, _ := netip.AddrFromSlice(prefix)
		cfg := Config{Addresses: prefixes("10.9.0.2/24"), DynamicInclude: []string{include}, DynamicExclude: []string{exclude}}
		if q := netip.PrefixFrom(p, int(bits)); q.IsValid() && !p.Is4In6() {
			cfg.Include = []netip.Prefix{q}
		}
		table, err := New(cfg)
		if err != nil {
			return
		}
		if got, want := table.Route(host, a), golden(cfg, host, a); got != want {
			t.Errorf("%q %v: %v, want %v\n%+v", host, a, got, want, cfg)
		}
	})
}

func large(tb testing.TB) *Table {
	cfg := Config{Addresses: prefixes("10.9.0.2/24", "fd09::2/64")}
	for i := range 1000 {
		cfg.Include = append(cfg.Include, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 256), byte(i), 0}), 16+i%17))
		cfg.DynamicExclude = append(cfg.DynamicExclude, fmt.Sprintf("s%d.example", i))
	}
	t, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func TestRouteAllocs(t *testing.T) {
	var r Router = large(t)
	in, out := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")
	n := testing.AllocsPerRun(100, func() {
		r.Route("Some.Host.s77.EXAMPLE.", in)
		r.Route("", out)
		r.Route("other.example", in)
	})
	if n != 0 {
		t.Errorf("Route allocates %v times", n)
	}
}

func BenchmarkRoute(b *testing.B) {
	t := large(b)
	for name, s := range map[string]string{"hit": "10.1.2.3", "miss": "192.0.2.1"} {
		addr := netip.MustParseAddr(s)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				t.Route("", addr)
			}
		})
	}
	b.Run("name", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			t.Route("host.s77.example", netip.Addr{})
		}
	})
}

func TestWayString(t *testing.T) {
	var zero Way
	if zero != Nowhere || zero.String() != "nowhere" || Direct.String() != "direct" || Tunnel.String() != "tunnel" || Way(9).String() != "nowhere" {
		t.Errorf("%v %v %v %v", zero, Direct, Tunnel, Way(9))
	}
}
