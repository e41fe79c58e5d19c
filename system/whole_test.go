package system

import (
	"net/netip"
	"testing"

	"culvert.example/vpn/transport"
)

func TestIsWhole(t *testing.T) {
	for _, tt := range []struct {
		addresses, include []string
		want               bool
	}{
		{[]string{"10.9.0.2/32", "fd09::2/128"}, nil, true},
		{[]string{"10.9.0.2/32"}, []string{"0.0.0.0/0"}, true},
		{[]string{"10.9.0.2/32", "fd09::2/128"}, []string{"172.16.0.0/12"}, false},
		{[]string{"10.9.0.2/32", "fd09::2/128"}, []string{"2001:db8::/32"}, true},
		{[]string{"fd09::2/128"}, []string{"2001:db8::/32"}, false},
	} {
		var l transport.Lease
		for _, a := range tt.addresses {
			l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
		}
		for _, p := range tt.include {
			l.Include = append(l.Include, netip.MustParsePrefix(p))
		}
		if got := isWhole(&l); got != tt.want {
			t.Errorf("%v with %v: %v", tt.addresses, tt.include, got)
		}
	}
}
