package netns

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// defaultReorderDelay is how much later a late frame comes, unless it is said.
	defaultReorderDelay = 5 * time.Millisecond
	// defaultQueueTime is how long the queue in front of a limited rate is, unless its size is said.
	defaultQueueTime = 100 * time.Millisecond
	// maxHeld is how many frames may be on their way in one direction; more are lost.
	maxHeld = 16384
)

// An Impairment says what happens to the frames on a [Wire], to those of each direction by themselves. The zero
// Impairment is a good cable.
type Impairment struct {
	// Loss is the share of frames that vanish, from 0 for none to 1 for all.
	Loss float64

	// Reorder is the share of frames that come late by ReorderDelay, so that those behind them overtake them. A
	// ReorderDelay of zero means 5 ms.
	Reorder      float64
	ReorderDelay time.Duration

	// Delay is how long a frame takes, and Jitter how much longer at most. Frames stay in order in spite of it.
	Delay, Jitter time.Duration

	// Rate is how many bits a second leave for the other end, and Queue how many bytes may wait for that; what comes when
	// the queue is full vanishes. Zero means no limit, and a queue of 100 ms.
	Rate, Queue int

	// Start is what chance begins from: the same frames have the same fate with the same number.
	Start uint64
}

// WireStats count what happened on a [Wire].
type WireStats struct {
	// Frames came from either host. Of these, Lost were lost by chance, Overflowed because the queue was full, and Late came
	// late by chance.
	Frames, Lost, Late, Overflowed uint64

	// Missed came as well, and vanished because this process was too slow to take them.
	Missed uint64
}

// A lane is one direction of a Wire.
type lane struct {
	send func(frame []byte) // called with mu held, which keeps frames in order
	way  uint64             // tells the chance of this direction from that of the other
	wake chan struct{}      // the earliest frame is another one than before
	done chan struct{}

	mu     sync.Mutex
	imp    Impairment
	chance *rand.Rand
	held   heldFrames
	free   [][]byte
	seq    uint64
	clear  time.Time // when all that came before has left, at the limited rate
	last   time.Time // when the frame before is due that was not late
	count  WireStats
}

func newLane(send func([]byte), way uint64) *lane {
	return &lane{send: send, way: way, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (l *lane) set(imp Impairment) {
	if imp.ReorderDelay == 0 {
		imp.ReorderDelay = defaultReorderDelay
	}
	if imp.Queue == 0 {
		imp.Queue = int(int64(imp.Rate) / 8 * int64(defaultQueueTime) / int64(time.Second))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.imp, l.chance = imp, rand.New(rand.NewPCG(imp.Start, l.way))
	l.clear, l.last = time.Time{}, time.Time{}
}

func (l *lane) stats() WireStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// put sends a frame, now or later or never.
func (l *lane) put(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Frames++
	now := time.Now()
	due, ok := l.due(len(frame), now)
	switch {
	case !ok:
	case !due.After(now) && (len(l.held) == 0 || l.held[0].due.After(now)):
		l.send(frame)
	case len(l.held) == maxHeld:
		l.count.Overflowed++
	default:
		l.hold(frame, due)
	}
}

// due returns when a frame of n bytes is due that comes now, and false if it is lost.
func (l *lane) due(n int, now time.Time) (time.Time, bool) {
	lost, late := l.chance.Float64() < l.imp.Loss, l.chance.Float64() < l.imp.Reorder
	if lost {
		l.count.Lost++
		return now, false
	}
	due := now
	if l.imp.Rate > 0 {
		waiting := max(l.clear.Sub(now), 0)
		if waiting.Seconds()*float64(l.imp.Rate)/8+float64(n) > float64(max(l.imp.Queue, n)) {
			l.count.Overflowed++
			return now, false
		}
		l.clear = now.Add(waiting + time.Duration(n)*8*time.Second/time.Duration(l.imp.Rate))
		due = l.clear
	}
	due = due.Add(l.imp.Delay)
	if l.imp.Jitter > 0 {
		due = due.Add(time.Duration(l.chance.Int64N(int64(l.imp.Jitter) + 1)))
	}
	if due.Before(l.last) {
		due = l.last
	}
	if late {
		l.count.Late++
		return due.Add(l.imp.ReorderDelay), true
	}
	l.last = due
	return due, true
}

// hold keeps a copy of the frame until it is due.
func (l *lane) hold(frame []byte, due time.Time) {
	var mem []byte
	if n := len(l.free); n > 0 {
		mem, l.free = l.free[n-1], l.free[:n-1]
	}
	h := heldFrame{due: due, seq: l.seq, frame: append(mem[:0], frame...)}
	l.seq++
	heap.Push(&l.held, h)
	if l.held[0].seq == h.seq {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run sends the frames that are held, until the lane is closed.
func (l *lane) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-l.wake:
		case <-l.done:
			return
		}
		if next, ok := l.sendDue(); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// sendDue sends what is due, and returns when the next frame is, if there is one.
func (l *lane) sendDue() (next time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for len(l.held) > 0 {
		if l.held[0].due.After(now) {
			return l.held[0].due, true
		}
		h := heap.Pop(&l.held).(heldFrame)
		l.send(h.frame)
		l.free = append(l.free, h.frame)
	}
	return now, false
}

// close makes run return. Frames that are held are lost.
func (l *lane) close() { close(l.done) }

// A heldFrame waits until it is due.
type heldFrame struct {
	due   time.Time
	seq   uint64
	frame []byte
}

// heldFrames is a heap.Interface, the earliest frame first.
type heldFrames []heldFrame

func (q heldFrames) Len() int { return len(q) }

func (q heldFrames) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].seq < q[j].seq
	}
	return q[i].due.Before(q[j].due)
}

func (q heldFrames) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *heldFrames) Push(x any) { *q = append(*q, x.(heldFrame)) }

// Pop implements heap.Interface.
func (q *heldFrames) Pop() any {
	old := *q
	h := old[len(old)-1]
	old[len(old)-1] = heldFrame{}
	*q = old[:len(old)-1]
	return h
}
