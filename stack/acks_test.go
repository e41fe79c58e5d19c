package stack

import (
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// segment returns a TCP segment without data.
func segment(src, dst netip.AddrPort, flags byte, seq, ack uint32, window uint16) []byte {
	p := rawTCP(src, dst, seq, flags, nil, nil)
	ip, _ := parseIP(p)
	tcp := p[ip.header:]
	binary.BigEndian.PutUint32(tcp[8:], ack)
	binary.BigEndian.PutUint16(tcp[14:], window)
	binary.BigEndian.PutUint16(tcp[16:], 0)
	sumTCP(tcp, pseudoSum(ip.pairBytes(p), protoTCP, 0))
	return p
}

func TestAcks(t *testing.T) {
	var a acks
	a.init()
	now := time.Unix(1000, 0)
	const ackFlag, syn, rst = tcpAck, 2, 4
	for i, tt := range []struct {
		port   uint16
		flags  byte
		after  time.Duration
		ack    uint32
		window uint16
		want   uint16
	}{
		{1, ackFlag, 0, 1000, 500, 500},
		{1, ackFlag, 0, 2000, 0, 0},
		{1, ackFlag, 0, 1000, 500, 0}, // overtaken
		{1, ackFlag | 8, 0, 1999, 500, 0},
		{2, ackFlag, 0, 1000, 500, 500}, // another flow
		{1, ackFlag, 0, 2000, 700, 700}, // room again
		{1, ackFlag, 0, 1500, 0, 700},
		{1, ackFlag, 0, 1 << 31, 900, 900},
		{1, ackFlag, 0, 1<<31 + 1<<30, 901, 901},
		{1, ackFlag, 0, 3, 902, 902}, // around the end of the numbers
		{1, ackFlag, 0, 1<<32 - 1, 500, 902},
		{1, ackFlag, 2 * time.Second, 1<<32 - 1, 500, 902},
		{1, ackFlag, 2 * time.Second, 1<<32 - 1, 500, 500}, // too long ago
		{1, rst, 0, 0, 0, 0},
		{1, ackFlag, 0, 100, 501, 501}, // another connection
		{1, syn | ackFlag, 0, 1 << 31, 64000, 64000},
		{1, ackFlag, 0, 50, 502, 502},
		{1, syn, 0, 0, 64000, 64000},
	} {
		now = now.Add(tt.after)
		for _, to := range []netip.Addr{alice4, alice6} {
			from := bob4
			if to.Is6() {
				from = bob6
			}
			p := segment(netip.AddrPortFrom(from, tt.port), netip.AddrPortFrom(to, 7), tt.flags, 1, tt.ack, tt.window)
			ip, ok := parseIP(p)
			if !ok {
				t.Fatal("no packet")
			}
			a.correct(p, &ip, now)
			if got := binary.BigEndian.Uint16(p[ip.header+14:]); got != tt.want || !ip.transportSumValid(p) {
				t.Errorf("%d: the window is %d, want %d; the checksum is right: %v", i, got, tt.want, ip.transportSumValid(p))
			}
		}
	}
	p := segment(netip.AddrPortFrom(bob4, 1), netip.AddrPortFrom(alice4, 7), ackFlag, 1, 1, 1)
	ip, _ := parseIP(p)
	if n := testing.AllocsPerRun(100, func() { a.correct(p, &ip, now) }); n != 0 {
		t.Errorf("%v allocations for a segment", n)
	}
	short := ip
	short.total = short.header + 19
	a.correct(p, &short, now)
}

// TestOvertakenWindow tells a sender that there is no room any more, and then what was said before.
func TestOvertakenWindow(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	l, err := alice.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan []byte, 1000)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer alice.Close()
	reader.Go(func() {
		b := packet.NewBatch(64, packet.MaxSize)
		for {
			n, err := alice.Link().ReadBatch(b)
			if err != nil {
				return
			}
			for i := range b[:n] {
				out <- append([]byte(nil), b[i].Bytes()...)
			}
		}
	})
	peer, server := netip.AddrPortFrom(bob4, 1000), netip.AddrPortFrom(alice4, 80)
	say := func(flags byte, seq, ack uint32, window uint16) {
		b := packet.NewBatch(1, 1400)
		b[0].Set(segment(peer, server, flags, seq, ack, window))
		if _, err := alice.Link().WriteBatch(b); err != nil {
			t.Fatal(err)
		}
	}
	// hear returns the end of the last data that comes until there is silence for a while, or of the handshake. It waits for longer if
	// some has to come.
	hear := func(d time.Duration, some bool) (end uint32, n int) {
		for {
			patience := d
			if some {
				patience = 20 * time.Second
			}
			select {
			case p := <-out:
				ip, ok := parseIP(p)
				if !ok || ip.protocol != protoTCP {
					continue
				}
				tcp := p[ip.header:ip.total]
				data := len(tcp) - int(tcp[12]>>4)*4
				some = some && data == 0 && tcp[13]&2 == 0
				end = binary.BigEndian.Uint32(tcp[4:]) + uint32(data)
				n += data
			case <-time.After(patience):
				return end, n
			}
		}
	}
	const syn, window = 2, 20000
	say(syn, 99, 0, window)
	first, _ := hear(100*time.Millisecond, true)
	first++
	say(tcpAck, 100, first, window)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	reader.Go(func() { io.CopyN(c, zeros{}, 100_000) })
	end, n := hear(50*time.Millisecond, true)
	if n == 0 {
		t.Fatal("no data comes")
	}
	say(tcpAck, 100, end, 0)
	if _, n := hear(50*time.Millisecond, false); n != 0 {
		t.Fatalf("%d bytes come though there is no room", n)
	}
	say(tcpAck, 100, first, window) // overtaken
	if _, n := hear(50*time.Millisecond, false); n != 0 {
		t.Errorf("%d bytes come though there is no room", n)
	}
	say(tcpAck, 100, end, window)
	if _, n := hear(50*time.Millisecond, true); n == 0 {
		t.Error("no data comes though there is room")
	}
}

