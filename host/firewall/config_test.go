package firewall

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func addrPorts(s ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestConfigNormal(t *testing.T) {
	now := time.Unix(1e9, 0)
	got, err := Config{
		Device:    "culvert0",
		Guests:    []string{"veth*", "docker0", "veth*"},
		Gateways:  []Endpoint{{netip.MustParseAddrPort("192.0.2.1:443"), ""}, {netip.MustParseAddrPort("[::ffff:192.0.2.1]:443"), "udp"}},
		Mark:      7,
		Resolvers: addrPorts("[fe80::53%eth0]:0", "198.51.100.53:5353"),
		Hosts:     prefixes("203.0.113.7/24", "::ffff:203.0.113.0/120"),
		LAN:       prefixes("192.168.1.9/24", "fe80::/10"),
		Portal:    Portal{Until: now.Add(time.Minute), Resolvers: addrPorts("198.51.100.53:0", "198.51.100.53:53")},
		Lease:     time.Minute,
	}.normal(now)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Device:    "culvert0",
		Guests:    []string{"docker0", "veth*"},
		Gateways:  []Endpoint{{netip.MustParseAddrPort("192.0.2.1:443"), "tcp"}, {netip.MustParseAddrPort("192.0.2.1:443"), "udp"}},
		Mark:      7,
		Mask:      1<<32 - 1,
		Resolvers: addrPorts("198.51.100.53:5353", "[fe80::53]:53"),
		Hosts:     prefixes("203.0.113.0/24"),
		LAN:       prefixes("192.168.1.0/24", "fe80::/10"),
		Portal:    Portal{Until: now.Add(time.Minute), Ports: []uint16{80, 443}, Resolvers: addrPorts("198.51.100.53:53")},
		Lease:     time.Minute,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("normal = %+v\nwant     %+v", got, want)
	}
	again, err := got.normal(now)
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("normal of normal = %+v, %v", again, err)
	}
}

func TestConfigInvalid(t *testing.T) {
	now := time.Unix(1e9, 0)
	endpoint := func(s, network string) []Endpoint { return []Endpoint{{netip.MustParseAddrPort(s), network}} }
	for _, test := range []struct {
		cfg  Config
		want string // what the error says
	}{
		{Config{Device: "a/b"}, "Device"},
		{Config{Device: "culvert\n"}, "Device"},
		{Config{Device: "wlan*"}, "Device"},
		{Config{Device: "sixteen-bytes-xx"}, "Device"},
		{Config{Guests: []string{"docker0", "*"}}, "Guests[1]"},
		{Config{Guests: []string{"a b"}}, "Guests[0]"},
		{Config{Guests: make([]string, 33)}, "Guests"},
		{Config{Gateways: make([]Endpoint, 257)}, "Gateways"},
		{Config{Gateways: make([]Endpoint, 1)}, "Gateways[0]"},
		{Config{Gateways: endpoint("0.0.0.0:443", "")}, "Gateways[0]"},
		{Config{Gateways: endpoint("255.255.255.255:443", "")}, "Gateways[0]"},
		{Config{Gateways: endpoint("[ff02::1]:443", "")}, "Gateways[0]"},
		{Config{Gateways: endpoint("169.254.1.1:443", "")}, "link-local"},
		{Config{Gateways: endpoint("[fe80::1%eth0]:443", "")}, "link-local"},
		{Config{Gateways: endpoint("192.0.2.1:0", "")}, "port"},
		{Config{Gateways: endpoint("192.0.2.1:443", "sctp")}, "network"},
		{Config{Mark: 3, Mask: 1}, "Mark"},
		{Config{Resolvers: make([]netip.AddrPort, 1)}, "Resolvers[0]"},
		{Config{Resolvers: make([]netip.AddrPort, 65)}, "Resolvers"},
		{Config{Hosts: prefixes("0.0.0.0/0")}, "Hosts[0]"},
		{Config{Hosts: prefixes("192.0.2.1/32", "128.0.0.0/1")}, "Hosts[1]"},
		{Config{Hosts: prefixes("2000::/3")}, "Hosts[0]"},
		{Config{Hosts: prefixes("::ffff:0.0.0.0/95")}, "Hosts[0]"},
		{Config{Hosts: make([]netip.Prefix, 1)}, "Hosts[0]"},
		{Config{LAN: make([]netip.Prefix, 1025)}, "LAN"},
		// TunnelCrack: a network that calls itself local and is the Internet.
		{Config{LAN: prefixes("8.8.8.0/24")}, "PublicLAN"},
		{Config{LAN: prefixes("10.0.0.0/7")}, "PublicLAN"},
		{Config{LAN: prefixes("100.64.0.0/10")}, "PublicLAN"},
		{Config{LAN: prefixes("2001:db8::/64")}, "PublicLAN"},
		{Config{LAN: prefixes("0.0.0.0/1"), PublicLAN: true}, "LAN[0]"},
		{Config{Portal: Portal{Until: now.Add(2 * time.Hour)}}, "Portal.Until"},
		{Config{Portal: Portal{Until: now.Add(time.Minute), Ports: []uint16{80, 0}}}, "Portal.Ports"},
		{Config{Portal: Portal{Ports: make([]uint16, 17)}}, "Portal.Ports"},
		{Config{Portal: Portal{Until: now.Add(time.Minute), Resolvers: make([]netip.AddrPort, 1)}}, "Portal.Resolvers[0]"},
		{Config{Lease: time.Millisecond}, "Lease"},
		{Config{Lease: time.Hour}, "Lease"},
		{Config{Lease: -1}, "Lease"},
	} {
		_, err := test.cfg.normal(now)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error %v, want one that says %q", test.cfg, err, test.want)
		}
	}
	for _, ok := range []Config{
		{},
		{LAN: prefixes("8.8.8.0/24"), PublicLAN: true},
		{LAN: prefixes("10.0.0.0/8", "224.0.0.0/24", "ff02::/16", "fc00::/7")},
		{Portal: Portal{Until: now.Add(-time.Second)}},
	} {
		if _, err := ok.normal(now); err != nil {
			t.Errorf("%+v: %v", ok, err)
		}
	}
}

func TestClosedPortal(t *testing.T) {
	now := time.Unix(1e9, 0)
	p, err := Portal{Until: now, Ports: []uint16{80}}.normal(now)
	if err != nil || !reflect.DeepEqual(p, Portal{}) {
		t.Errorf("a portal that closes now is %+v, %v", p, err)
	}
	if p, err = (Portal{Until: now.Add(1), Ports: []uint16{443, 80, 443}}).normal(now); err != nil || !slices.Equal(p.Ports, []uint16{80, 443}) {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestUndoRecord(t *testing.T) {
	want := undoRecord{Version: 1, Table: "culvert", Owner: "0123456789abcdef"}
	b, err := encode(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decode(b); err != nil || got != want {
		t.Errorf("decode(encode) = %+v, %v", got, err)
	}
	for _, bad := range []string{"", "null", "{}", `{"version":2,"table":"culvert","owner":"0123456789abcdef"}`,
		`{"version":1,"table":"filter","owner":"0123456789abcdef"}`, `{"version":1,"table":"culvert","owner":"x"}`,
		strings.Repeat(" ", maxRecord+1)} {
		if _, err := decode([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("decode(%.60q) = %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzUndoRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"table":"culvert","owner":"0123456789abcdef"}`))
	f.Add([]byte(`{"version":1e9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v does not match ErrInvalid", err)
			}
			return
		}
		again, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := decode(again); err != nil || r2 != r {
			t.Errorf("%+v became %+v, %v", r, r2, err)
		}
	})
}
