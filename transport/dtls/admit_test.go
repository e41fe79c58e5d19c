package dtls

import (
	"container/list"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// A Listener remembers a session for as long as it has a channel or a handshake, and a while longer.
func TestAdmitForgets(t *testing.T) {
	l := &Listener{flows: map[netip.AddrPort]flow{}, clients: map[string]*client{}, resting: list.New()}
	start := func(i int) *attempt {
		a := &attempt{id: fmt.Sprint(i), from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}
		a.gate = newGate(&net.UDPAddr{}, &net.UDPAddr{}, nil)
		if !l.admit(a) {
			t.Fatalf("handshake %d is refused", i)
		}
		return a
	}
	leave := func(a *attempt) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.leave(a)
	}
	const n = 100
	for i := range n {
		leave(start(i))
	}
	busy := start(n)
	held := start(n + 1)
	l.clients[held.id].port = &port{id: held.id}
	leave(held)
	again := start(3) // has both rested and come back
	if len(l.clients) != n+2 || l.resting.Len() != n-1 || l.attempts != 2 {
		t.Fatalf("%d sessions, %d of them resting, %d handshakes", len(l.clients), l.resting.Len(), l.attempts)
	}
	l.forgetResting(time.Now().Add(forgetAfter - time.Second))
	if len(l.clients) != n+2 {
		t.Errorf("%d sessions are left too early", len(l.clients))
	}
	l.forgetResting(time.Now().Add(forgetAfter + time.Second))
	if len(l.clients) != 3 || l.resting.Len() != 0 {
		t.Errorf("%d sessions are left, %d of them resting", len(l.clients), l.resting.Len())
	}
	leave(busy)
	leave(again)
	if l.resting.Len() != 2 || l.attempts != 0 || len(l.flows) != 0 {
		t.Errorf("%d sessions rest, %d handshakes, %d flows", l.resting.Len(), l.attempts, len(l.flows))
	}
}
