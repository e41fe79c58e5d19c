package flow

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/packet"
)

// pending are calls of foreign functions that have not returned yet.
type pending struct {
	mu    sync.Mutex
	next  uint64
	since map[uint64]time.Time
}

// begin notes a call. The caller calls end when it has returned.
func (p *pending) begin() (end func()) {
	end, _ = p.beginBelow(math.MaxInt)
	return end
}

// beginBelow notes a call if fewer than most go on, and reports whether it did.
func (p *pending) beginBelow(most int) (end func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.since) >= most {
		return nil, false
	}
	if p.since == nil {
		p.since = make(map[uint64]time.Time)
	}
	p.next++
	id := p.next
	p.since[id] = time.Now()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.since, id)
	}, true
}

// oldest returns for how long the oldest call has been going on.
func (p *pending) oldest() (age time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.since {
		age = max(age, time.Since(t))
	}
	return age
}

// A watchedWriter knows for how long the write that goes on has been waiting.
type watchedWriter struct {
	w       packet.Writer
	since   atomic.Int64  // in nanoseconds after epoch, 0 if no write goes on
	written atomic.Uint64 // packets
}

// epoch is where times begin that have to fit an integer.
var epoch = time.Now()

// WriteBatch implements packet.Writer.
func (w *watchedWriter) WriteBatch(b packet.Batch) (int, error) {
	w.since.Store(int64(time.Since(epoch)) + 1)
	defer w.since.Store(0)
	n, err := w.w.WriteBatch(b)
	w.written.Add(uint64(n))
	if errors.Is(err, packet.ErrTooBig) {
		w.written.Add(1) // it is dropped, and will not come again
	}
	return n, err
}

// waiting returns for how long the write that goes on has been going on.
func (w *watchedWriter) waiting() time.Duration {
	since := w.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(epoch) - time.Duration(since)
}

// loads tell whether a part has more to do than it can.
type loads struct {
	refused atomic.Uint64 // work that was refused

	// Of the goroutine that calls Alive.
	seen   uint64
	streak int
}

// overloadStreak is how many calls of Alive in a row have to find that work was refused since the one before.
const overloadStreak = 3

// over reports whether work has been refused for some time, without a pause.
func (l *loads) over() bool {
	n := l.refused.Load()
	if n == l.seen {
		l.streak = 0
	} else {
		l.streak++
	}
	l.seen = n
	return l.streak >= overloadStreak
}

const (
	// grace is how much longer than its context a foreign function may take.
	grace = 100 * time.Millisecond
	// writePatience is how long the device may take for a batch of packets.
	writePatience = 500 * time.Millisecond
)

// Alive returns nil if a part is well, and otherwise why not. It hangs if the part does. It is made to be called a few times a second,
// for each part by one goroutine. A part that has been refusing work through several calls is reported to [Config.Failed] as
// overloaded.
func (in *Interceptor) Alive(part health.Part) error {
	if in.isClosing.Load() {
		return fmt.Errorf("flow: %v: the interceptor is closed", part)
	}
	var err error
	switch part {
	case health.DNSProxy:
		if age := in.asking.oldest(); age > in.cfg.QueryTime+grace {
			err = fmt.Errorf("a question has been in work for %v", age.Round(time.Millisecond))
		}
	case health.ContentFilter:
		if age := in.deciding.oldest(); age > in.cfg.DecideTime+grace {
			err = fmt.Errorf("a decision has been in work for %v", age.Round(time.Millisecond))
		}
	case health.TransparentProxy:
		// It waits for whoever injects packets, and so finds one that has got stuck in the stack.
		if _, werr := in.stack.Link().WriteBatch(nil); werr != nil {
			err = werr
		} else if age := in.out.waiting(); age > writePatience {
			err = fmt.Errorf("the device has not taken packets for %v", age.Round(time.Millisecond))
		}
	}
	if err != nil {
		return fmt.Errorf("flow: %v: %w", part, err)
	}
	if l := &in.load[part]; l.over() {
		err := fmt.Errorf("work was refused %d times", l.seen)
		in.failed(part, health.Overload, err)
		return fmt.Errorf("flow: %v: %w", part, err)
	}
	return nil
}
