package packettest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/packet"
	. "culvert.example/vpn/packet/packettest"
	"culvert.example/vpn/packet/pcapng"
)

// An arrival is a numbered packet and when it came.
type arrival struct {
	number int
	after  time.Duration
}

// pass writes total numbered packets to near in batches, closes it after a while, and returns what came out of far.
func pass(t *testing.T, near, far packet.Conn, total int) []arrival {
	t.Helper()
	start := time.Now()
	go func() {
		for i := 0; i < total; {
			b := packet.NewBatch(min(7, total-i), 64)
			var want []byte
			for j := range b {
				b[j].SetLen(4)
				binary.BigEndian.PutUint32(b[j].Bytes(), uint32(i+j))
				want = append(want, b[j].Bytes()...)
			}
			n, err := near.WriteBatch(b)
			if n != len(b) || err != nil {
				t.Errorf("WriteBatch: %d, %v", n, err)
			}
			var got []byte
			for j := range b {
				got = append(got, b[j].Bytes()...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("WriteBatch changed the Batch")
			}
			i += len(b)
		}
		time.Sleep(time.Minute)
		near.Close()
		far.Close()
	}()
	var got []arrival
	b := packet.NewBatch(5, 64)
	for {
		n, err := far.ReadBatch(b)
		for i := range n {
			got = append(got, arrival{int(binary.BigEndian.Uint32(b[i].Bytes())), time.Since(start)})
		}
		if err != nil {
			if n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadBatch: %d, %v", n, err)
			}
			return got
		}
	}
}

func numbers(as []arrival) []int {
	var n []int
	for _, a := range as {
		n = append(n, a.number)
	}
	return n
}

// both runs a test with a fault on the writing and on the reading side.
func both(t *testing.T, fault func(c packet.Conn, dir Dir) packet.Conn, check func(t *testing.T, got []arrival)) {
	for _, dir := range []Dir{Out, In} {
		t.Run(map[Dir]string{Out: "out", In: "in"}[dir], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := packet.Pipe(1400, 16)
				if dir == Out {
					near = fault(near, Out)
				} else {
					far = fault(far, In)
				}
				check(t, pass(t, near, far, 1000))
			})
			// The same fault does not strike the other direction.
			synctest.Test(t, func(t *testing.T) {
				near, far := packet.Pipe(1400, 16)
				if dir == Out {
					far = fault(far, Out)
				} else {
					near = fault(near, In)
				}
				got := pass(t, near, far, 100)
				if !slices.Equal(numbers(got), count(100)) || got[99].after != 0 {
					t.Errorf("the fault strikes the other direction too")
				}
			})
		})
	}
}

func count(n int) []int {
	var s []int
	for i := range n {
		s = append(s, i)
	}
	return s
}

func TestLossy(t *testing.T) {
	both(t, func(c packet.Conn, dir Dir) packet.Conn { return Lossy(c, dir, 0.1, 42) }, func(t *testing.T, got []arrival) {
		n := numbers(got)
		if len(n) < 850 || len(n) > 950 || !slices.IsSorted(n) {
			t.Errorf("%d packets of 1000 came, sorted %v", len(n), slices.IsSorted(n))
		}
	})
	for rate, want := range map[float64]int{0: 1000, 1: 0} {
		both(t, func(c packet.Conn, dir Dir) packet.Conn { return Lossy(c, dir, rate, 1) }, func(t *testing.T, got []arrival) {
			if len(got) != want {
				t.Errorf("%d packets came at a loss of %v", len(got), rate)
			}
		})
	}
}

func TestLossyIsRepeatable(t *testing.T) {
	survivors := func(start uint64) (n []int) {
		synctest.Test(t, func(t *testing.T) {
			near, far := packet.Pipe(1400, 16)
			n = numbers(pass(t, Lossy(near, Out, 0.1, start), far, 1000))
		})
		return n
	}
	first := survivors(1)
	if !slices.Equal(first, survivors(1)) {
		t.Error("other packets were lost the second time")
	}
	if slices.Equal(first, survivors(2)) {
		t.Error("the same packets were lost from another start")
	}
}

