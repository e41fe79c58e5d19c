package host

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// slowWay is what the documentation of Settings says about a destination, word for word.
func slowWay(s Settings, connected, main []netip.Prefix, a netip.Addr) way {
	if s.Local == LocalRoutes {
		for _, p := range main {
			if p.Bits() > 0 && p.Contains(a) {
				return direct
			}
		}
	}
	bits, rank, result := -1, -1, direct
	say := func(r int, w way, list []netip.Prefix) {
		for _, p := range list {
			if p.Contains(a) && (p.Bits() > bits || p.Bits() == bits && r > rank) {
				bits, rank, result = p.Bits(), r, w
			}
		}
	}
	say(0, tunnel, s.Addresses)
	say(0, tunnel, s.Tunnel)
	say(1, direct, s.Direct)
	say(1, direct, connected)
	say(2, blocked, s.Blocked)
	for _, g := range s.Gateways {
		say(3, direct, []netip.Prefix{netip.PrefixFrom(g, g.BitLen())})
	}
	return result
}

// randomSettings returns settings about 10.0.0.0/24 and fd00::/120, where everything overlaps.
func randomSettings(r *rand.Rand) Settings {
	random := func() netip.Prefix {
		var p netip.Prefix
		if r.IntN(4) == 0 {
			a := addr("fd00::").As16()
			a[15] = byte(r.IntN(256))
			p = netip.PrefixFrom(netip.AddrFrom16(a), 118+r.IntN(11))
			if r.IntN(8) == 0 {
				p = pfx("::/0")
			}
		} else {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))}), 22+r.IntN(11))
			if r.IntN(8) == 0 {
				p = pfx("0.0.0.0/0")
			}
		}
		if r.IntN(2) == 0 {
			return p.Masked()
		}
		return p
	}
	list := func(n int) []netip.Prefix {
		var l []netip.Prefix
		for range r.IntN(n) {
			l = append(l, random())
		}
		return l
	}
	s := Settings{
		Device: "culvert0", Tunnel: list(6), Direct: list(6), Blocked: list(4),
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + r.IntN(254))}), 24+r.IntN(9))},
		MTU:       []int{0, 1400, 1300}[r.IntN(3)],
		Table:     []int{0, 77}[r.IntN(2)], Mark: []uint32{0, 1}[r.IntN(2)],
		Local: []Local{LocalTunnelled, LocalNetworks, LocalRoutes}[r.IntN(3)],
	}
	for range r.IntN(3) {
		s.Gateways = append(s.Gateways, netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))}))
	}
	return s.withDefaults()
}

