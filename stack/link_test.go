package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
)

// rawTCP returns a TCP segment with a right checksum.
func rawTCP(src, dst netip.AddrPort, seq uint32, flags byte, options, payload []byte) []byte {
	hdr := headerLen4
	if src.Addr().Is6() {
		hdr = headerLen6
	}
	n := 20 + len(options) + len(payload)
	p := make([]byte, hdr+n)
	tcp := p[putHeader(p, src.Addr(), dst.Addr(), protoTCP, n):]
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], 1)
	tcp[12] = byte(20+len(options)) / 4 << 4
	tcp[13] = flags
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	copy(tcp[20:], options)
	copy(tcp[20+len(options):], payload)
	ip, _ := parseIP(p)
	sumTCP(tcp, pseudoSum(ip.pairBytes(p), protoTCP, 0))
	return p
}

// coalesce returns what the coalescer makes of packets.
func coalesce(tb testing.TB, packets ...[]byte) (out [][]byte) {
	b := packet.NewBatch(len(packets), packet.MaxSize)
	var c coalescer
	c.Reset(len(packets))
	for i, p := range packets {
		if !b[i].Set(p) {
			tb.Fatal("packet does not fit")
		}
		ip, ok := parseIP(p)
		if ok {
			c.add(b, i, &ip)
		}
	}
	groups := c.Groups()
	for i := range groups {
		pkt := c.build(b, &groups[i])
		v := pkt.ToView()
		out = append(out, bytes.Clone(v.AsSlice()))
		v.Release()
		pkt.DecRef()
	}
	return out
}

func TestCoalesce(t *testing.T) {
	a, b := netip.AddrPortFrom(alice4, 1), netip.AddrPortFrom(bob4, 2)
	c := netip.AddrPortFrom(alice4, 3)
	a6, b6 := netip.AddrPortFrom(alice6, 1), netip.AddrPortFrom(bob6, 2)
	ts := func(n byte) []byte { return []byte{1, 1, 8, 10, 0, 0, 0, n, 0, 0, 0, 1} }
	x := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n) }
	spoil := func(p []byte, i int) []byte { p = bytes.Clone(p); p[i] ^= 1; return p }
	const ack, psh, fin, syn = tcpAck, tcpAck | tcpPsh, tcpAck | 1, 2

	for _, tt := range []struct {
		name string
		in   [][]byte
		want []int // payload sizes of what comes out, in order
	}{
		{"consecutive", [][]byte{rawTCP(a, b, 0, ack, nil, x(100)), rawTCP(a, b, 100, ack, nil, x(100)), rawTCP(a, b, 200, psh, nil, x(33))}, []int{233}},
		{"across zero", [][]byte{rawTCP(a, b, 0xffffffff, ack, nil, x(2)), rawTCP(a, b, 1, ack, nil, x(3))}, []int{5}},
		{"IPv6", [][]byte{rawTCP(a6, b6, 0, ack, ts(1), x(100)), rawTCP(a6, b6, 100, ack, ts(1), x(101))}, []int{201}},
		{"gap", [][]byte{rawTCP(a, b, 0, ack, nil, x(100)), rawTCP(a, b, 101, ack, nil, x(100))}, []int{100, 100}},
		{"repeated", [][]byte{rawTCP(a, b, 0, ack, nil, x(100)), rawTCP(a, b, 0, ack, nil, x(100))}, []int{100, 100}},
		{"options differ", [][]byte{rawTCP(a, b, 0, ack, ts(1), x(100)), rawTCP(a, b, 100, ack, ts(2), x(100))}, []int{100, 100}},
		{"FIN stays alone and in order", [][]byte{rawTCP(a, b, 0, ack, nil, x(10)), rawTCP(a, b, 10, fin, nil, x(10)), rawTCP(a, b, 20, ack, nil, x(10))}, []int{10, 10, 10}},
		{"SYN", [][]byte{rawTCP(a, b, 0, syn, nil, nil), rawTCP(a, b, 1, ack, nil, x(10))}, []int{0, 10}},
		{"bare ACK ends a group", [][]byte{rawTCP(a, b, 0, ack, nil, x(10)), rawTCP(a, b, 10, ack, nil, nil), rawTCP(a, b, 10, ack, nil, x(10))}, []int{10, 0, 10}},
		{"flows interleave", [][]byte{rawTCP(a, b, 0, ack, nil, x(10)), rawTCP(c, b, 0, ack, nil, x(20)), rawTCP(a, b, 10, ack, nil, x(10)), rawTCP(c, b, 20, ack, nil, x(20))}, []int{20, 40}},
		{"wrong checksum second", [][]byte{rawTCP(a, b, 0, ack, nil, x(10)), spoil(rawTCP(a, b, 10, ack, nil, x(10)), 45), rawTCP(a, b, 20, ack, nil, x(10))}, []int{10, 10, 10}},
		{"wrong checksum first", [][]byte{spoil(rawTCP(a, b, 0, ack, nil, x(10)), 45), rawTCP(a, b, 10, ack, nil, x(10)), rawTCP(a, b, 20, ack, nil, x(10))}, []int{10, 20}},
		{"wrong IP checksum", [][]byte{rawTCP(a, b, 0, ack, nil, x(10)), spoil(rawTCP(a, b, 10, ack, nil, x(10)), 10)}, []int{10, 10}},
		{"too large together", [][]byte{rawTCP(a, b, 0, ack, nil, x(40000)), rawTCP(a, b, 40000, ack, nil, x(40000))}, []int{40000, 40000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := coalesce(t, tt.in...)
			if len(out) != len(tt.want) {
				t.Fatalf("%d packets, want %d", len(out), len(tt.want))
			}
			for i, p := range out {
				ip, ok := parseIP(p)
				if !ok || ip.total != len(p) {
					t.Fatalf("packet %d is broken: % x", i, p)
				}
				if got := len(p) - ip.header - int(p[ip.header+12]>>4)*4; got != tt.want[i] {
					t.Errorf("packet %d has %d bytes of payload, want %d", i, got, tt.want[i])
				}
			}
		})
	}
}

