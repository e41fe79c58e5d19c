package dtls

import (
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
)

// BenchmarkWrite seals packets and sends them over loopback to a socket that nobody reads, 64 at a time.
func BenchmarkWrite(b *testing.B) {
	for _, burst := range []int{1, 8, 32} {
		b.Run(map[int]string{1: "burst=1", 8: "burst=8", 32: "burst=32"}[burst], func(b *testing.B) {
			g := newGateway(b, &ServerSession{PSK: testPSK()})
			cfg := g.config()
			cfg.Burst = burst
			cfg.Beat = liveness.Config{Load: -1}
			client := mustDial(b, g.addr(), cfg)
			server := g.take(b)
			server.Conn.Close()
			batch := numbered(0, 64, testMTU)
			b.SetBytes(int64(testMTU))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += len(batch) {
				if _, err := client.WriteBatch(batch); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
	}
}

// BenchmarkExchange sends 64 packets and receives them, in turn, so that none is lost: both sides of the work.
func BenchmarkExchange(b *testing.B) {
	for _, way := range []string{"up", "down"} {
		b.Run(way, func(b *testing.B) {
			accepted := make(chan *Conn, 1)
			g := newGateway(b, &ServerSession{PSK: testPSK(), Accept: func(c *Conn) { accepted <- c }})
			client := mustDialQuiet(b, g, accepted)
			server := <-accepted
			defer server.Close()
			from, to := client, server
			if way == "down" {
				from, to = server, client
			}
			out, in := numbered(0, 64, testMTU), packet.NewBatch(64, testMTU)
			b.SetBytes(int64(testMTU))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += len(out) {
				if _, err := from.WriteBatch(out); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < len(out); {
					n, err := to.ReadBatch(in)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
			report(b)
		})
	}
}

// BenchmarkOpen opens records without a socket, BenchmarkSeal makes them.
func BenchmarkOpen(b *testing.B) {
	for _, id := range []uint16{0x00a9, 0x00a8, 0xccab} {
		s := suiteByID(id)
		b.Run(s.name, func(b *testing.B) {
			seal, open := pair(b, s)
			rec, out := make([]byte, 2000), make([]byte, 0, 2000)
			r, _, _ := parseRecord(rec[:seal.seal(rec, typeData, 1, make([]byte, testMTU+1))])
			b.SetBytes(testMTU)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := open.open(out, r); !ok {
					b.Fatal("does not open")
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, id := range []uint16{0x00a9, 0x00a8, 0xccab} {
		s := suiteByID(id)
		b.Run(s.name, func(b *testing.B) {
			seal, _ := pair(b, s)
			rec, plain := make([]byte, 2000), make([]byte, testMTU+1)
			seq := uint64(0)
			b.SetBytes(testMTU)
			b.ReportAllocs()
			for b.Loop() {
				seal.seal(rec, typeData, seq, plain)
				seq++
			}
		})
	}
}

func report(b *testing.B) {
	d := b.Elapsed()
	if d < time.Millisecond {
		return
	}
	b.ReportMetric(float64(b.N)/d.Seconds(), "packets/s")
	b.ReportMetric(float64(b.N)*testMTU*8/d.Seconds()/1e9, "Gbit/s")
	b.ReportMetric(0, "ns/op")
}
