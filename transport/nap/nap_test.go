package nap

import (
	"testing"
	"time"
)

// A signal may cut a nap short, so one of several has to be whole.
func TestFor(t *testing.T) {
	const d = 200 * time.Microsecond
	whole := false
	for range 10 {
		start := time.Now()
		For(d)
		took := time.Since(start)
		if took > time.Second {
			t.Errorf("a nap of %v took %v", d, took)
		}
		whole = whole || took >= d
	}
	if !whole {
		t.Errorf("no nap lasted %v", d)
	}
}