// What has a wrong checksum is refused and counted, joined or not.
func TestChecksums(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		rng := rand.New(rand.NewPCG(1, 2))
		var spoiled int
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
		bob := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1400})
		join(t, alice, bob, tap(func(b packet.Batch) packet.Batch {
			for i := range b {
				if p := b[i].Bytes(); len(p) > 1000 && rng.IntN(100) == 0 {
					p[len(p)-1-rng.IntN(900)] ^= 1 << rng.IntN(8)
					spoiled++
				}
			}
			return b
		}), nil)
		c, s := connect(t, alice, bob, to)
		want := make([]byte, 2<<20)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		go func() { c.Write(want); c.Close() }()
		s.SetDeadline(time.Now().Add(30 * time.Second))
		got, err := io.ReadAll(s)
		s.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("to %v: %d bytes arrived, %v; the right ones: %v", to, len(got), err, bytes.Equal(got, want))
		}
		alice.Close()
		bob.Close()
		if spoiled == 0 || bob.Stats().ChecksumErrors != uint64(spoiled) {
			t.Errorf("to %v: %d packets spoiled, %d refused", to, spoiled, bob.Stats().ChecksumErrors)
		}
	}
}

// Every packet that leaves is whole: lengths, checksums, sequence, flags.
func TestCutPackets(t *testing.T) {
	for _, to := range []netip.Addr{bob4, bob6} {
		var mu sync.Mutex
		var bad []string
		var next uint32
		var psh, data int
		alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
		bob := newStack(t, Config{Addresses: prefixes(bob4, bob6), MTU: 1400})
		join(t, alice, bob, tap(func(b packet.Batch) packet.Batch {
			mu.Lock()
			defer mu.Unlock()
			for i := range b {
				p := b[i].Bytes()
				ip, ok := parseIP(p)
				if !ok || ip.total != len(p) || ip.protocol != protoTCP || !ip.headerSumValid(p) || !ip.transportSumValid(p) {
					bad = append(bad, "broken packet")
					continue
				}
				tcp := p[ip.header:]
				n := len(tcp) - int(tcp[12]>>4)*4
				if n == 0 {
					continue
				}
				seq := binary.BigEndian.Uint32(tcp[4:])
				if data > 0 && seq != next {
					bad = append(bad, "hole or repetition")
				}
				next = seq + uint32(n)
				data++
				if tcp[13]&tcpPsh != 0 {
					psh++
				}
			}
			return b
		}), nil)
		c, s := connect(t, alice, bob, to)
		go send(t, c, 60000)
		receive(t, s, 60000)
		c.Close()
		s.Close()
		mu.Lock()
		if len(bad) > 0 || data < 44 || psh == 0 || psh > data/4 {
			t.Errorf("to %v: %v; %d packets with data, %d pushed", to, bad, data, psh)
		}
		mu.Unlock()
		alice.Close()
		bob.Close()
	}
}

