//go:build !linux

package owner

import "context"

// A Finder finds the owners of flows. On this system it does not exist.
type Finder struct{}

// New returns an error that matches [ErrUnsupported].
func New(Config) (*Finder, error) { return nil, ErrUnsupported }

// Find returns an error that matches [ErrUnsupported].
func (*Finder) Find(context.Context, Flow) (Owner, error) { return Unknown, ErrUnsupported }

// Stats returns nothing.
func (*Finder) Stats() Stats { return Stats{} }

// Close does nothing.
func (*Finder) Close() error { return nil }
