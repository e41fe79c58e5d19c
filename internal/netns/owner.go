package netns

import "context"

// A TB is the owner of a [Lab], who is told what goes wrong and says when all is over. A testing.TB is one; a program that is
// not a test makes its own. Its methods mean what those of testing.TB mean: in particular Fatalf and Skipf do not return.
type TB interface {
	// Context ends when the owner is about to run its clean-ups.
	Context() context.Context
	// Cleanup registers a function for the end. The last one registered is called first.
	Cleanup(func())
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	// Failed reports whether Errorf or Fatalf was called.
	Failed() bool
}
