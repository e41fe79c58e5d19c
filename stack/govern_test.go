package stack

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// deliver has alice send n bytes to bob, the packets of each of her batches going through f, and returns how long that took.
func deliver(t *testing.T, n int64, f tap) (*Stack, time.Duration) {
	t.Helper()
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
	join(t, alice, bob, f, nil)
	c, s := connect(t, alice, bob, bob4)
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { send(t, c, n) })
	wg.Go(func() { receive(t, s, n) })
	wg.Wait()
	took := time.Since(began)
	c.Close()
	s.Close()
	return alice, took
}

// TestLoss loses packets at random. Nothing of what is lost may have to wait for a time-out, the retransmissions among it
// included.
func TestLoss(t *testing.T) {
	const size = 32 << 20
	chance := rand.New(rand.NewPCG(1, 2))
	alice, took := deliver(t, size, func(b packet.Batch) packet.Batch {
		n := 0
		for i := range b {
			if chance.Float64() >= 0.02 || b[i].Len() < 200 {
				b[n], b[i] = b[i], b[n]
				n++
			}
		}
		return b[:n]
	})
	st := alice.Stats()
	t.Logf("%v, %d retransmissions, %d recoveries, %d time-outs", took, st.Retransmits, st.Recoveries, st.Timeouts)
	if st.Retransmits == 0 {
		t.Error("nothing was sent again")
	}
	// Waiting for the least time-out for each hundredth of what is lost would take longer.
	if took > 20*time.Second {
		t.Errorf("32 MiB took %v", took)
	}
}

// TestTail loses the last packets of a message, after which nothing comes that would tell of the loss.
func TestTail(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
	var mu sync.Mutex
	lose := 0
	join(t, alice, bob, tap(func(b packet.Batch) packet.Batch {
		mu.Lock()
		defer mu.Unlock()
		for len(b) > 0 && lose > 0 && b[len(b)-1].Len() > 200 {
			b = b[:len(b)-1]
			lose--
		}
		return b
	}), nil)
	c, s := connect(t, alice, bob, bob4)
	const size = 10_000
	for range 20 { // so that the round-trip time is known
		send(t, c, size)
		receive(t, s, size)
	}
	const rounds = 10
	each, timeouts := time.Hour, uint64(0)
	// A machine that is busy for a moment makes round trips long. It is not that each time.
	for try := 0; try < 5 && (each > minTimeout*3/4 || timeouts > rounds/2); try++ {
		began, before := time.Now(), alice.Stats().Timeouts
		for range rounds {
			mu.Lock()
			lose = 2
			mu.Unlock()
			send(t, c, size)
			receive(t, s, size)
		}
		each, timeouts = time.Since(began)/rounds, alice.Stats().Timeouts-before
	}
	if each > minTimeout*3/4 {
		t.Errorf("a message without its tail took %v", each)
	}
	if timeouts > rounds/2 {
		t.Errorf("%d time-outs", timeouts)
	}
}

// TestReordering has packets overtake each other, which is no reason to send anything again for long, or to send less.
func TestReordering(t *testing.T) {
	chance := rand.New(rand.NewPCG(3, 4))
	alice, took := deliver(t, 32<<20, func(b packet.Batch) packet.Batch {
		for i := 0; i+5 < len(b); i++ {
			if chance.Float64() < 0.03 {
				b[i], b[i+5] = b[i+5], b[i]
			}
		}
		return b
	})
	st := alice.Stats()
	t.Logf("%v, %d retransmissions, %d recoveries", took, st.Retransmits, st.Recoveries)
	if took > 20*time.Second {
		t.Errorf("32 MiB took %v", took)
	}
}

