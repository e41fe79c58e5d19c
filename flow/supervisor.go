package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"culvert.example/vpn/flow/health"
)

// A SupervisorConfig says what a [Supervisor] works with. It must not change after [Supervise].
type SupervisorConfig struct {
	// Health says how patient to be, and what to do when the flow path fails.
	Health health.Config
	// Open makes a new flow path, whose [Config.Failed] is the function that it is given. It must be set. It is called at the beginning
	// and for every revert. The Supervisor closes what it returns.
	Open func(failed func(health.Part, health.Reason, error)) (*Interceptor, error)
	// Switch has packets take another path from now on, for example by [Switch.Select]. It must be set, and return at once, or
	// at least when ctx is done.
	Switch func(ctx context.Context, to health.Path) error
	// Changed is told of every change of the report, one at a time. It must not wait. Nil ignores it.
	Changed func(health.Report)
	// Interval is how often each part has to show a sign of life. Zero means 200 ms.
	Interval time.Duration
	// Logger receives what an operator wants to know. Nil discards.
	Logger *slog.Logger
}

const (
	defaultInterval = 200 * time.Millisecond
	// hangUpTime is how long packets stay on the flow path after it was given up, so that programs learn that their connections
	// are over.
	hangUpTime = 50 * time.Millisecond
)

// A Supervisor keeps the flow path running, and changes to another one when a part fails. Its methods may be called from several
// goroutines.
type Supervisor struct {
	cfg  SupervisorConfig
	log  *slog.Logger
	wake chan struct{}
	stop chan struct{}
	over chan struct{} // the loop has ended
	wg   sync.WaitGroup

	closing sync.Once

	mu      sync.Mutex
	machine *health.Machine
	next    time.Time
	todo    []health.Action
	changed chan struct{} // closed at the next change
	report  health.Report

	current *Interceptor // of run currentRun; nil if there is none
	run     uint64       // the run that is wanted
	silence context.CancelFunc
}

// Supervise starts the flow path and returns the Supervisor, whose owner closes it. It does not wait: whether the flow path is there is
// told by [Supervisor.Report].
func Supervise(cfg SupervisorConfig) (*Supervisor, error) {
	if cfg.Open == nil || cfg.Switch == nil {
		return nil, errors.New("flow: SupervisorConfig.Open and Switch must be set")
	}
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Health.SwitchTime <= 0 {
		cfg.Health.SwitchTime = health.DefaultSwitchTime
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), stop: make(chan struct{}), over: make(chan struct{}),
		machine: health.New(cfg.Health, time.Now()), changed: make(chan struct{}), silence: func() {},
	}
	s.report = s.machine.Report()
	s.tell(health.Event{Kind: health.Start})
	go s.loop()
	return s, nil
}

// tell tells the machine what has happened. It does not wait.
func (s *Supervisor) tell(e health.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var actions []health.Action
	s.next, actions = s.machine.Step(time.Now(), e)
	s.todo = append(s.todo, actions...)
	if r := s.machine.Report(); r != s.report {
		s.report = r
		close(s.changed)
		s.changed = make(chan struct{})
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// loop does what the machine demands, and tells it of the time.
func (s *Supervisor) loop() {
	defer close(s.over)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told health.Report
	for {
		s.mu.Lock()
		todo, next, report := s.todo, s.next, s.report
		s.todo = nil
		s.mu.Unlock()
		for _, a := range todo {
			s.do(a)
		}
		if report != told {
			told = report
			s.log.Info("flow: data path", "path", report.Path.String(), "healthy", report.Healthy, "reason", report.Reason.String(), "part", report.Part, "err", report.Err)
			if s.cfg.Changed != nil {
				s.cfg.Changed(report)
			}
		}
		if len(todo) > 0 {
			continue // much may have happened since
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-s.wake:
		case <-timer.C:
			s.tell(health.Event{})
		case <-s.stop:
			if s.idle() {
				return
			}
		}
	}
}

// idle reports whether nothing is left to be done.
func (s *Supervisor) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.todo) == 0
}

func (s *Supervisor) do(a health.Action) {
	switch a.Do {
	case health.Switch:
		s.doSwitch(a)
	case health.StartParts:
		s.doStart(a.Run)
	case health.StopParts:
		s.doStop(a.Run)
	}
}

// doSwitch has packets take another path.
func (s *Supervisor) doSwitch(a health.Action) {
	if a.Path != health.Flow {
		s.mu.Lock()
		current := s.current
		s.mu.Unlock()
		if current != nil {
			current.hangUp(hangUpTime)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Health.SwitchTime)
	done := make(chan error, 1)
	s.wg.Go(func() {
		defer cancel()
		done <- s.callSwitch(ctx, a.Path)
	})
	e := health.Event{Kind: health.Switched, Run: a.Run}
	select {
	case err := <-done:
		if err != nil {
			e.Err = err.Error()
		}
	case <-ctx.Done():
		e.Err = "changing the data path takes too long"
		// It may have been done all the same, in the last moment.
		select {
		case err := <-done:
			if err == nil {
				e.Err = ""
			}
		default:
		}
	}
	s.tell(e)
}

func (s *Supervisor) callSwitch(ctx context.Context, to health.Path) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %.200s", fmt.Sprint(v))
		}
	}()
	return s.cfg.Switch(ctx, to)
}

