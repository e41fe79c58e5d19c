package network

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
)

const (
	// hookTime bounds each of the hooks that have to be quick.
	hookTime = 15 * time.Second

	// maxQueue is how many events may wait.
	maxQueue = 1024
)

var (
	// ErrClosed means that the Runner does not run any more.
	ErrClosed = errors.New("network: the runner has ended")
	// ErrOverrun means that too many events wait.
	ErrOverrun = errors.New("network: too many events wait")
)

// Up is what is known of a tunnel that has come up.
type Up struct {
	// User is whose tunnel it is: the user of this machine who logged in. "" means the one who is logged on, if there is one.
	User string
	// Exempt says that the gateway lifts Always-On.
	Exempt bool
}

// A Failure is an error of a hook with a Reason; other errors of Connect and Resume count as Unreachable.
type Failure struct {
	Reason Reason
	Err    error
}

// Error implements error.
func (f *Failure) Error() string {
	if f.Err == nil {
		return string(f.Reason)
	}
	return string(f.Reason) + ": " + f.Err.Error()
}

// Unwrap returns the error behind it.
func (f *Failure) Unwrap() error { return f.Err }

// Hooks do what a [Manager] decides. Connect, Resume and the questions are called from goroutines of their own and return soon after
// ctx ends. All others are called one at a time in the order of the decisions, with 15 seconds; their errors are logged. No hook
// may call [Runner.Do], but any may call [Runner.Post].
type Hooks interface {
	// Connect dials the gateway and returns when the tunnel is up, which does not end with ctx. When it ends later, whoever notices posts TunnelDown with the
	// number of the attempt.
	Connect(ctx context.Context, a Attempt) (Up, error)
	// Resume takes up a session that was paused.
	Resume(ctx context.Context, a Attempt) (Up, error)
	// Disconnect ends the tunnel; the attempt has returned by then. It is also called where there turns out to be none.
	Disconnect(ctx context.Context, why Reason) error
	// Pause takes the tunnel down and keeps the session.
	Pause(ctx context.Context) error

	// SetFirewall, OpenPortal and ClosePortal do what those actions say.
	SetFirewall(ctx context.Context, f Firewall) error
	OpenPortal(ctx context.Context, d time.Duration) error
	ClosePortal(ctx context.Context) error

	// AskTrusted, AskPortal and RoundTrip ask servers outside of the tunnel. The Probers of the packages trusted, portal and
	// selection do that.
	AskTrusted(ctx context.Context, r trusted.Rules) trusted.Answers
	AskPortal(ctx context.Context, gateways []string) portal.Report
	RoundTrip(ctx context.Context, server string) (time.Duration, error)

	// Save keeps what the selection of gateways knows.
	Save(c selection.Cache)
	// Notify tells a person.
	Notify(n Notice)
}

// An Attempt is one try to get a tunnel.
type Attempt struct {
	// Run is its number, for the events about it.
	Run uint64
	// Server is whom to dial, Host the name of its entry, "" if a person typed it in.
	Server, Host string
}

// A Runner drives a Manager. Make one with [NewRunner] and call Run.
type Runner struct {
	m      *Manager
	hooks  Hooks
	log    *slog.Logger
	status atomic.Pointer[Status]

	mu     sync.Mutex
	queue  []request
	closed bool
	wake   chan struct{}

	// Of the goroutine of Run.
	wait    sync.WaitGroup
	attempt context.CancelFunc
	ended   chan struct{} // of the attempt
	ask     map[Do]context.CancelFunc
}

type request struct {
	event Event
	reply chan error // nil if nobody waits
}

// NewRunner returns a Runner of a Manager that nobody else uses from now on. A nil logger discards.
func NewRunner(m *Manager, h Hooks, log *slog.Logger) *Runner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{m: m, hooks: h, log: log, wake: make(chan struct{}, 1), ask: map[Do]context.CancelFunc{}}
	s := m.Status()
	r.status.Store(&s)
	return r
}

// Status returns the last snapshot. It never waits.
func (r *Runner) Status() Status { return *r.status.Load() }

// Post has the Manager told of an event. It does not wait.
func (r *Runner) Post(e Event) error { return r.put(request{event: e}, maxQueue) }

// Do has the Manager told of an event and returns what it says to that when the actions have been done: an error matching
// [ErrNotAllowed] if policy forbids it.
func (r *Runner) Do(ctx context.Context, e Event) error {
	q := request{e, make(chan error, 1)}
	if err := r.put(q, maxQueue); err != nil {
		return err
	}
	select {
	case err := <-q.reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runner) put(q request, limit int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if len(r.queue) >= limit {
		return ErrOverrun
	}
	r.queue = append(r.queue, q)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// result posts what came of a hook, for which there is always room.
func (r *Runner) result(e Event) { _ = r.put(request{event: e}, 2*maxQueue) }

// Run starts the Manager with the links, nil if they are not known yet, and does what it says until ctx ends. Then it closes a portal
// window, waits for its goroutines, and returns why ctx ended. The tunnel and the firewall stay as they are: to whom they belong,
// who takes them down, if at all, is the caller's matter. Run is called once.
func (r *Runner) Run(ctx context.Context, links []trusted.Link) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer r.end()
	r.step(ctx, request{event: Event{Kind: Start, Links: links}}, timer)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			r.step(ctx, request{}, timer)
		case <-r.wake:
			r.mu.Lock()
			queue := r.queue
			r.queue = nil
			r.mu.Unlock()
			for _, q := range queue {
				if ctx.Err() != nil {
					if q.reply != nil {
						q.reply <- ErrClosed
					}
					continue
				}
				r.step(ctx, q, timer)
			}
		}
	}
}

