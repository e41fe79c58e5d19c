package script

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrTooLarge reports settings that no environment of a process can hold.
var ErrTooLarge = errors.New("too large for the environment of a process")

// A FieldError says which variable of the environment cannot be made from the settings, and why.
type FieldError struct {
	Variable string // such as CISCO_SPLIT_INC_4000_ADDR
	Err      error
}

// Error implements error.
func (e *FieldError) Error() string { return e.Variable + ": " + e.Err.Error() }

// Unwrap returns why.
func (e *FieldError) Unwrap() error { return e.Err }

// An ExitError says that a program was started and did not end well.
type ExitError struct {
	// Path is the program, Event what it was started for: a Reason, or the name of a hook.
	Path, Event string
	// Code is its exit status, or -1 if it was ended by a signal, and Signal the name of that.
	Code   int
	Signal string
	// Said is the last line that it wrote to its standard error, if any, without control characters, at most 200 bytes.
	Said string
	// Err is why the program was ended, context.DeadlineExceeded after its time, and nil if it ended by itself.
	Err error
}

// Error implements error.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "script %s, %s: ", strconv.Quote(e.Path), e.Event)
	switch {
	case e.Err != nil:
		fmt.Fprintf(&b, "ended before it was done: %v", e.Err)
	case e.Signal != "":
		fmt.Fprintf(&b, "ended by the signal %s", e.Signal)
	default:
		fmt.Fprintf(&b, "exit status %d", e.Code)
	}
	if e.Said != "" {
		fmt.Fprintf(&b, " (it said: %s)", e.Said)
	}
	return b.String()
}

// Unwrap returns why the program was ended.
func (e *ExitError) Unwrap() error { return e.Err }
