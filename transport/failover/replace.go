package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"culvert.example/vpn/packet"
)

const (
	// turnTime is how long Replace waits for a writer to finish its batch. One that takes longer is stuck in the old connection.
	turnTime = 100 * time.Millisecond

	// holdTime is how long Replace holds up writers at most. Two batches that are held up one after the other, as at the ends of
	// a TCP connection, must not add up to what people notice.
	holdTime = 400 * time.Millisecond
)

// Replace makes a connection for a path over another network, and has it take the place of the one that the path has, if any.
// Until then that one works on. Open makes the connection; the context that it gets ends with ctx or with the Conn. When the
// new connection is there, data takes it at once, even if a better path was open before: that one leads over the
// old network, so that all other paths are opened anew. From the old connections packets are taken for 2 seconds more.
//
// A gateway lets go of the old connection at some moment while open runs, and open knows better when: it may call hold
// before that. Writers wait from then on, so that what they have to write is not lost, but not for longer than 0.4 seconds. The end
// of an old connection is expected from then on: it is no failure, and does not end the Conn, whatever Config.Terminal says.
//
// If open fails the old connections stay, and are checked. The error is that of open, the cause of ctx, or why
// the Conn has ended. Of several calls one runs at a time, and the others wait for their turn or the end of ctx.
func (c *Conn) Replace(ctx context.Context, path string, open func(ctx context.Context, hold func()) (packet.Conn, error)) error {
	i := c.index(path)
	if i < 0 {
		return fmt.Errorf("failover: there is no path %q", path)
	}
	select {
	case c.replacing <- struct{}{}:
		defer func() { <-c.replacing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return c.ended()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.done:
			cancel(c.ended())
		case <-stop:
		}
	}()

	h := hold{c: c}
	defer h.release()
	conn, err := open(ctx, func() {
		h.begin(ctx, holdTime)
		c.tell(event{kind: evAsk, path: i})
	})
	if err == nil && conn == nil {
		err = errors.New("path replaced without a connection")
	}
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		// What open returns may be of a type that cannot be compared, which errors in the state must be.
		c.settle(event{kind: evKept, path: i, err: fmt.Errorf("%w", err)})
		return err
	}
	l := &live{conn: conn, path: i, closed: make(chan struct{})}
	// Who writes now may be stuck in the old connection, which has to be closed then for it to come back.
	hasty := !h.begin(context.Background(), 0)
	if !c.settle(event{kind: evReplaced, path: i, live: l, hasty: hasty}) {
		l.close()
		return c.ended()
	}
	return nil
}

// settle is tell, and waits until ev has had its effect.
func (c *Conn) settle(ev event) bool {
	ev.seen = make(chan struct{})
	if !c.tell(ev) {
		return false
	}
	select {
	case <-ev.seen:
	case <-c.done:
	}
	return true
}

// index returns the number of the path of that name, or -1.
func (c *Conn) index(name string) int {
	for i, p := range c.cfg.Paths {
		if p.Name() == name {
			return i
		}
	}
	return -1
}

// A hold keeps writers waiting by having their turn.
type hold struct {
	c *Conn

	mu    sync.Mutex
	held  bool
	timer *time.Timer
}

// begin waits for the turn, for turnTime at most, and keeps it for d, or without limit if that is zero. It reports whether nobody
// writes to a connection now. While there is none, writers have their turn to wait for one, and are let be.
func (h *hold) begin(ctx context.Context, d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
	if !h.held && h.c.view.Load().live == nil {
		return true
	}
	if !h.held {
		patience := time.NewTimer(turnTime)
		defer patience.Stop()
		select {
		case h.c.turn <- struct{}{}:
			h.held = true
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	if h.held && d > 0 {
		h.timer = time.AfterFunc(d, h.release)
	}
	return h.held
}

// release lets writers go on.
func (h *hold) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held {
		h.held = false
		<-h.c.turn
	}
	if h.timer != nil {
		h.timer.Stop()
	}
}
