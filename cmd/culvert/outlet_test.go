package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A halted writer writes nothing until it may.
type halted struct {
	may chan struct{}
	mu  sync.Mutex
	b   bytes.Buffer
}

func (h *halted) Write(p []byte) (int, error) {
	<-h.may
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(p)
}

func (h *halted) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}

// TestOutlet: who tells is not stopped by who does not read, and what was too much is counted.
func TestOutlet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &halted{may: make(chan struct{})}
		o := newOutlet(h, func(lost int) []byte { return fmt.Appendf(nil, "%d lost\n", lost) })
		start := time.Now()
		const n = maxMessages + 101
		for i := range n {
			fmt.Fprintf(o, "%d\n", i)
		}
		if took := time.Since(start); took != readerPatience {
			t.Errorf("nobody reads, and that took %v", took)
		}
		close(h.may)
		synctest.Wait()
		if got := h.String(); !strings.HasPrefix(got, "0\n100 lost\n1\n2\n") || !strings.HasSuffix(got, fmt.Sprintf("\n%d\n", maxMessages)) {
			t.Errorf("written: %.40q ... %q", got, got[len(got)-20:])
		}
		// Whoever reads again is waited for again, so that messages keep their place.
		fmt.Fprintln(o, "again")
		if !strings.HasSuffix(h.String(), "\nagain\n") {
			t.Error("a message was not waited for")
		}
		o.flush()
		fmt.Fprintln(o, "too late")
		if strings.Contains(h.String(), "late") {
			t.Error("something is written after the end")
		}

		// The end does not wait for ever.
		h = &halted{may: make(chan struct{})}
		o = newOutlet(h, nil)
		io.WriteString(o, "x")
		start = time.Now()
		o.flush()
		if took := time.Since(start); took != lastPatience {
			t.Errorf("the end took %v", took)
		}
		close(h.may)
	})
}
