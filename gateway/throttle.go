package gateway

import (
	"crypto/sha256"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// A throttle makes guessing slow: after each failure the next attempt waits twice as long, counted for the user and for the
// source apart. A user who has logged in from a source before is not slowed there by what others do elsewhere, so
// that nobody can be locked out by a stranger who knows his name.
type throttle struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*failures
	users   map[userKey]*failures
	known   map[knownLogin]time.Time
}

// A userKey stands for a name, which may be long, and which some directories take for the same in any case.
type userKey [sha256.Size]byte

func keyOf(user string) userKey { return sha256.Sum256([]byte(strings.ToLower(user))) }

type failures struct {
	n    int
	next time.Time // when the next attempt may start
}

type knownLogin struct {
	user   userKey
	source netip.Prefix
}

const (
	// An attempt that would have to wait longer than this is refused instead.
	maxWait = 10 * time.Second
	// The first failures cost nothing, since people mistype.
	freeFailures = 2
	firstDelay   = time.Second
	maxUserDelay = 30 * time.Second
	maxHostDelay = 5 * time.Minute
	// Failures are forgotten after this long without another one.
	forgetFailures = time.Hour
	forgetKnown    = 30 * 24 * time.Hour
	maxThrottled   = 16384
)

func newThrottle() *throttle {
	return &throttle{
		sources: map[netip.Prefix]*failures{}, users: map[userKey]*failures{}, known: map[knownLogin]time.Time{},
	}
}

// sourceOf returns what counts as one source: an IPv4 address, or the 64 bits of an IPv6 address that a subscriber does not choose.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// wait returns how long an attempt has to wait, and reserves the moment after that: attempts made at once queue up. One that
// would have to wait for longer than maxWait is not to be made, and reserves nothing. The user is empty while it is not
// known.
func (t *throttle) wait(user string, from netip.Addr, now time.Time) time.Duration {
	source := sourceOf(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	start := now
	f := t.sources[source]
	if f != nil && f.next.After(start) {
		start = f.next
	}
	key := keyOf(user)
	u := t.users[key]
	if at, ok := t.known[knownLogin{key, source}]; ok && now.Sub(at) < forgetKnown {
		u = nil
	}
	if u != nil && u.next.After(start) {
		start = u.next
	}
	if start.Sub(now) > maxWait {
		return start.Sub(now)
	}
	if f != nil {
		f.next = start.Add(delayAfter(f.n, maxHostDelay))
	}
	if u != nil {
		u.next = start.Add(delayAfter(u.n, maxUserDelay))
	}
	return start.Sub(now)
}

// failed notes a wrong answer.
func (t *throttle) failed(user string, from netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	note(t.sources, sourceOf(from), now, maxHostDelay)
	if user != "" {
		note(t.users, keyOf(user), now, maxUserDelay)
	}
}

// succeeded notes a login.
func (t *throttle) succeeded(user string, from netip.Addr, now time.Time) {
	source := sourceOf(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sources, source)
	// The failures of the user stay: they may be those of somebody else who is still guessing.
	if len(t.known) >= maxThrottled {
		for k, at := range t.known {
			// Any will do when none is old; maps are walked in random order.
			delete(t.known, k)
			if now.Sub(at) < forgetKnown {
				break
			}
		}
	}
	t.known[knownLogin{keyOf(user), source}] = now
}

func note[K comparable](m map[K]*failures, key K, now time.Time, limit time.Duration) {
	f := m[key]
	if f == nil {
		if len(m) >= maxThrottled {
			shrink(m, now)
		}
		f = &failures{}
		m[key] = f
	}
	if now.Sub(f.next) > forgetFailures {
		f.n = 0
	}
	f.n++
	if next := now.Add(delayAfter(f.n, limit)); next.After(f.next) {
		f.next = next
	}
}

// shrink makes room: it drops what is forgotten, else the entry with the fewest failures of a sample.
func shrink[K comparable](m map[K]*failures, now time.Time) {
	const sample = 64
	var least K
	fewest, seen := -1, 0
	for k, f := range m {
		if now.Sub(f.next) > forgetFailures {
			delete(m, k)
			return
		}
		if fewest < 0 || f.n < fewest {
			least, fewest = k, f.n
		}
		if seen++; seen == sample {
			break
		}
	}
	delete(m, least)
}

// delayAfter returns the pause after n failures.
func delayAfter(n int, limit time.Duration) time.Duration {
	n -= freeFailures
	if n <= 0 {
		return 0
	}
	if n > 16 {
		return limit
	}
	return min(firstDelay<<(n-1), limit)
}
