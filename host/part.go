package host

import (
	"context"
	"errors"
	"fmt"
)

// A Part changes something of the machine that is not its addresses, routes and rules: its resolver, its desktops, its firewall.
type Part interface {
	// Apply makes that part of the machine as settings say, from however it is now. Before each change it calls record with what
	// it will take to undo that change, at most 64 KiB, which comes back only when the change has been recorded
	// on the disk; if that fails, the change must not be made. A change that Apply takes back itself may stay recorded.
	Apply(ctx context.Context, settings any, record func(undo []byte) error) error

	// Undo undoes one recorded change. It may be called in another process than Apply, more than once, and for a change that
	// was never made. It leaves what somebody else has changed since as they have made it, and returns an error matching
	// [ErrForeign]. One that matches [ErrLater] keeps the change recorded for another time.
	Undo(ctx context.Context, undo []byte) error
}

// ErrForeign is matched by the errors of a [Part] that left something alone because somebody else has changed it since.
var ErrForeign = errors.New("somebody else has changed it since")

// ErrLater is matched by the errors of a [Part] that cannot undo a change now, but later: when a user has logged in again, say.
// The change stays in the journal, and that fails nothing.
var ErrLater = errors.New("it can only be undone later")

// PartOf returns a Part made of two functions, the first of which takes settings of type C. An error of undo that matches
// foreign counts as [ErrForeign]; foreign may be nil.
func PartOf[C any](
	apply func(ctx context.Context, settings C, record func(undo []byte) error) error,
	undo func(ctx context.Context, undo []byte) error,
	foreign error,
) Part {
	return part[C]{apply, undo, foreign}
}

type part[C any] struct {
	apply   func(context.Context, C, func([]byte) error) error
	undo    func(context.Context, []byte) error
	foreign error
}

func (p part[C]) Apply(ctx context.Context, settings any, record func([]byte) error) error {
	c, ok := settings.(C)
	if !ok {
		return fmt.Errorf("%w: settings of type %T where %T is wanted", ErrSettings, settings, c)
	}
	return p.apply(ctx, c, record)
}

func (p part[C]) Undo(ctx context.Context, undo []byte) error {
	err := p.undo(ctx, undo)
	if err != nil && p.foreign != nil && errors.Is(err, p.foreign) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return err
}

// Parts are the parts of the machine that a program knows how to change. Nil ones cannot be changed or repaired.
type Parts struct {
	// Resolver is applied when its servers can be reached, and undone before they cannot be any more.
	Resolver Part

	// Desktop is what programs of users go by, such as their web proxy. It is applied last and undone first.
	Desktop Part

	// Firewall is applied first and undone last, so that what it forbids is forbidden throughout.
	Firewall Part
}

// Names of parts in the journal.
const (
	partResolver = "resolver"
	partDesktop  = "desktop"
	partFirewall = "firewall"
)

func (p Parts) named(name string) (Part, error) {
	var part Part
	switch name {
	case partResolver:
		part = p.Resolver
	case partDesktop:
		part = p.Desktop
	case partFirewall:
		part = p.Firewall
	}
	if part == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoPart, name)
	}
	return part, nil
}
