package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// relay copies between two connections until both directions have ended, and closes t. The end of one direction is passed
// on as such, so a client that has said all may still listen; an error ends both. The caller closes c.
func (s *Server) relay(c, t net.Conn) error {
	if !s.track(t) {
		return t.Close()
	}
	defer s.untrack(t)
	defer t.Close()
	r := &relaying{s: s, a: c, b: t}
	if s.IdleTimeout > 0 {
		stop := r.watch(s.IdleTimeout)
		defer stop()
	}
	up := make(chan error, 1)
	go func() { up <- r.half(t, c) }()
	return errors.Join(r.half(c, t), <-up)
}

// relaying is the state of a relay.
type relaying struct {
	s     *Server
	a, b  net.Conn
	moved atomic.Uint64 // counts pieces of data
}

// watch closes both connections once nothing has moved for d, unless stop is called. It looks at a counter now and then
// instead of setting a deadline for every piece of data.
func (r *relaying) watch(d time.Duration) (stop func()) {
	const looks = 8
	var mu sync.Mutex
	var timer *time.Timer
	var stopped bool
	var seen uint64
	var still int
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(d/looks, func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		if n := r.moved.Load(); n != seen {
			seen, still = n, 0
		} else if still++; still == looks {
			r.a.Close()
			r.b.Close()
			return
		}
		timer.Reset(d / looks)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// half copies from src to dst until the end of src and passes that on.
func (r *relaying) half(dst, src net.Conn) error {
	err := r.copy(dst, src)
	if err == nil {
		// The other direction goes on. A connection that cannot be closed halfway is closed as a whole: its peer
		// would otherwise wait for an end that never comes.
		if cw, ok := dst.(interface{ CloseWrite() error }); ok {
			err = cw.CloseWrite()
			if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, net.ErrClosed) {
				err = nil // the peer was faster
			}
			return err
		}
		return dst.Close()
	}
	// What was cut off must not look complete, so a reset is passed on as a reset.
	for _, c := range []net.Conn{dst, src} {
		if l, ok := c.(interface{ SetLinger(int) error }); ok && !errors.Is(err, net.ErrClosed) {
			l.SetLinger(0)
		}
		c.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil // the other direction, the idle watch or Close did that
	}
	return err
}

// copy copies until the end of src, which is no error.
func (r *relaying) copy(dst, src net.Conn) error {
	td, ok1 := dst.(*net.TCPConn)
	ts, ok2 := src.(*net.TCPConn)
	if ok1 && ok2 {
		return r.splice(td, ts)
	}
	buf := r.s.buffers.Get().(*[]byte)
	defer r.s.buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			r.moved.Add(1)
			if _, err := dst.Write((*buf)[:n]); err != nil {
				return err
			}
			r.moved.Add(1)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// splice leaves the copying to the kernel where it can. It looks up now and then to see whether anything moved. Only reading gets a
// deadline: nothing is lost by it, since it strikes only while there is nothing to carry.
func (r *relaying) splice(dst, src *net.TCPConn) error {
	for {
		if d := r.s.IdleTimeout; d > 0 {
			src.SetReadDeadline(time.Now().Add(max(d/16, time.Millisecond)))
		}
		n, err := io.Copy(dst, src)
		if n > 0 {
			r.moved.Add(1)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}
