package policy

import (
	"net/netip"
	"testing"

	"culvert.example/vpn/packet"
)

func packet4(src, dst string) []byte {
	p := make([]byte, 28)
	p[0] = 0x45
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	return p
}

func packet6(src, dst string) []byte {
	p := make([]byte, 48)
	p[0] = 0x60
	copy(p[8:], netip.MustParseAddr(src).AsSlice())
	copy(p[24:], netip.MustParseAddr(dst).AsSlice())
	return p
}

func TestGate(t *testing.T) {
	mine := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	for _, tt := range []struct {
		name string
		side Side
		pkt  []byte
		pass bool
	}{
		{"own source", Source, packet4("10.0.0.1", "1.1.1.1"), true},
		{"foreign source", Source, packet4("10.0.0.2", "10.0.0.1"), false},
		{"own destination", Destination, packet4("1.1.1.1", "10.0.0.1"), true},
		{"foreign destination", Destination, packet4("10.0.0.1", "1.1.1.1"), false},
		{"own IPv6 source", Source, packet6("fd00::1", "fd00::2"), true},
		{"foreign IPv6 source", Source, packet6("fd00::2", "fd00::1"), false},
		{"own IPv6 destination", Destination, packet6("fd00::2", "fd00::1"), true},
		{"empty", Source, nil, false},
		{"short IPv4", Source, packet4("10.0.0.1", "1.1.1.1")[:19], false},
		{"short IPv6", Source, packet6("fd00::1", "fd00::2")[:39], false},
		{"no IP", Source, append([]byte{0x55}, make([]byte, 40)...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := packet.NewBatch(1, 1500)
			b[0].Set(tt.pkt)
			g := NewGate(tt.side, mine...)
			if got := len(g.Filter(b)) == 1; got != tt.pass {
				t.Errorf("passes = %v, want %v", got, tt.pass)
			}
			if dropped := g.Dropped() != 0; dropped == tt.pass {
				t.Errorf("Dropped() = %d", g.Dropped())
			}
		})
	}
}

func TestGateKeepsOrderAndBufs(t *testing.T) {
	b := packet.NewBatch(5, 64)
	for i := range b {
		src := "10.0.0.1"
		if i%2 == 1 {
			src = "10.0.0.9"
		}
		b[i].Set(packet4(src, "1.1.1.1"))
		b[i].Bytes()[27] = byte(i)
	}
	out := NewGate(Source, netip.MustParseAddr("10.0.0.1")).Filter(b)
	if len(out) != 3 || out[0].Bytes()[27] != 0 || out[1].Bytes()[27] != 2 || out[2].Bytes()[27] != 4 {
		t.Fatalf("wrong packets or order: %d", len(out))
	}
	seen := map[*byte]bool{}
	for i := range b {
		seen[&b[i].Space()[0]] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d distinct Bufs left of 5", len(seen))
	}
}

func TestGateDoesNotAllocate(t *testing.T) {
	b := packet.NewBatch(64, 64)
	for i := range b {
		b[i].Set(packet4("10.0.0.1", "1.1.1.1"))
	}
	g := NewGate(Source, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"))
	if n := testing.AllocsPerRun(100, func() { g.Filter(b) }); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

func FuzzGate(f *testing.F) {
	f.Add(packet4("10.0.0.1", "1.1.1.1"))
	f.Add(packet6("fd00::1", "fd00::2"))
	f.Add([]byte{0x60})
	g := NewGate(Source, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"))
	f.Fuzz(func(t *testing.T, p []byte) {
		b := packet.NewBatch(1, packet.MaxSize)
		if b[0].Set(p) {
			g.Filter(b)
		}
	})
}
