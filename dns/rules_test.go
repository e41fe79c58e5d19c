package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestReverseZones(t *testing.T) {
	for _, tt := range []struct{ prefix, want string }{
		{"10.0.0.0/8", "10.in-addr.arpa"},
		{"10.1.2.3/8", "10.in-addr.arpa"},
		{"192.168.0.0/16", "168.192.in-addr.arpa"},
		{"192.0.2.0/24", "2.0.192.in-addr.arpa"},
		{"192.0.2.7/32", "7.2.0.192.in-addr.arpa"},
		{"192.0.2.4/30", "4.2.0.192.in-addr.arpa 5.2.0.192.in-addr.arpa 6.2.0.192.in-addr.arpa 7.2.0.192.in-addr.arpa"},
		{"172.16.0.0/15", "16.172.in-addr.arpa 17.172.in-addr.arpa"},
		{"0.0.0.0/0", "in-addr.arpa"},
		{"192.0.0.0/7", "192.in-addr.arpa 193.in-addr.arpa"},
		{"2001:db8::/32", "8.b.d.0.1.0.0.2.ip6.arpa"},
		{"2001:db8::/31", "8.b.d.0.1.0.0.2.ip6.arpa 9.b.d.0.1.0.0.2.ip6.arpa"},
		{"fd00::/8", "d.f.ip6.arpa"},
		{"::/0", "ip6.arpa"},
		{"::ffff:192.0.2.0/120", "2.0.192.in-addr.arpa"},
		{"2001:db8::1/128", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"},
	} {
		if got := strings.Join(ReverseZones(netip.MustParsePrefix(tt.prefix)), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.prefix, got, tt.want)
		}
	}
	if ReverseZones(netip.Prefix{}) != nil {
		t.Error("no prefix has zones")
	}
}

// TestReverseZonesHold: an address is in the prefix if and only if its reverse name is in one of the zones.
func TestReverseZonesHold(t *testing.T) {
	for _, s := range []string{"10.64.0.0/10", "10.9.8.128/25", "192.0.2.0/23", "128.0.0.0/1", "2001:db8:4000::/34", "fe80::/10", "2001:db8::8/125"} {
		p := netip.MustParsePrefix(s)
		zones := ReverseZones(p)
		if len(zones) > 128 {
			t.Errorf("%s has %d zones", s, len(zones))
		}
		last := p.Masked().Addr()
		for b, i := last.AsSlice(), p.Bits(); i < len(b)*8; i++ {
			b[i/8] |= 0x80 >> (i % 8)
			last, _ = netip.AddrFromSlice(b)
		}
		for _, a := range []netip.Addr{p.Masked().Addr(), p.Masked().Addr().Prev(), last, last.Next()} {
			if !a.IsValid() {
				continue
			}
			full := ReverseZones(netip.PrefixFrom(a, a.BitLen()))[0]
			got := slices.ContainsFunc(zones, func(z string) bool { return inDomain(full, z) })
			if got != p.Contains(a) {
				t.Errorf("%s: %s is inside: %v, want %v", s, a, got, p.Contains(a))
			}
			if back, ok := reverseAddr(full + "."); !ok || back != a {
				t.Errorf("%s: %s is the name of %s", a, full, back)
			}
		}
	}
}

