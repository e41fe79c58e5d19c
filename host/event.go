package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Change is a set of things that have changed.
type Change uint8

const (
	// Links: an interface came, went, was switched on or off, or its carrier did.
	Links Change = 1 << iota
	// Addresses: an interface got or lost an address.
	Addresses
	// Routes: a route of the machine, not one of our own table.
	Routes
	// Rules: which packets look at which routing table.
	Rules
	// Overrun: so much has changed at once that some of it was missed, so anything may have.
	Overrun
)

// String returns the names of the changes, separated by commas.
func (c Change) String() string {
	var names []string
	for i, name := range []string{"links", "addresses", "routes", "rules", "overrun"} {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// An Event says that something has happened to the network, or to the time. What happens within a moment is one Event.
type Event struct {
	Changed Change

	// Interfaces are the names of those that changed, or whose addresses did.
	Interfaces []string

	// Asleep is how long this process did not notice that time went by, because the machine was suspended or a virtual machine
	// stopped; zero if it was not. Connections that did not hear from the other side for so long may be dead.
	Asleep time.Duration

	// Lost is what somebody else has taken of what [Machine.Apply] has made, as the commands of iproute2 that would make it
	// again, and Foreign what somebody else has put into our routing table. Only [Machine.Watch] reports them.
	Lost, Foreign []string

	// Healed says that what was lost has been made again; Err why that failed, if it was tried.
	Healed bool
	Err    error
}

// reading is what several clocks show, each from some beginning of its own.
type reading struct {
	wall  time.Duration // set by people and by NTP
	boot  time.Duration // goes on while the machine is suspended, where there is such a clock; else as mono
	awake time.Duration // stops while the machine is suspended
}

// slept returns for how long time went by unnoticed between two readings. A machine that was suspended is known by the clock that
// went on. A virtual machine that was stopped has no such clock, but when the time of day is set afterwards it jumps.
func slept(before, after reading) time.Duration {
	const noise, jump = time.Second, 5 * time.Second
	suspended := (after.boot - before.boot) - (after.awake - before.awake)
	if set := (after.wall - before.wall) - (after.awake - before.awake); set >= jump && set > suspended {
		return set.Round(time.Millisecond)
	}
	if suspended >= noise {
		return suspended.Round(time.Millisecond)
	}
	return 0
}

const (
	// tick is how often the clocks are looked at while nothing happens.
	tick = 5 * time.Second
	// settle is how long it must be quiet before an Event is reported, and settleMost how long it is waited for at most.
	settle     = 50 * time.Millisecond
	settleMost = 500 * time.Millisecond
)

// news is what has happened, as told by the system.
type news struct {
	changed    Change
	interfaces []string
	ours       bool // something that may be ours was touched
}

func (n *news) add(o news) {
	n.changed |= o.changed
	n.ours = n.ours || o.ours
	for _, name := range o.interfaces {
		if name != "" && !slices.Contains(n.interfaces, name) && len(n.interfaces) < 1024 {
			n.interfaces = append(n.interfaces, name)
		}
	}
}

func (n news) empty() bool { return n.changed == 0 && !n.ours }

// A source tells what happens. Next waits until something has happened or the time is over, in which case the news are
// empty. Close ends its use by this Watch.
type source interface {
	next(ctx context.Context, wait time.Duration) (news, error)
	close()
}

// watch reports what happens, and each tick, until ctx ends.
func watch(ctx context.Context, src source, clock func() reading, report func(news, time.Duration)) error {
	last := clock()
	for {
		n, err := src.next(ctx, tick)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("host: watching the network: %w", err)
		}
		// One plug in a socket is a dozen messages. They are not worth a dozen events.
		for end := time.Now().Add(settleMost); !n.empty() && time.Now().Before(end); {
			more, err := src.next(ctx, settle)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("host: watching the network: %w", err)
			}
			if more.empty() {
				break
			}
			n.add(more)
		}
		now := clock()
		asleep := slept(last, now)
		last = now
		slices.Sort(n.interfaces)
		report(n, asleep)
	}
}

// Watch calls f for each Event, from this goroutine, until ctx ends, and returns why it ended. While f runs, changes are
// gathered; if they become too many, Changed has Overrun. There may be one Watch at a time, whose owner is the caller.
func (n *Network) Watch(ctx context.Context, f func(Event)) error {
	src, err := n.source(func(string) bool { return false })
	if err != nil {
		return err
	}
	defer src.close()
	return watch(ctx, src, n.clock, func(news news, asleep time.Duration) {
		if news.changed != 0 || asleep > 0 {
			f(Event{Changed: news.changed, Interfaces: news.interfaces, Asleep: asleep})
		}
	})
}

