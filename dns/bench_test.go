package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// loaded returns a Server with answers for so many names in its cache, and the queries for them.
func loaded(tb testing.TB, names int) (*Server, [][]byte) {
	tb.Helper()
	up := exchanger(func(_ context.Context, q *wire.Msg) (*wire.Msg, error) {
		m := new(wire.Msg).SetReply(q)
		a := addressRecord(q.Question[0].Name, netip.MustParseAddr("192.0.2.1"))
		a.Header().Ttl = 86400
		m.Answer = []wire.RR{a}
		return m, nil
	})
	s := newServer(tb, ServerConfig{CacheBytes: 64 << 20, Rules: Rules{Zones: []Zone{
		{Suffixes: []string{"."}, Way: Direct, Upstreams: []Exchanger{up}},
	}}})
	var queries [][]byte
	for i := range names {
		q := new(wire.Msg).SetQuestion(fmt.Sprintf("host%d.example.", i), wire.TypeA)
		q.SetEdns0(1232, false)
		b, err := q.Pack()
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := s.Exchange(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
		queries = append(queries, b)
	}
	return s, queries
}

// TestHitDoesNotAllocate: an answer from the cache costs no memory, from the packet that came in to the one that goes out.
func TestHitDoesNotAllocate(t *testing.T) {
	s, queries := loaded(t, 100)
	q, out := new(query), make([]byte, 0, udpSize)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		answer, st := s.handle(q, queries[i%len(queries)], out, packetLimit)
		if st != nil || len(answer) < headerLen || rcode(answer) != wire.RcodeSuccess {
			t.Fatal("not from the cache")
		}
	}); n != 0 {
		t.Errorf("%v allocations for each answer", n)
	}
}

// TestSocketHitDoesNotAllocate counts what reading from and writing to a socket cost as well, both ends together.
func TestSocketHitDoesNotAllocate(t *testing.T) {
	s, queries := loaded(t, 10)
	r := serve(t, s, nil)
	c := r.dial(t, "udp")
	in := make([]byte, 1500)
	i := 0
	if n := testing.AllocsPerRun(500, func() {
		i++
		if _, err := c.Write(queries[i%len(queries)]); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(in); err != nil {
			t.Fatal(err)
		}
	}); n > 0.1 {
		t.Errorf("%v allocations for each answer", n)
	}
}

// BenchmarkHit is one answer from the cache without the sockets: as the Server makes it, and as a handler of miekg/dns
// makes it that keeps whole messages in a map.
func BenchmarkHit(b *testing.B) {
	const names = 1000
	s, queries := loaded(b, names)
	b.Run("server", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			q, out := new(query), make([]byte, 0, udpSize)
			for i := 0; pb.Next(); i++ {
				if answer, _ := s.handle(q, queries[i%names], out, packetLimit); answer == nil {
					b.Fatal("not from the cache")
				}
			}
		})
	})
	handler := newMessageCache(b, s, queries)
	b.Run("miekg", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				q := new(wire.Msg)
				if err := q.Unpack(queries[i%names]); err != nil {
					b.Fatal(err)
				}
				if _, err := handler.answer(q).Pack(); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// A messageCache is the cache that one would write with miekg/dns alone.
type messageCache struct {
	mu       sync.RWMutex
	messages map[wire.Question]*wire.Msg
	stored   time.Time
}

func newMessageCache(tb testing.TB, s *Server, queries [][]byte) *messageCache {
	c := &messageCache{messages: map[wire.Question]*wire.Msg{}, stored: time.Now()}
	for _, q := range queries {
		answer, err := s.Exchange(tb.Context(), q)
		m := new(wire.Msg)
		if err != nil || m.Unpack(answer) != nil {
			tb.Fatal(err)
		}
		c.messages[m.Question[0]] = m
	}
	return c
}

func (c *messageCache) answer(q *wire.Msg) *wire.Msg {
	c.mu.RLock()
	m := c.messages[q.Question[0]].Copy()
	c.mu.RUnlock()
	m.Id = q.Id
	m.Compress = true
	age := uint32(time.Since(c.stored) / time.Second)
	for _, rr := range m.Answer {
		rr.Header().Ttl -= age
	}
	return m
}

func (c *messageCache) ServeDNS(w wire.ResponseWriter, q *wire.Msg) { w.WriteMsg(c.answer(q)) }

// BenchmarkSocket is a load of answers from the cache over UDP: clients each keep 16 questions on their way. Package
// miekg/dns serves the same from a map.
func BenchmarkSocket(b *testing.B) {
	const names = 1000
	b.Run("server", func(b *testing.B) {
		s, queries := loaded(b, names)
		r := serve(b, s, nil)
		flood(b, r.addr, queries)
	})
	b.Run("miekg", func(b *testing.B) {
		s, queries := loaded(b, names)
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		started, done := make(chan struct{}), make(chan struct{})
		server := &wire.Server{PacketConn: pc, Handler: newMessageCache(b, s, queries), NotifyStartedFunc: func() { close(started) }}
		go func() {
			defer close(done)
			server.ActivateAndServe()
		}()
		<-started
		flood(b, pc.LocalAddr().String(), queries)
		server.Shutdown()
		<-done
	})
}

func flood(b *testing.B, addr string, queries [][]byte) {
	const window = 16
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		in := make([]byte, 1500)
		i, under := 0, 0
		receive := func() bool {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err := c.Read(in)
			under--
			if err != nil {
				b.Error(err)
			}
			return err == nil
		}
		for pb.Next() {
			i++
			if _, err := c.Write(queries[i%len(queries)]); err != nil {
				b.Error(err)
				return
			}
			if under++; under >= window && !receive() {
				return
			}
		}
		for under > 0 {
			if !receive() {
				return
			}
		}
	})
}
