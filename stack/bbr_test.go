package stack

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
)

// TestMeter sends a burst that the network spreads: the rate is that of the network.
func TestMeter(t *testing.T) {
	var m meter
	marks := make([]mark, 0, 11)
	for i := range 11 {
		marks = append(marks, m.mark(i*1000, 0))
	}
	now := 100 * time.Millisecond
	var r reading
	for i := range marks {
		r = reading{}
		m.arrived(&r, 1000, &marks[i], 0, now)
		m.read(&r, 100*time.Millisecond, now)
		now += 10 * time.Millisecond
	}
	// 11000 bytes in 200 ms since the first was sent.
	if math.Abs(r.rate-55000) > 1 {
		t.Errorf("rate %v", r.rate)
	}
	// From now on each is sent when one arrives.
	for range 30 {
		k := m.mark(10000, now)
		sent := now
		now += 10 * time.Millisecond
		r = reading{}
		m.arrived(&r, 1000, &k, sent, now)
		m.read(&r, 10*time.Millisecond, now)
	}
	if math.Abs(r.rate-100_000) > 1 {
		t.Errorf("rate %v", r.rate)
	}
	if m.read(&r, time.Second, now); r.rate != 100_000 {
		t.Errorf("rate %v of less than a round trip", r.rate)
	}
	m.rest(0)
	if k := m.mark(0, now); !k.limited {
		t.Error("a rest does not limit")
	}
}

// A simulated is a path of the given rate, round-trip time and buffer, with a flow on it that bbr controls and that always has something to
// send.
type simulated struct {
	b      *bbr
	m      meter
	now    time.Duration
	rtt    time.Duration
	rate   float64
	room   int // packets that wait
	loss   float64
	chance *rand.Rand

	free    time.Duration // of the path
	pacer   time.Duration
	flight  []simulatedPacket
	pipe    int
	dropped int64
	got     int
	peak    int
	holes   bool // something is always being sent again
}

type simulatedPacket struct {
	sent, due time.Duration
	mark      mark
	lost      bool
}

const simulatedSize = 1000

func newSimulated(rate float64, rtt time.Duration) *simulated {
	s := &simulated{b: new(bbr), rate: rate, rtt: rtt, room: 100, chance: rand.New(rand.NewPCG(5, 6))}
	s.b.init(simulatedSize)
	return s
}

// run lets time pass in steps of a tenth of a millisecond.
func (s *simulated) run(d time.Duration) {
	for end := s.now + d; s.now < end; s.now += 100 * time.Microsecond {
		for len(s.flight) > 0 && s.flight[0].due <= s.now {
			p := s.flight[0]
			s.flight = s.flight[1:]
			s.pipe -= simulatedSize
			if p.lost {
				s.dropped += simulatedSize
				continue
			}
			s.got += simulatedSize
			n := news{now: s.now, rtt: s.now - p.sent, srtt: s.rtt, bytes: simulatedSize, pipe: s.pipe, peak: s.peak, dropped: s.dropped, recovering: s.holes, mss: simulatedSize}
			s.m.arrived(&n.reading, simulatedSize, &p.mark, p.sent, s.now)
			s.m.read(&n.reading, s.rtt, s.now)
			n.delivered = s.m.delivered
			s.b.acked(&n)
			s.peak = s.pipe
		}
		for s.pacer <= s.now && float64(s.pipe+simulatedSize) <= s.b.window() {
			p := simulatedPacket{sent: s.now, mark: s.m.mark(s.pipe, s.now)}
			each := time.Duration(simulatedSize / s.rate * float64(time.Second))
			if s.free < s.now {
				s.free = s.now
			}
			p.lost = int((s.free-s.now)/each) > s.room || s.chance.Float64() < s.loss
			if !p.lost {
				s.free += each
			}
			p.due = s.free + s.rtt
			s.flight = append(s.flight, p)
			s.pipe += simulatedSize
			s.peak = max(s.peak, s.pipe)
			if pace := s.b.pace(); pace > 0 {
				s.pacer = max(s.pacer, s.now-time.Millisecond) + time.Duration(simulatedSize/pace*float64(time.Second))
			}
		}
	}
}

