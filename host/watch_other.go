//go:build !linux

package host

import (
	"fmt"
	"time"
)

// source begins a Watch.
func (n *Network) source(skip func(name string) bool) (source, error) {
	if n.closed.Load() {
		return nil, fmt.Errorf("host: %w", ErrClosed)
	}
	p := &poller{interfaces: n.Interfaces, skip: skip}
	var err error
	p.last, err = p.look()
	return p, err
}

// clocks returns a function that reads the clocks of the machine. The monotonic one of Go stops while the machine is suspended.
func clocks() func() reading {
	begun := time.Now()
	return func() reading {
		now := time.Now()
		awake := now.Sub(begun)
		return reading{wall: time.Duration(now.UnixNano()), boot: awake, awake: awake}
	}
}
