package packet_test

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"culvert.example/vpn/packet"
)

func batch(packets ...string) packet.Batch {
	b := packet.NewBatch(len(packets), 100)
	for i, p := range packets {
		b[i].Set([]byte(p))
	}
	return b
}

func text(b packet.Batch) string {
	var s []string
	for i := range b {
		s = append(s, string(b[i].Bytes()))
	}
	return strings.Join(s, " ")
}

// read reads one batch of up to max packets of up to size bytes.
func read(t *testing.T, c packet.Reader, max, size int) string {
	t.Helper()
	b := packet.NewBatch(max, size)
	n, err := c.ReadBatch(b)
	if err != nil {
		t.Fatalf("ReadBatch: %v", err)
	}
	return text(b[:n])
}

func write(t *testing.T, c packet.Writer, packets ...string) {
	t.Helper()
	b := batch(packets...)
	if n, err := c.WriteBatch(b); n != len(b) || err != nil {
		t.Fatalf("WriteBatch: %d, %v", n, err)
	}
	if got := text(b); got != strings.Join(packets, " ") {
		t.Fatalf("WriteBatch changed the packets to %q", got)
	}
}

func TestPipe(t *testing.T) {
	for _, size := range []int{10, 50, 100} { // smaller, larger and equal Bufs
		a, b := packet.Pipe(50, 4)
		if a.MTU() != 50 || b.MTU() != 50 {
			t.Errorf("the MTU is %d and %d", a.MTU(), b.MTU())
		}
		write(t, a, "1", "2", "3")
		write(t, b, "x")
		if got := read(t, b, 2, size); got != "1 2" {
			t.Errorf("read %q", got)
		}
		write(t, a, "4", "5", "6")
		if got := read(t, b, 8, size); got != "3 4 5 6" {
			t.Errorf("read %q", got)
		}
		if got := read(t, a, 8, size); got != "x" {
			t.Errorf("read %q on the other side", got)
		}
		a.Close()
		b.Close()
	}
}

func TestPipeSizes(t *testing.T) {
	a, b := packet.Pipe(10, 8)
	// The second is too big for the pipe, so the third is not looked at.
	n, err := a.WriteBatch(batch("0123456789", "0123456789a", "x"))
	if n != 1 || !errors.Is(err, packet.ErrTooBig) {
		t.Errorf("WriteBatch: %d, %v", n, err)
	}
	write(t, a, "y")
	// The first is too big for the Buf.
	if got := read(t, b, 4, 5); got != "y" {
		t.Errorf("read %q", got)
	}
	if n, err := b.ReadBatch(nil); n != 0 || err == nil {
		t.Errorf("ReadBatch of no Bufs: %d, %v", n, err)
	}
	if n, err := a.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("WriteBatch of no packets: %d, %v", n, err)
	}
}

// TestPipeMemory reads with Bufs of different sizes in turn, and checks that none of them shrinks and nothing is shared.
func TestPipeMemory(t *testing.T) {
	a, b := packet.Pipe(16, 4)
	small, same, large := packet.NewBatch(1, 8), packet.NewBatch(1, 16), packet.NewBatch(1, 32)
	for i := range 30 {
		write(t, a, "12345678", "abcdefgh", "ABCDEFGH")
		for _, r := range []struct {
			b    packet.Batch
			size int
			want string
		}{{small, 8, "12345678"}, {same, 16, "abcdefgh"}, {large, 32, "ABCDEFGH"}} {
			if n, err := b.ReadBatch(r.b); n != 1 || err != nil {
				t.Fatalf("round %d: %d, %v", i, n, err)
			}
			if r.b[0].Size() < r.size {
				t.Fatalf("round %d: a Buf of size %d came back with size %d", i, r.size, r.b[0].Size())
			}
		}
		if text(small) != "12345678" || text(same) != "abcdefgh" || text(large) != "ABCDEFGH" {
			t.Fatalf("round %d: read %q %q %q", i, text(small), text(same), text(large))
		}
		write(t, a, "0123456789abcdef")
		if got := read(t, b, 1, 16); got != "0123456789abcdef" {
			t.Fatalf("round %d: the pipe lost room: read %q", i, got)
		}
	}
}

func TestPipeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := packet.Pipe(10, 2)
		wrote := make(chan int, 1)
		go func() {
			n, _ := a.WriteBatch(batch("1", "2", "3", "4", "5"))
			wrote <- n
		}()
		synctest.Wait()
		select {
		case n := <-wrote:
			t.Fatalf("WriteBatch into a full pipe returned %d", n)
		default:
		}
		if got := read(t, b, 8, 10); got != "1 2" {
			t.Errorf("read %q", got)
		}
		synctest.Wait()
		if got := read(t, b, 8, 10); got != "3 4" {
			t.Errorf("read %q", got)
		}
		if n := <-wrote; n != 5 {
			t.Errorf("WriteBatch returned %d", n)
		}
	})
}

func TestPipeClose(t *testing.T) {
	for _, near := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a, b := packet.Pipe(10, 2)
			errs := make(chan error, 2)
			go func() {
				n, err := a.WriteBatch(batch("1", "2", "3"))
				if n != 2 {
					t.Errorf("WriteBatch returned %d packets", n)
				}
				errs <- err
			}()
			go func() {
				_, err := a.ReadBatch(packet.NewBatch(1, 10))
				errs <- err
			}()
			synctest.Wait()
			if near {
				a.Close()
			} else {
				b.Close()
			}
			for range 2 {
				if err := <-errs; !errors.Is(err, net.ErrClosed) {
					t.Errorf("unblocked with %v", err)
				}
			}
		})
	}
}

func TestPipeCloseKeepsWhatWasWritten(t *testing.T) {
	a, b := packet.Pipe(10, 4)
	write(t, a, "1", "2")
	write(t, b, "3")
	a.Close()
	a.Close()
	if got := read(t, b, 1, 10); got != "1" {
		t.Errorf("read %q", got)
	}
	if got := read(t, b, 1, 10); got != "2" {
		t.Errorf("read %q", got)
	}
	for _, c := range []packet.Conn{a, b} {
		if n, err := c.ReadBatch(packet.NewBatch(1, 10)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch: %d, %v", n, err)
		}
		for _, p := range []packet.Batch{batch("4"), nil} {
			if n, err := c.WriteBatch(p); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch: %d, %v", n, err)
			}
		}
	}
}

// TestPipeOrder passes numbered packets between goroutines with batches of different sizes.
func TestPipeOrder(t *testing.T) {
	const total = 20000
	a, b := packet.Pipe(64, 7)
	go func() {
		out := packet.NewBatch(5, 64)
		for i := uint32(0); i < total; i += 5 {
			for j := range out {
				out[j].SetLen(64)
				binary.BigEndian.PutUint32(out[j].Bytes(), i+uint32(j))
			}
			if _, err := a.WriteBatch(out); err != nil {
				t.Errorf("WriteBatch: %v", err)
			}
		}
		a.Close()
	}()
	in := packet.NewBatch(3, 64)
	next := uint32(0)
	for {
		n, err := b.ReadBatch(in)
		if err != nil {
			break
		}
		for i := range n {
			if got := binary.BigEndian.Uint32(in[i].Bytes()); got != next {
				t.Fatalf("packet %d came as number %d", got, next)
			}
			next++
		}
	}
	if next != total {
		t.Errorf("%d packets came", next)
	}
}

func TestPipeAllocs(t *testing.T) {
	a, b := packet.Pipe(1400, 64)
	for _, size := range []int{1400, 2000} {
		out, in := packet.NewBatch(32, 1400), packet.NewBatch(32, size)
		for i := range out {
			out[i].SetLen(1400)
		}
		n := testing.AllocsPerRun(100, func() {
			a.WriteBatch(out)
			b.ReadBatch(in)
		})
		if n != 0 {
			t.Errorf("a batch through the pipe into Bufs of size %d allocates %v times", size, n)
		}
	}
}

func TestPipePanics(t *testing.T) {
	for _, args := range [][2]int{{0, 1}, {1, 0}, {packet.MaxSize + 1, 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Pipe%v did not panic", args)
				}
			}()
			packet.Pipe(args[0], args[1])
		}()
	}
}

func BenchmarkPipe(b *testing.B) {
	x, y := packet.Pipe(1400, 256)
	go packet.Copy(devNull{}, y, 1400, 64)
	out := packet.NewBatch(64, 1400)
	for i := range out {
		out[i].SetLen(1400)
	}
	b.SetBytes(int64(len(out)) * 1400)
	b.ReportAllocs()
	for b.Loop() {
		x.WriteBatch(out)
	}
	x.Close()
}
