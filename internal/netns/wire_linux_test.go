package netns

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/leak"
)

// wired returns two hosts with a wire between them, and the names of their interfaces.
func wired(tb testing.TB, imp Impairment) (a, b *Host, w *Wire) {
	tb.Helper()
	lab := New(tb)
	a, b = lab.Host("a"), lab.Host("b")
	_, _, w = lab.JoinThrough(a, "10.0.0.1/24 fd00::1/64", b, "10.0.0.2/24 fd00::2/64", imp)
	return a, b, w
}

// connect returns both ends of a TCP connection from a to b.
func connect(tb testing.TB, a, b *Host, addr string) (client, server net.Conn) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	l, err := b.Listen("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	client, err = a.DialContext(ctx, "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { server.Close() })
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(60 * time.Second))
	}
	return client, server
}

// transfer sends n random bytes over a connection and checks that they arrive.
func transfer(tb testing.TB, from, to net.Conn, n int64) {
	tb.Helper()
	sent := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		io.CopyN(io.MultiWriter(from, h), rand.NewChaCha8([32]byte{1}), n)
		sent <- [32]byte(h.Sum(nil))
	}()
	h := sha256.New()
	if _, err := io.CopyN(h, to, n); err != nil {
		tb.Fatal(err)
	}
	if [32]byte(h.Sum(nil)) != <-sent {
		tb.Error("other bytes arrived than were sent")
	}
}

func TestWire(t *testing.T) {
	leak.Check(t)
	for _, test := range []struct {
		name string
		imp  Impairment
	}{
		{"clean", Impairment{}},
		{"bad", Impairment{Loss: 0.03, Reorder: 0.03, Delay: time.Millisecond, Jitter: time.Millisecond}},
		{"narrow", Impairment{Rate: 20e6}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b, w := wired(t, test.imp)
			for _, addr := range []string{"10.0.0.2:7", "[fd00::2]:7"} {
				client, server := connect(t, a, b, addr)
				start := time.Now()
				transfer(t, client, server, 1<<20)
				transfer(t, server, client, 1<<20)
				if d := time.Since(start); test.imp.Rate > 0 && d < 800*time.Millisecond {
					t.Errorf("16 Mbit took %v at %d bit/s", d, test.imp.Rate)
				}
			}
			s := w.Stats()
			t.Logf("%+v", s)
			if s.Frames < 2*2*700 || (s.Lost > 0) != (test.imp.Loss > 0) || (s.Late > 0) != (test.imp.Reorder > 0) {
				t.Errorf("counters %+v", s)
			}
		})
	}
}

