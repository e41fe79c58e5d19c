package split

import (
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
		{"split", split, "", "fd00::1%eth0", Tunnel, "everything of IPv6"},
		{"link", split, "", "fe80::1%eth0", Direct, "on the link"},
		{"link", only4, "", "febf::1", Direct, "on the link"},
		{"link", split, "git.corp.example", "ff02::fb", Direct, "on the link"},
		{"link", split, "", "fec0::1", Tunnel, "everything of IPv6"},
		{"link", full, "", "169.254.1.1", Tunnel, "everything of IPv4"},
		{"link", full, "", "224.0.0.251", Tunnel, "everything of IPv4"},
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
		"user include":   {User: Rules{Include: make([]netip.Prefix, 1)}},
		"user exclude":   {User: Rules{Exclude: make([]netip.Prefix, 1)}},
		"user name":      {User: Rules{DynamicInclude: []string{"a b"}}},
		"user name out":  {User: Rules{DynamicExclude: []string{""}}},
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

func TestWayString(t *testing.T) {
	var zero Way
	if zero != Nowhere || zero.String() != "nowhere" || Direct.String() != "direct" || Tunnel.String() != "tunnel" || Way(9).String() != "nowhere" {
		t.Errorf("%v %v %v %v", zero, Direct, Tunnel, Way(9))
	}
}

// TestRanks goes through the order of the rules and names who made each.
func TestRanks(t *testing.T) {
	cfg := Config{
		Addresses:      prefixes("10.9.0.2/24", "fd09::2/64"),
		Include:        prefixes("10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "203.0.113.0/24"),
		Exclude:        prefixes("10.1.0.0/16", "10.9.0.128/25", "0.0.0.0/32", "::/128", "198.51.100.53/32"),
		LocalLAN:       prefixes("192.168.7.0/24", "203.0.113.0/25", "8.8.8.0/24", "2001:470::/64", "fd77::/64", "0.0.0.0/0"),
		DNS:            addrs("10.1.0.53", "198.51.100.53", "10.66.0.53", "10.67.0.53", "203.0.113.9"),
		Gateway:        addrs("203.0.113.9", "10.66.6.6"),
		DynamicInclude: []string{"corp.example", "deep.video.example"},
		DynamicExclude: []string{"video.example", "git.mine.example"},
		User: Rules{
			Include:        prefixes("10.1.2.0/24", "172.16.0.0/12"),
			Exclude:        prefixes("10.66.0.0/16", "172.16.5.0/24", "fd00:5::/32", "10.67.0.53/32"),
			DynamicInclude: []string{"mine.example"},
			DynamicExclude: []string{"corp.example", "mine.example", "x.corp.example"},
		},
	}
	onLinkFirst, publicLAN := cfg, cfg
	onLinkFirst.OnLinkFirst = true
	publicLAN.PublicLAN = true
	publicLAN.LocalLAN = cfg.LocalLAN[:5]
	for _, tt := range []struct {
		cfg        Config
		host, addr string
		want       Verdict
	}{
		{cfg, "", "203.0.113.9", Verdict{Direct, "address of the gateway", FromLease}},
		{cfg, "mine.example", "10.66.6.6", Verdict{Direct, "address of the gateway", FromLease}},
		{cfg, "", "127.1.2.3", Verdict{Direct, "loopback", FromMachine}},

		{cfg, "a.corp.example", "10.2.0.1", Verdict{Direct, "user dynamic exclude corp.example", FromUser}},
		{cfg, "a.x.corp.example", "10.1.2.3", Verdict{Direct, "user dynamic exclude x.corp.example", FromUser}},
		{cfg, "git.mine.example", "10.2.0.1", Verdict{Direct, "user dynamic exclude mine.example", FromUser}},
		{cfg, "git.mine.example", "", Verdict{Direct, "user dynamic exclude mine.example", FromUser}},

		{cfg, "", "10.1.2.3", Verdict{Tunnel, "user include 10.1.2.0/24", FromUser}},
		{cfg, "video.example", "10.1.2.3", Verdict{Tunnel, "user include 10.1.2.0/24", FromUser}},
		{cfg, "", "172.16.5.4", Verdict{Direct, "user exclude 172.16.5.0/24", FromUser}},
		{cfg, "", "172.17.5.4", Verdict{Tunnel, "user include 172.16.0.0/12", FromUser}},
		{cfg, "", "fd00:5::1", Verdict{Direct, "user exclude fd00:5::/32", FromUser}},
		{cfg, "", "10.66.1.1", Verdict{Direct, "user exclude 10.66.0.0/16", FromUser}},
		{cfg, "", "10.66.0.53", Verdict{Tunnel, "DNS server 10.66.0.53/32", FromLease}},
		{cfg, "", "198.51.100.53", Verdict{Tunnel, "DNS server 198.51.100.53/32", FromLease}},
		{cfg, "", "10.67.0.53", Verdict{Direct, "user exclude 10.67.0.53/32", FromUser}},
		{cfg, "video.example", "10.1.0.53", Verdict{Tunnel, "DNS server 10.1.0.53/32", FromLease}},

		{cfg, "www.video.example", "10.2.0.1", Verdict{Direct, "dynamic exclude video.example", FromGateway}},
		{cfg, "x.deep.video.example", "8.8.4.4", Verdict{Tunnel, "dynamic include deep.video.example", FromGateway}},
		{cfg, "10.1.2.3", "10.1.3.3", Verdict{Direct, "exclude 10.1.0.0/16", FromGateway}},

		{cfg, "", "10.1.3.3", Verdict{Direct, "exclude 10.1.0.0/16", FromGateway}},
		{cfg, "", "10.9.0.7", Verdict{Tunnel, "on-link 10.9.0.0/24", FromLease}},
		{cfg, "", "10.9.0.200", Verdict{Direct, "exclude 10.9.0.128/25", FromGateway}},
		{onLinkFirst, "", "10.9.0.200", Verdict{Tunnel, "on-link 10.9.0.0/24", FromLease}},
		{cfg, "", "192.168.7.1", Verdict{Direct, "local network 192.168.7.0/24", FromMachine}},
		{cfg, "", "192.168.8.1", Verdict{Tunnel, "include 192.168.0.0/16", FromGateway}},
		{cfg, "", "203.0.113.77", Verdict{Direct, "local network 203.0.113.0/25", FromMachine}},
		{cfg, "", "fd77::7", Verdict{Direct, "local network fd77::/64", FromMachine}},
		{cfg, "", "8.8.8.8", Verdict{Direct, "not included", FromGateway}},
		{publicLAN, "", "8.8.8.8", Verdict{Direct, "local network 8.8.8.0/24", FromMachine}},
		{publicLAN, "", "2001:470::7", Verdict{Direct, "local network 2001:470::/64", FromMachine}},
		{cfg, "", "2001:470::7", Verdict{Direct, "not included", FromGateway}},
		{cfg, "", "0.0.0.0", Verdict{Direct, "not included", FromGateway}},
		{cfg, "nobody.example", "", Verdict{Nowhere, "no address", 0}},
		{Config{Addresses: prefixes("10.9.0.2/24")}, "", "192.0.2.1", Verdict{Tunnel, "everything of IPv4", FromLease}},
		{Config{Addresses: prefixes("10.9.0.2/24")}, "", "2001:db8::1", Verdict{Nowhere, "the tunnel has no IPv6 address", FromLease}},
		{
			Config{Addresses: prefixes("10.9.0.2/24"), Bypass: true}, "", "2001:db8::1",
			Verdict{Direct, "the tunnel has no IPv6 address, bypass", FromGateway},
		},
		{
			Config{
				Addresses: prefixes("10.9.0.2/24"),
				User:      Rules{Include: prefixes("10.1.0.0/16"), Exclude: prefixes("0.0.0.0/0")},
			}, "", "10.2.0.1",
			Verdict{Direct, "user exclude 0.0.0.0/0", FromUser},
		},
		{
			Config{Addresses: prefixes("10.9.0.2/24"), LocalLAN: prefixes("0.0.0.0/0", "10.0.0.0/7", "8.8.8.8/32")},
			"", "10.2.0.1", Verdict{Tunnel, "everything of IPv4", FromLease},
		},
		{
			Config{Addresses: prefixes("fd09::2/64"), User: Rules{Include: prefixes("10.0.0.0/8")}},
			"", "10.2.0.1", Verdict{Nowhere, "the tunnel has no IPv4 address", FromLease},
		},
	} {
		table, err := New(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		var addr netip.Addr
		if tt.addr != "" {
			addr = netip.MustParseAddr(tt.addr)
		}
		if got := table.Why(tt.host, addr); got != tt.want {
			t.Errorf("%q %s: %+v, want %+v", tt.host, tt.addr, got, tt.want)
		}
		if got := table.Route(tt.host, addr); got != tt.want.Way {
			t.Errorf("%q %s: Route says %v, want %v", tt.host, tt.addr, got, tt.want.Way)
		}
	}
}

func TestOriginString(t *testing.T) {
	for o, want := range map[Origin]string{
		0: "nobody", FromMachine: "machine", FromLease: "lease", FromGateway: "gateway", FromUser: "user", 99: "nobody",
	} {
		if got := o.String(); got != want {
			t.Errorf("Origin %d is %q, want %q", o, got, want)
		}
	}
}

func TestIsLocalLAN(t *testing.T) {
	for s, want := range map[string]bool{
		"0.0.0.0/32": true, "::/128": true, "::ffff:0.0.0.0/128": true,
		"0.0.0.0/0": false, "::/0": false, "0.0.0.0/31": false, "::/127": false, "0.0.0.1/32": false, "::1/128": false,
	} {
		if got := IsLocalLAN(netip.MustParsePrefix(s)); got != want {
			t.Errorf("IsLocalLAN(%s) = %v", s, got)
		}
	}
	if IsLocalLAN(netip.Prefix{}) {
		t.Error("IsLocalLAN of the zero Prefix")
	}
}

// TestPublic walks to both ends of every block that is set aside.
func TestPublic(t *testing.T) {
	for s, want := range map[string]bool{
		"10.0.0.0/8": false, "10.0.0.0/7": true, "11.0.0.0/8": true, "9.255.255.255/32": true, "10.255.255.255/32": false,
		"172.16.0.0/12": false, "172.16.0.0/11": true, "172.31.255.0/24": false, "172.32.0.0/24": true, "172.15.0.0/24": true,
		"192.168.0.0/16": false, "192.168.0.0/15": true, "192.169.0.0/24": true, "169.254.0.0/16": false, "169.255.0.0/24": true,
		"100.64.0.0/10": false, "100.127.255.0/24": false, "100.128.0.0/24": true, "100.63.0.0/24": true,
		"198.18.0.0/15": false, "198.19.255.0/24": false, "198.20.0.0/24": true, "192.0.2.0/24": false, "192.0.3.0/24": true,
		"198.51.100.0/24": false, "198.51.101.0/24": true, "203.0.113.0/25": false, "203.0.112.0/23": true,
		"fc00::/7": false, "fdff::/16": false, "fe00::/8": true, "fe80::/10": false, "febf::/16": false, "fec0::/16": true,
		"2001:db8::/32": false, "2001:db9::/32": true, "2001:db8::/31": true, "::/0": true, "0.0.0.0/0": true,
	} {
		if got := public(netip.MustParsePrefix(s)); got != want {
			t.Errorf("public(%s) = %v", s, got)
		}
	}
}

func TestTooLong(t *testing.T) {
	_, err := New(Config{Include: make([]netip.Prefix, MaxPrefixes), DNS: addrs("10.0.0.1")})
	if err == nil || !strings.Contains(err.Error(), "262145 prefixes") {
		t.Errorf("too many prefixes: %v", err)
	}
	_, err = New(Config{DynamicInclude: make([]string, MaxNames), User: Rules{DynamicExclude: []string{"a.example"}}})
	if err == nil || !strings.Contains(err.Error(), "32769 domain suffixes") {
		t.Errorf("too many names: %v", err)
	}
}