// measure returns which share of the rate is used for d.
func (s *simulated) measure(d time.Duration) float64 {
	before := s.got
	s.run(d)
	return float64(s.got-before) / d.Seconds() / s.rate
}

func TestBBRFills(t *testing.T) {
	for _, c := range []struct {
		rate float64
		rtt  time.Duration
		loss float64
		want float64
	}{
		{12.5e6, 30 * time.Millisecond, 0, 0.9},
		{12.5e6, 100 * time.Millisecond, 0, 0.9},
		{12.5e6, 30 * time.Millisecond, 0.01, 0.85},
		{12.5e6, 100 * time.Millisecond, 0.001, 0.9},
		{125e3, 30 * time.Millisecond, 0, 0.9},
	} {
		s := newSimulated(c.rate, c.rtt)
		s.loss = c.loss
		s.run(2 * time.Second)
		if !s.b.filled || s.b.state != bbrProbe {
			t.Errorf("%+v: state %d after two seconds", c, s.b.state)
		}
		if got := s.measure(3 * time.Second); got < c.want {
			t.Errorf("%+v: %.2f of the path is used", c, got)
		}
		if s.b.rate > 1.3*c.rate {
			t.Errorf("%+v: the rate is %v", c, s.b.rate)
		}
	}
}

// TestBBRYields loses far more than by chance, which is what a path does that is too full for all that use it.
func TestBBRYields(t *testing.T) {
	s := newSimulated(12.5e6, 30*time.Millisecond)
	s.run(2 * time.Second)
	s.loss = 0.15
	s.run(time.Second)
	if math.IsInf(s.b.ceiling, 1) {
		t.Error("there is no ceiling")
	}
	s.loss = 0
	s.run(3 * time.Second)
	if got := s.measure(time.Second); got < 0.85 {
		t.Errorf("%.2f of the path is used after the losses", got)
	}
}

// TestBBRFollows makes the path slower and faster.
func TestBBRFollows(t *testing.T) {
	s := newSimulated(12.5e6, 30*time.Millisecond)
	s.run(2 * time.Second)
	s.rate = 2.5e6
	s.run(2 * time.Second)
	if s.b.rate > 1.3*s.rate {
		t.Errorf("the rate is %v", s.b.rate)
	}
	s.rate = 12.5e6
	s.run(5 * time.Second)
	if got := s.measure(time.Second); got < 0.8 {
		t.Errorf("%.2f of the path is used", got)
	}
}

// TestBBRCatchesUp loses much while the startup is not far yet, which ends it, and some ever after.
func TestBBRCatchesUp(t *testing.T) {
	s := newSimulated(25e6, 100*time.Millisecond)
	s.room = 500
	s.run(450 * time.Millisecond)
	s.loss = 0.3
	s.run(200 * time.Millisecond)
	s.loss, s.holes = 0.001, true
	if low := s.rate / 10; !s.b.filled || s.b.rate > low {
		t.Fatalf("the startup has not ended at %v: the rate is %v", low, s.b.rate)
	}
	s.run(3 * time.Second)
	if got := s.measure(time.Second); got < 0.8 {
		t.Errorf("%.2f of the path is used three seconds after the loss", got)
	}
}

// TestBBRProbesRTT has the round trip become longer for good, which is learned after minRTTAge.
func TestBBRProbesRTT(t *testing.T) {
	s := newSimulated(2.5e6, 30*time.Millisecond)
	s.run(2 * time.Second)
	s.rtt = 60 * time.Millisecond
	s.run(minRTTAge + 3*time.Second)
	if s.b.minRTT < 60*time.Millisecond {
		t.Errorf("the least round-trip time is still %v", s.b.minRTT)
	}
	if s.b.state == bbrProbeRTT {
		t.Error("it still sends little")
	}
}

