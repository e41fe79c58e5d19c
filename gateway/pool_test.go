package gateway

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
)

func TestPool(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		hosts  int
		first  string
	}{
		{"10.0.0.0/30", 1, "10.0.0.2"},
		{"10.0.0.0/29", 5, ""},
		{"10.1.255.0/24", 253, ""},
		{"fd00::/64", maxPool - 2, ""},
		{"fd00::ff00/126", 2, ""},
		{"10.0.0.0/8", maxPool - 2, ""},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			prefix := netip.MustParsePrefix(tt.prefix)
			l := newPool(prefix)
			seen := map[netip.Addr]bool{}
			for i := range min(tt.hosts, 5000) {
				a, ok := l.lease(fmt.Sprint("user", i), netip.Addr{})
				if !ok {
					t.Fatalf("no address after %d", i)
				}
				if seen[a] || !prefix.Contains(a) || a == l.own || a == prefix.Addr() {
					t.Fatalf("lease %d = %v", i, a)
				}
				seen[a] = true
			}
			if tt.first != "" && !seen[netip.MustParseAddr(tt.first)] {
				t.Errorf("%s was not given out", tt.first)
			}
			if tt.hosts <= 5000 {
				if a, ok := l.lease("one more", netip.Addr{}); ok {
					t.Errorf("an address too many: %v", a)
				}
			}
			for a := range seen {
				l.release(a)
				l.release(a)
			}
			if l.free != tt.hosts {
				t.Errorf("%d free after all were released, want %d", l.free, tt.hosts)
			}
			l.release(netip.MustParseAddr("192.0.2.1"))
			l.release(netip.Addr{})
		})
	}
}

func TestPoolPrefersTheSameAddress(t *testing.T) {
	l := newPool(netip.MustParsePrefix("10.0.0.0/24"))
	a, _ := l.lease("alice", netip.Addr{})
	l.release(a)
	b, _ := l.lease("alice", netip.Addr{})
	if a != b {
		t.Errorf("alice gets %v, then %v", a, b)
	}
	l.release(b)
	if c, _ := l.lease("alice", b); c == b {
		t.Errorf("alice gets %v, which was to be avoided", c)
	}
}

// Addresses that are not for clients make none of the others likelier: a user in eight has each of eight addresses.
func TestPoolPrefersEvenly(t *testing.T) {
	for _, prefix := range []string{"10.0.0.0/30", "10.0.0.0/29", "10.0.0.0/28", "10.0.0.0/24", "fd00::/126", "fd00::/120"} {
		l := newPool(netip.MustParsePrefix(prefix))
		hosts := l.free
		const each = 400
		count := map[netip.Addr]int{}
		for i := range each * hosts {
			a, ok := l.lease(fmt.Sprint("user", i), netip.Addr{})
			if !ok {
				t.Fatalf("%s: no address", prefix)
			}
			l.release(a)
			count[a]++
		}
		if len(count) != hosts {
			t.Errorf("%s: %d of %d addresses are preferred by anybody", prefix, len(count), hosts)
		}
		for a, n := range count {
			// Six standard deviations are less than one chance in a hundred million.
			if d := math.Abs(float64(n - each)); hosts > 1 && d > 6*math.Sqrt(each) {
				t.Errorf("%s: %v is preferred by %d users, want about %d", prefix, a, n, each)
			}
		}
	}
}

// A second session of a user gets the next address, and all of a pool can be had, whatever the user and what is to be avoided.
func TestPoolNextFree(t *testing.T) {
	for _, prefix := range []string{"10.0.0.0/29", "10.0.0.0/25", "10.0.0.0/24", "fd00::/121", "10.0.0.0/16", "fd00::/64"} {
		l := newPool(netip.MustParsePrefix(prefix))
		first, end := netip.MustParsePrefix(prefix).Addr().Next().Next(), l.at(firstHost+l.hosts-1)
		want, _ := l.lease("alice", netip.Addr{})
		for n := l.free; n > 0; n-- {
			if want == end {
				want = first
			} else {
				want = want.Next()
			}
			if a, ok := l.lease("alice", netip.Addr{}); !ok || a != want {
				t.Fatalf("%s: %v with %d free, want %v", prefix, a, n, want)
			}
		}
		if a, ok := l.lease("alice", netip.Addr{}); ok {
			t.Errorf("%s: an address too many: %v", prefix, a)
		}
		l.release(want)
		if a, ok := l.lease("bob", want); ok {
			t.Errorf("%s: %v, which was to be avoided", prefix, a)
		}
		if a, ok := l.lease("bob", netip.Addr{}); !ok || a != want {
			t.Errorf("%s: %v for the last that is free, want %v", prefix, a, want)
		}
	}
}

func BenchmarkPoolNearlyFull(b *testing.B) {
	l := newPool(netip.MustParsePrefix("10.0.0.0/16"))
	for l.free > 1 {
		l.lease("alice", netip.Addr{})
	}
	for b.Loop() {
		a, _ := l.lease("bob", netip.Addr{})
		l.release(a)
	}
}
