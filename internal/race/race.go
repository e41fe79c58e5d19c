// Package race makes several attempts at one connection, each a little after the one before (RFC 8305 section 5).
package race

import (
	"context"
	"errors"
	"net"
	"time"
)

// First calls dial with the numbers from 0 to n-1 until one call has a connection, and returns that and its number; n is at least 1.
// The call with number i begins when all before have failed, or at the latest wait(i) after the one before. The other calls are
// cancelled, and connections that they make all the same are closed. If none succeeds, the error holds those of all.
func First(ctx context.Context, n int, wait func(i int) time.Duration, dial func(ctx context.Context, i int) (net.Conn, error)) (net.Conn, int, error) {
	if n == 1 {
		conn, err := dial(ctx, 0)
		return conn, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		i    int
		err  error
	}
	results := make(chan result)
	var errs []error
	next, pending := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if next == n {
				continue
			}
			i := next
			next, pending = next+1, pending+1
			if next < n {
				timer.Reset(wait(next))
			}
			go func() {
				conn, err := dial(ctx, i)
				select {
				case results <- result{conn, i, err}:
				case <-ctx.Done():
					if conn != nil {
						conn.Close()
					}
				}
			}()
		case r := <-results:
			if r.err == nil {
				return r.conn, r.i, nil
			}
			errs = append(errs, r.err)
			if pending--; next < n {
				timer.Reset(0)
			} else if pending == 0 {
				return nil, 0, errors.Join(errs...)
			}
		case <-ctx.Done():
			return nil, 0, errors.Join(append(errs, ctx.Err())...)
		}
	}
}
