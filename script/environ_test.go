package script

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport"
)

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// lease is what a usual gateway gives.
func lease() *transport.Lease {
	return &transport.Lease{
		Gateway:         netip.MustParseAddrPort("198.51.100.7:443"),
		GatewayName:     "gw1",
		Addresses:       prefixes("10.1.2.3/20", "fd00:1::3/64"),
		MTU:             1380,
		DNS:             addrs("10.1.0.53", "fd00:1::53", "10.1.0.54"),
		NBNS:            addrs("10.1.0.60"),
		SearchDomains:   []string{"corp.example", "lab.example"},
		SplitDNS:        []string{"corp.example", ".Build.example", "_msdcs.ad.example"},
		TunnelAllDNS:    true,
		Include:         prefixes("10.0.0.0/8", "fd00::/16", "192.0.2.77/32"),
		Exclude:         prefixes("10.9.0.0/16", "fd00:9::/32"),
		ExcludeLocalLAN: true,
		Banner:          "Welcome to \"corp\".\nDon't pay $5.",
		IdleTimeout:     30 * time.Minute,
		DPD:             30 * time.Second,
		Proxy:           transport.Proxy{PACURL: "https://proxy.corp.example/wpad.dat?v=1"},
		PostAuthXML:     "<config-auth>secret</config-auth>",
	}
}

// TestEnviron pins the whole environment.
func TestEnviron(t *testing.T) {
	s := FromLease(lease(), "tun7")
	s.PID = 4711
	env, omitted, err := s.Environ(Connect)
	if err != nil || len(omitted) > 0 {
		t.Fatal(err, omitted)
	}
	want := []string{
		"reason=connect", "TUNDEV=tun7", "VPNGATEWAY=198.51.100.7", "VPNPID=4711", "LOG_LEVEL=0", "IDLE_TIMEOUT=1800",
		"CISCO_BANNER=Welcome to ”corp”.\nDon’t pay ＄5.",
		"CISCO_PROXY_PAC=https://proxy.corp.example/wpad.dat?v=1",
		"CISCO_CSTP_OPTIONS=X-CSTP-Server-Name=gw1\nX-CSTP-MTU=1380\nX-CSTP-DPD=30\nX-CSTP-Idle-Timeout=1800\n" +
			"X-CSTP-Tunnel-All-DNS=true\nX-CSTP-MSIE-Proxy-PAC-URL=https://proxy.corp.example/wpad.dat?v=1\n",
		"INTERNAL_IP4_ADDRESS=10.1.2.3", "INTERNAL_IP4_NETMASK=255.255.240.0", "INTERNAL_IP4_NETMASKLEN=20", "INTERNAL_IP4_NETADDR=10.1.0.0",
		"INTERNAL_IP4_MTU=1380", "INTERNAL_IP4_DNS=10.1.0.53 10.1.0.54", "INTERNAL_IP4_NBNS=10.1.0.60",
		"INTERNAL_IP6_ADDRESS=fd00:1::3", "INTERNAL_IP6_NETMASK=fd00:1::3/64", "INTERNAL_IP6_DNS=fd00:1::53",
		"CISCO_DEF_DOMAIN=corp.example lab.example", "CISCO_SPLIT_DNS=corp.example,Build.example,_msdcs.ad.example",
		"CISCO_SPLIT_INC=2",
		"CISCO_SPLIT_INC_0_ADDR=10.0.0.0", "CISCO_SPLIT_INC_0_MASK=255.0.0.0", "CISCO_SPLIT_INC_0_MASKLEN=8",
		"CISCO_SPLIT_INC_0_PROTOCOL=0", "CISCO_SPLIT_INC_0_SPORT=0", "CISCO_SPLIT_INC_0_DPORT=0",
		"CISCO_SPLIT_INC_1_ADDR=192.0.2.77", "CISCO_SPLIT_INC_1_MASK=255.255.255.255", "CISCO_SPLIT_INC_1_MASKLEN=32",
		"CISCO_SPLIT_INC_1_PROTOCOL=0", "CISCO_SPLIT_INC_1_SPORT=0", "CISCO_SPLIT_INC_1_DPORT=0",
		"CISCO_IPV6_SPLIT_INC=1", "CISCO_IPV6_SPLIT_INC_0_ADDR=fd00::", "CISCO_IPV6_SPLIT_INC_0_MASKLEN=16",
		"CISCO_SPLIT_EXC=2",
		"CISCO_SPLIT_EXC_0_ADDR=0.0.0.0", "CISCO_SPLIT_EXC_0_MASK=255.255.255.255", "CISCO_SPLIT_EXC_0_MASKLEN=32",
		"CISCO_SPLIT_EXC_0_PROTOCOL=0", "CISCO_SPLIT_EXC_0_SPORT=0", "CISCO_SPLIT_EXC_0_DPORT=0",
		"CISCO_SPLIT_EXC_1_ADDR=10.9.0.0", "CISCO_SPLIT_EXC_1_MASK=255.255.0.0", "CISCO_SPLIT_EXC_1_MASKLEN=16",
		"CISCO_SPLIT_EXC_1_PROTOCOL=0", "CISCO_SPLIT_EXC_1_SPORT=0", "CISCO_SPLIT_EXC_1_DPORT=0",
		"CISCO_IPV6_SPLIT_EXC=1", "CISCO_IPV6_SPLIT_EXC_0_ADDR=fd00:9::", "CISCO_IPV6_SPLIT_EXC_0_MASKLEN=32",
	}
	if !slices.Equal(env, want) {
		t.Errorf("got\n%q\nwant\n%q", env, want)
	}
}

