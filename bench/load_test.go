package bench

import (
	"net/netip"
	"testing"
)

// A load is traffic in one direction that goes on until it is stopped.
type load interface {
	// await waits until n more bytes (TCP) or packets (UDP) have arrived, and ends the test if they do not.
	await(tb testing.TB, n int64)
	// tally counts since the load began.
	tally() tally
	// stop ends the load, and forgets what is under way.
	stop()
}

// A tally says what has arrived: packets, and the bytes that the application gets of them. Lost are packets that were sent and
// have not arrived; over TCP those that are under way count as well.
type tally struct{ packets, bytes, lost int64 }

// loads are the kinds of traffic.
var loads = []struct {
	name  string
	unit  int64 // of one iteration, in what await counts
	warm  int64 // before anything is measured: until the windows have grown
	start func(tb testing.TB, n *network, server netip.Addr, flows int, up bool) load
}{
	{"tcp", 1 << 20, 16 << 20, func(tb testing.TB, n *network, server netip.Addr, flows int, up bool) load {
		return n.stream(tb, server, flows, up)
	}},
	{"udp64", 2048, 8192, func(tb testing.TB, n *network, server netip.Addr, flows int, up bool) load {
		return n.datagrams(tb, server, flows, small, up)
	}},
}