// TestLateWindow tells a sender that there is no room any more, and what was said before when nothing is remembered of that
// any more but what the sender has to know itself: how much was acknowledged.
func TestLateWindow(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	l, err := alice.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	peer := newRawPeer(t, alice)
	peer.shake([]byte{4, 2, 1, 3, 3, 7, 0, 0}) // selective acknowledgements, window scale
	first := peer.ack
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	defer writer.Wait()
	defer alice.Close()
	writer.Go(func() { io.CopyN(c, zeros{}, 1_000_000) })
	end := first
	for n := peer.await(1); n > 0; n = peer.hear(20 * time.Millisecond) {
		if before(end, peer.ack) { // not something that is sent again
			end = peer.ack
		}
	}
	peer.ack, peer.window = end, 0
	peer.send(tcpAck, nil, nil)
	if n := peer.hear(50 * time.Millisecond); n != 0 {
		t.Fatalf("%d bytes come though there is no room", n)
	}
	alice.link.writeMu.Lock()
	clear(alice.link.acks.flows)
	alice.link.writeMu.Unlock()
	peer.ack, peer.window = first, 1000
	peer.send(tcpAck, nil, nil)
	if n := peer.hear(50 * time.Millisecond); n != 0 {
		t.Errorf("%d bytes come though there is no room", n)
	}
	peer.ack = end
	peer.send(tcpAck, nil, nil)
	if n := peer.await(1); n == 0 {
		t.Error("no data comes though there is room")
	}
}

// TestFullWindow fills the window of a receiver to the last byte, which was announced before it was rounded down to less. It must
// still hear what the sender acknowledges.
func TestFullWindow(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	l, err := alice.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	peer := newRawPeer(t, alice)
	peer.shake([]byte{3, 3, 7, 0})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	const rest = 100
	data := make([]byte, 1001)
	for quiet := 0; quiet < 3; {
		if n := min(int(peer.edge-peer.seq)-rest, len(data)); n > 0 {
			quiet = 0
			peer.send(tcpAck|tcpPsh, nil, data[:n])
			peer.hear(0)
			continue
		}
		peer.hear(50 * time.Millisecond)
		quiet++
	}
	peer.send(tcpAck|tcpPsh, nil, data[:peer.edge-peer.seq])
	peer.hear(50 * time.Millisecond)
	if _, err := io.WriteString(c, "heard"); err != nil {
		t.Fatal(err)
	}
	if n := peer.await(5); n != 5 {
		t.Fatalf("%d bytes come, want 5", n)
	}
	peer.send(tcpAck, nil, nil)
	if n := peer.hear(600 * time.Millisecond); n != 0 {
		t.Errorf("%d bytes come again, though they were acknowledged", n)
	}
}

