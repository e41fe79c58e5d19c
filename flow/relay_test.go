package flow

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"culvert.example/vpn/stack"
)

// A chunks is a connection that brings pieces of given sizes, and then an error.
type chunks struct {
	net.Conn
	sizes   []int
	err     error
	written bytes.Buffer
	keep    bool
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.sizes) == 0 {
		return 0, c.err
	}
	n := min(c.sizes[0], len(b))
	if c.sizes[0] -= n; c.sizes[0] == 0 {
		c.sizes = c.sizes[1:]
	}
	for i := range b[:n] {
		b[i] = byte(i)
	}
	return n, nil
}

func (c *chunks) Write(b []byte) (int, error) {
	if c.keep {
		return c.written.Write(b)
	}
	return len(b), nil
}

func (c *chunks) Close() error { return nil }

// The memory of a direction grows with what moves in it, and shrinks again.
func TestBuffer(t *testing.T) {
	var b buffer
	defer b.release()
	if n := len(b.bytes()); n != smallBuffer {
		t.Errorf("%d bytes at first", n)
	}
	b.used(100)
	if n := len(b.bytes()); n != smallBuffer {
		t.Errorf("%d bytes after little", n)
	}
	b.used(smallBuffer)
	if n := len(b.bytes()); n != largeBuffer {
		t.Errorf("%d bytes after much", n)
	}
	for range calm - 1 {
		b.used(100)
	}
	b.used(largeBuffer)
	for i := range calm {
		if n := len(b.bytes()); n != largeBuffer {
			t.Errorf("%d bytes after %d small reads", n, i)
		}
		b.used(100)
	}
	if n := len(b.bytes()); n != smallBuffer {
		t.Errorf("%d bytes in the end", n)
	}
}

func TestCopyStream(t *testing.T) {
	bad := errors.New("bad")
	for _, end := range []error{io.EOF, bad} {
		src := &chunks{sizes: []int{1, 10000, 70000, 3, 200000, 5}, err: end}
		dst := &chunks{keep: true}
		var count atomic.Uint64
		err := copyStream(dst, src, &count)
		if end == io.EOF && err != nil || end == bad && err != bad || count.Load() != 280009 || dst.written.Len() != 280009 {
			t.Errorf("%v, %d counted, %d written", err, count.Load(), dst.written.Len())
		}
	}
}

// Nothing is allocated for a piece of data.
func TestRelayAllocs(t *testing.T) {
	var count atomic.Uint64
	dst := &chunks{}
	src := &chunks{err: io.EOF}
	sizes := make([]int, 1000)
	per := func(pieces, size int) float64 {
		return testing.AllocsPerRun(20, func() {
			src.sizes = sizes[:pieces]
			for i := range src.sizes {
				src.sizes[i] = size
			}
			copyStream(dst, src, &count)
		})
	}
	if few, many := per(10, 4000), per(1000, 4000); many > few+1 {
		t.Errorf("%v allocations for 10 pieces, %v for 1000", few, many)
	}
	src.err = net.ErrClosed
	datagrams := func(n int) float64 {
		return testing.AllocsPerRun(20, func() {
			src.sizes = sizes[:n]
			for i := range src.sizes {
				src.sizes[i] = 1200
			}
			carry(dst, src, nil, &count)
		})
	}
	if few, many := datagrams(10), datagrams(1000); many > few+1 {
		t.Errorf("%v allocations for 10 datagrams, %v for 1000", few, many)
	}
}

func TestFateOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want fate
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, fate{why: stack.PortUnreachable}},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, fate{why: stack.HostUnreachable}},
		{syscall.ENETUNREACH, fate{why: stack.NetUnreachable}},
		{errNowhere, fate{why: stack.NetUnreachable}},
		{syscall.EPERM, fate{why: stack.Prohibited}},
		{&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}, fate{silent: true}},
		{&net.DNSError{IsTimeout: true}, fate{silent: true}},
		{errors.New("the tunnel has ended"), fate{why: stack.HostUnreachable}},
	} {
		if got := fateOf(tt.err); got != tt.want {
			t.Errorf("%v: %+v", tt.err, got)
		}
	}
}
