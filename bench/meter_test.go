package bench

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// stall is how long nothing may arrive before a load has failed.
const stall = 20 * time.Second

var errStalled = errors.New("nothing arrives any more")

// A meter counts what arrives, in bytes or packets, for one goroutine that waits for it. The zero value is ready.
type meter struct {
	mu      sync.Mutex
	arrived int64
	end     int64         // what await waits for
	reached chan struct{} // of capacity 1: arrived has reached end, or err is set
	err     error
}

func (m *meter) init() { m.reached = make(chan struct{}, 1) }

// add counts n that have arrived, and notes the error that ends a flow.
func (m *meter) add(n int64, err error) {
	m.mu.Lock()
	before := m.arrived
	m.arrived += n
	if err != nil && m.err == nil {
		m.err = err
	}
	wake := err != nil || before < m.end && m.arrived >= m.end
	m.mu.Unlock()
	if wake {
		select {
		case m.reached <- struct{}{}:
		default:
		}
	}
}

// await waits until n more have arrived, by whichever flows, and ends the test if they do not.
func (m *meter) await(tb testing.TB, n int64) {
	m.mu.Lock()
	m.end = m.arrived + n
	m.mu.Unlock()
	patience := time.NewTimer(stall)
	defer patience.Stop()
	for {
		m.mu.Lock()
		err, done := m.err, m.arrived >= m.end
		m.mu.Unlock()
		switch {
		case err != nil:
			tb.Fatalf("receiving: %v", err)
		case done:
			return
		}
		select {
		case <-m.reached:
		case <-patience.C:
			tb.Fatal(errStalled)
		}
	}
}

func (m *meter) total() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.arrived
}
