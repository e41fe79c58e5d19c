package system

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
)

// TestPlaceClosed enters a place while it is closed, as a connection does that was given up.
func TestPlaceClosed(t *testing.T) {
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{ns: ns}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			// The thread ends with the goroutine, wherever it is then.
			runtime.LockOSThread()
			for !errors.Is(p.set(), net.ErrClosed) {
			}
		})
	}
	p.close()
	wait.Wait()
}
