package race

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An attempt ends after a time with a connection or, if fails, without one.
type attempt struct {
	takes time.Duration
	fails bool
}

func TestFirst(t *testing.T) {
	const wait = 250 * time.Millisecond
	errDial := errors.New("no route")
	for _, tt := range []struct {
		name     string
		attempts []attempt
		winner   int // or -1
		took     time.Duration
		begun    []time.Duration // of the attempts
	}{
		{"one", []attempt{{wait, false}}, 0, wait, []time.Duration{0}},
		{"one that fails", []attempt{{wait, true}}, -1, wait, []time.Duration{0}},
		{"the first is quick", []attempt{{wait / 2, false}, {0, false}}, 0, wait / 2, []time.Duration{0}},
		{"the first fails, which nobody waits for", []attempt{{wait / 5, true}, {wait / 5, false}}, 1, wait * 2 / 5, []time.Duration{0, wait / 5}},
		{"the first is slow", []attempt{{time.Hour, false}, {wait / 2, false}, {0, false}}, 1, wait * 3 / 2, []time.Duration{0, wait}},
		{"the first wins late", []attempt{{wait + wait/5, false}, {time.Hour, true}}, 0, wait + wait/5, []time.Duration{0, wait}},
		{"all fail", []attempt{{wait * 2, true}, {wait / 5, true}, {wait / 5, true}}, -1, wait * 2, []time.Duration{0, wait, wait * 6 / 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var mu sync.Mutex
				var begun []time.Duration
				var closed atomic.Int32
				conns := make([]net.Conn, len(tt.attempts))
				conn, i, err := First(t.Context(), len(tt.attempts), func(int) time.Duration { return wait }, func(_ context.Context, i int) (net.Conn, error) {
					mu.Lock()
					begun = append(begun, time.Since(start))
					mu.Unlock()
					// It does not heed the context, so that losers make a connection as well.
					time.Sleep(tt.attempts[i].takes)
					if tt.attempts[i].fails {
						return nil, fmt.Errorf("%d: %w", i, errDial)
					}
					c := &closing{n: &closed}
					mu.Lock()
					defer mu.Unlock()
					conns[i] = c
					return c, nil
				})
				took := time.Since(start)
				time.Sleep(2 * time.Hour)
				mu.Lock()
				defer mu.Unlock()
				if took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if tt.winner < 0 != errors.Is(err, errDial) || tt.winner >= 0 && (i != tt.winner || conn != conns[i]) {
					t.Errorf("%d has won: %v", i, err)
				}
				if !slices.Equal(begun, tt.begun) {
					t.Errorf("attempts began after %v, want %v", begun, tt.begun)
				}
				made := 0
				for _, c := range conns {
					if c != nil {
						made++
					}
				}
				if conn != nil {
					made--
				}
				if n := int(closed.Load()); n != made {
					t.Errorf("%d of %d connections that lost are closed", n, made)
				}
			})
		})
	}
}

func TestFirstCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := First(ctx, 2, func(int) time.Duration { return time.Minute }, func(ctx context.Context, _ int) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// A closing connection counts that it is closed.
type closing struct {
	net.Conn
	n *atomic.Int32
}

func (c *closing) Close() error { c.n.Add(1); return nil }
