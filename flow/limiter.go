package flow

import (
	"sync"
	"time"
)

const (
	// noteBurst is how many flows may be logged at once, and noteEvery how often one more afterwards. Whoever opens flows without
	// end must not fill the disk.
	noteBurst = 100
	noteEvery = 50 * time.Millisecond
)

// A limiter lets a few things a second through and counts the others. The zero limiter is full of patience.
type limiter struct {
	mu   sync.Mutex
	free time.Time // when all of the burst is there again
	lost uint64
}

// allow reports whether one more thing may pass now.
func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(now) {
		l.free = now
	}
	if next := l.free.Add(noteEvery); next.Sub(now) <= noteBurst*noteEvery {
		l.free = next
		return true
	}
	l.lost++
	return false
}

// skipped returns how many things did not pass since the last call.
func (l *limiter) skipped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.lost
	l.lost = 0
	return n
}
