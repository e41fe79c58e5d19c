//go:build !race

// Under the race detector a sync.Pool forgets at random, so that allocations cannot be counted.

package stack

import (
	"io"
	"net/netip"
	"runtime/debug"
	"testing"
)

// A transfer is a TCP connection from alice to bob over the links of both.
type transfer struct {
	alice, bob *Stack
	read       io.Reader
	write      chan int64
}

func newTransfer(tb testing.TB, to netip.Addr) *transfer {
	alice, bob := pair(tb, 1400)
	c, s := connect(tb, alice, bob, to)
	x := &transfer{alice: alice, bob: bob, read: s, write: make(chan int64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range x.write {
			send(tb, c, n)
		}
	}()
	tb.Cleanup(func() {
		close(x.write)
		<-done
		c.Close()
		s.Close()
	})
	return x
}

// move sends n bytes, and returns when they have arrived.
func (x *transfer) move(tb testing.TB, n int64, buf []byte) {
	x.write <- n
	for n > 0 {
		k, err := x.read.Read(buf[:min(n, int64(len(buf)))])
		if err != nil {
			tb.Fatal(err)
		}
		n -= int64(k)
	}
}

// packets counts what has come through both links, both ways.
func (x *transfer) packets() uint64 { return x.alice.Stats().PacketsOut + x.bob.Stats().PacketsOut }

// TestLinkAllocs has bulk data, from one application to the other, allocate less than once for each batch of 64 packets
// on its way out of a link and into the next. Over IPv6 gVisor allocates where it parses headers, so that only the
// bound of that is tested.
func TestLinkAllocs(t *testing.T) {
	for _, tt := range []struct {
		to  netip.Addr
		max float64 // for each packet
	}{{bob4, 1. / 64}, {bob6, 0.5}} {
		x := newTransfer(t, tt.to)
		buf := make([]byte, 256<<10)
		const chunk = 4 << 20
		for range 8 {
			x.move(t, chunk, buf) // until the windows have grown
		}
		// A collection would empty the pools, whose contents have to be allocated again.
		gc := debug.SetGCPercent(-1)
		const runs = 10
		before := x.packets()
		n := testing.AllocsPerRun(runs, func() { x.move(t, chunk, buf) })
		debug.SetGCPercent(gc)
		packets := float64(x.packets()-before) / (runs + 1) // it runs once more, to warm up
		if packets < chunk/1400 {
			t.Fatalf("%v packets for %d bytes", packets, chunk)
		}
		t.Logf("%v: %v allocations for %.0f packets", tt.to, n, packets)
		if got := n / packets; got > tt.max {
			t.Errorf("%v: %v allocations for each packet, want at most %v", tt.to, got, tt.max)
		}
	}
}

// BenchmarkLink is one connection from stack to stack, counted by packets.
func BenchmarkLink(b *testing.B) {
	for _, to := range []netip.Addr{bob4, bob6} {
		b.Run(map[bool]string{true: "ip=4", false: "ip=6"}[to.Is4()], func(b *testing.B) {
			x := newTransfer(b, to)
			buf := make([]byte, 256<<10)
			x.move(b, 16*chunk, buf)
			before := x.packets()
			b.SetBytes(chunk)
			b.ReportAllocs()
			for b.Loop() {
				x.move(b, chunk, buf)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(x.packets()-before), "ns/pkt")
		})
	}
}
