package heartbeat

import (
	"context"
	"time"
)

// Clocks is a reading of clocks, each counted from any fixed instant of its own.
type Clocks struct {
	Wall  time.Duration // the time of day, which people and NTP set
	Boot  time.Duration // goes on while the host sleeps, where there is such a clock; else as Awake
	Awake time.Duration // stands still while the host sleeps
}

const (
	minSleep = time.Second     // what the two clocks of the system differ by without sleep is less
	minSet   = 5 * time.Second // what NTP sets the time of day by in passing is less
)

// Slept returns for how long the host was asleep between two readings, as far as the clocks show, and zero if it was not. A
// virtual machine that was stopped has no clock that went on, but the time of day jumps when it is set right afterwards.
func Slept(before, after Clocks) time.Duration {
	awake := after.Awake - before.Awake
	asleep := after.Boot - before.Boot - awake
	if set := after.Wall - before.Wall - awake; set >= minSet && set > asleep {
		return set
	}
	if asleep >= minSleep {
		return asleep
	}
	return 0
}

// WatchSleep calls f with the duration each time the host has slept, as soon as it is awake, until ctx ends. Between two calls it
// costs neither processor time nor a timer. It returns the cause of ctx, or at once an error that matches
// errors.ErrUnsupported where the system does not tell: a [Beat] notices then by itself, with its next deadline or the next data.
func WatchSleep(ctx context.Context, f func(asleep time.Duration)) error {
	a, err := newAlarm()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, a.close)()
	defer a.close()
	return watchSleep(ctx, a.wait, readClocks, f)
}

// watchSleep is WatchSleep with any source of changes of clocks.
func watchSleep(ctx context.Context, wait func() error, read func() Clocks, f func(time.Duration)) error {
	for before := read(); ; {
		err := wait()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		now := read()
		if d := Slept(before, now); d > 0 {
			f(d)
		}
		before = now
	}
}
