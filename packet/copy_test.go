package packet_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"culvert.example/vpn/packet"
)

// A waiter is a Reader that tells in steps what it has: each is a number of packets, and Wait moves on to the next.
type waiter struct {
	t       *testing.T
	steps   []int
	left    int
	batches []int // the length of the batch of each ReadBatch
	waits   int
}

func (w *waiter) Wait() error {
	w.waits++
	if len(w.steps) == 0 {
		return io.EOF
	}
	w.left, w.steps = w.steps[0], w.steps[1:]
	return nil
}

func (w *waiter) ReadBatch(b packet.Batch) (int, error) {
	if w.left < 0 {
		return 0, errBad
	}
	w.batches = append(w.batches, len(b))
	n := min(w.left, len(b))
	w.left -= n
	if n == 0 {
		w.t.Error("ReadBatch is called when there is nothing")
	}
	for i := range n {
		b[i].Set([]byte("x"))
	}
	return n, nil
}

func TestCopyFromWaiter(t *testing.T) {
	// Three packets, then nothing for a while, then more than a batch has room for, and so on.
	w := &waiter{t: t, steps: []int{3, 140, 1}}
	dst := &sink{mtu: 5}
	if err := packet.Copy(dst, w, 1400, 64); err != io.EOF {
		t.Errorf("Copy = %v", err)
	}
	if len(dst.got) != 144 || w.waits != 4 || !slices.Equal(w.batches, []int{64, 64, 64, 64, 64}) {
		t.Errorf("%d packets in batches of %v after %d waits", len(dst.got), w.batches, w.waits)
	}
	w = &waiter{t: t, steps: []int{3, -1}}
	if err := packet.Copy(dst, w, 1400, 64); err != errBad {
		t.Errorf("Copy = %v", err)
	}
	w = &waiter{t: t, steps: []int{3}}
	if err := packet.Copy(&sink{mtu: 5}, w, 1400, 64, without("x"), replace("bad")); err != io.EOF {
		t.Errorf("Copy = %v", err)
	}
	w = &waiter{t: t, steps: []int{3}}
	if err := packet.Copy(&sink{mtu: 5}, w, 1400, 64, replace("bad")); err != errBad {
		t.Errorf("Copy = %v", err)
	}
}

// replace is a filter that changes all packets.
type replace string

func (r replace) Filter(b packet.Batch) packet.Batch {
	for i := range b {
		b[i].Set([]byte(r))
	}
	return b
}

// A forwarder is a Reader that delivers by itself.
type forwarder struct{ packet.Reader }

var errForwarded = errors.New("forwarded")

func (forwarder) Forward(dst packet.Writer, filters ...packet.Filter) error {
	b := packet.NewBatch(3, 10)
	for i, p := range []string{"a", "x", "b"} {
		b[i].Set([]byte(p))
	}
	return errors.Join(packet.Deliver(dst, b, filters...), errForwarded)
}

func TestCopyFromForwarder(t *testing.T) {
	dst := &sink{mtu: 5}
	if err := packet.Copy(dst, forwarder{}, 10, 1, without("x")); !errors.Is(err, errForwarded) {
		t.Errorf("Copy = %v", err)
	}
	if !slices.Equal(dst.got, []string{"a", "b"}) {
		t.Errorf("got %q", dst.got)
	}
}

func TestBorrow(t *testing.T) {
	for _, tt := range []struct{ n, size int }{
		{1, 60}, {64, 1400}, {128, 1536}, {64, 1537}, {128, 9216}, {129, 1400}, {4, 9217}, {1, packet.MaxSize},
	} {
		for range 3 {
			l := packet.Borrow(tt.n, tt.size)
			if len(l.Batch) != tt.n {
				t.Errorf("%+v: %d Bufs", tt, len(l.Batch))
			}
			for i := range l.Batch {
				if l.Batch[i].Size() < tt.size {
					t.Fatalf("%+v: Buf %d has size %d", tt, i, l.Batch[i].Size())
				}
				l.Batch[i].SetLen(tt.size)
				l.Batch[i].WithHeadroom(packet.Headroom)[0] = byte(i)
			}
			l.Return()
		}
	}
	// Two that are borrowed at the same time have nothing in common.
	a, b := packet.Borrow(64, 1400), packet.Borrow(64, 1400)
	for i := range a.Batch {
		a.Batch[i].Set([]byte("a"))
		b.Batch[i].Set([]byte("b"))
	}
	for i := range a.Batch {
		if string(a.Batch[i].Bytes()) != "a" {
			t.Fatal("two Loans share memory")
		}
	}
	a.Return()
	b.Return()
}

func TestBorrowAllocs(t *testing.T) {
	packet.Borrow(64, 1400).Return()
	// The garbage collector may take what nobody uses, but that is rare.
	if n := testing.AllocsPerRun(1000, func() { packet.Borrow(64, 1400).Return() }); n != 0 {
		t.Errorf("a Loan allocates %v times", n)
	}
}

func BenchmarkBorrow(b *testing.B) {
	for b.Loop() {
		packet.Borrow(64, 1400).Return()
	}
}
