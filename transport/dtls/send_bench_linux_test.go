package dtls

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// BenchmarkSend sends datagrams that are sealed already over loopback to a socket that nobody reads, 64 at a time: by this package with
// long messages that the kernel cuts, by this package without, and by golang.org/x/net.
func BenchmarkSend(b *testing.B) {
	const size = testMTU + 38
	open := func(b *testing.B) *net.UDPConn {
		to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { to.Close() })
		conn, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		return conn
	}
	measure := func(b *testing.B, send func() error) {
		b.SetBytes(size)
		b.ReportAllocs()
		b.ResetTimer()
		start := processorTime()
		for n := 0; n < b.N; n += burstRecords {
			if err := send(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(processorTime()-start)/float64(b.N), "cpu-ns/packet")
	}
	for _, own := range []struct {
		name  string
		burst int
	}{{"messages", 1}, {"segments=8", 8}, {"segments=16", 16}, {"segments=32", 32}, {"segments=45", 45}} {
		b.Run(own.name, func(b *testing.B) {
			s, err := newUDPSocket(open(b), own.burst)
			if err != nil {
				b.Fatal(err)
			}
			u := newBurst(burstRecords, burstBytes)
			for range burstRecords {
				u.added(size)
			}
			measure(b, func() error { _, err := s.send(u, nil, true); return err })
		})
	}
	b.Run("x-net", func(b *testing.B) {
		p := ipv4.NewPacketConn(open(b))
		msgs := make([]ipv4.Message, burstRecords)
		for i := range msgs {
			msgs[i].Buffers = [][]byte{make([]byte, size)}
		}
		measure(b, func() error {
			for rest := msgs; len(rest) > 0; {
				n, err := p.WriteBatch(rest, 0)
				if err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
	})
}

// processorTime returns how much time the process has had of the processors.
func processorTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