// TestWireFrames sends what offloads would leave in one piece: the frames that b gets fit the MTU, and have right checksums,
// or it would not take them.
func TestWireFrames(t *testing.T) {
	a, b, w := wired(t, Impairment{})
	pc, err := b.ListenPacket("udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := a.DialContext(t.Context(), "udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size, segments = 1400, 8
	var sockErr error
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { sockErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if sockErr != nil {
		t.Fatal(sockErr)
	}
	before := w.Stats().Frames
	if _, err := c.Write(bytes.Repeat([]byte("x"), size*segments)); err != nil {
		if errors.Is(err, syscall.EIO) {
			t.Log("this kernel has no segmentation without checksum offload")
			return
		}
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	for range segments {
		if n, _, err := pc.ReadFrom(buf); err != nil || n != size {
			t.Fatalf("a datagram of %d bytes, %v, want %d", n, err, size)
		}
	}
	if n := w.Stats().Frames - before; n < segments {
		t.Errorf("%d frames for %d segments", n, segments)
	}
}

func TestWireSet(t *testing.T) {
	a, b, w := wired(t, Impairment{})
	client, server := connect(t, a, b, "10.0.0.2:7")
	transfer(t, client, server, 1<<16)
	w.Set(Impairment{Loss: 1})
	client.Write([]byte("x"))
	server.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := server.Read(make([]byte, 1)); n != 0 || !os.IsTimeout(err) {
		t.Errorf("read %d bytes over a wire that loses everything, %v", n, err)
	}
	w.Set(Impairment{})
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := server.Read(make([]byte, 1)); n != 1 {
		t.Errorf("read %d bytes over the mended wire, %v", n, err)
	}
}

// BenchmarkWire is TCP over a good wire.
func BenchmarkWire(b *testing.B) {
	from, to, _ := wired(b, Impairment{})
	client, server := connect(b, from, to, "10.0.0.2:7")
	client.SetDeadline(time.Time{})
	server.SetDeadline(time.Time{})
	const chunk = 1 << 20
	b.SetBytes(chunk)
	b.ResetTimer()
	go func() {
		buf := make([]byte, chunk)
		for range b.N {
			client.Write(buf)
		}
	}()
	if _, err := io.CopyN(io.Discard, server, int64(b.N)*chunk); err != nil {
		b.Fatal(err)
	}
}

// An arrival is a frame that a lane has sent.
type arrival struct {
	number int
	after  time.Duration
}

// through sends count frames of 1000 bytes, one a millisecond, and returns what arrives.
func through(imp Impairment, count int) []arrival {
	var got []arrival
	start := time.Now()
	l := newLane(func(frame []byte) {
		got = append(got, arrival{int(binary.BigEndian.Uint32(frame)), time.Since(start)})
	}, 0)
	l.set(imp)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run()
	}()
	for i := range count {
		l.put(binary.BigEndian.AppendUint32(make([]byte, 0, 1000), uint32(i))[:1000])
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Minute)
	l.close()
	<-done
	return got
}

func TestLane(t *testing.T) {
	const count = 10000
	inOrder := func(a, b arrival) int { return a.number - b.number }
	run := func(name string, imp Impairment, check func(t *testing.T, got []arrival)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := through(imp, count)
				check(t, got)
				if again := through(imp, count); !slices.Equal(got, again) {
					t.Error("the same frames fared otherwise the second time")
				}
			})
		})
	}
	late := func(a arrival) time.Duration { return a.after - time.Duration(a.number)*time.Millisecond }
	all := func(t *testing.T, got []arrival) {
		t.Helper()
		if len(got) != count || !slices.IsSortedFunc(got, inOrder) {
			t.Errorf("%d of %d frames arrived, or not in order", len(got), count)
		}
	}

	run("good", Impairment{}, func(t *testing.T, got []arrival) {
		all(t, got)
		for _, a := range got {
			if late(a) != 0 {
				t.Fatalf("frame %d came %v late", a.number, late(a))
			}
		}
	})
	run("loss", Impairment{Loss: 0.1, Start: 7}, func(t *testing.T, got []arrival) {
		if lost := count - len(got); lost < count*8/100 || lost > count*12/100 || !slices.IsSortedFunc(got, inOrder) {
			t.Errorf("%d of %d frames were lost, want a tenth", lost, count)
		}
	})
	run("reorder", Impairment{Reorder: 0.03}, func(t *testing.T, got []arrival) {
		n := 0
		for _, a := range got {
			switch late(a) {
			case 0:
			case defaultReorderDelay:
				n++
			default:
				t.Fatalf("frame %d came %v late", a.number, late(a))
			}
		}
		if len(got) != count || n < count*2/100 || n > count*4/100 || slices.IsSortedFunc(got, inOrder) {
			t.Errorf("%d of %d frames came late, want three in a hundred", n, count)
		}
	})
	run("delay and jitter", Impairment{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}, func(t *testing.T, got []arrival) {
		all(t, got)
		var sum time.Duration
		for _, a := range got {
			if late(a) < 20*time.Millisecond || late(a) > 30*time.Millisecond {
				t.Fatalf("frame %d came %v late", a.number, late(a))
			}
			sum += late(a)
		}
		if mean := sum / count; mean < 24*time.Millisecond {
			t.Errorf("the mean delay is %v", mean)
		}
	})
	// A frame of 1000 bytes takes 2 ms, so half of them do not fit.
	run("rate", Impairment{Rate: 4e6, Queue: 10000}, func(t *testing.T, got []arrival) {
		if len(got) < count/2 || len(got) > count/2+11 || !slices.IsSortedFunc(got, inOrder) {
			t.Errorf("%d frames of %d went through, want half and what the queue holds", len(got), count)
		}
		for _, a := range got {
			if late(a) > 20*time.Millisecond {
				t.Fatalf("frame %d came %v late, more than the queue takes", a.number, late(a))
			}
		}
	})
}