// Watch is [Network.Watch] for a machine that is being changed. It leaves out what Apply itself does, says what other programs
// break of it, makes that again if [Config.Heal] says so, and follows the networks that [Settings.Local] is about. A
// program that breaks the same things over and over is not answered more than 10 times a minute. What was broken before it was called
// is found at once. It takes the place of a Watch of the Machine's Network.
func (m *Machine) Watch(ctx context.Context, f func(Event)) error {
	src, err := m.network.source(func(name string) bool {
		device := m.device.Load()
		return device != nil && *device == name
	})
	if err != nil {
		return err
	}
	defer src.close()
	var early Event
	again := m.inspect(ctx, &early, time.Now()) // whether there is something to repair that the limit has put off
	if ctx.Err() == nil && len(early.Lost)+len(early.Foreign) > 0 {
		f(early)
	}
	return watch(ctx, src, m.network.clock, func(news news, asleep time.Duration) {
		e := Event{Changed: news.changed, Interfaces: news.interfaces, Asleep: asleep}
		// The routes of the machine are not looked at by Apply, and may change all the time.
		if again || news.ours || news.changed&^Routes != 0 || asleep > 0 {
			again = m.inspect(ctx, &e, time.Now())
		}
		if e.Changed != 0 || e.Asleep > 0 || len(e.Lost)+len(e.Foreign) > 0 || e.Err != nil {
			f(e)
		}
	})
}

// inspect compares the machine with the settings in force, says in e what it has found and done, and reports whether it has to
// come again.
func (m *Machine) inspect(ctx context.Context, e *Event, now time.Time) (again bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.settings == nil {
		return false
	}
	s, want, have, err := m.prepare(ctx, *m.settings)
	if err != nil {
		m.told(e, []string{"settings: " + err.Error()}, nil)
		if len(e.Lost) > 0 {
			e.Lost, e.Err = nil, fmt.Errorf("host: looking for what was lost: %w", err)
		}
		return false
	}
	var lost []string
	moved := false
	for _, step := range plan(have, want) {
		switch {
		case step.op == opSetRoute && m.have.routes[step.key] != step.to, step.op == opDelRoute:
			// The last Apply did not want it either: it is the network outside that has moved on.
			moved = true
		default:
			lost = append(lost, step.String())
		}
	}
	foreign, err := m.foreign(want)
	if err != nil {
		e.Err = err
	}
	m.told(e, lost, foreign)
	if len(m.mended) > 0 && len(e.Lost) == 0 && len(lost) == 0 {
		e.Lost, e.Healed = m.mended, true
		m.mended = nil
		m.log.Warn("somebody else had changed what is ours, and it was made again since", "lost", len(e.Lost), "first", e.Lost[0])
	} else if len(e.Lost) > 0 {
		m.log.Warn("somebody else has changed what is ours", "lost", len(lost), "first", lost[0], "heal", m.config.Heal)
	}
	switch {
	case len(lost) == 0 && !moved:
		return false
	case len(lost) > 0 && !m.config.Heal:
		return false
	case len(lost) > 0 && !m.heals.allow(now):
		if len(e.Lost) > 0 {
			e.Err = fmt.Errorf("host: not repaired yet, because it is broken again and again: %w", ErrConflict)
		}
		return true
	}
	if err := m.apply(ctx, s, false); err != nil {
		e.Err = err
		return false
	}
	e.Healed = e.Healed || len(lost) > 0
	m.lost, m.mended = nil, nil
	return false
}

// told puts into e what was not reported before.
func (m *Machine) told(e *Event, lost, foreign []string) {
	if !slices.Equal(lost, m.lost) {
		e.Lost, m.lost = lost, lost
	}
	if !slices.Equal(foreign, m.strangers) {
		e.Foreign, m.strangers = foreign, foreign
	}
}

// foreign returns the routes of others in our tables.
func (m *Machine) foreign(want state) ([]string, error) {
	var found []string
	seen := make(map[string]bool)
	for k := range want.routes {
		key := tableKey(k.table, k.v6())
		if seen[key] {
			continue
		}
		seen[key] = true
		routes, err := m.k.routes(k.table, k.v6())
		if err != nil {
			return nil, fmt.Errorf("host: listing table %d: %w", k.table, err)
		}
		for _, r := range routes {
			if !r.ours && len(found) < 100 {
				found = append(found, fmt.Sprintf("%v in table %d", r.key.prefix, r.key.table))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// A limiter allows a burst of something in each period.
type limiter struct {
	burst int
	every time.Duration
	begin time.Time
	used  int
}

func (l *limiter) allow(now time.Time) bool {
	if l.begin.IsZero() || now.Sub(l.begin) >= l.every || now.Before(l.begin) {
		l.begin, l.used = now, 0
	}
	l.used++
	return l.used <= l.burst
}
