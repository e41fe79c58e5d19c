package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	th := newThrottle()
	now := time.Unix(1_700_000_000, 0)
	home, evil := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.9")

	if w := th.wait("alice", evil, now); w != 0 {
		t.Fatalf("first attempt waits %v", w)
	}
	th.succeeded("alice", home, now)
	want := []time.Duration{0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
	for n, d := range want {
		th.failed("alice", evil, now)
		if w := th.wait("alice", evil, now); w != d {
			t.Errorf("after %d failures the next attempt waits %v, want %v", n+1, w, d)
		}
		now = now.Add(time.Hour / 2) // the reservation just made is over
	}
	th.failed("alice", evil, now)
	if w := th.wait("alice", home, now); w != 0 {
		t.Errorf("alice waits %v where she has logged in before", w)
	}
	if w := th.wait("alice", netip.MustParseAddr("198.51.100.4"), now); w == 0 {
		t.Error("guessing on from another address is free")
	}
	if w := th.wait("bob", evil, now); w == 0 {
		t.Error("guessing for another user is free")
	}
	if w := th.wait("bob", home, now); w != 0 {
		t.Errorf("a stranger waits %v", w)
	}
	later := now.Add(30 * time.Hour)
	th.failed("alice", evil, later)
	if w := th.wait("alice", evil, later); w != 0 {
		t.Errorf("old failures are not forgotten: %v", w)
	}
}

func TestThrottleSourceIsASubscriber(t *testing.T) {
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:1")
	if sourceOf(a) != sourceOf(b) {
		t.Error("two addresses of one IPv6 subnet count as two sources")
	}
	if sourceOf(netip.MustParseAddr("::ffff:192.0.2.1")) != sourceOf(netip.MustParseAddr("192.0.2.1")) {
		t.Error("an IPv4 address counts twice")
	}
}

func TestThrottleIsBounded(t *testing.T) {
	th := newThrottle()
	now := time.Unix(1_700_000_000, 0)
	worst := netip.MustParseAddr("203.0.113.9")
	for range 10 {
		th.failed("root", worst, now)
	}
	for i := range 3 * maxThrottled {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		th.failed(fmt.Sprint(i), a, now)
		th.succeeded(fmt.Sprint(i), a, now)
		th.failed(fmt.Sprint(i), a, now)
	}
	if len(th.sources) > maxThrottled || len(th.users) > maxThrottled || len(th.known) > maxThrottled {
		t.Errorf("%d sources, %d users, %d known", len(th.sources), len(th.users), len(th.known))
	}
	if w := th.wait("root", worst, now); w == 0 {
		t.Error("the worst offender was forgotten first")
	}
}

// Who is refused has not tried, so it costs him, and whoever has the name, nothing.
func TestThrottleDoesNotGrowByWaiting(t *testing.T) {
	th := newThrottle()
	now := time.Unix(1_700_000_000, 0)
	evil := netip.MustParseAddr("203.0.113.9")
	for range 10 {
		th.failed("alice", evil, now)
	}
	for range 1000 {
		th.wait("alice", evil, now)
	}
	if w := th.wait("alice", evil, now); w > maxHostDelay {
		t.Errorf("the next attempt from there waits %v", w)
	}
	if w := th.wait("alice", netip.MustParseAddr("198.51.100.4"), now); w > maxUserDelay {
		t.Errorf("alice waits %v at a new place", w)
	}
}

func TestThrottleAttemptsQueueUp(t *testing.T) {
	th := newThrottle()
	now := time.Unix(1_700_000_000, 0)
	evil := netip.MustParseAddr("203.0.113.9")
	for range freeFailures + 1 {
		th.failed("alice", evil, now)
	}
	if a, b := th.wait("alice", evil, now), th.wait("alice", evil, now); a != firstDelay || b != 2*firstDelay {
		t.Errorf("two attempts at once wait %v and %v", a, b)
	}
}

// Directories take a name for the same however it is written.
func TestThrottleKnowsNamesInAnyCase(t *testing.T) {
	th := newThrottle()
	now := time.Unix(1_700_000_000, 0)
	for i, name := range []string{"alice", "Alice", "ALICE"} {
		th.failed(name, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), now)
	}
	if th.wait("aLICE", netip.MustParseAddr("198.51.100.4"), now) == 0 {
		t.Error("guessing for one user is free in four ways to write him")
	}
}
