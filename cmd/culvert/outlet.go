package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxMessages is how many messages wait for whoever reads them.
	maxMessages = 1024
	// readerPatience is how long a message is waited for, so that it keeps its place among what others write, and lastPatience how long
	// all of them in the end.
	readerPatience = 250 * time.Millisecond
	lastPatience   = time.Second
)

// An outlet is a writer that does not stop who writes when nobody reads: a terminal that was halted, a pipe that is full. What is too
// much is left out and counted.
type outlet struct {
	w     io.Writer
	left  func(lost int) []byte // tells how many messages were left out
	queue chan message
	lost  atomic.Int64
	stuck atomic.Bool // nobody reads, so nobody waits for that
	over  chan struct{}
	once  sync.Once
}

// A message is written as a whole. Done is closed once it is.
type message struct {
	text []byte
	done chan struct{}
}

func newOutlet(w io.Writer, left func(lost int) []byte) *outlet {
	o := &outlet{w: w, left: left, queue: make(chan message, maxMessages), over: make(chan struct{})}
	go o.run()
	return o
}

func (o *outlet) run() {
	for {
		var m message
		select {
		case m = <-o.queue:
		case <-o.over:
			return
		}
		if n := o.lost.Swap(0); n > 0 {
			_, _ = o.w.Write(o.left(int(n)))
		}
		_, _ = o.w.Write(m.text) // who is gone need not be told
		close(m.done)
		if len(o.queue) == 0 {
			o.stuck.Store(false)
		}
	}
}

// Write implements io.Writer. It never fails.
func (o *outlet) Write(p []byte) (int, error) {
	m := message{bytes.Clone(p), make(chan struct{})}
	select {
	case o.queue <- m:
	default:
		o.lost.Add(1)
		return len(p), nil
	}
	if !o.stuck.Load() && !within(m.done, readerPatience) {
		o.stuck.Store(true)
	}
	return len(p), nil
}

// flush waits until everything is written, or it has taken too long. What comes after that is not written.
func (o *outlet) flush() {
	o.once.Do(func() {
		m := message{done: make(chan struct{})}
		select {
		case o.queue <- m:
			within(m.done, lastPatience)
		default:
		}
		close(o.over)
	})
}

// within reports whether a channel is closed within a time.
func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
