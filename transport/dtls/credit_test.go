package dtls

import (
	"encoding/binary"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	creditPacket = 1400
	creditBuffer = 212992
)

// A creditPeer answers the requests of a credit after a while.
type creditPeer struct {
	k     *credit
	delay time.Duration
	mute  bool
	mu    sync.Mutex
}

// send sends a packet as WriteBatch does, and returns how long it had to wait.
func (p *creditPeer) send(ended <-chan struct{}) time.Duration {
	start := time.Now()
	p.k.wait(ended)
	waited := time.Since(start)
	p.k.add(creditPacket)
	if ask := p.k.request(); ask != nil && !p.mute {
		payload := append([]byte(nil), ask[1:]...)
		time.AfterFunc(p.delay, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.k.answer(payload)
		})
	}
	return waited
}

// ahead returns how many packets at most lie unread.
func ahead(k *credit) float64 {
	return float64(k.sent.Load()-k.read.Load()) / (creditPacket + recordCost)
}

// approach has the path become near.
func (p *creditPeer) approach(t *testing.T) {
	t.Helper()
	p.send(nil)
	time.Sleep(2 * farPace)
	p.send(nil)
	time.Sleep(2 * farPace)
	if !p.k.near.Load() {
		t.Fatal("the path is not near")
	}
}

func newCreditPeer(delay time.Duration) *creditPeer {
	p := &creditPeer{k: new(credit), delay: delay}
	p.k.init(creditBuffer, 7)
	return p
}

func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCreditPeer(200 * time.Microsecond)
		p.approach(t)
		var waited time.Duration
		for range 1000 {
			waited += p.send(nil)
			// A packet and a request may go beyond it.
			if ahead(p.k) > creditBuffer/8*7.0/(creditPacket+recordCost)+1.5 {
				t.Fatalf("%.1f packets are ahead", ahead(p.k))
			}
		}
		// Some eighty packets go at once, and what is behind them after an answer.
		if least, most := 1500*time.Microsecond, 10*time.Millisecond; waited < least || waited > most {
			t.Errorf("1000 packets waited for %v, not %v to %v", waited, least, most)
		}
	})
}

// TestCreditOfFarPath has a writer wait for nobody whose answers take their time on the way.
func TestCreditOfFarPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCreditPeer(3 * time.Millisecond)
		for range 10000 {
			if d := p.send(nil); d != 0 {
				t.Fatalf("waited for %v", d)
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
}

// TestCreditOfPathThatChanges has a path become far, and near again.
func TestCreditOfPathThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCreditPeer(200 * time.Microsecond)
		p.approach(t)
		for _, near := range []bool{false, true, false} {
			if p.delay = 200 * time.Microsecond; !near {
				p.delay = 4 * time.Millisecond
			}
			for start := time.Now(); time.Since(start) < 3*nearPace; time.Sleep(50 * time.Microsecond) {
				p.send(nil)
			}
			if p.k.near.Load() != near {
				t.Fatalf("answers take %v, and near is %t", p.delay, !near)
			}
		}
	})
}

// TestCreditOfMutePeer has the answers end.
func TestCreditOfMutePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCreditPeer(200 * time.Microsecond)
		p.approach(t)
		p.mute = true
		var waited time.Duration
		for range 10000 {
			waited += p.send(nil)
		}
		if waited != vainMost*patience {
			t.Errorf("waited for %v", waited)
		}

		p.mute = false
		p.approach(t)
		p.mute = true
		ended := make(chan struct{})
		close(ended)
		waited = 0
		for range 1000 {
			waited += p.send(ended)
		}
		if waited != 0 {
			t.Errorf("waited for %v after the end", waited)
		}
	})
}

// TestCreditOfSlowPeer has answers come that say little: nobody waits for longer than patience.
func TestCreditOfSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCreditPeer(200 * time.Microsecond)
		p.approach(t)
		p.mute = true
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			payload := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, 7), 0)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					p.mu.Lock()
					binary.BigEndian.PutUint64(payload[4:], p.k.read.Load()+1)
					p.k.answer(payload)
					p.mu.Unlock()
				}
			}
		}()
		for range 1000 {
			if d := p.send(nil); d > patience {
				t.Fatalf("waited for %v", d)
			}
		}
	})
}

// TestForeignAnswers has answers come that belong to no request.
func TestForeignAnswers(t *testing.T) {
	answer := func(token uint32, n uint64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, token), n)
	}
	var k credit
	if k.answer(answer(0, 0)) || k.wait(nil) != math.MaxUint64 || k.add(creditPacket) != 0 || k.request() != nil {
		t.Error("a credit without a bound does something")
	}
	k.init(creditBuffer, 7)
	k.add(creditPacket)
	for _, p := range [][]byte{nil, {1}, answer(8, 1), answer(7, 1)[1:], append(answer(7, 1), 0)} {
		if k.answer(p) {
			t.Errorf("%x counts as an answer", p)
		}
	}
	sent := k.sent.Load()
	for _, n := range []uint64{sent, 0, sent - 1, sent + 1, math.MaxUint64} {
		if !k.answer(answer(7, n)) {
			t.Errorf("an answer of %d is not taken", n)
		}
		if k.read.Load() != sent {
			t.Errorf("after an answer of %d, %d of %d are read", n, k.read.Load(), sent)
		}
	}
}

// TestCreditAllocates asserts that it does not.
func TestCreditAllocates(t *testing.T) {
	var k credit
	k.init(creditBuffer, 7)
	k.near.Store(true)
	payload := make([]byte, creditLen)
	if n := testing.AllocsPerRun(1000, func() {
		k.wait(nil)
		k.add(creditPacket)
		if ask := k.request(); ask != nil {
			copy(payload, ask[1:])
			k.answer(payload)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each packet", n)
	}
}
