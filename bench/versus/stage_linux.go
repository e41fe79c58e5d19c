package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// A stage owns what is built for one pair of contenders, as a test owns what it builds: it implements netns.TB. Whatever
// goes wrong ends the stage's current step by a panic that [stage.try] turns into an error.
type stage struct {
	ctx      context.Context
	log      io.Writer
	cleanups []func()
	failed   bool
}

// A stageError is what ends a step.
type stageError struct{ err error }

// perform runs play on a new stage and takes down what it has built.
func perform(ctx context.Context, play func(s *stage)) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{ctx: ctx, log: os.Stderr}
	defer func() {
		cancel()
		for len(s.cleanups) > 0 {
			last := s.cleanups[len(s.cleanups)-1]
			s.cleanups = s.cleanups[:len(s.cleanups)-1]
			err = errors.Join(err, s.try(last))
		}
	}()
	return s.try(func() { play(s) })
}

// try runs a step and returns what ended it.
func (s *stage) try(step func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case stageError:
			err = r.err
		default:
			panic(r)
		}
	}()
	step()
	return nil
}

// check ends the step if there is an error.
func (s *stage) check(err error) {
	if err != nil {
		panic(stageError{err})
	}
}

// Context implements netns.TB.
func (s *stage) Context() context.Context { return s.ctx }

// Cleanup implements netns.TB.
func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Helper implements netns.TB.
func (s *stage) Helper() {}

// Failed implements netns.TB.
func (s *stage) Failed() bool { return s.failed }

// Logf implements netns.TB.
func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(s.log, format+"\n", args...) }

// Errorf implements netns.TB.
func (s *stage) Errorf(format string, args ...any) {
	s.failed = true
	s.Logf(format, args...)
}

// Fatalf implements netns.TB.
func (s *stage) Fatalf(format string, args ...any) {
	s.failed = true
	if err := s.ctx.Err(); err != nil {
		panic(stageError{err})
	}
	panic(stageError{fmt.Errorf(format, args...)})
}

// Skipf implements netns.TB. Nothing is skipped here.
func (s *stage) Skipf(format string, args ...any) { s.Fatalf(format, args...) }
