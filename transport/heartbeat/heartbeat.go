// Package heartbeat runs a liveness.Machine in real time: it keeps the timer, takes note of traffic, and has probes and
// keepalives sent.
//
// The owner of a channel starts a [Beat] when the channel is open and reports each batch that it sends and receives. That is
// cheap: a clock reading and a few atomic stores, without a lock or an allocation. A Beat has no goroutine while it waits, and
// it waits until the next deadline, however far: an idle channel costs nothing but its timer. The first data after a
// rest re-arms it. Deadlines that are far away are put off by up to a quarter of a second, to moments that all Beats of the
// machine have in common, so that a processor with a thousand idle channels wakes four times a second and not for each.
package heartbeat

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/transport/liveness"
)

// ErrDead reports that nothing came from the peer for too long.
var ErrDead = errors.New("connection is dead")

// minJump is the smallest jump of the wall clock against the monotonic clock that is taken for sleep of the host.
// Smaller ones are corrections of the clock.
const minJump = 2 * time.Second

const (
	// coarse is the distance between the moments that far deadlines are put off to, and far how far away they are.
	// A deadline moves by a sixteenth at most.
	coarse = 250 * time.Millisecond
	far    = 16 * coarse
)

// Actions are what a [Beat] has done. Any of them may be nil. They are called from goroutines of the Beat, and Probe and Keepalive
// never two at a time; one that is due while another is still being sent is left out.
type Actions struct {
	// Probe sends a frame that the peer answers at once, Keepalive one that it need not answer. They may block, which
	// does not hold up Rekey and Dead. Their errors are not looked at: what was not sent goes unanswered.
	Probe, Keepalive func() error

	// Rekey keys the channel anew or has it replaced.
	Rekey func()

	// Dead is called once, last, with an error that matches [ErrDead]. It may call [Beat.Close].
	Dead func(error)
}

// A Beat watches over one channel. Its owner closes it.
type Beat struct {
	do    Actions
	start time.Time

	// The hot path writes these; each of the two directions has its own, so that they do not share a cache line.
	out struct {
		sent, data atomic.Int64
		_          [48]byte
	}
	in struct {
		received, data, control, answered atomic.Int64
		_                                 [32]byte
	}
	probed atomic.Int64

	// asleep is true while the machine must hear of data before its deadline.
	asleep atomic.Bool

	sending atomic.Bool // a probe or keepalive is being sent
	rtt     atomic.Int64

	mu     sync.Mutex // held briefly: never while an action runs
	m      *liveness.Machine
	timer  *time.Timer
	skew   time.Duration // wall clock minus monotonic clock when last looked at
	wall   func() time.Time
	closed bool
	run    sync.WaitGroup // actions that run
}

// Start returns a running Beat for a channel that has just opened. If the actions use the Beat itself, use [New] and [Beat.Start],
// since they may run before Start returns.
func Start(cfg liveness.Config, do Actions) *Beat {
	b := New(cfg, do)
	b.Start()
	return b
}

// New returns a Beat that does nothing until its Start is called, but for taking note of traffic. Silence counts from now on.
func New(cfg liveness.Config, do Actions) *Beat { return newBeat(cfg, do, time.Now) }

func newBeat(cfg liveness.Config, do Actions, wall func() time.Time) *Beat {
	b := &Beat{do: do, start: time.Now(), wall: wall}
	now := b.now()
	b.m = liveness.New(cfg, now)
	b.skew = b.skewAt(now)
	b.timer = time.AfterFunc(time.Hour, b.tick)
	b.timer.Stop()
	return b
}

// Start begins to watch over the channel. A first probe goes out at once, unless the Config has a negative Load.
func (b *Beat) Start() { b.timer.Reset(0) }

// now returns the time since the start, from 1 on, since 0 stands for never.
func (b *Beat) now() time.Duration { return time.Since(b.start) + 1 }

// skewAt returns the wall clock minus the monotonic clock. It grows by the time that the host sleeps, where the monotonic
// clock stands still in sleep.
func (b *Beat) skewAt(now time.Duration) time.Duration {
	return b.wall().Round(0).Sub(b.start.Round(0)) - now
}

// Sent reports that a batch or a frame was sent, and whether there was data in it.
func (b *Beat) Sent(data bool) {
	now := int64(b.now())
	b.out.sent.Store(now)
	if data {
		b.out.data.Store(now)
		b.wake()
	}
}

// Received reports that a batch or a frame was received, and whether there was data in it.
func (b *Beat) Received(data bool) {
	now := int64(b.now())
	b.in.received.Store(now)
	if data {
		b.in.data.Store(now)
		b.wake()
	} else {
		b.in.control.Store(now)
	}
}

