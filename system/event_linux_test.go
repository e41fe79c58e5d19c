package system_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/host"
	"culvert.example/vpn/system"
)

// A stuck listener takes no event until it is let go, and then all.
type stuck struct {
	gate chan struct{}
	once sync.Once

	mu    sync.Mutex
	heard []system.Event
}

func newStuck() *stuck { return &stuck{gate: make(chan struct{})} }

func (l *stuck) release() { l.once.Do(func() { close(l.gate) }) }

func (l *stuck) onEvent(e system.Event) {
	<-l.gate
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, e)
}

func (l *stuck) list() []system.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard)
}

// within fails the test if f takes longer than that.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s takes longer than %v", what, d)
	}
}

// Who listens to events and does not come back keeps nobody from looking after the machine, nor from ending the System.
func TestStuckListener(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	l := newStuck()
	cfg.OnEvent = l.onEvent
	before := w.state()
	s := w.open(cfg)
	t.Cleanup(l.release)
	for range 2 {
		w.client.Run("nft", "delete", "table", "inet", "culvert")
		within(t, 5*time.Second, "repairing the kill switch", func() {
			for w.from("203.0.113.80") != "nowhere" {
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	repaired := 0
	within(t, time.Second, "Status", func() {
		for repaired < 2 {
			repaired = 0
			for _, e := range s.Status().Events {
				if e.Kind == system.EventFirewall && e.Healed {
					repaired++
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	within(t, 5*time.Second, "Close", func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	if heard := l.list(); len(heard) > 0 {
		t.Errorf("it was told %+v", heard)
	}
}

// Who is only slow is told everything in order, but for what there is no room for, of which the number is told. Close waits for that.
func TestSlowListener(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	l := newStuck()
	cfg.OnEvent = l.onEvent
	s := w.open(cfg)
	t.Cleanup(l.release)
	const many = 1000
	within(t, 5*time.Second, "what happens", func() {
		for i := range many {
			system.Happen(s, host.Event{Asleep: time.Duration(i + 1)})
		}
	})
	time.AfterFunc(500*time.Millisecond, l.release)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	var last time.Duration
	told, missed := 0, 0
	for _, e := range l.list() {
		switch {
		case e.Kind == system.EventMissed && e.Missed > 0 && e.What != "":
			missed += e.Missed
		case e.Kind == system.EventAsleep && missed == 0 && e.Asleep == last+1:
			told++
			last = e.Asleep
		default:
			t.Errorf("after %v it was told %+v", last, e)
		}
	}
	if told < 100 || missed == 0 || told+missed != many {
		t.Errorf("told %d and missed %d of %d", told, missed, many)
	}
}