func TestDuplicate(t *testing.T) {
	both(t, func(c packet.Conn, dir Dir) packet.Conn { return Duplicate(c, dir, 0.1, 7) }, func(t *testing.T, got []arrival) {
		n := numbers(got)
		if len(n) < 1050 || len(n) > 1150 {
			t.Errorf("%d packets came", len(n))
		}
		slices.Sort(n)
		if n = slices.Compact(n); !slices.Equal(n, count(1000)) {
			t.Errorf("%d different packets came", len(n))
		}
	})
}

func TestDelay(t *testing.T) {
	const d, jitter = 20 * time.Millisecond, 5 * time.Millisecond
	both(t, func(c packet.Conn, dir Dir) packet.Conn { return Delay(c, dir, d, jitter, 1) }, func(t *testing.T, got []arrival) {
		if !slices.Equal(numbers(got), count(1000)) {
			t.Fatalf("%d packets came, sorted %v", len(got), slices.IsSorted(numbers(got)))
		}
		if first, last := got[0].after, got[999].after; first < d || last > d+jitter || first == last {
			t.Errorf("packets came after %v to %v", first, last)
		}
	})
}

func TestReorder(t *testing.T) {
	both(t, func(c packet.Conn, dir Dir) packet.Conn { return Reorder(c, dir, 0.03, time.Millisecond, 1) }, func(t *testing.T, got []arrival) {
		n := numbers(got)
		if slices.IsSorted(n) {
			t.Error("packets came in order")
		}
		late := 0
		for _, a := range got {
			if a.after == time.Millisecond {
				late++
			} else if a.after != 0 {
				t.Errorf("a packet came after %v", a.after)
			}
		}
		if late < 10 || late > 60 {
			t.Errorf("%d packets of 1000 were late", late)
		}
		slices.Sort(n)
		if !slices.Equal(n, count(1000)) {
			t.Errorf("%d packets came", len(n))
		}
	})
}

func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := packet.Pipe(1400, 16)
		cut := Cut(near)
		defer cut.Close()
		defer far.Close()
		one := func(from, to packet.Conn) bool {
			b := packet.NewBatch(1, 100)
			b[0].Set([]byte("x"))
			if n, err := from.WriteBatch(b); n != 1 || err != nil {
				t.Fatalf("WriteBatch: %d, %v", n, err)
			}
			came := make(chan error, 1)
			go func() {
				_, err := to.ReadBatch(b)
				came <- err
			}()
			synctest.Wait()
			select {
			case err := <-came:
				return err == nil
			default:
			}
			// Let the reader go: with all mended, it gets another packet.
			cut.Mend(Both)
			b = packet.NewBatch(1, 100)
			from.WriteBatch(b)
			<-came
			return false
		}
		for _, tt := range []struct {
			cut     Dir
			out, in bool
		}{{0, true, true}, {Out, false, true}, {In, true, false}, {Both, false, false}, {0, true, true}} {
			cut.Cut(tt.cut)
			if got := one(cut, far); got != tt.out {
				t.Errorf("cut %d: a packet sent came: %v", tt.cut, got)
			}
			cut.Cut(tt.cut)
			if got := one(far, cut); got != tt.in {
				t.Errorf("cut %d: a packet for us came: %v", tt.cut, got)
			}
			cut.Mend(Both)
		}
	})
}

func TestHole(t *testing.T) {
	near, far := packet.Pipe(1400, 16)
	hole := Hole(near, Out, 1000)
	if hole.MTU() != 1400 {
		t.Errorf("the hole shows: the MTU is %d", hole.MTU())
	}
	sizes := func() []int {
		b := packet.NewBatch(3, 1400)
		for i, n := range []int{1000, 1001, 500} {
			b[i].SetLen(n)
		}
		if n, err := hole.WriteBatch(b); n != 3 || err != nil {
			t.Fatalf("WriteBatch: %d, %v", n, err)
		}
		n, err := far.ReadBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range n {
			got = append(got, b[i].Len())
		}
		return got
	}
	if got := sizes(); !slices.Equal(got, []int{1000, 500}) {
		t.Errorf("passed %v", got)
	}
	hole.SetSize(1400)
	if got := sizes(); !slices.Equal(got, []int{1000, 1001, 500}) {
		t.Errorf("passed %v without a hole", got)
	}
	hole.SetSize(999)
	if got := sizes(); !slices.Equal(got, []int{500}) {
		t.Errorf("passed %v with a larger hole", got)
	}
}

