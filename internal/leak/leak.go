// Package leak finds goroutines and file descriptors that a test leaves behind.
package leak

import (
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines and descriptors may take to go away after the test.
const patience = 5 * time.Second

// Check fails the test, when it and its other clean-ups are over, if there are goroutines or file descriptors then that
// were not there when Check was called. Call it in the first line of a test, so that it runs after all clean-ups. It
// makes no sense in a test that runs in parallel with others, nor inside a testing/synctest bubble, which waits for its
// goroutines anyway.
//
// Where the system does not list descriptors, only goroutines are checked.
func Check(tb testing.TB) {
	tb.Helper()
	check(tb, patience)
}

func check(tb testing.TB, patience time.Duration) {
	tb.Helper()
	before := descriptors()
	ignore := goleak.IgnoreCurrent()
	tb.Cleanup(func() {
		tb.Helper()
		if tb.Failed() {
			return // what a failed test leaves behind hides why it failed
		}
		deadline := time.Now().Add(patience)
		for wait := time.Millisecond; ; wait *= 2 {
			leaked := newDescriptors(before, descriptors())
			err := goleak.Find(ignore)
			if err == nil && len(leaked) == 0 {
				return
			}
			if time.Now().After(deadline) {
				if err != nil {
					tb.Errorf("leak: %v", err)
				}
				if len(leaked) > 0 {
					tb.Errorf("leak: file descriptors left open: %s", strings.Join(leaked, ", "))
				}
				return
			}
			time.Sleep(min(wait, 100*time.Millisecond))
		}
	})
}

// newDescriptors returns those of after that are not in before, described, without those that belong to the runtime.
func newDescriptors(before, after map[string]string) []string {
	var leaked []string
	for fd, target := range after {
		if before[fd] == target || strings.HasPrefix(target, "anon_inode:[event") {
			continue
		}
		leaked = append(leaked, fd+" -> "+target)
	}
	sort.Strings(leaked)
	return leaked
}
