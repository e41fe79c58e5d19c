package gateway

import (
	"net/netip"
	"slices"
	"testing"
)

// A gateway that is made anew deals out the same addresses, in whatever order its users come back.
func TestRestartKeepsAddresses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pools []netip.Prefix
		users []string
	}{
		{"pools of the usual size", []netip.Prefix{testPool4, testPool6}, []string{"alice", "bob", "carol", "dave", "erin", "grace"}},
		{"small pools", prefixes("10.20.0.0/29", "fd20::/125"), []string{"alice", "erin"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			deal := func(users []string) map[string][]netip.Prefix {
				l := newLab(t, func(c *Config) { c.Pools = tt.pools })
				defer l.Close()
				got := map[string][]netip.Prefix{}
				for _, user := range users {
					c, err := l.request(request(l.cookie(user)))
					if err != nil {
						t.Fatal(err)
					}
					got[user] = c.lease.Addresses
				}
				return got
			}
			before := deal(tt.users)
			slices.Reverse(tt.users)
			after := deal(tt.users)
			for _, user := range tt.users {
				if len(before[user]) != 2 || !slices.Equal(before[user], after[user]) {
					t.Errorf("%s had %v and has %v", user, before[user], after[user])
				}
			}
		})
	}
}