// universe are the destinations that randomSettings is about, and one beyond.
func universe() []netip.Addr {
	var list []netip.Addr
	for i := range 256 {
		list = append(list, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	for i := 0; i < 256; i += 5 {
		a := addr("fd00::").As16()
		a[15] = byte(i)
		list = append(list, netip.AddrFrom16(a))
	}
	return append(list, addr("192.0.2.1"), addr("2001:db8::1"))
}

// TestPlan leads a kernel from settings to settings, all of them random, and looks at every destination after every step: it has
// the way of the former or of the new settings, never goes back, and ends where a slow reading of the settings says.
func TestPlan(t *testing.T) {
	destinations := universe()
	rounds := 80
	if testing.Short() {
		rounds = 40
	}
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := newFake()
		f.main = pfxs("0.0.0.0/0", "10.0.0.64/27", "::/0")
		have := newState()
		var former Settings
		for turn := range 4 {
			s := randomSettings(r)
			connected := s.Local.connected([]Interface{{Name: "eth0", Kind: Wired, Up: true, Addrs: pfxs("10.0.0.129/26")}}, s.Device)
			want, err := s.compile(f.links["culvert0"], connected, true)
			if err != nil {
				t.Fatal(err)
			}
			have.dev = f.links["culvert0"]
			before := make([]way, len(destinations))
			after := make([]way, len(destinations))
			now := make([]way, len(destinations))
			for i, a := range destinations {
				before[i] = f.way(a, 0)
				after[i] = slowWay(s, connected, f.main, a)
				now[i] = before[i]
			}
			steps := plan(have, want)
			for _, step := range steps {
				if err := do(f, step); err != nil {
					t.Fatalf("seed %d: %v: %v", seed, step, err)
				}
				have.did(step)
				for i, a := range destinations {
					w := f.way(a, 0)
					if w != before[i] && w != after[i] {
						t.Fatalf("seed %d, turn %d: after %q %v has the way %v, neither %v as before nor %v as after\nfrom %+v\nto %+v",
							seed, turn, step, a, w, before[i], after[i], former, s)
					}
					if w != now[i] && w == before[i] {
						t.Fatalf("seed %d, turn %d: after %q %v has its former way %v again", seed, turn, step, a, w)
					}
					now[i] = w
				}
			}
			for i, a := range destinations {
				if now[i] != after[i] {
					t.Fatalf("seed %d, turn %d: %v has the way %v, want %v, for %+v", seed, turn, a, now[i], after[i], s)
				}
				if w := f.way(a, s.Mark); w != direct {
					t.Fatalf("seed %d: a packet of the tunnel itself to %v has the way %v", seed, a, w)
				}
			}
			for _, g := range s.Gateways {
				if w := f.way(g, 0); w != direct {
					t.Fatalf("seed %d: the gateway %v has the way %v", seed, g, w)
				}
			}
			if again := plan(have, want); len(again) > 0 {
				t.Fatalf("seed %d: a second plan has the steps %v", seed, again)
			}
			former = s
		}
		for _, step := range plan(have, state{dev: have.dev}) {
			if err := do(f, step); err != nil {
				t.Fatal(err)
			}
		}
		if len(f.table) > 0 || len(f.rulebook) > 0 || len(f.addresses) != 1 {
			t.Fatalf("seed %d: left over: %v %v %v", seed, f.table, f.rulebook, f.addresses)
		}
	}
}

func TestWays(t *testing.T) {
	s := Settings{
		Device: "culvert0", Addresses: pfxs("10.8.0.5/24"),
		Tunnel: pfxs("0.0.0.0/0", "10.1.0.0/16", "10.1.2.3/8"), Direct: pfxs("10.1.0.0/16", "198.51.100.7/32"),
		Blocked: pfxs("10.1.0.0/16", "::/0"), Gateways: []netip.Addr{addr("::ffff:198.51.100.7"), addr("2001:db8::7")},
	}.withDefaults()
	got := s.ways(pfxs("192.168.1.0/24"))
	want := map[netip.Prefix]way{
		pfx("10.8.0.0/24"): tunnel, pfx("0.0.0.0/0"): tunnel, pfx("10.1.0.0/16"): blocked, pfx("10.0.0.0/8"): tunnel,
		pfx("198.51.100.7/32"): direct, pfx("::/0"): blocked, pfx("2001:db8::7/128"): direct, pfx("192.168.1.0/24"): direct,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("ways are %v, want %v", got, want)
	}
	// Without IPv6 nothing of it has to be kept anywhere, but it cannot be used either.
	st, err := s.compile(link{"culvert0", 7, 1500, true}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for k := range st.routes {
		if k.v6() {
			t.Errorf("without IPv6 there is the route %v", k.prefix)
		}
	}
	s.Tunnel = append(s.Tunnel, pfx("2001:db8:1::/48"))
	if _, err := s.compile(link{}, nil, false); err == nil {
		t.Error("without IPv6 a prefix of IPv6 is in the tunnel")
	}
}

func TestConnected(t *testing.T) {
	ifs := []Interface{
		{Name: "eth0", Kind: Wired, Up: true, Addrs: pfxs("192.168.1.2/24", "8.8.8.9/24", "10.0.0.1/6", "fd00::2/64", "fe80::1/64", "2001:db8::1/64")},
		{Name: "eth1", Kind: Wired, Up: false, Addrs: pfxs("192.168.2.2/24")},
		{Name: "docker0", Kind: Virtual, Up: true, Addrs: pfxs("172.17.0.1/16", "fd01::1/64")},
		{Name: "wg0", Kind: Tunnel, Up: true, Addrs: pfxs("10.9.0.1/24")},
		{Name: "ppp0", Kind: Mobile, Up: true, Addrs: pfxs("10.64.0.1/32")},
		{Name: "culvert0", Kind: Virtual, Up: true, Addrs: pfxs("10.8.0.5/24")},
		{Name: "lo", Kind: Loopback, Up: true, Addrs: pfxs("127.0.0.1/8")},
	}
	for l, want := range map[Local][]netip.Prefix{
		LocalTunnelled: nil,
		LocalVirtual:   pfxs("172.17.0.0/16"),
		LocalNetworks:  pfxs("224.0.0.0/4", "172.17.0.0/16", "192.168.1.0/24", "255.255.255.255/32", "fd00::/64", "fd01::/64"),
		LocalRoutes:    nil,
	} {
		got := l.connected(ifs, "culvert0")
		slices.SortFunc(want, comparePrefixes)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", l, got, want)
		}
	}
}
