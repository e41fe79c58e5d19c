//go:build !linux

package resolver

import (
	"context"
	"fmt"
)

func resolvedRuns(context.Context, string) error {
	return fmt.Errorf("%w: it is a program of Linux", ErrUnavailable)
}

func (r *Resolver) applyLink(ctx context.Context, _ Config, _ func([]byte) error) error {
	return resolvedRuns(ctx, "")
}

func (r *Resolver) undoLink(ctx context.Context, _ linkUndo) error { return resolvedRuns(ctx, "") }

func (r *Resolver) upstreamLinks(ctx context.Context) (Upstream, error) {
	return Upstream{}, resolvedRuns(ctx, "")
}

func (r *Resolver) watchLink(ctx context.Context, _ Policy, _ func(Event)) { <-ctx.Done() }
