package stack

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/packet"
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

// A route is a way through a network that is not perfect. Each direction has it.
type route struct {
	delay  time.Duration // one way
	loss   float64       // share of the packets that are lost
	rate   int           // bytes per second, 0 for no limit
	buffer int           // bytes that wait for the rate before more are dropped
}

// carry moves packets from src to dst over r until src is closed.
func (r route) carry(dst, src packet.Conn, seed uint64) {
	type parcel struct {
		due time.Time
		p   []byte
	}
	line := make(chan parcel, 1<<16)
	var wg sync.WaitGroup
	wg.Go(func() {
		b := packet.NewBatch(128, 2048)
		n := 0
		flush := func() bool {
			_, err := dst.WriteBatch(b[:n])
			n = 0
			return err == nil
		}
		for q := range line {
			if wait := time.Until(q.due); wait > 0 {
				flush()
				time.Sleep(wait)
			}
			b[n].Set(q.p)
			if n++; n == len(b) || len(line) == 0 {
				flush()
			}
		}
	})
	rng := rand.New(rand.NewPCG(seed, 0))
	b := packet.NewBatch(128, 2048)
	var busy time.Time
	for {
		n, err := src.ReadBatch(b)
		if err != nil {
			break
		}
		now := time.Now()
		for i := range b[:n] {
			if rng.Float64() < r.loss {
				continue
			}
			sent := now
			if r.rate > 0 {
				if busy.Before(now) {
					busy = now
				}
				if busy.Sub(now) > time.Duration(r.buffer)*time.Second/time.Duration(r.rate) {
					continue
				}
				busy = busy.Add(time.Duration(b[i].Len()) * time.Second / time.Duration(r.rate))
				sent = busy
			}
			select {
			case line <- parcel{sent.Add(r.delay), append([]byte(nil), b[i].Bytes()...)}:
			default:
			}
		}
	}
	close(line)
	wg.Wait()
}

// BenchmarkPath is one connection over routes such as tunnels have. It is what the constants of TCP were chosen by.
func BenchmarkPath(b *testing.B) {
	for _, r := range []route{
		{delay: 5 * time.Millisecond},
		{delay: 10 * time.Millisecond, loss: 0.0001},
		{delay: 10 * time.Millisecond, loss: 0.001},
		{delay: 30 * time.Millisecond, loss: 0.001},
		{delay: 10 * time.Millisecond, loss: 0.01},
		{delay: 10 * time.Millisecond, rate: 100e6 / 8, buffer: 256 << 10},
		{delay: 30 * time.Millisecond, rate: 100e6 / 8, buffer: 256 << 10},
		{delay: 10 * time.Millisecond, rate: 10e6 / 8, buffer: 64 << 10},
	} {
		name := fmt.Sprintf("rtt=%v/loss=%v/mbit=%d", 2*r.delay, r.loss, r.rate*8/1e6)
		b.Run(name, func(b *testing.B) {
			alice := newStack(b, Config{Addresses: prefixes(alice4), MTU: 1400})
			bob := newStack(b, Config{Addresses: prefixes(bob4), MTU: 1400})
			var pumps sync.WaitGroup
			pumps.Go(func() { r.carry(bob.Link(), alice.Link(), 1) })
			pumps.Go(func() { route{delay: r.delay}.carry(alice.Link(), bob.Link(), 2) })
			c, s := connect(b, alice, bob, bob4)
			b.SetBytes(chunk / 4)
			b.ResetTimer()
			var wg sync.WaitGroup
			wg.Go(func() { send(b, c, int64(b.N)*chunk/4) })
			wg.Go(func() { receive(b, s, int64(b.N)*chunk/4) })
			wg.Wait()
			b.StopTimer()
			st := alice.Stats()
			b.ReportMetric(float64(st.Retransmits), "retrans")
			b.ReportMetric(float64(st.Timeouts), "timeouts")
			b.ReportMetric(float64(st.QueueDrops), "drops")
			c.Close()
			s.Close()
			alice.Close()
			bob.Close()
			pumps.Wait()
		})
	}
}
