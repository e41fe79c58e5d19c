//go:build !linux && !windows && !darwin

package logins

import (
	"context"
	"fmt"
	"runtime"
)

// systemState is what a Source remembers: nothing.
type systemState struct{}

func (s *Source) list(context.Context) ([]Session, error) {
	return nil, fmt.Errorf("%w: not on %s", ErrUnavailable, runtime.GOOS)
}

func (s *Source) watch(ctx context.Context, w *watch) error { return s.pollList(ctx, w, s.list) }

// Asker fails with ErrUnavailable on this system.
func (s *Source) Asker(ctx context.Context, pid int) (Asker, error) {
	_, err := s.List(ctx)
	return Asker{UID: NoUID}, err
}
