package policy

import (
	"net/netip"
	"testing"

	"culvert.example/vpn/packet"
)

// BenchmarkGate is the cost of a packet that may go on, in batches of 64.
func BenchmarkGate(b *testing.B) {
	for _, bench := range []struct {
		name string
		pkt  []byte
	}{{"ip=4", packet4("10.0.0.1", "1.1.1.1")}, {"ip=6", packet6("fd00::1", "fd00::2")}} {
		b.Run(bench.name, func(b *testing.B) {
			batch := packet.NewBatch(64, 64)
			for i := range batch {
				batch[i].Set(bench.pkt)
			}
			g := NewGate(Source, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"))
			b.ReportAllocs()
			packets := 0
			for b.Loop() {
				packets += len(g.Filter(batch))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(packets), "ns/pkt")
		})
	}
}
