package flow

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

// A sink takes packets, and says which. It blocks while it is locked.
type sink struct {
	got  chan string
	gate chan struct{} // nil, or what WriteBatch waits for
	err  error
}

func newSink() *sink { return &sink{got: make(chan string, 1000)} }

func (s *sink) WriteBatch(b packet.Batch) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if s.err != nil {
		return 0, s.err
	}
	for i := range b {
		s.got <- string(b[i].Bytes())
	}
	return len(b), nil
}

func (s *sink) next(t *testing.T) string {
	t.Helper()
	select {
	case p := <-s.got:
		return p
	case <-time.After(5 * time.Second):
		t.Fatal("no packet comes")
		return ""
	}
}

func put(t *testing.T, w packet.Writer, text string) {
	t.Helper()
	b := packet.NewBatch(1, 100)
	b[0].Set([]byte(text))
	if n, err := w.WriteBatch(b); n != 1 || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
}

// forward starts to forward a side to a sink.
func forward(d *Side, s *sink) chan error {
	ended := make(chan error, 1)
	go func() { ended <- packet.Copy(s, d, 100, 8) }()
	for {
		d.sw.mu.Lock()
		ready := d.dst != nil
		d.sw.mu.Unlock()
		if ready {
			return ended
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSwitch(t *testing.T) {
	checkLeaks(t)
	cable, dev := packet.Pipe(1280, 64)
	sw := NewSwitch(dev)
	defer sw.Close()
	a, b := sw.Side(), sw.Side()
	sa, sb := newSink(), newSink()
	endA, endB := forward(a, sa), forward(b, sb)
	if sw.Selected() != nil || a.MTU() != 1280 {
		t.Error("a new switch")
	}
	put(t, a, "from nobody")
	for i := range 10 {
		to, other, got := a, b, sa
		if i%2 == 1 {
			to, other, got = b, a, sb
		}
		if err := sw.Select(to); err != nil || sw.Selected() != to {
			t.Fatal(err)
		}
		put(t, other, "dropped")
		put(t, to, fmt.Sprint("out ", i))
		batch := packet.NewBatch(8, 1280)
		if n, err := cable.ReadBatch(batch); n != 1 || err != nil || string(batch[0].Bytes()) != fmt.Sprint("out ", i) {
			t.Fatalf("%d: %d packets, the first is %q, %v", i, n, batch[0].Bytes(), err)
		}
		// What comes while the delivery of before has not returned is lost.
		eventually(t, "the delivery of before returns", func() bool {
			sw.mu.Lock()
			defer sw.mu.Unlock()
			return to.inside == 0
		})
		put(t, cable, fmt.Sprint("in ", i))
		if p := got.next(t); p != fmt.Sprint("in ", i) {
			t.Fatalf("%d: %q", i, p)
		}
	}
	// Closing a side leaves the other alone.
	a.Close()
	if err := <-endA; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the closed side: %v", err)
	}
	if _, err := a.WriteBatch(packet.NewBatch(1, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to the closed side: %v", err)
	}
	put(t, cable, "still")
	if p := sb.next(t); p != "still" {
		t.Errorf("%q", p)
	}
	if err := sw.Close(); err != nil {
		t.Error(err)
	}
	if err := <-endB; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a side of a closed switch: %v", err)
	}
	if err := sw.Select(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Select: %v", err)
	}
}

// A side that hangs does not keep the device from the other.
func TestSwitchFromHanging(t *testing.T) {
	checkLeaks(t)
	cable, dev := packet.Pipe(1280, 64)
	sw := NewSwitch(dev)
	a, b := sw.Side(), sw.Side()
	sa, sb := newSink(), newSink()
	sa.gate = make(chan struct{})
	forward(a, sa)
	forward(b, sb)
	sw.Select(a)
	put(t, cable, "hangs")
	eventually(t, "it hangs", func() bool {
		sw.mu.Lock()
		defer sw.mu.Unlock()
		return sw.busy == a
	})
	start := time.Now()
	sw.Select(b)
	put(t, cable, "goes on")
	if p := sb.next(t); p != "goes on" {
		t.Errorf("%q", p)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v", d)
	}
	// And back, while it still hangs: nobody calls it twice at a time.
	sw.Select(a)
	put(t, cable, "lost")
	sw.Select(b)
	put(t, cable, "again")
	for sb.next(t) != "again" {
	}
	close(sa.gate)
	if p := sa.next(t); p != "hangs" {
		t.Errorf("%q", p)
	}
	sw.Close()
	if len(sa.got) != 0 {
		t.Errorf("then %q", <-sa.got)
	}
}

// Whoever takes packets and fails or panics ends his side only.
func TestSideFails(t *testing.T) {
	cable, dev := packet.Pipe(1280, 64)
	sw := NewSwitch(dev)
	defer sw.Close()
	a := sw.Side()
	s := newSink()
	s.err = errors.New("full")
	ended := forward(a, s)
	sw.Select(a)
	put(t, cable, "x")
	if err := <-ended; err != s.err {
		t.Errorf("%v", err)
	}
	go func() { ended <- a.Forward(writerFunc(func(packet.Batch) (int, error) { panic("oh") })) }()
	eventually(t, "the panic is told", func() bool {
		put(t, cable, "x")
		select {
		case err := <-ended:
			return err != nil && err.Error() == "flow: delivering packets: panic: oh"
		default:
			return false
		}
	})
	// The device fails.
	s.err = nil
	ended = forward(a, s)
	dev.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := sw.Select(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Select: %v", err)
	}
}

type writerFunc func(packet.Batch) (int, error)

func (f writerFunc) WriteBatch(b packet.Batch) (int, error) { return f(b) }

func TestSideReadBatch(t *testing.T) {
	cable, dev := packet.Pipe(1280, 64)
	sw := NewSwitch(dev)
	a := sw.Side()
	sw.Select(a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			b := packet.NewBatch(1, 100)
			b[0].Set([]byte("x"))
			if _, err := cable.WriteBatch(b); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	b := packet.NewBatch(4, 100)
	if n, err := a.ReadBatch(b); n < 1 || err != nil || string(b[0].Bytes()) != "x" {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := a.ReadBatch(nil); err == nil {
		t.Error("a read into nothing")
	}
	sw.Close()
	if _, err := a.ReadBatch(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	<-done
}

// Packets go through a Switch without a new piece of memory for each.
func TestSwitchAllocs(t *testing.T) {
	cable, dev := packet.Pipe(1280, 256)
	sw := NewSwitch(dev)
	defer sw.Close()
	a := sw.Side()
	taken := make(chan int, 1000)
	go a.Forward(writerFunc(func(b packet.Batch) (int, error) {
		taken <- len(b)
		return len(b), nil
	}))
	eventually(t, "the side is read", func() bool {
		sw.mu.Lock()
		defer sw.mu.Unlock()
		return a.dst != nil
	})
	sw.Select(a)
	b := packet.NewBatch(64, 1280)
	for i := range b {
		b[i].Set(make([]byte, 1000))
	}
	n := testing.AllocsPerRun(200, func() {
		if _, err := cable.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(b); {
			got += <-taken
		}
		if _, err := a.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(b); {
			k, err := cable.ReadBatch(b[got:])
			if err != nil {
				t.Fatal(err)
			}
			got += k
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for 64 packets each way", n)
	}
}