// Small batches, of which one segment needs many, lose nothing.
func TestSmallBatches(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
	var pumps sync.WaitGroup
	pumps.Go(func() { packet.Copy(bob.Link(), alice.Link(), 1400, 3) })
	pumps.Go(func() { packet.Copy(alice.Link(), bob.Link(), 1400, 1) })
	c, s := connect(t, alice, bob, bob4)
	exchange(t, c, s, 1<<20)
	c.Close()
	s.Close()
	alice.Close()
	bob.Close()
	pumps.Wait()
	if st := alice.Stats(); st.TooBig != 0 {
		t.Errorf("%+v", st)
	}
}

// The goroutine that injects packets goes on when nobody reads, whatever the packets provoke.
func TestInjectWithoutReader(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	b := packet.NewBatch(64, 1400)
	start := time.Now()
	for i := range 100 {
		for j := range b {
			if j%2 == 0 {
				b[j].Set(rawTCP(netip.AddrPortFrom(bob4, uint16(i)), netip.AddrPortFrom(alice4, uint16(j)), 0, 2, nil, nil))
			} else {
				b[j].Set(echoPacket(bob4, alice4, false, uint16(i), uint16(j), make([]byte, 1000)))
			}
		}
		if _, err := alice.Link().WriteBatch(b); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d > 5*time.Second { // waiting for a reader each time would take 10 s at least
		t.Errorf("injecting took %v", d)
	}
	if q := alice.link.queue; q.n > queuePackets || q.bytes > queueBytes+packet.MaxSize {
		t.Errorf("%d packets with %d bytes are queued", q.n, q.bytes)
	}
	if alice.Stats().QueueDrops == 0 {
		t.Error("no drops were counted")
	}
}

// Writers wait for a reader that pauses, but not for one that has gone.
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		defer q.close()
		ip := ipInfo{header: headerLen4}
		p := newInbound(make([]byte, 16<<10), &ip)
		defer p.DecRef()
		timed := func() (ok bool, d time.Duration) {
			start := time.Now()
			ok = q.put(p, true)
			return ok, time.Since(start)
		}
		for range queueBytes / (16 << 10) {
			if ok, d := timed(); !ok || d > 0 {
				t.Fatalf("put into a queue with room: %v after %v", ok, d)
			}
		}
		if ok := q.put(p, false); ok {
			t.Error("put without waiting into a full queue succeeded")
		}
		if ok, d := timed(); ok || d != writeWait {
			t.Errorf("first put into a full queue: %v after %v, want false after %v", ok, d, writeWait)
		}
		for range 100 {
			if ok, d := timed(); ok || d > 0 {
				t.Fatalf("put into a stalled queue: %v after %v", ok, d)
			}
		}

		// With a reader that is slow but alive nothing is lost, however many write.
		var wg sync.WaitGroup
		done := make(chan struct{})
		wg.Go(func() {
			dst := make([]*stack.PacketBuffer, 4)
			for {
				n, err := q.take(dst, 64<<10, true)
				if err != nil {
					return
				}
				for _, p := range dst[:n] {
					p.DecRef()
				}
				select {
				case <-done:
				case <-time.After(time.Millisecond):
				}
			}
		})
		time.Sleep(10 * time.Millisecond)
		var writers sync.WaitGroup
		for range 8 {
			writers.Go(func() {
				for range 100 {
					if !q.put(p, true) {
						t.Error("put failed with a slow reader")
					}
				}
			})
		}
		writers.Wait()
		close(done)

		// Closing wakes a writer.
		for q.put(p, false) {
		}
		q.close()
		wg.Wait()
		if q.put(p, true) {
			t.Error("put into a closed queue succeeded")
		}
	})
}

