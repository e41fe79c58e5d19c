//go:build unix

package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// controlling opens the controlling terminal of the process.
func controlling() (in, out *os.File, err error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	return f, f, err
}

// A reader reads from a file until its context ends. A read of a terminal cannot be interrupted, so it waits for input by
// poll, together with a pipe that the end of the context closes.
type reader struct {
	ended      func() error // why the context has ended, nil if it has not
	fd         int
	wake, hang *os.File
	stop       func() bool
}

func newReader(ctx context.Context, f *os.File) (*reader, error) {
	wake, hang, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r := &reader{ended: ctx.Err, fd: int(f.Fd()), wake: wake, hang: hang}
	r.stop = context.AfterFunc(ctx, func() {
		_ = hang.Close() // this wakes the poll
	})
	return r, nil
}

func (r *reader) close() error {
	if r.stop() {
		return errors.Join(r.hang.Close(), r.wake.Close())
	}
	return r.wake.Close()
}

// Read implements io.Reader. It reads one byte, so that what was typed ahead waits for the next form.
func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}, {Fd: int32(r.wake.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case r.ended() != nil:
			return 0, r.ended()
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("poll: %w", err)
		case fds[0].Revents == 0:
			continue
		}
		n, err := unix.Read(r.fd, b[:1])
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EIO):
			return 0, io.EOF // the other end of the terminal is gone
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
