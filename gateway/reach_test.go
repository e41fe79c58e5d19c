package gateway

import (
	"net/netip"
	"testing"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestReaches(t *testing.T) {
	split := &Network{
		Routes:   prefixes("10.0.0.0/8", "192.0.2.128/25", "fd00::/8", "10.9.9.9/32"),
		NoRoutes: prefixes("10.9.0.0/16", "192.0.2.128/25"),
		DNS:      []netip.Addr{netip.MustParseAddr("198.51.100.53")},
	}
	only4 := &Network{Routes: prefixes("10.0.0.0/8")}
	full := &Network{NoRoutes: prefixes("203.0.113.0/24")}
	loop := &Network{Routes: prefixes("127.0.0.0/8")}
	for _, tt := range []struct {
		name    string
		n       *Network
		dst     string
		allow   []netip.Prefix
		reaches bool
	}{
		{"in a route", split, "10.1.2.3:80", nil, true},
		{"outside the routes", split, "8.8.8.8:80", nil, false},
		{"excluded", split, "10.9.1.1:80", nil, false},
		{"exclusion refined by a longer route", split, "10.9.9.9:80", nil, true},
		{"exclusion wins at the same length", split, "192.0.2.200:80", nil, false},
		{"IPv6 route", split, "[fd12::1]:80", nil, true},
		{"outside the IPv6 routes", split, "[2001:db8::1]:80", nil, false},
		{"a family without routes", only4, "[2001:db8::1]:80", nil, true},
		{"DNS server outside the routes", split, "198.51.100.53:53", nil, true},
		{"another port of it", split, "198.51.100.53:22", nil, false},
		{"everything", full, "8.8.8.8:80", nil, true},
		{"everything but", full, "203.0.113.7:80", nil, false},
		{"IPv4 inside IPv6", split, "[::ffff:8.8.8.8]:80", nil, false},
		{"ping", split, "10.1.2.3:0", nil, true},

		{"loopback", full, "127.0.0.1:80", nil, false},
		{"loopback that is a route", loop, "127.0.0.1:80", nil, false},
		{"loopback that is allowed", loop, "127.0.0.1:80", prefixes("127.0.0.1/32"), true},
		{"loopback that is allowed but no route", split, "127.0.0.1:80", prefixes("127.0.0.1/32"), false},
		{"this host", full, "0.0.0.0:80", nil, false},
		{"IPv6 loopback", full, "[::1]:80", nil, false},
		{"IPv6 this host", full, "[::]:80", nil, false},
		{"mapped loopback", full, "[::ffff:127.0.0.1]:80", nil, false},
		{"translated loopback", full, "[64:ff9b::127.0.0.1]:80", nil, false},
		{"translated metadata", full, "[64:ff9b::169.254.169.254]:80", nil, false},
		{"metadata", full, "169.254.169.254:80", nil, false},
		{"IPv6 metadata", full, "[fd00:ec2::254]:80", nil, false},
		{"IPv6 link-local", full, "[fe80::1]:80", nil, false},
		{"zone", full, "[fe80::1%eth0]:80", prefixes("fe80::/10"), false},
		{"multicast", full, "224.0.0.251:5353", nil, false},
		{"broadcast", full, "255.255.255.255:67", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.n.reaches(netip.MustParseAddrPort(tt.dst), tt.allow); got != tt.reaches {
				t.Errorf("reaches(%s) = %v", tt.dst, got)
			}
		})
	}
}