// TestFullTunnel has no variables of split networks, by which scripts know it.
func TestFullTunnel(t *testing.T) {
	env, _, err := (&Settings{Device: "tun0", Addresses: prefixes("10.0.0.2/32")}).Environ(Reconnect)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range env {
		if strings.HasPrefix(v, "CISCO_") || strings.HasPrefix(v, "INTERNAL_IP6") {
			t.Errorf("%s is set", v)
		}
	}
	if !slices.Contains(env, "INTERNAL_IP4_NETMASK=255.255.255.255") || !slices.Contains(env, "reason=reconnect") {
		t.Errorf("%q", env)
	}
}

func TestEnvironErrors(t *testing.T) {
	many := func(n int, is4 bool) (ps []netip.Prefix) {
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			if !is4 {
				a = netip.AddrFrom16([16]byte{0xfd, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i)})
			}
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		}
		return ps
	}
	var domains []string
	for i := range 1000 {
		domains = append(domains, fmt.Sprintf("%s%d.example", strings.Repeat("x", 40), i))
	}
	for _, tt := range []struct {
		name     string
		settings Settings
		reason   Reason
		variable string
		large    bool
	}{
		{"reason", Settings{}, "connect\nx", "reason", false},
		{"device with a slash", Settings{Device: "../x"}, Connect, "TUNDEV", false},
		{"device with a command", Settings{Device: "$(id)"}, Connect, "TUNDEV", false},
		{"device like an option", Settings{Device: "-x"}, Connect, "TUNDEV", false},
		{"long device", Settings{Device: "abcdefghijklmnop"}, Connect, "TUNDEV", false},
		{"zone of the gateway", Settings{Gateway: netip.MustParseAddr("fe80::1%$(id)")}, Connect, "VPNGATEWAY", false},
		{"zone of an address", Settings{Addresses: []netip.Prefix{netip.PrefixFrom(netip.Addr{}, 3)}}, Connect, "INTERNAL_IP4_ADDRESS", false},
		{"invalid network", Settings{Include: []netip.Prefix{{}}}, Connect, "CISCO_SPLIT_INC", false},
		{"mapped network", Settings{Exclude: prefixes("::ffff:10.0.0.0/104")}, Connect, "CISCO_SPLIT_EXC", false},
		{"many networks", Settings{Exclude: many(20_000, true)}, Connect, "CISCO_SPLIT_EXC_", true},
		{"many IPv6 networks", Settings{Include: many(20_000, false)}, Connect, "CISCO_IPV6_SPLIT_INC_", true},
		{"many domains", Settings{Domains: domains}, Connect, "CISCO_DEF_DOMAIN", true},
		{"many split domains", Settings{SplitDNS: domains}, Connect, "CISCO_SPLIT_DNS", true},
	} {
		_, _, err := tt.settings.Environ(tt.reason)
		var fe *FieldError
		if !errors.As(err, &fe) || !strings.HasPrefix(fe.Variable, tt.variable) || errors.Is(err, ErrTooLarge) != tt.large {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, _, err := (&Settings{Exclude: many(3000, true), Include: many(1000, false)}).Environ(Connect); err != nil {
		t.Errorf("some thousands of networks: %v", err)
	}
}

func TestOmitted(t *testing.T) {
	s := Settings{
		Domains:  []string{"ok.example", "$(id).example", "a b", "x\ny", "*.wild.example", "-rf.example", "a..b", strings.Repeat("a", 64) + ".example"},
		ProxyPAC: "http://x/$(id)",
		Options: []Option{
			{"X-CSTP-Fine", "a\nX-CSTP-Forged=1"}, {"X-DTLS-Master-Secret", "00"}, {"X-CSTP-Session-Data", "x"}, {"Set-Cookie", "x"},
			{"X-CSTP-\n", "x"}, {"Other", "x"}, {"X-CSTP-Post-Auth-XML", "<a>"},
		},
		DNS:    []netip.Addr{{}, netip.MustParseAddr("fe80::1%$(id)"), netip.MustParseAddr("::ffff:10.0.0.1")},
		Banner: "\x1b[2Jhello\x00\u202e\r\nworld\xff\n\n",
	}
	env, omitted, err := s.Environ(Connect)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{
		"CISCO_DEF_DOMAIN=ok.example wild.example", "CISCO_CSTP_OPTIONS=X-CSTP-Fine=a X-CSTP-Forged=1\n",
		"INTERNAL_IP4_DNS=10.0.0.1", "INTERNAL_IP6_DNS=fe80::1", "CISCO_BANNER=[2Jhello \nworld",
	} {
		if !slices.Contains(env, v) {
			t.Errorf("%q is not in %q", v, env)
		}
	}
	count := map[string]int{}
	for _, o := range omitted {
		count[o.Variable]++
	}
	if count["CISCO_DEF_DOMAIN"] != 6 || count["CISCO_PROXY_PAC"] != 1 || count["CISCO_CSTP_OPTIONS"] != 2 {
		t.Errorf("omitted: %v", count)
	}
}

// FuzzEnviron checks what every environment must be, whatever the gateway says.
func FuzzEnviron(f *testing.F) {
	f.Add("corp.example", "Welcome", "https://a/b", "X-CSTP-A", "v", "tun0")
	f.Add("$(id)", "`id`'\"\\$x\x00\x1b", "http://$(id)/", "X-CSTP-Session-ID", "v\nw=x", "a b")
	f.Fuzz(func(t *testing.T, domain, banner, pac, option, value, device string) {
		s := Settings{
			Device: device, Domains: []string{domain, "x.example"}, SplitDNS: []string{domain}, Banner: banner, ProxyPAC: pac,
			Options: []Option{{option, value}}, Addresses: prefixes("10.0.0.1/8"),
		}
		env, _, err := s.Environ(Connect)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, v := range env {
			name, value, _ := strings.Cut(v, "=")
			if seen[name] {
				t.Errorf("%s is set twice", name)
			}
			seen[name] = true
			if len(v) > 100<<10 {
				t.Errorf("%s has %d bytes", name, len(v))
			}
			if strings.ContainsAny(value, "\x00\x1b\r`$'\"\\") {
				t.Errorf("%s is %q", name, value)
			}
			if name != "CISCO_BANNER" && name != "CISCO_CSTP_OPTIONS" && strings.ContainsAny(value, "\n;&|<>(){}!*#\t") {
				t.Errorf("%s is %q", name, value)
			}
		}
	})
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		line string
		path string
		args []string
	}{
		{"/a/b", "/a/b", []string{}},
		{"  /a/b  -v 10.0.0.0/8\t'x y' \"\" ", "/a/b", []string{"-v", "10.0.0.0/8", "x y", ""}},
		{`/a\ b "q\"r" 's\t'`, "/a b", []string{`q"r`, `s\t`}},
		{"/a $(id) `id` | b > c", "/a", []string{"$(id)", "`id`", "|", "b", ">", "c"}},
	} {
		path, args, err := Command(tt.line)
		if err != nil || path != tt.path || !slices.Equal(args, tt.args) {
			t.Errorf("%q: %q %q %v", tt.line, path, args, err)
		}
	}
	for _, line := range []string{"", "  ", "/a 'b", `/a "`, "/a\x00b", "no-such-program-anywhere"} {
		if path, args, err := Command(line); err == nil {
			t.Errorf("%q: %q %q", line, path, args)
		}
	}
	if path, _, err := Command("sh -c x"); err != nil || !strings.HasSuffix(path, "/sh") {
		t.Errorf("sh: %q, %v", path, err)
	}
}

func FuzzCommand(f *testing.F) {
	f.Add(`/a/b 'c d' "e" \f`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := split(line)
		if err != nil {
			return
		}
		n := 0
		for _, w := range words {
			n += len(w)
		}
		if n > len(line) {
			t.Errorf("%q became %q", line, words)
		}
	})
}
