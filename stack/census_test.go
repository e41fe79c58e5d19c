package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"culvert.example/vpn/packet"
)

func governed(s *Stack) int {
	g := &s.link.govern
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.flows)
}

// wantGoverned waits until n connections of s are governed.
func wantGoverned(t *testing.T, s *Stack, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); governed(s) != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are governed, want %d", governed(s), n)
		}
	}
}

// governs reports whether s governs c.
func governs(s *Stack, c net.Conn) bool {
	g := &s.link.govern
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.flows {
		if int(f.id.LocalPort) == c.LocalAddr().(*net.TCPAddr).Port {
			return true
		}
	}
	return false
}

// hasten changes how many connections are governed at most, and how often all of them are looked at.
func hasten(s *Stack, most int, pace time.Duration) {
	g := &s.link.govern
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.census.pace = most, pace
}

// giveUp dials where nobody answers.
func giveUp(t *testing.T, s *Stack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.DialContext(ctx, "tcp", "10.9.0.77:9"); err == nil {
		t.Fatal("somebody has answered")
	}
}

// TestGovernorForgetsResets has the peer reset connections with data under way.
func TestGovernorForgetsResets(t *testing.T) {
	alice, bob := pair(t, 1400)
	const conns = 10
	var work sync.WaitGroup
	var peers []net.Conn
	for range conns {
		c, s := connect(t, alice, bob, bob4)
		peers = append(peers, s)
		work.Go(func() {
			defer c.Close()
			for b := make([]byte, 1<<20); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	wantGoverned(t, alice, conns)
	time.Sleep(100 * time.Millisecond) // until data are under way
	for _, s := range peers {
		s.(interface{ SetLinger(int) error }).SetLinger(0)
		s.Close()
	}
	work.Wait()
	wantGoverned(t, alice, 0)
	wantGoverned(t, bob, 0)
}

// TestGovernorForgetsRefused has more connections refused than are governed.
func TestGovernorForgetsRefused(t *testing.T) {
	alice, bob := pair(t, 1400)
	hasten(alice, 8, time.Hour)
	for range 20 {
		_, err := alice.DialContext(soon(t), "tcp", "10.9.0.2:9")
		wantOp(t, err, syscall.ECONNREFUSED, false)
	}
	wantGoverned(t, alice, 0)
	c, s := connect(t, alice, bob, bob4)
	defer c.Close()
	defer s.Close()
	wantGoverned(t, alice, 1)
}

// TestGovernorForgetsUnanswered has SYNs that nobody answers, first as many as one likes, then more than connections are governed.
func TestGovernorForgetsUnanswered(t *testing.T) {
	alice, bob := pair(t, 1400)
	hasten(alice, maxGoverned, 50*time.Millisecond)
	for range 2 * censusChunk {
		giveUp(t, alice)
	}
	if n := governed(alice); n < censusChunk {
		t.Fatalf("%d connections are governed, too few for the test to mean anything", n)
	}
	wantGoverned(t, alice, 0)

	hasten(alice, 4, time.Hour)
	for range 4 {
		giveUp(t, alice)
	}
	wantGoverned(t, alice, 4)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, s := connect(t, alice, bob, bob4)
		defer c.Close()
		defer s.Close()
		if governs(alice, c) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are governed, and none that lives", governed(alice))
		}
	}
}

// TestGovernorGivesUp has a peer vanish, and the netstack give up. Nothing may be sent any more then.
func TestGovernorGivesUp(t *testing.T) {
	alice := newStack(t, Config{Addresses: prefixes(alice4), MTU: 1400})
	bob := newStack(t, Config{Addresses: prefixes(bob4), MTU: 1400})
	var gone atomic.Bool
	join(t, alice, bob, tap(func(b packet.Batch) packet.Batch {
		if gone.Load() {
			return b[:0]
		}
		return b
	}), nil)
	c, s := connect(t, alice, bob, bob4)
	defer c.Close()
	defer s.Close()
	for range 3 {
		send(t, c, 10_000)
		receive(t, s, 10_000)
	}
	timeout := tcpip.TCPUserTimeoutOption(time.Second)
	if err := c.(*tcpConn).ep.SetSockOpt(&timeout); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	send(t, c, 10_000)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := c.Read(make([]byte, 1))
	wantOp(t, err, syscall.ETIMEDOUT, true)
	wantGoverned(t, alice, 0)
}

// TestForgedReset sends RSTs that the netstack does not take, because they may be forged (RFC 5961 section 3.2): the connection goes on,
// and so does its government. Then come two that it takes, the second one behind data of the same batch.
func TestForgedReset(t *testing.T) {
	for name, data := range map[string]int{"alone": 0, "behind data": 500} {
		t.Run(name, func(t *testing.T) {
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
			defer c.Close()
			if _, err := c.Write([]byte("under way")); err != nil {
				t.Fatal(err)
			}
			peer.await(9)
			peer.ack -= 9
			const rst = 4
			for _, off := range []uint32{1, 1000, 1 << 30, 1<<32 - 1} {
				peer.seq += off
				peer.send(rst|tcpAck, nil, nil)
				peer.seq -= off
			}
			time.Sleep(3 * doubtWait)
			if n := governed(alice); n != 1 {
				t.Fatalf("%d connections are governed after forged RSTs, want 1", n)
			}
			from, to := netip.AddrPortFrom(bob4, 1000), netip.AddrPortFrom(alice4, 80)
			b := packet.NewBatch(2, 1400)
			n := 0
			if data > 0 {
				b[n].Set(rawTCP(from, to, peer.seq, tcpAck, nil, make([]byte, data)))
				n++
			}
			b[n].Set(rawTCP(from, to, peer.seq+uint32(data), rst, nil, nil))
			if _, err := alice.Link().WriteBatch(b[:n+1]); err != nil {
				t.Fatal(err)
			}
			wantGoverned(t, alice, 0)
		})
	}
}