func TestRulesPrecedence(t *testing.T) {
	st, err := newRuling(Rules{Zones: []Zone{
		{Name: "first", Suffixes: []string{"Corp.example.", "*.a.example"}, Way: Tunnel},
		{Name: "second", Suffixes: []string{"corp.example", "deep.corp.example", "."}, Way: Direct},
	}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"corp.example": "first", "x.corp.example": "first", "deep.corp.example": "second", "x.deep.corp.example": "second",
		"a.example": "first", "b.a.example": "first", "ba.example": "second", "": "second", `x\.corp.example`: "second",
	} {
		if z, _ := st.zone(name); z.name != want {
			t.Errorf("%q is in the zone %s, want %s", name, z.name, want)
		}
	}
}

func TestRulesErrors(t *testing.T) {
	for want, r := range map[string]Rules{
		`suffix "a..b"`:                   {Zones: []Zone{{Suffixes: []string{"a..b"}}}},
		`suffix ""`:                       {Zones: []Zone{{Suffixes: []string{""}}}},
		"zone 1 (two)":                    {Zones: []Zone{{Name: "one"}, {Name: "two", Suffixes: []string{"a b"}}}},
		"prefix invalid Prefix":           {Zones: []Zone{{Prefixes: []netip.Prefix{{}}}}},
		"way 9":                           {Zones: []Zone{{Way: 9}}},
		"17 upstreams, at most 16":        {Zones: []Zone{{Upstreams: make([]Exchanger, 17)}}},
		`search domain: suffix "a b"`:     {Search: []string{"a b"}},
		`search domain: suffix "*"`:       {LocalSearch: []string{"*"}},
		"more than 131072 suffixes":       {Zones: []Zone{{Suffixes: many(maxSuffixes + 1)}}},
		"more than 131072 search domains": {LocalSearch: many(maxSuffixes + 1)},
	} {
		if _, err := NewServer(ServerConfig{Rules: r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func many(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("x%d.example", i)
	}
	return list
}

func TestWay(t *testing.T) {
	if got := fmt.Sprint(Nowhere, Direct, Tunnel, Way(9)); got != "nowhere direct tunnel nowhere" {
		t.Error(got)
	}
}

func TestParseHosts(t *testing.T) {
	h, err := ParseHosts(strings.NewReader("\ufeff127.0.0.1 x\n# nothing\n 192.0.2.1\tA.example a.example. b # c\n192.0.2.2 a.example\n\nfe80::1%eth0 b\nnonsense a\n192.0.2.3 a_b -ok- bad..name\n192.0.2.4\n::ffff:192.0.2.5 mapped"))
	if h.Len() != 5 {
		t.Errorf("%d names: %v", h.Len(), h.addrs)
	}
	for name, want := range map[string]string{
		"a.example": "[192.0.2.1 192.0.2.2]", "b": "[192.0.2.1 fe80::1]", "c": "[]", "mapped": "[192.0.2.5]", "a_b": "[192.0.2.3]",
	} {
		if addrs, _ := h.lookup(name); fmt.Sprint(addrs) != want {
			t.Errorf("%s: %v, want %s", name, addrs, want)
		}
	}
	if name, ok := h.reverse(netip.MustParseAddr("192.0.2.1")); !ok || name != "a.example" {
		t.Errorf("reverse: %q", name)
	}
	for _, want := range []string{"hosts line 7", `"nonsense" is not an address`, "hosts line 8", `"bad..name" is not a host name`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if h, err := ParseHosts(strings.NewReader("192.0.2.1 a\n" + strings.Repeat("x", maxHostsLine+1))); err == nil || h.Len() != 1 || !strings.Contains(err.Error(), "hosts line 2") {
		t.Errorf("a long line: %v", err)
	}
	_, err = ParseHosts(strings.NewReader(strings.Repeat("x\n", 100)))
	if n := strings.Count(err.Error(), "hosts line"); n != maxHostsFault {
		t.Errorf("the error names %d lines", n)
	}
	var none *Hosts
	if _, ok := none.lookup("a"); ok || none.Len() != 0 {
		t.Error("a nil Hosts knows something")
	}
}

func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost\n::1 localhost # x\n")
	f.Add("nonsense\n\x00 a\n192.0.2.1")
	f.Fuzz(func(t *testing.T, s string) {
		h, _ := ParseHosts(strings.NewReader(s))
		for name, addrs := range h.addrs {
			if !validName(name) || name != canonical(name) || len(addrs) == 0 || len(addrs) > maxAddresses {
				t.Errorf("%q has %v", name, addrs)
			}
		}
	})
}
