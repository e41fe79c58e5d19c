package flow

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// smallBuffer is the size in bytes of the memory of a direction in which little moves, and largeBuffer that of one in which much
	// does. Thousands of connections are open and idle at a time.
	smallBuffer, largeBuffer = 4 << 10, 64 << 10
	// calm is how many small reads in a row make a direction one in which little moves.
	calm = 16
	// datagramBuffer holds the largest datagram.
	datagramBuffer = 64 << 10
)

// Most flows are short, so their memory is used again. What nobody uses is freed by the garbage collector.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// A buffer is memory for one direction of a connection, as much as it needs.
type buffer struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte
	quiet int
}

// bytes returns the memory to read into.
func (b *buffer) bytes() []byte {
	switch {
	case b.large != nil:
		return b.large[:]
	case b.small == nil:
		b.small = smallBuffers.Get().(*[smallBuffer]byte)
	}
	return b.small[:]
}

// used tells that a read has brought n bytes.
func (b *buffer) used(n int) {
	switch {
	case b.large == nil && n == smallBuffer:
		b.release()
		b.large, b.quiet = largeBuffers.Get().(*[largeBuffer]byte), 0
	case b.large != nil && n > smallBuffer:
		b.quiet = 0
	case b.large != nil:
		if b.quiet++; b.quiet == calm {
			b.release()
		}
	}
}

func (b *buffer) release() {
	if b.small != nil {
		smallBuffers.Put(b.small)
	}
	if b.large != nil {
		largeBuffers.Put(b.large)
	}
	b.small, b.large = nil, nil
}

// copyStream copies from src to dst until the end of src, which is no error, and counts what it has copied.
func copyStream(dst io.Writer, src io.Reader, count *atomic.Uint64) error {
	var b buffer
	defer b.release()
	for {
		mem := b.bytes()
		n, err := src.Read(mem)
		if n > 0 {
			if _, err := dst.Write(mem[:n]); err != nil {
				return err
			}
			count.Add(uint64(n))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		b.used(n)
	}
}

// passOn tells dst what the copying from src to it has ended with: the end of src, after which the other direction goes on, or an
// error, after which both are over. What was cut off must not look complete, so it is passed on as a reset.
func passOn(dst, src net.Conn, err error) {
	if err != nil {
		reset(dst)
		reset(src)
		return
	}
	cw, ok := dst.(interface{ CloseWrite() error })
	if !ok {
		// Its peer would otherwise wait for an end that never comes.
		dst.Close()
		return
	}
	if err := cw.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, net.ErrClosed) {
		reset(dst)
		reset(src)
	}
}

// half copies from src to dst and passes the end on.
func half(dst, src net.Conn, count *atomic.Uint64) {
	passOn(dst, src, copyStream(dst, src, count))
}
