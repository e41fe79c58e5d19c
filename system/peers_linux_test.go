package system

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
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
	m.add("one.example", []netip.Addr{a, b})
	m.add("two.example", []netip.Addr{a})
	if m.name(a) != "two.example" || m.name(b) != "one.example" || !m.confirm("one.example", a) || m.confirm("two.example", b) {
		t.Errorf("%v", m.names)
	}
	for i := range maxSeen + 10 {
		m.add("many.example", []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	for i := range 2 * maxNames {
		m.add(strings.Repeat("x", i+1), []netip.Addr{b})
	}
	if len(m.names) > maxSeen || len(m.order) > maxSeen || m.name(a) != "" || len(m.names[b]) > maxNames {
		t.Errorf("it remembers %d addresses", len(m.names))
	}
}