// TestTooBig checks that the index of a packet that is too big is right whatever was done to those before it.
func TestTooBig(t *testing.T) {
	for name, fault := range map[string]func(packet.Conn) packet.Conn{
		"lossy":     func(c packet.Conn) packet.Conn { return Lossy(c, Out, 0.5, 3) },
		"hole":      func(c packet.Conn) packet.Conn { return Hole(c, Out, 1) },
		"duplicate": func(c packet.Conn) packet.Conn { return Duplicate(c, Out, 0.5, 3) },
		"delay":     func(c packet.Conn) packet.Conn { return Delay(c, Out, 0, 0, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			near, _ := packet.Pipe(100, 64)
			c := fault(near)
			defer c.Close()
			b := packet.NewBatch(10, 200)
			for i := range b {
				b[i].SetLen(1 + i%2)
			}
			b[6].SetLen(101)
			n, err := c.WriteBatch(b)
			// A packet that was lost on the way never met the MTU.
			if name == "hole" || (name == "lossy" && err == nil) {
				if n != 10 || err != nil {
					t.Errorf("WriteBatch: %d, %v", n, err)
				}
				return
			}
			if n != 6 || !errors.Is(err, packet.ErrTooBig) {
				t.Errorf("WriteBatch: %d, %v", n, err)
			}
		})
	}
}

func TestRecorder(t *testing.T) {
	var file bytes.Buffer
	w := pcapng.NewWriter(&file)
	near, far := packet.Pipe(1400, 16)
	near = Recorder(near, w)
	b := packet.NewBatch(1, 100)
	b[0].Set([]byte("going out"))
	near.WriteBatch(b)
	b[0].Set([]byte("coming in"))
	far.WriteBatch(b)
	if _, err := near.ReadBatch(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Err(); err != nil {
		t.Fatal(err)
	}
	out, in := bytes.Index(file.Bytes(), []byte("going out")), bytes.Index(file.Bytes(), []byte("coming in"))
	if out < 0 || in < out {
		t.Fatalf("the capture has the packets at %d and %d", out, in)
	}
	// The flags follow the nine bytes, their padding and the head of the option.
	if file.Bytes()[out+16] != byte(pcapng.Out) || file.Bytes()[in+16] != byte(pcapng.In) {
		t.Errorf("the directions are %d and %d", file.Bytes()[out+16], file.Bytes()[in+16])
	}
}

// TestComposed stacks all faults and closes the topmost while packets are under way.
func TestComposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := packet.Pipe(1400, 16)
		c := Cut(Hole(Duplicate(Reorder(Delay(Lossy(near, Both, 0.1, 1), Both, time.Second, time.Second, 2), Both, 0.1, time.Second, 3), Both, 0.1, 4), Both, 1000))
		got := pass(t, c, far, 1000)
		if len(got) < 800 || len(got) > 1200 {
			t.Errorf("%d packets came", len(got))
		}
		if _, err := c.WriteBatch(packet.NewBatch(1, 10)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteBatch after Close: %v", err)
		}
		if _, err := c.ReadBatch(packet.NewBatch(1, 10)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch after Close: %v", err)
		}
	})
}

// TestBackpressure closes a Delay whose line is full.
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := packet.Pipe(1400, 16)
		defer far.Close()
		c := Delay(near, Out, time.Hour, 0, 1)
		done := make(chan error, 1)
		go func() {
			b := packet.NewBatch(64, 20)
			for {
				if _, err := c.WriteBatch(b); err != nil {
					done <- err
					return
				}
			}
		}()
		synctest.Wait()
		c.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteBatch: %v", err)
		}
	})
}
