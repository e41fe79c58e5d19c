package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A fakeTB is a test whose failures are looked at instead of reported.
type fakeTB struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (f *fakeTB) Helper()          {}
func (f *fakeTB) Failed() bool     { return false }
func (f *fakeTB) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func (f *fakeTB) end() string {
	for _, c := range f.cleanups {
		c()
	}
	return strings.Join(f.errors, "\n")
}

func TestClean(t *testing.T) {
	f := &fakeTB{TB: t}
	Check(f)
	done := make(chan struct{})
	go func() { <-done }()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	close(done)
	if s := f.end(); s != "" {
		t.Errorf("a clean test failed: %s", s)
	}
}

func TestGoroutine(t *testing.T) {
	f := &fakeTB{TB: t}
	check(f, 10*time.Millisecond)
	done := make(chan struct{})
	defer close(done)
	go func() { <-done }()
	if s := f.end(); !strings.Contains(s, "TestGoroutine") {
		t.Errorf("a leaked goroutine was reported as %q", s)
	}
}

func TestDescriptor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are not listed on " + runtime.GOOS)
	}
	f := &fakeTB{TB: t}
	check(f, 10*time.Millisecond)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if s := f.end(); !strings.Contains(s, os.DevNull) {
		t.Errorf("a leaked descriptor was reported as %q", s)
	}
}