func (r *Runner) end() {
	r.mu.Lock()
	queue := r.queue
	r.closed, r.queue = true, nil
	r.mu.Unlock()
	for _, q := range queue {
		if q.reply != nil {
			q.reply <- ErrClosed
		}
	}
	if r.attempt != nil {
		r.attempt()
	}
	for _, cancel := range r.ask {
		cancel()
	}
	r.wait.Wait()
	if !r.m.portal.Window().IsZero() {
		ctx, cancel := context.WithTimeout(context.Background(), hookTime)
		defer cancel()
		if err := r.hooks.ClosePortal(ctx); err != nil {
			r.log.Error("portal window not closed", "err", err)
		}
	}
}

func (r *Runner) step(ctx context.Context, q request, timer *time.Timer) {
	now := time.Now()
	next, actions, err := r.m.Step(now, q.event)
	if err != nil {
		r.log.Info("event refused", "err", err)
	}
	for _, a := range actions {
		r.act(ctx, a)
	}
	s := r.m.Status()
	r.status.Store(&s)
	if q.reply != nil {
		q.reply <- err
	}
	if next.IsZero() {
		timer.Stop()
	} else {
		timer.Reset(max(time.Until(next), 0))
	}
}

func (r *Runner) act(ctx context.Context, a Action) {
	quick, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	var err error
	switch a.Do {
	case Connect, ResumeTunnel:
		r.log.Info(a.Do.String(), "server", a.Server, "host", a.Host, "run", a.Run)
		r.try(ctx, a)
	case Disconnect:
		r.log.Info("disconnect", "reason", a.Reason)
		r.abort()
		err = r.hooks.Disconnect(quick, a.Reason)
	case Pause:
		r.abort()
		err = r.hooks.Pause(quick)
	case SetFirewall:
		r.log.Info("firewall", "mode", a.Firewall.Mode)
		if err = r.hooks.SetFirewall(quick, a.Firewall); err != nil {
			r.result(Event{Kind: FirewallFailed})
		}
	case OpenPortal:
		err = r.hooks.OpenPortal(quick, a.For)
	case ClosePortal:
		err = r.hooks.ClosePortal(quick)
	case AskTrusted:
		r.question(ctx, a.Do, askTime, func(ctx context.Context) Event {
			return Event{Kind: Asked, Run: a.Run, Answers: r.hooks.AskTrusted(ctx, a.Rules)}
		})
	case AskPortal:
		r.question(ctx, a.Do, askTime, func(ctx context.Context) Event {
			return Event{Kind: Looked, Run: a.Run, Report: r.hooks.AskPortal(ctx, a.Servers)}
		})
	case Measure:
		r.question(ctx, a.Do, measureTime, func(ctx context.Context) Event {
			return Event{Kind: Measured, Run: a.Run, Samples: selection.Measure(ctx, a.Servers, r.hooks.RoundTrip)}
		})
	case Save:
		r.hooks.Save(a.Cache)
	case Notify:
		r.hooks.Notify(a.Notice)
	}
	if err != nil {
		r.log.Error(a.Do.String()+" failed", "err", err)
	}
}

// try makes an attempt. There is one at a time.
func (r *Runner) try(ctx context.Context, a Action) {
	r.abort()
	ctx, r.attempt = context.WithCancel(ctx)
	ended := make(chan struct{})
	r.ended = ended
	r.wait.Go(func() {
		defer close(ended)
		hook := r.hooks.Connect
		if a.Do == ResumeTunnel {
			hook = r.hooks.Resume
		}
		up, err := hook(ctx, Attempt{a.Run, a.Server, a.Host})
		if err == nil {
			r.result(Event{Kind: TunnelUp, Run: a.Run, User: up.User, Exempt: up.Exempt})
			return
		}
		reason := Unreachable
		var f *Failure
		if errors.As(err, &f) {
			reason = f.Reason
		}
		r.result(Event{Kind: TunnelDown, Run: a.Run, Reason: reason, Err: err.Error()})
	})
}

// abort ends the attempt and waits for it.
func (r *Runner) abort() {
	if r.attempt != nil {
		r.attempt()
		<-r.ended
		r.attempt = nil
	}
}

// question asks something; a newer question of the same kind takes the place of an older one.
func (r *Runner) question(ctx context.Context, kind Do, limit time.Duration, f func(context.Context) Event) {
	if cancel := r.ask[kind]; cancel != nil {
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	r.ask[kind] = cancel
	r.wait.Go(func() {
		defer cancel()
		r.result(f(ctx))
	})
}
