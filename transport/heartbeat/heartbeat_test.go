package heartbeat

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/transport/liveness"
)

// counts are the actions that a Beat has had done.
type counts struct {
	probes, keepalives, rekeys, dead atomic.Int32
	err                              atomic.Pointer[error]
}

func (c *counts) actions() Actions {
	return Actions{
		Probe:     func() error { c.probes.Add(1); return nil },
		Keepalive: func() error { c.keepalives.Add(1); return nil },
		Rekey:     func() { c.rekeys.Add(1) },
		Dead:      func(err error) { c.err.Store(&err); c.dead.Add(1) },
	}
}

func TestAnsweredWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counts
		do := c.actions()
		var b *Beat
		do.Probe = func() error {
			c.probes.Add(1)
			time.AfterFunc(20*time.Millisecond, b.Answered)
			return nil
		}
		b = New(liveness.Config{DPD: 30 * time.Second, Keepalive: 20 * time.Second, Rekey: time.Minute}, do)
		b.Start()
		time.Sleep(5*time.Minute + time.Second)
		if c.dead.Load() != 0 {
			t.Fatalf("dead: %v", *c.err.Load())
		}
		if n := c.probes.Load(); n < 9 || n > 11 {
			t.Errorf("%d probes in five minutes, want about 10", n)
		}
		if n := c.keepalives.Load(); n < 5 {
			t.Errorf("%d keepalives in five minutes", n)
		}
		if n := c.rekeys.Load(); n != 5 {
			t.Errorf("%d rekeys in five minutes, want 5", n)
		}
		if b.RTT() != 20*time.Millisecond {
			t.Errorf("RTT = %v, want 20ms", b.RTT())
		}
		b.Close()
		before := c.probes.Load()
		time.Sleep(time.Hour)
		if c.probes.Load() != before {
			t.Error("probes after Close")
		}
	})
}

func TestDeadWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counts
		begin := time.Now()
		do := c.actions()
		died := make(chan time.Duration, 1)
		var b *Beat
		do.Dead = func(err error) {
			c.actions().Dead(err)
			b.Close() // must not wait for itself
			died <- time.Since(begin)
		}
		b = New(liveness.Config{DPD: 10 * time.Second}, do)
		b.Start()
		if d := <-died; d != 20*time.Second {
			t.Errorf("dead after %v, want 20s", d)
		}
		if err := *c.err.Load(); !errors.Is(err, ErrDead) {
			t.Errorf("Dead(%v), want ErrDead", err)
		}
		time.Sleep(time.Hour)
		if c.dead.Load() != 1 {
			t.Errorf("Dead was called %d times", c.dead.Load())
		}
		b.Close()
	})
}

func TestDeadUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counts
		var cut atomic.Bool
		do := c.actions()
		died := make(chan time.Time, 1)
		do.Dead = func(error) { died <- time.Now() }
		var b *Beat
		do.Probe = func() error {
			c.probes.Add(1)
			if !cut.Load() {
				time.AfterFunc(20*time.Millisecond, b.Answered)
			}
			return nil
		}
		b = New(liveness.Config{DPD: 30 * time.Second}, do)
		b.Start()
		defer b.Close()
		// A long rest, a busy second, a long rest again, and the first packet after that goes nowhere.
		time.Sleep(10 * time.Second)
		for range 100 {
			b.Sent(true)
			time.Sleep(5 * time.Millisecond)
			b.Received(true)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(15 * time.Second)
		if n := c.probes.Load(); n > 4 {
			t.Errorf("%d probes without need", n)
		}
		cut.Store(true)
		begin := time.Now()
		b.Sent(true)
		if d := (<-died).Sub(begin); d < time.Second || d > 3*time.Second {
			t.Errorf("dead after %v, want 1 to 3 s", d)
		}
	})
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counts
		died := make(chan time.Time, 1)
		do := c.actions()
		do.Dead = func(error) { died <- time.Now() }
		b := Start(liveness.Config{DPD: 1800 * time.Second}, do)
		defer b.Close()
		time.Sleep(time.Millisecond)
		b.Answered()
		time.Sleep(time.Minute)
		begin := time.Now()
		b.Check()
		b.Check()
		synctest.Wait()
		if c.probes.Load() != 2 {
			t.Errorf("%d probes, want one at the start and one at once", c.probes.Load())
		}
		if d := (<-died).Sub(begin); d < time.Second || d > 2*time.Second {
			t.Errorf("dead after %v, want about 1.5 s", d)
		}
		b.Check()
	})
}

