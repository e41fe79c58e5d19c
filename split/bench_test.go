package split

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// big is a lease with n prefixes of both families, the lengths as in the tables of the Internet's routers, and n/100 domains.
func big(n int) Config {
	r := rand.New(rand.NewPCG(11, 12))
	cfg := Config{Addresses: prefixes("10.9.0.2/24", "fd09::2/64"), Gateway: addrs("203.0.113.1")}
	for i := range n {
		var p netip.Prefix
		if v := r.Uint64(); i%2 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{1 + byte(v)%222, byte(v >> 8), byte(v >> 16), byte(v >> 24)}), []int{32, 24, 24, 24, 22, 20, 16}[i%7])
		} else {
			b := [16]byte{0x20, 0x01 + byte(v)%16, 2: byte(v >> 8), 3: byte(v >> 16), 4: byte(v >> 24), 5: byte(v >> 32), 6: byte(v >> 40), 7: byte(v >> 48)}
			p = netip.PrefixFrom(netip.AddrFrom16(b), []int{128, 48, 48, 48, 44, 40, 32}[i%7])
		}
		if i%3 == 0 {
			cfg.Exclude = append(cfg.Exclude, p)
		} else {
			cfg.Include = append(cfg.Include, p)
		}
	}
	for i := range n / 100 {
		cfg.DynamicExclude = append(cfg.DynamicExclude, fmt.Sprintf("s%d.example", i))
	}
	return cfg
}

// targets are addresses of which every second is in a prefix of cfg.
func targets(cfg Config, is4 bool) []netip.Addr {
	r := rand.New(rand.NewPCG(13, 14))
	list := make([]netip.Addr, 0, 1<<12)
	for len(list) < cap(list) {
		p := cfg.Include[r.IntN(len(cfg.Include))]
		if p.Addr().Is4() != is4 {
			continue
		}
		a := p.Addr()
		if len(list)%2 == 0 {
			if is4 {
				a = netip.AddrFrom4([4]byte{1 + byte(r.IntN(222)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
			} else {
				b := a.As16()
				b[3]++
				a = netip.AddrFrom16(b)
			}
		}
		list = append(list, a)
	}
	return list
}

// TestLoad bounds how long a lease with a hundred thousand prefixes keeps the tunnel waiting.
func TestLoad(t *testing.T) {
	cfg := big(100_000)
	var table *Table
	took := time.Hour
	for try := 0; try < 5 && took > time.Second; try++ { // other programs may keep the processors busy
		start := time.Now()
		table = mustNew(t, cfg)
		took = min(took, time.Since(start))
	}
	if took > time.Second {
		t.Errorf("New took %v", took)
	}
	start := time.Now()
	in, out := table.Prefixes()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("Prefixes took %v", d)
	}
	if n := len(in) + len(out); n < 50_000 || n > 100_002 {
		t.Errorf("%d prefixes", n)
	}
	for i, a := range targets(cfg, true) {
		want, level := golden(Config{Addresses: cfg.Addresses, Include: cfg.Include, Exclude: cfg.Exclude}, "", a)
		if got := table.Route("", a); got != want {
			t.Fatalf("%v is %v, want %v by rule %d", a, got, want, level)
		}
		if i == 20 {
			break
		}
	}
}

// learnedBig is a Learned with a full load.
func learnedBig(tb testing.TB, table *Table) *Learned {
	l := NewLearned(table)
	for i := range MaxLearned {
		l.Learn(epoch, fmt.Sprintf("h%d.s%d.example", i, i%100), []netip.Addr{netip.AddrFrom4([4]byte{8, 8, byte(i >> 8), byte(i)})}, time.Hour)
	}
	return l
}

func TestRouteAllocs(t *testing.T) {
	table := mustNew(t, big(10_000))
	for name, r := range map[string]Router{"Table": table, "Learned": learnedBig(t, table)} {
		in, out, learned := netip.MustParseAddr("10.9.0.3"), netip.MustParseAddr("2fff::1"), netip.MustParseAddr("8.8.3.4")
		mapped, zoned := netip.MustParseAddr("::ffff:8.8.3.4"), netip.MustParseAddr("fe80::1%eth0")
		n := testing.AllocsPerRun(100, func() {
			r.Route("Some.Host.s77.EXAMPLE.", in)
			r.Route("", out)
			r.Route("", learned)
			r.Route("", mapped)
			r.Route("", zoned)
			r.Route("other.example", in)
			r.Route("10.0.0.1", in)
		})
		if n != 0 {
			t.Errorf("Route of %s allocates %v times", name, n)
		}
	}
	l := learnedBig(t, table)
	if n := testing.AllocsPerRun(100, func() { l.Keep(netip.MustParseAddr("8.8.3.4")) }); n != 0 {
		t.Errorf("Keep allocates %v times", n)
	}
}

var sink Way

// BenchmarkRoute looks up addresses in a table of a hundred thousand prefixes, another one each time. Beside the mean it reports
// the median and the best of the passes through all addresses, which other programs on the machine disturb less.
func BenchmarkRoute(b *testing.B) {
	cfg := big(100_000)
	table := mustNew(b, cfg)
	for _, router := range []struct {
		name string
		Router
	}{{"Table", table}, {"Learned", learnedBig(b, table)}} {
		for i, family := range []string{"4", "6"} {
			list := targets(cfg, i == 0)
			b.Run(router.name+family, func(b *testing.B) {
				b.ReportAllocs()
				var passes []time.Duration
				start := time.Now()
				for i := 0; b.Loop(); i++ {
					sink = router.Route("", list[i&(len(list)-1)])
					if i&(len(list)-1) == len(list)-1 {
						now := time.Now()
						passes, start = append(passes, now.Sub(start)), now
					}
				}
				if slices.Sort(passes); len(passes) > 0 {
					b.ReportMetric(float64(passes[0])/float64(len(list)), "best-ns/op")
					b.ReportMetric(float64(passes[len(passes)/2])/float64(len(list)), "median-ns/op")
				}
			})
		}
		b.Run(router.name+"Name", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = router.Route("host.s77.example", netip.Addr{})
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	cfg := big(100_000)
	b.ReportAllocs()
	for b.Loop() {
		mustNew(b, cfg)
	}
}

func BenchmarkPrefixes(b *testing.B) {
	table := mustNew(b, big(100_000))
	b.ReportAllocs()
	for b.Loop() {
		table.Prefixes()
	}
}

// BenchmarkLearn takes in answers with one address: one that is new where there is no room left, and one that is known.
func BenchmarkLearn(b *testing.B) {
	l := learnedBig(b, mustNew(b, big(10_000)))
	for name, host := range map[string]string{"Listed": "www.s1.example", "Other": "www.other.example"} {
		b.Run(name+"New", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.Learn(epoch, host, []netip.Addr{netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)})}, time.Hour)
			}
		})
		b.Run(name+"Known", func(b *testing.B) {
			b.ReportAllocs()
			list := addrs("9.10.11.12")
			for b.Loop() {
				l.Learn(epoch, host, list, time.Hour)
			}
		})
	}
}

// BenchmarkExpire looks through a full load that stays.
func BenchmarkExpire(b *testing.B) {
	l := learnedBig(b, mustNew(b, big(10_000)))
	for b.Loop() {
		l.Expire(epoch)
	}
}
