package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/packet"
)

const (
	// mtu is the size of the packets inside, in bytes, below rung 4.
	mtu = 1400
	// batchSize is how many packets a pump carries at a time, as in the tunnel.
	batchSize = 64
)

// A network is two hosts that a rung joins.
type network struct {
	dial         func(ctx context.Context, network, address string) (net.Conn, error) // from the client
	listen       func(network, address string) (net.Listener, error)                  // on the server
	listenPacket func(network, address string) (net.PacketConn, error)                // on the server
	addrs        []netip.Addr                                                         // of the server, IPv4 and IPv6

	up, down func() counts
}

// counts are the packets that have left one host and those that have come to the other.
type counts struct{ sent, arrived uint64 }

// A rung builds a network that is taken down with the test.
type rung struct {
	name  string
	build func(testing.TB) *network
}

// rungs are all but rung 0, which has no network.
var rungs = append([]rung{
	{"1", func(tb testing.TB) *network { return stacks(tb, nil, nil, nil) }},
	{"2-tls", func(tb testing.TB) *network { return stacks(tb, tlsPair, nil, nil) }},
	{"2-dtls", func(tb testing.TB) *network { return stacks(tb, dtlsPair, nil, nil) }},
	{"3-tls", func(tb testing.TB) *network { return gated(tb, tlsPair) }},
	{"3-dtls", func(tb testing.TB) *network { return gated(tb, dtlsPair) }},
	{"4-tls", func(tb testing.TB) *network { return tunnel(tb, "tls") }},
	{"4-dtls", func(tb testing.TB) *network { return tunnel(tb, "dtls") }},
}, deviceRungs...)

// TestLadder sends a little over every rung.
func TestLadder(t *testing.T) {
	for _, r := range rungs {
		t.Run(r.name, func(t *testing.T) {
			leak.Check(t)
			n := r.build(t)
			for _, kind := range loads {
				for _, addr := range n.addrs {
					for _, up := range []bool{true, false} {
						sent, received := n.up(), n.down()
						l := kind.start(t, n, addr, 2, up)
						l.await(t, kind.unit)
						got := l.tally()
						l.stop()
						if got.packets < 700 || got.bytes < min(kind.unit, 8*got.packets) {
							t.Errorf("%s %v: counted %+v", kind.name, addr, got)
						}
						if kind.name == "udp64" && got.lost > got.packets {
							t.Errorf("%s %v: lost %d of %d", kind.name, addr, got.lost, got.packets)
						}
						for i, c := range []struct{ before, after counts }{{sent, n.up()}, {received, n.down()}} {
							if kind.name == "tcp" && (c.after.sent == c.before.sent || c.after.arrived == c.before.arrived) {
								t.Errorf("the packets of way %d, %v, were not counted: %+v", i, addr, c)
							}
						}
					}
				}
			}
		})
	}
}

// BenchmarkLadder is the ladder. The names of its parts are those of the columns that the program table prints.
func BenchmarkLadder(b *testing.B) {
	for _, size := range []int{mtu, small} {
		b.Run(fmt.Sprintf("rung=0/load=raw%d", size), func(b *testing.B) {
			l := newPipe(b, size)
			defer l.stop()
			measure(b, l, 64*batchSize)
		})
	}
	for _, r := range rungs {
		begun, built := false, false
		b.Run("rung="+r.name, func(b *testing.B) {
			begun = true
			n := r.build(b)
			built = true
			for _, kind := range loads {
				for _, way := range []string{"up", "down"} {
					for i, family := range []string{"4", "6"} {
						for _, flows := range []int{1, 16} {
							b.Run(fmt.Sprintf("load=%s/way=%s/ip=%s/flows=%d", kind.name, way, family, flows), func(b *testing.B) {
								l := kind.start(b, n, n.addrs[i], flows, way == "up")
								defer l.stop()
								l.await(b, kind.warm)
								measure(b, l, kind.unit)
							})
						}
					}
				}
			}
		})
		if begun && !built {
			// What is logged about a benchmark that is skipped, or has parts, is not printed.
			fmt.Fprintf(os.Stderr, "rung %s is left out: go test -v -run TestLadder/%s ./bench says why\n", r.name, r.name)
		}
	}
}

// measure reports what arrives, unit by unit, and what that costs.
func measure(b *testing.B, l load, unit int64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := l.tally()
	cpuStart, known := processorTime()
	for b.Loop() {
		l.await(b, unit)
	}
	cpuEnd, _ := processorTime()
	end := l.tally()
	runtime.ReadMemStats(&after)

	seconds, packets, lost := b.Elapsed().Seconds(), float64(end.packets-start.packets), float64(end.lost-start.lost)
	b.ReportMetric(0, "ns/op") // of a unit, which says nothing
	b.ReportMetric(float64(end.bytes-start.bytes)/1e6/seconds, "MB/s")
	b.ReportMetric(packets/seconds, "pkts/s")
	b.ReportMetric(seconds*1e9/packets, "ns/pkt")
	if known {
		b.ReportMetric(float64((cpuEnd-cpuStart).Nanoseconds())/packets, "cpu-ns/pkt")
	}
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/packets, "allocs/pkt")
	b.ReportMetric(100*max(0, lost)/(packets+max(0, lost)), "loss-%")
}

// A pipe is the load of rung 0: packets of one size between two Pipes that Copy joins. A Pipe knows no direction, flow or IP.
type pipe struct {
	meter
	near, far packet.Conn
	size      int
	arrived   atomic.Int64
	running   sync.WaitGroup
}

func newPipe(tb testing.TB, size int) *pipe {
	tb.Helper()
	near, in := packet.Pipe(size, 4*batchSize)
	out, far := packet.Pipe(size, 4*batchSize)
	p := &pipe{near: near, far: far, size: size}
	p.init()
	p.running.Go(func() {
		packet.Copy(out, in, size, batchSize)
		out.Close()
	})
	p.running.Go(func() {
		b := packet.NewBatch(batchSize, size)
		for i := range b {
			b[i].SetLen(size)
		}
		for {
			if _, err := near.WriteBatch(b); err != nil {
				return
			}
		}
	})
	p.running.Go(func() {
		b := packet.NewBatch(batchSize, size)
		for {
			n, err := far.ReadBatch(b)
			p.arrived.Add(int64(n))
			p.add(int64(n), err)
			if err != nil {
				return
			}
		}
	})
	return p
}

func (p *pipe) tally() tally {
	n := p.arrived.Load()
	return tally{packets: n, bytes: n * int64(p.size)}
}

func (p *pipe) stop() {
	p.near.Close()
	p.far.Close()
	p.running.Wait()
}

// TestPipe sends a little over rung 0.
func TestPipe(t *testing.T) {
	leak.Check(t)
	p := newPipe(t, small)
	p.await(t, 1000)
	if got := p.tally(); got.packets < 1000 || got.bytes != small*got.packets || got.lost != 0 {
		t.Errorf("counted %+v", got)
	}
	p.stop()
}
