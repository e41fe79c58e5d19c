package cstp

import (
	"crypto/tls"
	"testing"

	"culvert.example/vpn/packet"
)

// BenchmarkFrames is framing without TLS and without a network.
func BenchmarkFrames(b *testing.B) {
	pkts := batch(1400, 1400, 1400, 1400, 1400, 1400, 1400, 1400)
	b.Run("write", func(b *testing.B) {
		c := bare(new(canned), quiet)
		defer c.Close()
		b.SetBytes(8 * 1400)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.WriteBatch(pkts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		var stream []byte
		w := bare(new(canned), quiet)
		defer w.Close()
		for i := range pkts {
			stream = append(stream, w.frame(&pkts[i])...)
		}
		c := bare(&canned{data: stream}, quiet)
		defer c.Close()
		out := packet.NewBatch(8, 1400)
		b.SetBytes(1400)
		b.ReportAllocs()
		for n := 0; b.Loop(); n-- {
			if n > 0 {
				continue
			}
			var err error
			if n, err = c.ReadBatch(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTunnel carries packets of 1400 bytes through two Conns over TLS on loopback, in batches.
func BenchmarkTunnel(b *testing.B) {
	for _, bench := range []struct {
		name    string
		version uint16
		batch   int
	}{
		{"TLS1.3/batch=1", tls.VersionTLS13, 1},
		{"TLS1.3/batch=32", tls.VersionTLS13, 32},
		{"TLS1.2/batch=32", tls.VersionTLS12, 32},
	} {
		b.Run(bench.name, func(b *testing.B) {
			cl, sl, ct, st := links(b, bench.version)
			ct.off, st.off = true, true
			client, server := NewConn(cl, nil, quiet), NewConn(sl, nil, quiet)
			defer client.Close()
			defer server.Close()
			in := packet.NewBatch(bench.batch, 1400)
			for i := range in {
				in[i].SetLen(1400)
			}
			done := make(chan error, 1)
			go func() {
				out := packet.NewBatch(64, 1400)
				for got := 0; got < b.N; {
					n, err := server.ReadBatch(out)
					if err != nil {
						done <- err
						return
					}
					got += n
				}
				done <- nil
			}()
			b.SetBytes(1400)
			b.ReportAllocs()
			b.ResetTimer()
			for sent := 0; sent < b.N; {
				n, err := client.WriteBatch(in[:min(len(in), b.N-sent)])
				if err != nil {
					b.Fatal(err)
				}
				sent += n
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
