package script

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// defaultTimeout is how long a program may run. It is generous, since vpnc-script starts several programs for each network.
const defaultTimeout = 2 * time.Minute

// A Config says which program to run and how.
type Config struct {
	// Path is the program, as an absolute path. Args are its arguments; scripts after the model of vpnc-script need none.
	// [Command] makes both from a line of text.
	Path string
	Args []string

	// Timeout is how long the program may run each time, before it is ended with all that it has started. Zero means two
	// minutes.
	Timeout time.Duration

	// User is whose rights the program has. Nil means those of this process.
	User *User

	// Logger gets what the program prints, line by line: its output at the level info, its errors at the level warn. Nil
	// discards it.
	Logger *slog.Logger
}

// A Script is a program after the model of vpnc-script. Its methods may be called from any goroutine; one run waits for
// another.
type Script struct {
	program *program
	turn    chan struct{}
}

// New returns a Script. It fails if the path is not that of a program, or if any user of the machine may change the program.
func New(cfg Config) (*Script, error) {
	p, err := newProgram(cfg)
	if err != nil {
		return nil, err
	}
	return &Script{p, make(chan struct{}, 1)}, nil
}

// Run starts the program for the reason and waits until it has ended. What it has started in the background goes on.
//
// If ctx ends before, the program's process group is asked to end, and made to two seconds later. The error is an [*ExitError] if
// the program ran, a [*FieldError] if there is no environment for it, and else that of the system.
func (s *Script) Run(ctx context.Context, reason Reason, settings *Settings) error {
	env, omitted, err := settings.Environ(reason)
	for _, o := range omitted {
		s.program.log.Warn("left out for the script", "variable", o.Variable, "err", o.Err)
	}
	if err != nil {
		return fmt.Errorf("script %q, %s: %w", s.program.path, reason, err)
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("script %q, %s: waiting for the run before: %w", s.program.path, reason, context.Cause(ctx))
	}
	return s.program.run(ctx, string(reason), env)
}
