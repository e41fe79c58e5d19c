package dtls

import (
	"fmt"
	"testing"
	"time"
)

// TestCreditNeedsRealTime has a path that was near cease to answer, or answer late, while the writer is busy. In the time of a
// bubble a call that waits in vain ends exactly when its patience does, and the next one begins in that moment. Real timers
// are always late, and what tells one wait in vain from the next has to work with them.
func TestCreditNeedsRealTime(t *testing.T) {
	for _, delay := range []time.Duration{0, 8 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond} {
		name := fmt.Sprintf("answers take %v", delay)
		if delay == 0 {
			name = "mute"
		}
		t.Run(name, func(t *testing.T) {
			p := newCreditPeer(delay)
			p.mute = delay == 0
			p.k.near.Store(true)
			start := time.Now()
			var waited time.Duration
			for p.k.near.Load() {
				if time.Since(start) > 3*time.Second {
					t.Fatalf("after waiting for %v of %v the path is still taken to be near", waited, time.Since(start))
				}
				waited += p.send(nil)
			}
			t.Logf("far after %v", time.Since(start))
		})
	}
}
