// Package packettest has networks that misbehave, for tests.
//
// Each fault is a function that takes a [packet.Conn] and returns another, so that they stack up:
//
//	near, far := packet.Pipe(1400, 64)
//	near = packettest.Lossy(near, packettest.Both, 0.1, 1)
//	near = packettest.Delay(near, packettest.Out, 20*time.Millisecond, 0, 1)
//
// Closing the outermost closes all. A fault that happens by chance takes a number that the chance starts from: with the
// same number, the same packets of each direction are struck.
package packettest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"culvert.example/vpn/packet"
)

// A Dir says which packets a fault strikes.
type Dir uint8

const (
	// In strikes the packets that are read.
	In Dir = 1
	// Out strikes the packets that are written.
	Out Dir = 2
	// Both strikes all packets.
	Both = In | Out
)

// chance decides by lot, in the order of the packets of one direction.
type chance struct {
	mu   sync.Mutex
	rand *rand.Rand
	rate float64
}

// newChance returns nil for a direction that is not struck.
func newChance(have, want Dir, rate float64, start uint64) *chance {
	if have&want == 0 {
		return nil
	}
	return &chance{rand: rand.New(rand.NewPCG(start, uint64(want))), rate: rate}
}

func (c *chance) strikes() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.Float64() < c.rate
}

// Lossy loses the given share of packets, from 0 for none to 1 for all.
func Lossy(c packet.Conn, dir Dir, rate float64, start uint64) packet.Conn {
	in, out := newChance(dir, In, rate, start), newChance(dir, Out, rate, start)
	return &dropper{Conn: c, drop: func(d Dir, _ []byte) bool {
		if d == In {
			return in.strikes()
		}
		return out.strikes()
	}}
}

// A Cutter is a Conn that can be cut off and mended at any time. While it is cut off, packets vanish without an error.
type Cutter struct {
	dropper
	cut atomic.Uint32
}

// Cut returns c with a switch, which is on: packets pass.
func Cut(c packet.Conn) *Cutter {
	k := new(Cutter)
	k.dropper = dropper{Conn: c, drop: func(d Dir, _ []byte) bool { return Dir(k.cut.Load())&d != 0 }}
	return k
}

// Cut loses all packets of dir from now on.
func (k *Cutter) Cut(dir Dir) { k.cut.Or(uint32(dir)) }

// Mend lets the packets of dir pass again.
func (k *Cutter) Mend(dir Dir) { k.cut.And(^uint32(dir)) }

// A Holed is a Conn on a path that loses large packets without telling anybody. Its MTU is still that of the Conn below.
type Holed struct {
	dropper
	size atomic.Int64
}

// Hole loses packets of more than size bytes, in the directions of dir.
func Hole(c packet.Conn, dir Dir, size int) *Holed {
	h := new(Holed)
	h.size.Store(int64(size))
	h.dropper = dropper{Conn: c, drop: func(d Dir, p []byte) bool { return dir&d != 0 && int64(len(p)) > h.size.Load() }}
	return h
}

// SetSize changes the size in bytes of the largest packet that passes.
func (h *Holed) SetSize(size int) { h.size.Store(int64(size)) }

// A dropper loses the packets that its function names.
type dropper struct {
	packet.Conn
	drop func(d Dir, p []byte) bool
}

func (d *dropper) ReadBatch(b packet.Batch) (int, error) {
	for {
		n, err := d.Conn.ReadBatch(b)
		kept := 0
		for i := range n {
			if !d.drop(In, b[i].Bytes()) {
				b[kept], b[i] = b[i], b[kept]
				kept++
			}
		}
		if kept > 0 || err != nil {
			return kept, err
		}
	}
}

// WriteBatch passes on the packets that survive in runs as they lie, since the Batch is the caller's and must not be
// reordered.
func (d *dropper) WriteBatch(b packet.Batch) (int, error) {
	from := 0
	for i := range b {
		if !d.drop(Out, b[i].Bytes()) {
			continue
		}
		if n, err := writeRun(d.Conn, b[from:i]); err != nil {
			return from + n, err
		}
		from = i + 1
	}
	n, err := writeRun(d.Conn, b[from:])
	return from + n, err
}

func writeRun(w packet.Writer, b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return w.WriteBatch(b)
}
