package gateway

import (
	"fmt"
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