func TestStalledProbe(t *testing.T) {
	// A probe that cannot be written, as on a full TCP buffer, holds up neither death nor rekeying.
	synctest.Test(t, func(t *testing.T) {
		var c counts
		broken := make(chan struct{})
		do := c.actions()
		do.Probe = func() error { c.probes.Add(1); <-broken; return errors.New("closed") }
		do.Dead = func(error) { c.dead.Add(1); close(broken) }
		b := Start(liveness.Config{DPD: 10 * time.Second, Rekey: 15 * time.Second}, do)
		time.Sleep(21 * time.Second)
		if c.dead.Load() != 1 || c.rekeys.Load() != 1 {
			t.Errorf("dead %d times, rekeyed %d times, want once each", c.dead.Load(), c.rekeys.Load())
		}
		if c.probes.Load() != 1 {
			t.Errorf("%d probes at a time", c.probes.Load())
		}
		b.Close()
	})
}

func TestCloseWaitsForActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Bool
		b := Start(liveness.Config{}, Actions{Probe: func() error {
			running.Store(true)
			time.Sleep(time.Second)
			running.Store(false)
			return nil
		}})
		synctest.Wait()
		if !running.Load() {
			t.Fatal("no probe at the start")
		}
		b.Close()
		if running.Load() {
			t.Error("Close did not wait for the probe")
		}
		b.Close()
	})
}

func TestSleep(t *testing.T) {
	for _, test := range []struct {
		asleep time.Duration
		dead   int32
		probes int32
	}{{50 * time.Second, 0, 2}, {70 * time.Second, 1, 1}, {-70 * time.Second, 0, 1}, {time.Second, 0, 1}} {
		synctest.Test(t, func(t *testing.T) {
			var c counts
			var jump atomic.Int64
			var b *Beat
			do := c.actions()
			do.Probe = func() error { c.probes.Add(1); b.Answered(); return nil }
			b = newBeat(liveness.Config{DPD: 30 * time.Second}, do, func() time.Time { return time.Now().Add(time.Duration(jump.Load())) })
			b.Start()
			time.Sleep(time.Second)
			jump.Store(int64(test.asleep))
			b.Sent(true) // the first packet after waking finds out
			synctest.Wait()
			if c.dead.Load() != test.dead || c.probes.Load() != test.probes {
				t.Errorf("asleep for %v: dead %d, probes %d; want %d, %d", test.asleep, c.dead.Load(), c.probes.Load(), test.dead, test.probes)
			}
			b.Close()
		})
	}
}

func TestNilActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Start(liveness.Config{DPD: time.Second, Keepalive: time.Second, Rekey: time.Second}, Actions{})
		time.Sleep(time.Minute)
		b.Sent(true)
		b.Received(true)
		b.Answered()
		b.Check()
		b.Close()
	})
}

func TestNoAllocation(t *testing.T) {
	b := Start(liveness.Config{DPD: time.Minute}, Actions{})
	defer b.Close()
	if n := testing.AllocsPerRun(1000, func() {
		b.Sent(true)
		b.Received(true)
		b.Received(false)
		b.Answered()
	}); n != 0 {
		t.Errorf("%v allocations for each batch", n)
	}
}

func BenchmarkSentReceived(b *testing.B) {
	beat := Start(liveness.Config{DPD: time.Minute}, Actions{})
	defer beat.Close()
	b.ReportAllocs()
	for b.Loop() {
		beat.Sent(true)
		beat.Received(true)
	}
}

func TestNoTicking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		b := newBeat(liveness.Config{DPD: 48 * time.Hour}, Actions{}, func() time.Time { looks.Add(1); return time.Now() })
		b.Start()
		time.Sleep(24 * time.Hour)
		if n := looks.Load(); n > 3 {
			t.Errorf("an idle channel was looked at %d times in a day", n)
		}
		// A busy one whose peer answers is looked at a few times a second, not with each batch.
		before := looks.Load()
		for range 1000 {
			b.Sent(true)
			b.Received(true)
			b.Answered()
			time.Sleep(time.Millisecond)
		}
		if n := looks.Load() - before; n > 20 {
			t.Errorf("a busy channel was looked at %d times in a second", n)
		}
		b.Close()
	})
}

func TestConcurrentUse(t *testing.T) {
	b := Start(liveness.Config{DPD: 20 * time.Millisecond, Keepalive: 10 * time.Millisecond, Rekey: 10 * time.Millisecond, Load: 40 * time.Millisecond}, Actions{
		Probe: func() error { return nil }, Keepalive: func() error { return nil }, Rekey: func() {}, Dead: func(error) {},
	})
	end := time.Now().Add(200 * time.Millisecond)
	var wg sync.WaitGroup
	for _, f := range []func(){func() { b.Sent(true) }, func() { b.Received(true) }, b.Answered, b.Check, func() { b.RTT() }} {
		wg.Go(func() {
			for time.Now().Before(end) {
				f()
			}
		})
	}
	wg.Wait()
	b.Close()
}
