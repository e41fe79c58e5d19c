package dtls

import (
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/transport/liveness"
)

// later has the fall of the MTU of c, or the last look, lie so far back that another one is due.
func later(c *Conn) { c.looked.Add(-int64(raisePace)) }

// TestMTURises has a path become wide again. The channel notices when it is time to look and large packets are sent.
func TestMTURises(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK(), Beat: liveness.Config{DPD: time.Minute, Load: -1}})
	r := newRelay(t, g.addr())
	r.set(hole(900), hole(900))
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	exchange(t, client, server)
	conns := map[string]*Conn{"client": client, "gateway": server.Conn}
	until := func(d time.Duration, what string, done func(c *Conn) bool) {
		t.Helper()
		for name, c := range conns {
			for end := time.Now().Add(d); !done(c); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: the %s has an MTU of %d", what, name, c.MTU())
				}
				c.WriteBatch(numbered(0, 1, c.MTU()))
			}
		}
	}
	until(20*time.Second, "a narrow path", func(c *Conn) bool { return c.MTU() < 900 && !c.searching.Load() })
	narrow := client.MTU()

	// As long as the path is narrow, to look again does no harm.
	look := func() {
		t.Helper()
		since := map[*Conn]int64{}
		for _, c := range conns {
			later(c)
			since[c] = c.looked.Load()
		}
		until(20*time.Second, "nobody looks", func(c *Conn) bool { return c.looked.Load() != since[c] && !c.searching.Load() })
	}
	look()
	if client.MTU() < narrow || client.MTU() > 900 || server.MTU() < 850 || server.MTU() > 900 {
		t.Fatalf("after another look at a narrow path the MTU is %d at the client, %d at the gateway; it was %d", client.MTU(), server.MTU(), narrow)
	}

	// It is not time yet.
	r.set(nil, nil)
	for range 10 {
		client.WriteBatch(numbered(0, 1, client.MTU()))
		time.Sleep(20 * time.Millisecond)
	}
	if client.MTU() > 900 {
		t.Errorf("the client looked at once")
	}
	look()
	if least := testMTU - nearEnough; client.MTU() < least || server.MTU() < least {
		t.Errorf("the MTU is %d at the client, %d at the gateway, want %d", client.MTU(), server.MTU(), testMTU)
	}
}

// TestMTURisesNotInSilence looks for a larger MTU while nothing comes back. That nobody answers says nothing about sizes.
func TestMTURisesNotInSilence(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK(), Beat: liveness.Config{DPD: time.Minute, Load: -1}})
	r := newRelay(t, g.addr())
	r.set(hole(900), hole(900))
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	exchange(t, client, server)
	narrow := client.MTU()
	var mu sync.Mutex
	lost := 0
	r.set(func([]byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		lost++
		return nil
	}, nil)
	later(client)
	if !client.raise() {
		t.Fatal("it is not time to look")
	}
	if client.MTU() != narrow {
		t.Errorf("the MTU is %d in silence, want %d", client.MTU(), narrow)
	}
	mu.Lock()
	defer mu.Unlock()
	if lost == 0 {
		t.Error("nothing was sent to find out")
	}
}

// TestMTURisesWithBriefAnswers has a peer that answers each request with one byte.
func TestMTURisesWithBriefAnswers(t *testing.T) {
	t.Parallel()
	l := briefPeer(t)
	r := newRelay(t, l)
	r.set(hole(1000), nil)
	psk := testPSK()
	psk.AppID = []byte{7}
	psk.CipherSuites = []string{"PSK-AES128-GCM-SHA256"}
	client := mustDial(t, r.addr(), Config{MTU: testMTU, PSK: psk})
	pumpFrom(client)
	if client.MTU() > 1000 {
		t.Fatalf("the MTU is %d", client.MTU())
	}
	r.set(nil, nil)
	later(client)
	for end := time.Now().Add(20 * time.Second); client.MTU() < testMTU-nearEnough; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the MTU is %d, want %d", client.MTU(), testMTU)
		}
		client.WriteBatch(numbered(0, 1, testMTU)) // which is too large, and so shows that a larger MTU would be of use
	}
}
