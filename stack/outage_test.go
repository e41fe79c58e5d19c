package stack

import (
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// TestOutage loses everything for a second and more, as when a path to the gateway dies, and then expects a connection that had
// data under way to be as fast as before.
func TestOutage(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(netip.MustParseAddr("10.0.0.1")), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(netip.MustParseAddr("10.0.0.2")), MTU: 1400})
	var dead atomic.Bool
	// A fifth of a millisecond each way is about what the other end of a local network has.
	filter := tap(func(b packet.Batch) packet.Batch {
		time.Sleep(200 * time.Microsecond)
		if dead.Load() {
			return b[:0]
		}
		return b
	})
	join(t, alice, bob, filter, filter)
	c, s := connect(t, alice, bob, netip.MustParseAddr("10.0.0.2"))
	var got atomic.Int64
	go io.Copy(c, c) // bob's bytes come back by alice
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := s.Read(b)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	go func() {
		chunk := make([]byte, 20<<10)
		for {
			if _, err := s.Write(chunk); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	time.Sleep(500 * time.Millisecond)
	dead.Store(true)
	time.Sleep(1300 * time.Millisecond)
	dead.Store(false)
	before, end := got.Load(), time.Now().Add(20*time.Second)
	for got.Load()-before < 1<<20 {
		if time.Now().After(end) {
			t.Fatalf("%d bytes in 20 s after the outage, want at least %d", got.Load()-before, 1<<20)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