// A rawPeer is the other end of a TCP connection with a Stack, made of bare segments.
type rawPeer struct {
	t        *testing.T
	s        *Stack
	out      chan []byte
	seq, ack uint32
	window   uint16
	heard    uint32 // what the last segment acknowledges
	repeats  uint32 // what the last segment with data does
	edge     uint32 // of the window of the Stack, as far as it was ever open
	scale    int
}

func newRawPeer(t *testing.T, s *Stack) *rawPeer {
	p := &rawPeer{t: t, s: s, out: make(chan []byte, 1000), seq: 99, window: 1000}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := packet.NewBatch(64, packet.MaxSize)
		for {
			n, err := s.Link().ReadBatch(b)
			if err != nil {
				return
			}
			for i := range b[:n] {
				p.out <- append([]byte(nil), b[i].Bytes()...)
			}
		}
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return p
}

func (p *rawPeer) send(flags byte, options, data []byte) {
	p.t.Helper()
	raw := rawTCP(netip.AddrPortFrom(bob4, 1000), netip.AddrPortFrom(alice4, 80), p.seq, flags, options, data)
	ip, _ := parseIP(raw)
	tcp := raw[ip.header:]
	binary.BigEndian.PutUint32(tcp[8:], p.ack)
	binary.BigEndian.PutUint16(tcp[14:], p.window)
	binary.BigEndian.PutUint16(tcp[16:], 0)
	sumTCP(tcp, pseudoSum(ip.pairBytes(raw), protoTCP, 0))
	b := packet.NewBatch(1, 1400)
	b[0].Set(raw)
	if _, err := p.s.Link().WriteBatch(b); err != nil {
		p.t.Fatal(err)
	}
	p.seq += uint32(len(data))
}

// shake opens the connection.
func (p *rawPeer) shake(options []byte) {
	p.t.Helper()
	p.send(2, options, nil)
	p.seq++
	for end := time.Now().Add(20 * time.Second); p.ack == 0; p.hear(10 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatal("no answer to the SYN")
		}
	}
	p.send(tcpAck, nil, nil)
}

// await takes what comes until there are n bytes of data, or none come for long, and returns how many there were.
func (p *rawPeer) await(n int) (got int) {
	for end := time.Now().Add(20 * time.Second); got < n && time.Now().Before(end); {
		got += p.hear(10 * time.Millisecond)
	}
	return got
}

// hear takes what comes until nothing does for a while, and returns how many bytes of data there were.
func (p *rawPeer) hear(d time.Duration) (n int) {
	for {
		select {
		case raw := <-p.out:
			ip, ok := parseIP(raw)
			if !ok || ip.protocol != protoTCP {
				continue
			}
			tcp := raw[ip.header:ip.total]
			if !ip.transportSumValid(raw) {
				p.t.Errorf("a wrong checksum: % x", raw)
			}
			hdr := int(tcp[12]>>4) * 4
			seq, window := binary.BigEndian.Uint32(tcp[4:]), uint32(binary.BigEndian.Uint16(tcp[14:]))
			if tcp[13]&2 != 0 {
				seq++
				for o := tcp[20:hdr]; len(o) > 0 && o[0] != 0; {
					if o[0] == 1 {
						o = o[1:]
						continue
					}
					if o[0] == 3 {
						p.scale = int(o[2])
					}
					o = o[o[1]:]
				}
			} else {
				window <<= p.scale
			}
			if edge := binary.BigEndian.Uint32(tcp[8:]) + window; tcp[13]&2 != 0 || int32(edge-p.edge) > 0 {
				p.edge = edge
			}
			p.ack = seq + uint32(len(tcp)-hdr)
			p.heard = binary.BigEndian.Uint32(tcp[8:])
			if len(tcp) > hdr {
				p.repeats = p.heard
			}
			n += len(tcp) - hdr
		case <-time.After(d):
			return n
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
