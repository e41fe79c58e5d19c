package logins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// The kinds of errors, for errors.Is.
var (
	// ErrUnavailable means that who is logged on cannot be asked for now, though it could be before.
	ErrUnavailable = errors.New("logins: who is logged on cannot be asked for")
	// ErrInvalid means that an answer or a file is not what it should be. The error names the field.
	ErrInvalid = errors.New("logins: invalid answer")
	// ErrNoProcess means that there is no such process.
	ErrNoProcess = errors.New("logins: no such process")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// Options say where to look. The zero Options are right for a program on an ordinary machine.
type Options struct {
	// Bus is the D-Bus address of systemd-logind; "" is the system bus. The environment is not asked.
	Bus string
	// Utmp is the file to read where there is no logind; "" is where the system has it.
	Utmp string
	// Proc is where the process file system of Linux is mounted; "" is /proc.
	Proc string
	// Logger may be nil.
	Logger *slog.Logger
}

// A Source says who is logged on. It holds no resources between calls and may be used by several goroutines.
type Source struct {
	opts Options
	log  *slog.Logger
	// answer bounds one call to another process, and all the time for one list of sessions. poll is how often files are looked at.
	answer, poll time.Duration

	mu     sync.Mutex
	system systemState
}

// Times that bound asking: see [Source].
const (
	answerTime = 5 * time.Second
	pollTime   = 2 * time.Second
	// retryMin and retryMax are how long a watch waits before it tries again after an error.
	retryMin, retryMax = 250 * time.Millisecond, 10 * time.Second
)

// New returns a Source. It asks nobody yet.
func New(opts Options) *Source {
	s := &Source{opts: opts, log: opts.Logger, answer: answerTime, poll: pollTime}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// List returns all sessions of this machine, of every class, in an order that stays as long as they do. It takes a few seconds at
// most, and fails with an error that matches ErrUnavailable or ErrInvalid.
func (s *Source) List(ctx context.Context) ([]Session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.answer)
	defer cancel()
	return s.list(ctx)
}

// Watch calls report with all sessions of this machine, first as they are and then after each change, until ctx is done. While they
// cannot be listed, it calls report with an error instead, and goes on trying. It calls report from one goroutine, its caller's, and
// returns nil.
func (s *Source) Watch(ctx context.Context, report func([]Session, error)) error {
	w := &watch{report: report}
	wait := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := s.watch(ctx, w)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.log.Warn("who is logged on cannot be watched", "err", err)
			w.fail(err)
		}
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		pause(ctx, wait)
		wait = min(2*wait, retryMax)
	}
	return nil
}

// A watch reports what differs from what it reported before.
type watch struct {
	report func([]Session, error)
	last   []Session
	told   bool // last was reported
	failed bool
}

func (w *watch) list(sessions []Session) {
	if w.told && !w.failed && slices.Equal(w.last, sessions) {
		return
	}
	w.last, w.told, w.failed = slices.Clone(sessions), true, false
	w.report(sessions, nil)
}

func (w *watch) fail(err error) {
	w.failed = true
	w.report(nil, err)
}

// pollList reports list's sessions every so often, until it fails or ctx is done.
func (s *Source) pollList(ctx context.Context, w *watch, list func(context.Context) ([]Session, error)) error {
	for {
		sessions, err := list(ctx)
		if err != nil {
			return err
		}
		w.list(sessions)
		if !pause(ctx, s.poll) {
			return nil
		}
	}
}

// pause waits, and returns false if ctx is done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
