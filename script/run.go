package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// grace is how long a program may take to end when it is asked to.
	grace = 2 * time.Second
	// drain is how long after the end of a program what it has printed may take to arrive. Programs that it left behind in the
	// background may hold the pipe open for ever.
	drain = 500 * time.Millisecond
)

// A program is what a Script or a hook runs.
type program struct {
	path    string
	args    []string
	timeout time.Duration
	user    *User
	log     *slog.Logger
}

func newProgram(cfg Config) (*program, error) {
	p := &program{cfg.Path, cfg.Args, cfg.Timeout, cfg.User, cfg.Logger}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case p.timeout == 0:
		p.timeout = defaultTimeout
	case p.timeout < 0:
		return nil, fmt.Errorf("script %q: a timeout of %v", p.path, p.timeout)
	}
	if !filepath.IsAbs(p.path) || strings.ContainsRune(p.path, 0) {
		return nil, fmt.Errorf("script %q: not an absolute path", excerpt(p.path))
	}
	for _, a := range p.args {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("script %q: a NUL byte in an argument", p.path)
		}
	}
	if err := checkUser(p.user); err != nil {
		return nil, fmt.Errorf("script %q: %w", p.path, err)
	}
	fi, err := os.Stat(p.path)
	if err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	if err := checkFile(fi); err != nil {
		return nil, fmt.Errorf("script %q: %w", p.path, err)
	}
	return p, nil
}

// checkFile returns why a file must not be run.
func checkFile(fi fs.FileInfo) error {
	switch {
	case !fi.Mode().IsRegular():
		return errors.New("not a file")
	case !executable(fi):
		return errors.New("not executable; make it so, with chmod +x")
	case worldWritable(fi):
		return errors.New("every user of this machine may change it; forbid that, with chmod o-w")
	}
	return nil
}

// run starts the program with the environment and waits for it.
func (p *program) run(ctx context.Context, event string, env []string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("script %q, %s: %w", p.path, event, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = rootDirectory
	cmd.Env = append(p.user.environ(), env...)
	log := p.log.With("script", p.path, "event", event)
	out := &output{say: func(line string) { log.Info("script output", "line", line) }}
	errs := &output{say: func(line string) { log.Warn("script error output", "line", line) }}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = drain
	isolate(cmd, p.user)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.E2BIG) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return fmt.Errorf("script %q, %s: %w", p.path, event, err)
	}
	exited, reap := watch(cmd)
	var cause error
	select {
	case <-exited:
	case <-ctx.Done():
		cause = context.Cause(ctx)
		terminate(cmd)
		timer := time.NewTimer(grace)
		select {
		case <-exited:
		case <-timer.C:
		}
		timer.Stop()
		// Also if the program has ended: what it started may not have.
		kill(cmd)
		<-exited
	}
	err := reap()
	out.close()
	errs.close()
	state := cmd.ProcessState
	if state == nil {
		return fmt.Errorf("script %q, %s: %w", p.path, event, err)
	}
	log.Debug("script ended", "status", state.ExitCode(), "took", time.Since(start).Round(time.Millisecond))
	if cause == nil && state.Success() {
		return nil
	}
	return &ExitError{Path: p.path, Event: event, Code: state.ExitCode(), Signal: signalOf(state), Said: excerpt(errs.last), Err: cause}
}