// TestSentAgainAcknowledges has a segment sent again after the peer has sent something, which only a bare acknowledgement has
// answered so far. What is sent again must not bring back the acknowledgement and the window of before.
func TestSentAgainAcknowledges(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4, alice6), MTU: 1400})
	l, err := alice.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	peer := newRawPeer(t, alice)
	peer.shake([]byte{4, 2, 1, 3, 3, 7, 0, 0}) // selective acknowledgements, window scale
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if n := peer.await(len(text)); n != len(text) {
			t.Fatalf("%d bytes come, want %d", n, len(text))
		}
	}
	say("known") // so that the round-trip time is known, and the governor is the first to miss what follows
	peer.send(tcpAck, nil, nil)
	before := peer.ack
	say("lost")
	after := peer.ack
	peer.ack = before
	peer.send(tcpAck|tcpPsh, nil, make([]byte, 1200))
	for end := time.Now().Add(20 * time.Second); peer.heard != peer.seq; peer.hear(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no acknowledgement of what has arrived")
		}
	}
	if n := peer.await(len("lost")); n != len("lost") || peer.ack != after {
		t.Fatalf("%d bytes come again, want %d", n, len("lost"))
	}
	if alice.Stats().Retransmits == 0 {
		t.Error("it was not the governor who sent them")
	}
	if peer.repeats != peer.seq {
		t.Errorf("what is sent again acknowledges %d bytes less than has arrived", peer.seq-peer.repeats)
	}
}

// TestGovernorForgets has no connection leave anything behind.
func TestGovernorForgets(t *testing.T) {
	alice, bob := pair(t, 1400)
	for range 10 {
		c, s := connect(t, alice, bob, bob4)
		send(t, c, 100_000)
		receive(t, s, 100_000)
		c.Close()
		s.Close()
	}
	left := func(s *Stack) int {
		s.link.govern.mu.Lock()
		defer s.link.govern.mu.Unlock()
		return len(s.link.govern.flows)
	}
	for end := time.Now().Add(20 * time.Second); left(alice)+left(bob) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d and %d connections are still governed", left(alice), left(bob))
		}
	}
}

// FuzzGovernor lets a hostile peer acknowledge as it likes while alice sends. Nothing may panic, the sums must stay what the pieces say,
// and bob, whose real acknowledgements come as well, must get all.
func FuzzGovernor(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 8, 0, 0, 0, 2, 0, 0, 0, 3})
	f.Add([]byte{255, 255, 255, 0, 16, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 4, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		s := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
		defer s.Close()
		g := &s.link.govern
		fl := &flow{g: g, key: 1, una: 1 << 31, nxt: 1 << 31}
		fl.agree(7)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.flows[1] = fl
		now := time.Duration(0)
		for len(script) > 0 && fl.agreed {
			op := script[0]
			script = script[1:]
			now += time.Duration(op) * time.Millisecond / 4
			size := int(op)*100 + 1
			fl.mss = 1000
			if fl.cc == nil {
				fl.cc = newControl(time.Duration(op&1)*time.Millisecond, 1000)
			}
			fl.pieces = append(fl.compact(), piece{seq: fl.nxt, end: fl.nxt + uint32(size), base: fl.nxt, sent: now, tries: 1})
			fl.nxt += uint32(size)
			if len(script) < 9 {
				break
			}
			var tcp [32]byte
			binary.BigEndian.PutUint32(tcp[8:], fl.una+uint32(binary.BigEndian.Uint16(script))>>2)
			tcp[12], tcp[13] = 8<<4, tcpAck
			binary.BigEndian.PutUint16(tcp[14:], 65535)
			tcp[20], tcp[21] = 1, 1
			tcp[22], tcp[23] = 5, 10
			start := fl.una + uint32(binary.BigEndian.Uint16(script[2:]))
			binary.BigEndian.PutUint32(tcp[24:], start)
			binary.BigEndian.PutUint32(tcp[28:], start+uint32(binary.BigEndian.Uint16(script[4:])))
			script = script[6:]
			if fl.pipe() > 0 {
				fl.acknowledged(tcp[:], now)
			}
			fl.check(t)
		}
	})
}

func (f *flow) check(t *testing.T) {
	t.Helper()
	at, sacked, lost := f.una, 0, 0
	for _, c := range f.pieces[f.head:] {
		if c.seq != at || !before(c.seq, c.end) {
			t.Fatalf("a piece from %d to %d behind %d", c.seq, c.end, at)
		}
		at = c.end
		if c.sacked {
			sacked += c.size()
		}
		if c.lost {
			lost += c.size()
		}
	}
	if at != f.nxt || sacked != f.sacked || lost != f.lost {
		t.Fatalf("pieces until %d, %d arrived, %d lost; want %d, %d, %d", at, sacked, lost, f.nxt, f.sacked, f.lost)
	}
}