// TestBBRStartsOver has requests go before anything large, which must not be taken for all that the path can do.
func TestBBRStartsOver(t *testing.T) {
	s := newSimulated(12.5e6, 30*time.Millisecond)
	for range 10 {
		k := s.m.mark(0, s.now)
		sent := s.now
		s.now += s.rtt
		n := news{now: s.now, rtt: s.rtt, srtt: s.rtt, bytes: 100, peak: 100, mss: simulatedSize}
		s.m.arrived(&n.reading, 100, &k, sent, s.now)
		s.m.read(&n.reading, s.rtt, s.now)
		n.delivered = s.m.delivered
		s.b.acked(&n)
	}
	if pace := s.b.pace(); pace < initialSegments*simulatedSize/s.rtt.Seconds() {
		t.Errorf("the pace is %v", pace)
	}
	s.run(time.Second)
	if got := s.measure(time.Second); got < 0.85 {
		t.Errorf("%.2f of the path is used", got)
	}
}

// TestBBRCollapse has everything be lost, and the window come back with what was sent again.
func TestBBRCollapse(t *testing.T) {
	s := newSimulated(12.5e6, 30*time.Millisecond)
	s.run(2 * time.Second)
	w := s.b.window()
	s.b.collapsed()
	s.b.collapsed()
	if s.b.window() > minBBRSegments*simulatedSize {
		t.Errorf("window %v", s.b.window())
	}
	s.b.restored()
	if s.b.window() < w/2 {
		t.Errorf("window %v, and %v before", s.b.window(), w)
	}
}

// TestPart has the parts of a segment be what the segment is.
func TestPart(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789"), 1000)
	p := outbound(payload, 1000)
	defer p.DecRef()
	var got []byte
	for at := 0; at < len(payload); {
		n := min(3000, len(payload)-at)
		q := part(p, at, n)
		if s := sequenceSize(q); s != n && (at+n < len(payload) || s != n+1) {
			t.Errorf("a part of %d bytes takes %d sequence numbers", n, s)
		}
		if seq := header.TCP(q.TransportHeader().Slice()).SequenceNumber(); seq != 7+uint32(at) {
			t.Errorf("the part at %d has the sequence number %d", at, seq)
		}
		if ip := header.IPv4(q.NetworkHeader().Slice()); int(ip.TotalLength()) != q.Size() || !ip.IsChecksumValid() {
			t.Errorf("the part at %d has a wrong header", at)
		}
		got = append(got, q.Data().AsRange().ToSlice()...)
		q.DecRef()
		at += n
	}
	if !bytes.Equal(got, payload) {
		t.Error("the parts are not the whole")
	}
}

// outbound returns a segment with a FIN, as the netstack hands it over.
func outbound(payload []byte, mss int) *stack.PacketBuffer {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize,
		Payload:            buffer.MakeWithData(payload),
	})
	tcp := header.TCP(p.TransportHeader().Push(header.TCPMinimumSize))
	tcp.Encode(&header.TCPFields{SeqNum: 7, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck | header.TCPFlagFin})
	ip := header.IPv4(p.NetworkHeader().Push(header.IPv4MinimumSize))
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(p.Size()), Protocol: protoTCP})
	p.TransportProtocolNumber, p.NetworkProtocolNumber = header.TCPProtocolNumber, header.IPv4ProtocolNumber
	p.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: uint16(mss)}
	return p
}

// TestControlByHandshake has the path decide: CUBIC where it is short, bbr where it is long or unknown.
func TestControlByHandshake(t *testing.T) {
	for _, c := range []struct {
		delay time.Duration
		cubic bool
	}{{0, true}, {5 * time.Millisecond, false}} {
		alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
		bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
		slow := tap(func(b packet.Batch) packet.Batch {
			time.Sleep(c.delay)
			return b
		})
		join(t, alice, bob, slow, slow)
		short := func(s *Stack) (n int) {
			g := &s.link.govern
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, f := range g.flows {
				if _, ok := f.cc.(*cubic); ok {
					n++
				}
			}
			return n
		}
		// A busy machine may make a short path long.
		for i := 0; i < 5 || i < 200 && c.cubic && min(short(alice), short(bob)) == 0; i++ {
			x, y := connect(t, alice, bob, bob4)
			send(t, x, 100)
			receive(t, y, 100)
			send(t, y, 100)
			receive(t, x, 100)
		}
		for _, s := range []*Stack{alice, bob} {
			if n := short(s); (n > 0) != c.cubic {
				t.Errorf("%d connections have CUBIC with a delay of %v", n, c.delay)
			}
		}
	}
}
