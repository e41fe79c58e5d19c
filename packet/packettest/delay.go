package packettest

import (
	"container/heap"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"culvert.example/vpn/packet"
)

// maxHeld is how many packets may be on their way in one direction. It covers 100 ms at a gigabit a second; a
// writer waits when there are more.
const maxHeld = 8192

// Delay delivers each packet after d and up to jitter more. The packets stay in order.
func Delay(c packet.Conn, dir Dir, d, jitter time.Duration, start uint64) packet.Conn {
	return newDelayed(c, dir, func(dir Dir) func() time.Duration {
		r := rand.New(rand.NewPCG(start, uint64(dir)))
		return func() time.Duration {
			if jitter <= 0 {
				return d
			}
			return d + time.Duration(r.Int64N(int64(jitter)+1))
		}
	}, true)
}

// Reorder delivers the given share of packets by d late, so that those that follow overtake them. All others are not
// delayed.
func Reorder(c packet.Conn, dir Dir, rate float64, d time.Duration, start uint64) packet.Conn {
	return newDelayed(c, dir, func(dir Dir) func() time.Duration {
		late := newChance(dir, dir, rate, start)
		return func() time.Duration {
			if late.strikes() {
				return d
			}
			return 0
		}
	}, false)
}

// A delayed Conn has a line for each direction that is delayed, and one goroutine for each to work on it: one that
// reads ahead from the Conn below, one that writes to it when the time has come. Close waits for both.
type delayed struct {
	packet.Conn
	in, out *line // nil where nothing is delayed
	work    sync.WaitGroup
}

func newDelayed(c packet.Conn, dir Dir, delay func(Dir) func() time.Duration, ordered bool) packet.Conn {
	d := &delayed{Conn: c}
	if dir&In != 0 {
		d.in = newLine(delay(In), ordered)
		d.work.Go(d.readAhead)
	}
	if dir&Out != 0 {
		d.out = newLine(delay(Out), ordered)
		d.work.Go(d.writeLate)
	}
	return d
}

func (d *delayed) readAhead() {
	b := packet.NewBatch(16, packet.MaxSize)
	for {
		n, err := d.Conn.ReadBatch(b)
		for i := range n {
			if d.in.put(b[i].Bytes()) != nil {
				return
			}
		}
		if err != nil {
			d.in.end(err, false)
			return
		}
	}
}

func (d *delayed) writeLate() {
	err := packet.Copy(d.Conn, d.out, packet.MaxSize, 16)
	d.out.end(err, true)
}

func (d *delayed) ReadBatch(b packet.Batch) (int, error) {
	if d.in == nil {
		return d.Conn.ReadBatch(b)
	}
	return d.in.ReadBatch(b)
}

// WriteBatch tells of packets that are too big at once. Another error of the Conn below ends the line, and comes with a
// later call.
func (d *delayed) WriteBatch(b packet.Batch) (int, error) {
	if d.out == nil {
		return d.Conn.WriteBatch(b)
	}
	mtu := d.Conn.MTU()
	for i := range b {
		if b[i].Len() > mtu {
			return i, packet.ErrTooBig
		}
		if err := d.out.put(b[i].Bytes()); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// Close forgets the packets that are on their way.
func (d *delayed) Close() error {
	for _, l := range []*line{d.in, d.out} {
		if l != nil {
			l.end(net.ErrClosed, true)
		}
	}
	err := d.Conn.Close()
	d.work.Wait()
	return err
}

// A line holds packets until they are due. It is a packet.Reader of those that are.
type line struct {
	delay   func() time.Duration
	ordered bool

	mu     sync.Mutex
	change sync.Cond
	held   heldQueue
	free   []packet.Buf
	seq    uint64
	last   time.Time // when the packet that was put last is due
	timer  *time.Timer
	err    error // nothing more comes
}

func newLine(delay func() time.Duration, ordered bool) *line {
	l := &line{delay: delay, ordered: ordered}
	l.change.L = &l.mu
	return l
}

// put waits while the line is full.
func (l *line) put(p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.held) >= maxHeld && l.err == nil {
		l.change.Wait()
	}
	if l.err != nil {
		return l.err
	}
	due := time.Now().Add(l.delay())
	if l.ordered && due.Before(l.last) {
		due = l.last
	}
	l.last = due
	heap.Push(&l.held, held{due, l.seq, l.copyOf(p)})
	l.seq++
	l.change.Broadcast()
	return nil
}

func (l *line) copyOf(p []byte) packet.Buf {
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free = l.free[:n-1]
		if b.Set(p) {
			return b
		}
	}
	b := packet.NewBuf(max(len(p), 1500))
	b.Set(p)
	return b
}

// ReadBatch implements packet.Reader.
func (l *line) ReadBatch(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		n := 0
		now := time.Now()
		for n < len(b) && len(l.held) > 0 && !l.held[0].due.After(now) {
			h := heap.Pop(&l.held).(held)
			if b[n].Set(h.buf.Bytes()) {
				n++
			}
			l.free = append(l.free, h.buf)
		}
		if n > 0 {
			l.change.Broadcast()
			return n, nil
		}
		if len(l.held) == 0 && l.err != nil {
			return 0, l.err
		}
		if len(l.held) > 0 {
			l.wakeAfter(l.held[0].due.Sub(now))
		}
		l.change.Wait()
	}
}

func (l *line) wakeAfter(d time.Duration) {
	if l.timer != nil {
		l.timer.Reset(d)
		return
	}
	l.timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.change.Broadcast()
	})
}

// end says that nothing more comes, and why; with discard what is held is forgotten. The first reason stays, but
// net.ErrClosed takes its place.
func (l *line) end(err error, discard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || errors.Is(err, net.ErrClosed) {
		l.err = err
	}
	if discard {
		l.held = nil
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	l.change.Broadcast()
}

// held is a packet that waits until it is due.
type held struct {
	due time.Time
	seq uint64
	buf packet.Buf
}

// heldQueue is a heap.Interface, the earliest packet first.
type heldQueue []held

func (q heldQueue) Len() int { return len(q) }

func (q heldQueue) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].seq < q[j].seq
	}
	return q[i].due.Before(q[j].due)
}

func (q heldQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *heldQueue) Push(x any) { *q = append(*q, x.(held)) }

// Pop implements heap.Interface.
func (q *heldQueue) Pop() any {
	old := *q
	h := old[len(old)-1]
	old[len(old)-1] = held{}
	*q = old[:len(old)-1]
	return h
}