// doStart opens a flow path, as run number run.
func (s *Supervisor) doStart(run uint64) {
	s.mu.Lock()
	s.run = run
	s.mu.Unlock()
	failed := func(part health.Part, why health.Reason, err error) {
		s.tell(health.Event{Kind: health.Down, Part: part, Reason: why, Err: err.Error(), Run: run})
	}
	s.wg.Go(func() {
		in, err := s.open(failed)
		if err != nil {
			failed(health.TransparentProxy, health.Failure, err)
			return
		}
		if !s.adopt(in, run) {
			in.Close()
		}
	})
}

// adopt makes in the flow path that runs. It reports false if it came too late.
func (s *Supervisor) adopt(in *Interceptor, run uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != run {
		return false
	}
	ctx, silence := context.WithCancel(context.Background())
	s.current, s.silence = in, silence
	for p := range health.Parts {
		s.wg.Go(func() { s.watch(ctx, in, health.Part(p), run) })
	}
	return true
}

func (s *Supervisor) open(failed func(health.Part, health.Reason, error)) (in *Interceptor, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %.200s", fmt.Sprint(v))
		}
	}()
	return s.cfg.Open(failed)
}

// watch tells the machine of each sign of life of a part.
func (s *Supervisor) watch(ctx context.Context, in *Interceptor, part health.Part, run uint64) {
	kind := health.Up
	var last string
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		if err := in.Alive(part); err == nil {
			s.tell(health.Event{Kind: kind, Part: part, Run: run})
			kind, last = health.Alive, ""
		} else if ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			s.log.Warn("flow: a part shows no sign of life", "part", part.String(), "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// doStop ends the flow path that there is.
func (s *Supervisor) doStop(run uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = run
	in, silence := s.current, s.silence
	s.current, s.silence = nil, func() {}
	silence()
	if in != nil {
		// A part that hangs may keep it from closing. That must not keep packets from going elsewhere.
		s.wg.Go(func() { in.Close() })
	}
}

// Report returns how everything is.
func (s *Supervisor) Report() health.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// Interceptor returns the flow path that runs, nil if there is none. It may close at any time.
func (s *Supervisor) Interceptor() *Interceptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Watch calls fn with the present report and then after each change, one call at a time, until ctx or the Supervisor ends. Changes that come
// faster than fn returns are merged, but the last one is never lost. It returns nil when the Supervisor has ended.
func (s *Supervisor) Watch(ctx context.Context, fn func(health.Report)) error {
	for {
		s.mu.Lock()
		r, changed := s.report, s.changed
		s.mu.Unlock()
		fn(r)
		select {
		case <-changed:
		case <-s.over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// FailOver leaves the flow path by command.
func (s *Supervisor) FailOver() { s.tell(health.Event{Kind: health.FailOver}) }

// ErrNoRevert reports that there is nothing to go back from.
var ErrNoRevert = errors.New("packets were not moved off the flow path")

// Revert goes back to the flow path after it was left, and waits until packets take it, or until it has failed again. Errors match
// [ErrNoRevert] or health.ErrNotConfirmed, or are that of ctx; it goes on when ctx ends.
func (s *Supervisor) Revert(ctx context.Context) error {
	before := s.Report()
	if before.Revert == "" {
		return fmt.Errorf("flow: %w", ErrNoRevert)
	}
	s.tell(health.Event{Kind: health.Revert})
	for {
		s.mu.Lock()
		r, changed := s.report, s.changed
		s.mu.Unlock()
		switch {
		case r.Healthy:
			return nil
		case r.Failovers > before.Failovers:
			return r.Check(health.Flow)
		}
		select {
		case <-changed:
		case <-s.over:
			return fmt.Errorf("flow: the supervisor was closed: %w", r.Check(health.Flow))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Confirm confirms that packets take the path want, and that this is in order. See [health.Report.Check].
func (s *Supervisor) Confirm(want health.Path) error { return s.Report().Check(want) }

// Close has nothing pass any more, ends the flow path and waits for every goroutine of the Supervisor. Functions of the Config that are
// still running keep it waiting until they return.
func (s *Supervisor) Close() error {
	s.closing.Do(func() {
		s.tell(health.Event{Kind: health.Stop})
		close(s.stop)
	})
	<-s.over
	s.wg.Wait()
	return nil
}
