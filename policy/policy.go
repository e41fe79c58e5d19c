// Package policy says whether a flow may start, and holds packets to what was decided.
//
// A [Decider] judges flows, once each, before their first packet, and may take its time. A [Gate] judges packets: it sits on the
// path of each of them, so it only compares addresses.
package policy

import (
	"context"
	"errors"
	"net/netip"
)

// ErrDenied reports a flow that a Decider has denied.
var ErrDenied = errors.New("denied by policy")

// A Flow is what is known of a connection before its first packet.
type Flow struct {
	// Network is tcp, udp or ping.
	Network string
	// Host is the name or literal address that the program asked for.
	Host string
	// Port is the destination port, 0 for ping.
	Port uint16
	// Addr is the destination where the program gave an address, and the zero Addr where it gave a name.
	Addr netip.Addr
}

// A Decision is the answer of a [Decider]. The zero Decision denies.
type Decision struct {
	// Allow lets the flow start.
	Allow bool
	// Reason says why, for the error and the log.
	Reason string
}

// A Decider decides about flows, once each, before the first packet. It may take its time, within the context. An error
// denies, and so does the zero Decision. It may be called by several goroutines at once.
type Decider interface {
	Decide(ctx context.Context, f Flow) (Decision, error)
}

// A DeciderFunc is a function that serves as a Decider.
type DeciderFunc func(ctx context.Context, f Flow) (Decision, error)

// Decide calls d.
func (d DeciderFunc) Decide(ctx context.Context, f Flow) (Decision, error) { return d(ctx, f) }

// AllowAll allows every flow.
var AllowAll Decider = DeciderFunc(func(context.Context, Flow) (Decision, error) {
	return Decision{Allow: true, Reason: "everything is allowed"}, nil
})
