package stack

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// BenchmarkTCP is one stack sending to another, with nothing but a copy between them.
func BenchmarkTCP(b *testing.B) {
	for _, mtu := range []int{1400} {
		for _, flows := range []int{1, 16} {
			for _, both := range []bool{false, true} {
				name := fmt.Sprintf("mtu=%d/flows=%d/both=%v", mtu, flows, both)
				b.Run(name, func(b *testing.B) { benchmarkTCP(b, mtu, flows, both) })
			}
		}
	}
}

// chunk is what one iteration sends over each flow.
const chunk = 1 << 20

func benchmarkTCP(b *testing.B, mtu, flows int, both bool) {
	alice, bob := pair(b, mtu)
	var clients, servers []net.Conn
	for range flows {
		c, s := connect(b, alice, bob, bob4)
		clients, servers = append(clients, c), append(servers, s)
	}
	total := int64(chunk)
	if both {
		total *= 2
	}
	b.SetBytes(total)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	var wg sync.WaitGroup
	start := func(w, r net.Conn, n int64) {
		wg.Go(func() { send(b, w, n) })
		wg.Go(func() { receive(b, r, n) })
	}
	for i := range flows {
		n := int64(b.N) * chunk / int64(flows)
		start(clients[i], servers[i], n)
		if both {
			start(servers[i], clients[i], n)
		}
	}
	wg.Wait()
	b.StopTimer()
	runtime.ReadMemStats(&after)
	mib := float64(b.N) * float64(total) / (1 << 20)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/mib, "allocs/MiB")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/mib/1024, "KB/MiB")
	st := alice.Stats()
	b.ReportMetric(float64(st.QueueDrops+bob.Stats().QueueDrops), "drops")
	b.ReportMetric(float64(st.Retransmits), "retrans")
	for i := range clients {
		clients[i].Close()
		servers[i].Close()
	}
}

func send(tb testing.TB, w io.Writer, n int64) {
	buf := make([]byte, 256<<10)
	for n > 0 {
		k, err := w.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			tb.Errorf("write: %v", err)
			return
		}
		n -= int64(k)
	}
}

func receive(tb testing.TB, r io.Reader, n int64) {
	buf := make([]byte, 256<<10)
	for n > 0 {
		k, err := r.Read(buf)
		if err != nil {
			tb.Errorf("read: %v", err)
			return
		}
		n -= int64(k)
	}
}

var _ = time.Second
