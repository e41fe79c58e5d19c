package system

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/dns"
)

const sockets = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0207A8C0:D3A8 5A7100CB:01BB 01 00000000:00000000 02:000000AD 00000000     0        0 2 2 0 20 4 30 10 -1
   2: 0100007F:D3A8 0100007F:01BB 01 00000000:00000000 02:000000AD 00000000     0        0 2 2 0 20 4 30 10 -1
   3: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C350 01 00000000:00000000 00:0 00000000 0 0 3
`

func TestParsePeers(t *testing.T) {
	got := parsePeers(strings.NewReader(sockets))
	if want := []netip.Addr{netip.MustParseAddr("203.0.113.90"), netip.MustParseAddr("2001:db8::2")}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func FuzzParsePeers(f *testing.F) {
	f.Add(sockets)
	f.Add("   1: x 5A7100CB 01\n   1: x zz: 01\n  1: x 00:0 01")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range parsePeers(strings.NewReader(text)) {
			if !a.IsValid() || a.IsLoopback() {
				t.Errorf("%v", a)
			}
		}
	})
}

func TestMemory(t *testing.T) {
	var m memory
	a, b := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	now := time.Now()
	m.add(now, "one.example", []netip.Addr{a, b}, 0)
	m.add(now, "two.example", []netip.Addr{a}, 0)
	is := func(a netip.Addr, want string) {
		t.Helper()
		if got := strings.Join(m.known(a), " "); got != want {
			t.Errorf("%v is %q, want %q", a, got, want)
		}
	}
	is(a, "one.example two.example")
	is(b, "one.example")
	if !m.confirm("one.example", a) || m.confirm("two.example", b) {
		t.Errorf("%v", m.names)
	}
	// The name that was asked for last is the last one, and all but that one expire.
	m.add(now, "one.example", []netip.Addr{a}, 0)
	is(a, "two.example one.example")
	m.add(now.Add(-2*seenTime), "old.example", []netip.Addr{a, b}, 0)
	is(a, "two.example one.example old.example")
	is(b, "one.example old.example")
	m.add(now, "two.example", []netip.Addr{a}, 0)
	is(a, "one.example two.example")

	// What the search domains make of a short name is a name of the address, too.
	var n names
	n.reused(dns.Answer{Names: []string{"git", "git.corp.example", "cdn.example"}, Addrs: []netip.Addr{a}})
	if got := n.seen.known(a); !slices.Equal(got, []string{"git.corp.example", "git"}) {
		t.Errorf("a short name: %q", got)
	}
	for i := range maxSeen + 10 {
		m.add(now, "many.example", []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, 0)
	}
	for i := range 2 * maxNames {
		m.add(now, strings.Repeat("x", i+1), []netip.Addr{b}, 0)
	}
	if len(m.names) > maxSeen || len(m.order) > maxSeen || len(m.known(a)) > 0 || len(m.names[b]) > maxNames {
		t.Errorf("it remembers %d addresses", len(m.names))
	}
}
