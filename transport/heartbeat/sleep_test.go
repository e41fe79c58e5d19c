package heartbeat

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

func TestSlept(t *testing.T) {
	const h = time.Hour
	start := Clocks{Wall: 20 * 365 * 24 * h, Boot: 7 * h, Awake: 5 * h}
	for name, tt := range map[string]struct {
		passed Clocks // by each clock
		want   time.Duration
	}{
		"nothing":                     {Clocks{}, 0},
		"a day at work":               {Clocks{8 * h, 8 * h, 8 * h}, 0},
		"a night":                     {Clocks{8 * h, 8 * h, time.Minute}, 8*h - time.Minute},
		"a nap":                       {Clocks{3 * time.Second, 3 * time.Second, time.Second}, 2 * time.Second},
		"noise":                       {Clocks{time.Second + 900*time.Millisecond, time.Second + 900*time.Millisecond, time.Second}, 0},
		"a correction by NTP":         {Clocks{time.Minute + 4*time.Second, time.Minute, time.Minute}, 0},
		"the clock was set back":      {Clocks{-h, time.Minute, time.Minute}, 0},
		"a night, and it was set":     {Clocks{9 * h, 8 * h, 0}, 9 * h},
		"set back while it slept":     {Clocks{-h, 8 * h, 0}, 8 * h},
		"a stopped virtual machine":   {Clocks{h, 0, 0}, h},
		"no clock that goes on":       {Clocks{2 * time.Second, 0, 0}, 0},
		"a clock that goes backwards": {Clocks{0, -h, 0}, 0},
	} {
		after := Clocks{start.Wall + tt.passed.Wall, start.Boot + tt.passed.Boot, start.Awake + tt.passed.Awake}
		if got := Slept(start, after); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestWatchSleepScript has a clock that is set twice and a host that sleeps once.
func TestWatchSleepScript(t *testing.T) {
	readings := []Clocks{{}, {Wall: 2 * time.Second, Boot: time.Second, Awake: time.Second}, {time.Minute, time.Minute, 2 * time.Second},
		{time.Minute, time.Minute + time.Second, 3 * time.Second}}
	i := -1
	read := func() Clocks { i++; return readings[i] }
	wait := func() error {
		if i == len(readings)-1 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	var slept []time.Duration
	if err := watchSleep(t.Context(), wait, read, func(d time.Duration) { slept = append(slept, d) }); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if !slices.Equal(slept, []time.Duration{58 * time.Second}) {
		t.Errorf("slept for %v", slept)
	}
}

// TestWatchSleep waits for a sleep that does not come.
func TestWatchSleep(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := WatchSleep(ctx, func(d time.Duration) { t.Errorf("slept for %v", d) })
	if errors.Is(err, errors.ErrUnsupported) {
		t.Log(err)
		return
	}
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	now := readClocks()
	if now.Wall <= 0 || now.Awake <= 0 || now.Boot < now.Awake-time.Second {
		t.Errorf("clocks: %+v", now)
	}
}