// Answered reports that the answer to a probe was received. It implies Received(false).
func (b *Beat) Answered() {
	now := int64(b.now())
	b.in.received.Store(now)
	b.in.control.Store(now)
	if b.in.answered.Load() < b.probed.Load() {
		b.in.answered.Store(now)
	}
}

// wake has the machine look at the data just noted, if it would not do so soon by itself.
func (b *Beat) wake() {
	// The data is stored before asleep is read here, and asleep is stored before the data is read in tick: one of the two
	// always sees the other.
	if b.asleep.Load() && b.asleep.CompareAndSwap(true, false) {
		b.timer.Reset(0)
	}
}

// tick is what the timer runs.
func (b *Beat) tick() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.run.Add(1)
	b.asleep.Store(true)
	now := b.now()
	if skew := b.skewAt(now); skew-b.skew >= minJump {
		b.m.Slept(now, skew-b.skew)
		b.skew = skew
	} else if skew < b.skew {
		b.skew = skew
	}
	next, do := b.m.Step(now, liveness.Seen{
		Sent:     time.Duration(b.out.sent.Load()),
		Data:     time.Duration(max(b.out.data.Load(), b.in.data.Load())),
		Received: time.Duration(b.in.received.Load()),
		Control:  time.Duration(b.in.control.Load()),
		Answered: time.Duration(b.in.answered.Load()),
	})
	b.rtt.Store(int64(b.m.RTT()))
	if do&liveness.SendProbe != 0 {
		b.probed.Store(int64(now))
	}
	if do&liveness.Dead != 0 {
		b.closed = true
		b.asleep.Store(false)
		silence, probes := b.m.Silence()
		b.mu.Unlock()
		// From here on Close does not wait for this goroutine, so that Dead can call it.
		b.run.Done()
		if b.do.Dead != nil {
			b.do.Dead(fmt.Errorf("%w: nothing received for %v, %d probes unanswered", ErrDead, silence.Round(time.Millisecond), probes))
		}
		return
	}
	suspect := b.m.Suspect()
	if suspect {
		b.asleep.Store(false)
	}
	if next != liveness.Never {
		d := next - now
		if !suspect {
			d = putOff(d, b.wall())
		}
		b.timer.Reset(d)
	}
	if !suspect && !b.asleep.Load() {
		// Data came after Step had looked, and this goroutine has just overwritten its wake-up.
		b.timer.Reset(0)
	}
	b.mu.Unlock()
	defer b.run.Done()
	b.perform(do)
}

// putOff returns how long to wait at the time now instead of d: until the same moments for all, if d is long. The wall clock is
// what all have in common, and whatever it does, the result is less than coarse away.
func putOff(d time.Duration, now time.Time) time.Duration {
	if d < far {
		return d
	}
	if over := time.Duration(now.Add(d).UnixNano()) % coarse; over > 0 {
		d += coarse - over
	}
	return d
}

// perform does all that does not end the channel.
func (b *Beat) perform(do liveness.Action) {
	if do&liveness.DoRekey != 0 && b.do.Rekey != nil {
		b.do.Rekey()
	}
	if do&(liveness.SendProbe|liveness.SendKeepalive) == 0 || !b.sending.CompareAndSwap(false, true) {
		return
	}
	defer b.sending.Store(false)
	// A failed send is not looked at: see Actions.
	if do&liveness.SendProbe != 0 && b.do.Probe != nil {
		_ = b.do.Probe()
	}
	if do&liveness.SendKeepalive != 0 && b.do.Keepalive != nil {
		_ = b.do.Keepalive()
	}
}

// Check casts doubt on the channel, such as after a change of the network: a probe goes out at once, and the channel
// is dead within about 1.5 seconds if it is not answered.
func (b *Beat) Check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.m.Check(b.now())
	b.timer.Reset(0)
}

// RTT returns the smoothed round-trip time of probes, and zero while it is unknown.
func (b *Beat) RTT() time.Duration { return time.Duration(b.rtt.Load()) }

// Stop ends the Beat without waiting: no action begins any more. It may be called more than once.
func (b *Beat) Stop() {
	b.mu.Lock()
	b.closed = true
	b.timer.Stop()
	b.mu.Unlock()
	b.asleep.Store(false)
}

// Close ends the Beat as Stop does, and waits for actions that are running, except for Dead. A Probe or Keepalive that is blocked
// has to be unblocked first, by closing the connection that it writes to. It must not be called from Probe, Keepalive or Rekey.
func (b *Beat) Close() error {
	b.Stop()
	b.run.Wait()
	return nil
}
