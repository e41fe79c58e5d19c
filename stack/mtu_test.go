package stack

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// A gauge notes the largest packet that passes.
type gauge struct{ max atomic.Int64 }

func (g *gauge) Filter(b packet.Batch) packet.Batch {
	for i := range b {
		if n := int64(b[i].Len()); n > g.max.Load() {
			g.max.Store(n)
		}
	}
	return b
}

// exchange sends n bytes each way and fails if they do not arrive.
func exchange(t *testing.T, c, s net.Conn, n int64) {
	t.Helper()
	limit := time.Now().Add(30 * time.Second)
	c.SetDeadline(limit)
	s.SetDeadline(limit)
	var wg sync.WaitGroup
	wg.Go(func() { send(t, c, n) })
	wg.Go(func() { send(t, s, n) })
	wg.Go(func() { receive(t, s, n) })
	wg.Go(func() { receive(t, c, n) })
	wg.Wait()
}

// Both ends keep to the smaller MTU of the two, whoever connects.
func TestMTUOfBothEnds(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		var ab, ba gauge
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1500})
		bob := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1300})
		join(t, alice, bob, &ab, &ba)
		c, s := connect(t, alice, bob, to)
		exchange(t, c, s, 1<<20)
		c.Close()
		s.Close()
		if ab.max.Load() > 1300 || ba.max.Load() > 1300 || ab.max.Load() < 1200 {
			t.Errorf("to %v: packets of up to %d and %d bytes", to, ab.max.Load(), ba.max.Load())
		}
	}
}

func TestSetMTU(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		var ab, ba gauge
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1500})
		bob := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1500})
		join(t, alice, bob, &ab, &ba)
		c, s := connect(t, alice, bob, to)
		exchange(t, c, s, 1<<20)
		for _, st := range []*Stack{alice, bob} {
			if err := st.SetMTU(1280); err != nil {
				t.Fatal(err)
			}
			if st.MTU() != 1280 || st.Link().MTU() != 1280 {
				t.Fatalf("MTU is %d", st.MTU())
			}
		}
		ab.max.Store(0)
		ba.max.Store(0)
		exchange(t, c, s, 1<<20)
		c.Close()
		s.Close()
		if ab.max.Load() > 1280 || ba.max.Load() > 1280 {
			t.Errorf("to %v: packets of up to %d and %d bytes", to, ab.max.Load(), ba.max.Load())
		}
		if err := alice.SetMTU(1279); err == nil {
			t.Error("an MTU too small for IPv6 was taken")
		}
	}
}

// A narrow is a router with a smaller MTU behind it, which says so.
type narrow struct {
	mtu     int
	back    packet.Writer
	told    atomic.Int64
	claimed int // what the messages say, mtu if zero
}

func (n *narrow) Filter(b packet.Batch) packet.Batch {
	kept := 0
	for i := range b {
		p := b[i].Bytes()
		if len(p) <= n.mtu {
			b[kept], b[i] = b[i], b[kept]
			kept++
			continue
		}
		n.told.Add(1)
		out := packet.NewBatch(1, 2048)
		out[0].Set(tooBig(p, max(n.mtu, n.claimed)))
		n.back.WriteBatch(out)
	}
	return b[:kept]
}

// tooBig returns the ICMP error of a router that cannot forward p.
func tooBig(p []byte, mtu int) []byte {
	ip, _ := parseIP(p)
	src, dst := ip.addresses(p)
	m := unreachablePacket(dst, src, codeFrag4, 0, quote(p))
	body := m[headerLen4:]
	if ip.v6 {
		body = m[headerLen6:]
		body[0], body[1] = tooBig6, 0
		binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	} else {
		binary.BigEndian.PutUint16(body[6:], uint16(mtu))
	}
	sealICMP(body, dst, src)
	return m
}

func TestPathMTU(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1500})
		bob := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1500})
		hole := &narrow{mtu: 1320, back: alice.Link()}
		var after gauge
		join(t, alice, bob, filters{hole, &after}, nil)
		c, s := connect(t, alice, bob, to)
		exchange(t, c, s, 4<<20)
		c.Close()
		s.Close()
		if hole.told.Load() == 0 || after.max.Load() > 1320 || after.max.Load() < 1200 {
			t.Errorf("to %v: %d messages, packets of up to %d bytes", to, hole.told.Load(), after.max.Load())
		}
		if r := alice.Stats().Retransmits; r > 400 {
			t.Errorf("%d segments were sent again", r)
		}
	}
}

// TestPathMTUForwarded has a router complain about what a stack sends in the name of somebody else.
func TestPathMTUForwarded(t *testing.T) {
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		accepted := make(chan net.Conn, 1)
		client := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1500})
		gw := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1500, AcceptTCP: func(ctx context.Context, r *TCPRequest) {
			if c, err := r.Accept(ctx); err == nil {
				accepted <- c
			}
		}})
		hole := &narrow{mtu: 1320, back: gw.Link()}
		var after gauge
		join(t, client, gw, nil, filters{hole, &after})
		c, err := client.DialContext(soon(t), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		s := <-accepted
		exchange(t, c, s, 4<<20)
		c.Close()
		s.Close()
		if n := hole.told.Load(); n == 0 || n > 400 || after.max.Load() < 1200 {
			t.Errorf("to %v: %d messages, packets of up to %d bytes", to, n, after.max.Load())
		}
	}
}

type filters []packet.Filter

func (f filters) Filter(b packet.Batch) packet.Batch {
	for _, g := range f {
		b = g.Filter(b)
	}
	return b
}

// A message with an MTU below what the protocol demands of every link is a forgery.
func TestPathMTUFloor(t *testing.T) {
	var ab gauge
	var last atomic.Pointer[[]byte]
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1500})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1500})
	join(t, alice, bob, filters{&ab, tap(func(b packet.Batch) packet.Batch {
		p := append([]byte(nil), b[0].Bytes()...)
		last.Store(&p)
		return b
	})}, nil)
	c, s := connect(t, alice, bob, bob4)
	defer c.Close()
	defer s.Close()
	exchange(t, c, s, 1<<16)
	in := packet.NewBatch(1, 2048)
	for _, mtu := range []int{0, 68, 575} {
		in[0].Set(tooBig(*last.Load(), mtu))
		alice.Link().WriteBatch(in)
	}
	if n := alice.Stats().ICMPIgnored; n != 3 {
		t.Errorf("%d messages ignored, want 3", n)
	}
	time.Sleep(20 * time.Millisecond)
	ab.max.Store(0)
	exchange(t, c, s, 1<<20)
	if ab.max.Load() < 1400 {
		t.Errorf("packets of up to %d bytes", ab.max.Load())
	}
}