// A bulk transfer that the tunnel cannot carry as fast must not hold up the rest of the connection.
func TestSlowTunnel(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
	var pumps sync.WaitGroup
	pumps.Go(func() {
		b := packet.NewBatch(32, 1400)
		for {
			n, err := alice.Link().ReadBatch(b)
			if err != nil {
				return
			}
			time.Sleep(time.Duration(n) * time.Millisecond) // about 11 Mbit/s
			bob.Link().WriteBatch(b[:n])
		}
	})
	pumps.Go(func() { packet.Copy(alice.Link(), bob.Link(), 1400, 64) })
	c, s := connect(t, alice, bob, bob4)
	var bulk sync.WaitGroup
	bulk.Go(func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	bulk.Go(func() { io.Copy(io.Discard, s) })
	time.Sleep(700 * time.Millisecond)
	// A busy machine may be late once, a bulk transfer that is in the way is so each time.
	quick := func(what string, most time.Duration, f func() time.Duration) {
		t.Helper()
		least := time.Hour
		for i := 0; i < 5 && least > most; i++ {
			least = min(least, f())
		}
		if least > most {
			t.Errorf("%s took %v", what, least)
		}
	}
	quick("a read with a deadline of 10 ms", 500*time.Millisecond, func() time.Duration {
		start := time.Now()
		c.SetReadDeadline(start.Add(10 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errTimeout) {
			t.Errorf("read: %v", err)
		}
		return time.Since(start)
	})
	quick("a ping beside it", 800*time.Millisecond, func() time.Duration {
		d, err := alice.Ping(soon(t), bob4)
		if err != nil {
			t.Errorf("ping: %v", err)
		}
		return d
	})
	start := time.Now()
	c.Close()
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("Close took %v", d)
	}
	s.Close()
	alice.Close()
	bob.Close()
	bulk.Wait()
	pumps.Wait()
}

func TestLinkClose(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4)})
	errs := make(chan error)
	go func() {
		_, err := alice.Link().ReadBatch(packet.NewBatch(1, 1500))
		errs <- err
	}()
	time.Sleep(10 * time.Millisecond)
	alice.Link().Close()
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch: %v", err)
	}
	if err := alice.Link().Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// The path of bulk data, link to link, allocates nothing for each packet.
func TestAllocations(t *testing.T) {
	a, b := netip.AddrPortFrom(alice4, 1), netip.AddrPortFrom(bob4, 2)
	batch := packet.NewBatch(64, 1400)
	for i := range batch {
		batch[i].Set(rawTCP(a, b, uint32(i*1000), tcpAck, nil, make([]byte, 1000)))
	}
	bob := newStack(t, Config{Addresses: prefixes(bob4)})
	// The segments belong to no connection, so each batch also makes a RST, which the reader side discards.
	out := packet.NewBatch(64, 1400)
	n := testing.AllocsPerRun(200, func() {
		bob.Link().WriteBatch(batch)
		bob.Link().ReadBatch(out)
	})
	if perPacket := n / float64(len(batch)); perPacket > 0.5 {
		t.Errorf("%v allocations for each packet", perPacket)
	}
	var c coalescer
	c.Reset(len(batch))
	if n := testing.AllocsPerRun(100, func() {
		c.Reset(len(batch))
		for i := range batch {
			ip, _ := parseIP(batch[i].Bytes())
			c.add(batch, i, &ip)
		}
	}); n != 0 {
		t.Errorf("the coalescer allocates %v times for each batch", n)
	}
}

