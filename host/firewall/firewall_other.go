//go:build !linux

package firewall

import (
	"context"
	"time"
)

func (f *Firewall) apply(context.Context, Config, func() error) error { return ErrUnsupported }

// remove has nothing to remove, since nothing can have been applied.
func (f *Firewall) remove(context.Context, string) error { return nil }

func (f *Firewall) renew(context.Context, time.Duration) error { return ErrUnsupported }

func (f *Firewall) counts(context.Context) (map[string]Count, error) { return nil, ErrIdle }

func (f *Firewall) watch(context.Context, Policy, func(Event)) error { return ErrUnsupported }
