package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/packet"
)

const (
	// mtu is the size of the packets inside, in bytes, below rung 4.
	mtu = 1400
	// batchSize is how many packets a pump carries at a time, as in the tunnel.
	batchSize = 64
	// chunk is what arrives in one iteration, over all flows together, in bytes.
	chunk = 1 << 20
)

// A network is two hosts that a rung joins.
type network struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error) // from the client
	listen func(network, address string) (net.Listener, error)                  // on the server
	addrs  []netip.Addr                                                         // of the server, IPv4 and IPv6

	// sent and received count the packets that have left the client and the server.
	sent, received func() uint64
}

// rungs build networks that are taken down with the test. Rung 0 has none. IPv6 differs from IPv4 in the stacks only, so it
// is measured where nothing else is added and where everything is.
var rungs = []struct {
	name  string
	ip6   bool
	build func(testing.TB) *network
}{
	{"1", true, func(tb testing.TB) *network { return stacks(tb, nil, nil, nil) }},
	{"2-tls", false, func(tb testing.TB) *network { return stacks(tb, tlsPair, nil, nil) }},
	{"2-dtls", false, func(tb testing.TB) *network { return stacks(tb, dtlsPair, nil, nil) }},
	{"3-tls", false, func(tb testing.TB) *network { return gated(tb, tlsPair) }},
	{"3-dtls", false, func(tb testing.TB) *network { return gated(tb, dtlsPair) }},
	{"4-tls", true, func(tb testing.TB) *network { return tunnel(tb, "tls") }},
	{"4-dtls", true, func(tb testing.TB) *network { return tunnel(tb, "dtls") }},
}

// TestLadder sends a little over every rung.
func TestLadder(t *testing.T) {
	for _, r := range rungs {
		t.Run(r.name, func(t *testing.T) {
			leak.Check(t)
			n := r.build(t)
			for _, addr := range n.addrs {
				for _, up := range []bool{true, false} {
					sent, received := n.sent(), n.received()
					s := n.stream(t, addr, 2, up)
					s.await(t, chunk)
					s.stop()
					if n.sent() == sent || n.received() == received {
						t.Errorf("the packets to and from %v were not counted", addr)
					}
				}
			}
		})
	}
}

// BenchmarkPipe is rung 0.
func BenchmarkPipe(b *testing.B) {
	near, in := packet.Pipe(mtu, 4*batchSize)
	out, far := packet.Pipe(mtu, 4*batchSize)
	var running sync.WaitGroup
	defer running.Wait()
	defer near.Close()
	running.Go(func() {
		packet.Copy(out, in, mtu, batchSize)
		out.Close()
	})
	send, receive := packet.NewBatch(batchSize, mtu), packet.NewBatch(batchSize, mtu)
	for i := range send {
		send[i].SetLen(mtu)
	}
	count := uint64(0)
	b.SetBytes(mtu)
	measure(b, func() uint64 { return count }, func() {
		running.Go(func() {
			for left := b.N; left > 0; {
				n, err := near.WriteBatch(send[:min(left, len(send))])
				if err != nil {
					b.Error(err)
					return
				}
				left -= n
			}
		})
		for count < uint64(b.N) {
			n, err := far.ReadBatch(receive)
			if err != nil {
				b.Fatal(err)
			}
			count += uint64(n)
		}
	})
}

// BenchmarkTCP is the rungs above.
func BenchmarkTCP(b *testing.B) {
	for _, r := range rungs {
		b.Run(r.name, func(b *testing.B) {
			n := r.build(b)
			for _, way := range []string{"up", "down"} {
				for _, c := range []struct {
					name  string
					addr  netip.Addr
					flows int
				}{{"ip4", n.addrs[0], 1}, {"ip4", n.addrs[0], 16}, {"ip6", n.addrs[1], 1}} {
					if c.name == "ip6" && !r.ip6 {
						continue
					}
					b.Run(fmt.Sprintf("%s/%s/flows=%d", way, c.name, c.flows), func(b *testing.B) {
						packets := n.sent
						if way == "down" {
							packets = n.received
						}
						s := n.stream(b, c.addr, c.flows, way == "up")
						defer s.stop()
						s.await(b, int64(c.flows)*chunk) // until the windows have grown
						b.SetBytes(chunk)
						measure(b, packets, func() { s.await(b, int64(b.N)*chunk) })
					})
				}
			}
		})
	}
}

// measure runs f, and reports the packets that it sends and what is allocated meanwhile.
func measure(b *testing.B, packets func() uint64, f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := packets()
	b.ResetTimer()
	f()
	b.StopTimer()
	n := float64(packets() - start)
	runtime.ReadMemStats(&after)
	b.ReportMetric(n/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/packet")
	b.ReportMetric(0, "ns/op")
}