// FuzzInject injects arbitrary packets into a stack that has everything switched on.
func FuzzInject(f *testing.F) {
	a, b := netip.AddrPortFrom(alice4, 1), netip.AddrPortFrom(bob4, 80)
	a6, b6 := netip.AddrPortFrom(alice6, 1), netip.AddrPortFrom(bob6, 80)
	f.Add(rawTCP(a, b, 0, 2, nil, nil))
	f.Add(rawTCP(a6, b6, 0, tcpAck, []byte{2, 4, 0, 0}, []byte("x")))
	f.Add(echoPacket(alice4, bob4, false, 1, 2, []byte("ping")))
	f.Add(echoPacket(alice6, bob6, true, 1, 2, []byte("pong")))
	f.Add(tooBig(rawTCP(b, a, 0, tcpAck, nil, nil), 600))
	f.Add(tooBig(rawTCP(b6, a6, 0, tcpAck, nil, nil), 1280))
	f.Add(unreachablePacket(alice4, bob4, codePort4, 0, echoPacket(bob4, alice4, false, 1, 2, nil)))
	f.Add([]byte{0x45})
	f.Add([]byte{0x60, 0, 0, 0, 0, 0, 0, 0})
	gw := newStack(f, everything(bob4, bob6))
	var reader sync.WaitGroup
	reader.Go(func() {
		out := packet.NewBatch(16, packet.MaxSize)
		for {
			n, err := gw.Link().ReadBatch(out)
			if err != nil {
				return
			}
			for i := range out[:n] {
				if p := out[i].Bytes(); len(p) < headerLen4 {
					panic("a broken packet left the stack")
				}
			}
		}
	})
	f.Cleanup(func() {
		// Segments that the stack has not processed when it closes are left to the garbage collector, which
		// TestPacketsAreReleased would call a leak.
		time.Sleep(100 * time.Millisecond)
		gw.Close()
		reader.Wait()
	})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > packet.MaxSize {
			return
		}
		in := packet.NewBatch(3, len(p))
		for i := range in {
			in[i].Set(p)
		}
		if n, err := gw.Link().WriteBatch(in); n != len(in) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
	})
}

// FuzzCoalesce checks that joining loses, invents and reorders no byte of a flow.
func FuzzCoalesce(f *testing.F) {
	f.Add([]byte{0, 10, 0, 20, 1, 5, 0, 7, 2, 200, 0, 1})
	f.Add([]byte{0, 1, 3, 1, 0, 1, 4, 1, 0, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		src := []netip.AddrPort{netip.AddrPortFrom(alice4, 1), netip.AddrPortFrom(alice6, 1)}
		dst := []netip.AddrPort{netip.AddrPortFrom(bob4, 2), netip.AddrPortFrom(bob6, 2)}
		var seq [2]uint32
		var in [][]byte
		var want [2][]byte
		for len(script) >= 2 && len(in) < 200 {
			op, n := script[0], script[1]
			script = script[2:]
			flow := int(op & 1)
			payload := bytes.Repeat([]byte{n}, int(n))
			p := rawTCP(src[flow], dst[flow], seq[flow], tcpAck|op>>4&tcpPsh, nil, payload)
			seq[flow] += uint32(n)
			if op&2 != 0 {
				p = append(p, 1, 2, 3) // padding
			}
			in = append(in, p)
			want[flow] = append(want[flow], payload...)
		}
		if len(in) == 0 {
			return
		}
		var got [2][]byte
		var at [2]uint32
		for _, p := range coalesce(t, in...) {
			ip, ok := parseIP(p)
			if !ok || ip.total != len(p) {
				t.Fatalf("broken packet % x", p)
			}
			flow := 0
			if ip.v6 {
				flow = 1
			}
			tcp := p[ip.header:]
			payload := tcp[int(tcp[12]>>4)*4:]
			if s := binary.BigEndian.Uint32(tcp[4:]); s != at[flow] {
				t.Fatalf("sequence number %d, want %d", s, at[flow])
			}
			at[flow] += uint32(len(payload))
			got[flow] = append(got[flow], payload...)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("flow %d: %d bytes came out of %d", i, len(got[i]), len(want[i]))
			}
		}
	})
}
