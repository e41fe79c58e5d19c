//go:build !unix

package terminal

import (
	"context"
	"os"
)

// controlling opens the console.
func controlling() (in, out *os.File, err error) {
	if in, err = os.OpenFile("CONIN$", os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	if out, err = os.OpenFile("CONOUT$", os.O_RDWR, 0); err != nil {
		_ = in.Close() // it was of no use
		return nil, nil, err
	}
	return in, out, nil
}

// A reader reads from a file until its context ends. Here a read cannot be interrupted: when the context ends first, the
// goroutine of that read stays until the next key and drops it.
type reader struct {
	done  <-chan struct{}
	ended func() error
	f     *os.File
}

func newReader(ctx context.Context, f *os.File) (*reader, error) {
	return &reader{ctx.Done(), ctx.Err, f}, nil
}

func (*reader) close() error { return nil }

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	size := len(b)
	go func() {
		b := make([]byte, size)
		n, err := r.f.Read(b)
		done <- result{b[:n], err}
	}()
	select {
	case <-r.done:
		return 0, r.ended()
	case res := <-done:
		return copy(b, res.b), res.err
	}
}
