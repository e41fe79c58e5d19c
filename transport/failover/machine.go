package failover

import (
	"errors"
	"fmt"
	"net"
	"time"

	"culvert.example/vpn/transport"
)

const (
	// stable is how long a connection must have worked before its failure is forgiven: the path is tried again at once, and the
	// pauses start anew.
	stable = 10 * time.Second

	// staleOpen is how old a try to open a path must be for a change of the network to restart it. A younger one has probably seen the
	// change.
	staleOpen = time.Second

	// tryGap is the least time between the begins of two tries for the sake of changes of the network, which come in bursts.
	tryGap = 250 * time.Millisecond

	// linger is how long a connection that another one has taken the place of is still read from: what was under way in it is on
	// time for that long.
	linger = 2 * time.Second
)

// A phase is what a path is doing.
type phase uint8

const (
	waiting phase = iota // for the time of the next try
	parked               // until another path opens
	opening
	open
)

// String returns the name of the phase.
func (p phase) String() string { return [...]string{"waiting", "parked", "opening", "open"}[p] }

// An eventKind is a kind of event.
type eventKind uint8

const (
	evTick     eventKind = iota // time has passed
	evOpened                    // a path is open
	evFailed                    // a path could not be opened, or its connection failed
	evNetwork                   // the network has changed
	evResized                   // the MTU of the active path has changed: nothing to decide, but a change of the state
	evAsk                       // the gateway is asked for a connection over another network, and may end the old ones at any moment
	evReplaced                  // that is there, and takes the place of the old one of its path
	evKept                      // it has failed
	evClose                     // the owner wants an end
)

// An event is something that has happened. Path, try and what follows belong to evOpened and evFailed.
type event struct {
	kind     eventKind
	path     int
	try      int // the number of the try that made the connection, so that late news of an old one is recognised
	err      error
	terminal bool // the error ends everything
	notReady bool // the error matches ErrNotReady
	hasty    bool // somebody may be stuck in the connection that is replaced

	live *live         // the connection that was opened; the machine does not look at it
	seen chan struct{} // closed when the event has been dealt with, unless it is nil; nor at this
}

// An actionKind is a kind of action.
type actionKind uint8

const (
	doOpen     actionKind = iota // open path with number try
	doCancel                     // give up opening path; it will report a failure
	doClose                      // close the connection of path
	doActivate                   // send data to path, or to none if it is -1
	doCheck                      // have path find out soon whether it works
	doRetire                     // write no more to the connection of path, but read on from it
	doDrop                       // close the retired connection of path
	doTake                       // the connection that has come is that of path with number try
	doEnd                        // close everything; machine.err says why
)

// An action is something that is to be done.
type action struct {
	kind actionKind
	path int
	try  int
}

// String returns the action for transcripts.
func (a action) String() string {
	switch a.kind {
	case doOpen:
		return fmt.Sprintf("open %d #%d", a.path, a.try)
	case doCancel:
		return fmt.Sprintf("cancel %d", a.path)
	case doClose:
		return fmt.Sprintf("close %d", a.path)
	case doActivate:
		return fmt.Sprintf("activate %d", a.path)
	case doCheck:
		return fmt.Sprintf("check %d", a.path)
	case doRetire:
		return fmt.Sprintf("retire %d", a.path)
	case doDrop:
		return fmt.Sprintf("drop %d", a.path)
	case doTake:
		return fmt.Sprintf("take %d #%d", a.path, a.try)
	}
	return "end"
}

// A track is what the machine knows of one path.
type track struct {
	phase    phase
	try      int       // the number of the last try
	at       time.Time // the time of the next try while waiting
	began    time.Time // the begin of the last try
	since    time.Time // when it was opened or failed last
	opened   uint64    // successes
	failed   uint64    // failures
	strikes  int       // failures since it last worked for a while
	err      error     // the last failure
	restart  bool      // its opening was cancelled, to be begun anew
	openings uint64    // machine.openings when the try began
	retired  time.Time // when the retired connection is to be closed; zero if there is none
	gone     bool      // it is open no more, but a replacement is expected before anybody minds
}

// A machine decides which paths are opened, which one carries the data, and when to give up. It knows neither clock
// nor I/O: step is told what has happened and when, and says what to do.
//
// Each path is in one of these phases:
//
//	             time for a try, network changed
//	┌─────────┐ ─────────────────────────────────► ┌─────────┐  opened   ┌──────┐
//	│ waiting │                                    │ opening │ ────────► │ open │
//	└─────────┘ ◄───────────────────────────────── └─────────┘           └──────┘
//	     ▲                  failed                    │    ▲                 │
//	     │                                  not ready │    │ another opened, │
//	     │                                            ▼    │ network changed │
//	     │                                         ┌────────┐                │
//	     │                                         │ parked │                │
//	     │                   failed                └────────┘                │
//	     └───────────────────────────────────────────────────────────────────┘
//
// A path in any phase becomes open when a replacement comes for it. The connection that it had is retired: it is read from
// for a while, and its end is no failure; nor is it from when the gateway is asked for the replacement. All other paths are opened anew then, since they lead over the old network.
//
// The whole follows from the paths:
//
//	         a path opened                       the best open path changed: activate it
//	┌──────┐ ─────────────► ┌────┐ ◄───┐
//	│ down │                │ up │ ────┘
//	└──────┘ ◄───────────── └────┘
//	   │      the last failed  │
//	   │                       │ terminal error, Close
//	   │ down for too long,    ▼
//	   │ terminal error,    ┌───────┐
//	   └──────────────────► │ ended │
//	     Close              └───────┘
type machine struct {
	retryMin, retryMax time.Duration
	giveUp             time.Duration // not positive: never
	random             func() float64

	paths    []track
	active   int       // the path that carries the data; -1: none
	down     time.Time // since when none is open; zero if one is
	openings uint64    // how often any path was opened
	switches uint64    // how often active became another path
	asking   bool      // the gateway is asked for a replacement
	replaced uint64    // how many have come
	kept     error     // why the last one has not come; nil if it has
	last     error     // the last failure of any path
	err      error     // why it has ended
	ended    bool

	do []action // memory for the result of step
}

// newMachine returns a machine that opens all of n paths with its first step.
func newMachine(cfg Config, now time.Time) *machine {
	m := &machine{
		retryMin: cfg.RetryMin, retryMax: cfg.RetryMax, giveUp: cfg.ReconnectTimeout, random: cfg.random,
		paths: make([]track, len(cfg.Paths)), active: -1, down: now,
	}
	for i := range m.paths {
		m.paths[i].at = now
	}
	return m
}

// step takes note of ev and returns what to do, in that order, and when to call it again if nothing happens: zero means never. The
// result is valid until the next call.
func (m *machine) step(now time.Time, ev event) (next time.Time, do []action) {
	m.do = m.do[:0]
	if m.ended {
		if ev.kind == evOpened {
			m.todo(doClose, ev.path)
		}
		return time.Time{}, m.do
	}
	switch ev.kind {
	case evOpened:
		m.opened(now, ev)
	case evFailed:
		m.failed(now, ev)
	case evNetwork:
		m.network(now)
	case evAsk:
		m.asking = true
	case evReplaced:
		m.replace(now, ev)
	case evKept:
		m.keep(now, ev)
	case evClose:
		m.end(net.ErrClosed)
	}
	if !m.ended {
		next = m.settle(now)
	}
	if m.ended {
		return time.Time{}, m.do
	}
	return next, m.do
}

// todo adds an action.
func (m *machine) todo(kind actionKind, path int) {
	a := action{kind: kind, path: path}
	if path >= 0 {
		a.try = m.paths[path].try
	}
	m.do = append(m.do, a)
}

// current reports whether ev is about the last try of its path.
func (m *machine) current(ev event) bool {
	return ev.path >= 0 && ev.path < len(m.paths) && ev.try == m.paths[ev.path].try
}

// expects reports whether ev is the opening that its path waits for.
func (m *machine) expects(ev event) bool {
	return m.current(ev) && m.paths[ev.path].phase == opening
}

// opened notes that a path is open.
func (m *machine) opened(now time.Time, ev event) {
	if !m.expects(ev) {
		return
	}
	p := &m.paths[ev.path]
	if p.restart {
		// The cancellation came too late, and the connection may be one over the network that is gone.
		m.todo(doCheck, ev.path)
	}
	p.phase, p.since, p.restart = open, now, false
	p.opened++
	m.openings++
	// What only waited for another path may be possible now. And if nothing worked before, what failed may work as well.
	for i := range m.paths {
		if q := &m.paths[i]; q.phase == parked || q.phase == waiting && m.active < 0 {
			m.wait(q, now)
		}
	}
}

// failed notes that a path could not be opened or has failed.
func (m *machine) failed(now time.Time, ev event) {
	if !m.current(ev) {
		return
	}
	p := &m.paths[ev.path]
	wasOpen := p.phase == open
	switch {
	case p.gone:
		return
	case wasOpen:
		m.todo(doClose, ev.path)
		if m.asking {
			// The gateway ends what it takes the session away from, in words that may sound final.
			p.gone, p.err = true, ev.err
			return
		}
	case p.phase != opening:
		return
	}
	if ev.terminal {
		p.phase, p.since, p.err = waiting, now, ev.err
		p.failed++
		m.end(ev.err)
		return
	}
	switch {
	case !wasOpen && p.restart:
		// Cancelled on purpose.
		p.restart = false
		m.wait(p, now)
		return
	case !wasOpen && ev.notReady:
		if p.openings != m.openings {
			// Another path has opened since this one looked.
			m.wait(p, now)
			return
		}
		p.phase = parked
		if m.last == nil {
			m.last = ev.err
		}
		return
	}
	worked := wasOpen && now.Sub(p.since) >= stable
	p.phase, p.since, p.err, m.last = waiting, now, ev.err, ev.err
	p.failed++
	if worked {
		p.strikes = 0
		m.wait(p, now)
		return
	}
	if wasOpen && p.strikes == 0 {
		// It did not work for long, but it did: one try at once is fair.
		p.strikes++
		m.wait(p, now)
		return
	}
	m.wait(p, now.Add(m.pause(p.strikes)))
	p.strikes++
}

// wait has p tried at the given time.
func (m *machine) wait(p *track, at time.Time) { p.phase, p.at = waiting, at }

// pause returns how long to wait after a failure that follows on so many others: twice as long each time, less a random part, so
// that clients which lost the same gateway at the same time do not come back at the same time. It is shorter while nothing works,
// since then all connections inside the tunnel stand still.
func (m *machine) pause(strikes int) time.Duration {
	d := m.retryMax
	if m.best() < 0 {
		d = max(m.retryMin, m.retryMax/4)
	}
	if strikes < 32 {
		if doubled := m.retryMin << strikes; doubled>>strikes == m.retryMin && doubled > 0 {
			d = min(d, doubled)
		}
	}
	half := d / 2
	return d - time.Duration(float64(half)*m.random())
}

// network notes that the network has changed: what is open may be dead, and what failed may work.
func (m *machine) network(now time.Time) {
	for i := range m.paths {
		p := &m.paths[i]
		switch p.phase {
		case open:
			if !p.gone {
				m.todo(doCheck, i)
			}
		case opening:
			if !p.restart && now.Sub(p.began) >= staleOpen {
				p.restart = true
				m.todo(doCancel, i)
			}
		default:
			at := p.began.Add(tryGap)
			if at.Before(now) {
				at = now
			}
			if p.phase == parked || at.Before(p.at) {
				m.wait(p, at)
			}
		}
		p.strikes = 0
	}
}

// replace notes that a connection over another network has come for a path. The gateway has moved to it, so that it is
// used before any other, even a better one.
func (m *machine) replace(now time.Time, ev event) {
	m.asking = false
	m.replaced++
	m.kept = nil
	for i := range m.paths {
		p := &m.paths[i]
		wasOpen, wasOpening := p.phase == open, p.phase == opening
		if wasOpen && !p.gone {
			if !p.retired.IsZero() {
				m.todo(doDrop, i)
			}
			m.todo(doRetire, i)
			p.retired = now.Add(linger)
			if ev.hasty {
				p.retired = now
			}
		}
		p.strikes, p.gone = 0, false
		if i == ev.path {
			if wasOpening {
				m.todo(doCancel, i)
			}
			p.try++
			p.phase, p.since, p.began, p.restart = open, now, now, false
			p.opened++
			m.openings++
			m.todo(doTake, i)
			continue
		}
		if !wasOpening {
			m.wait(p, now)
		} else if !p.restart {
			p.restart = true
			m.todo(doCancel, i)
		}
	}
	m.active = -1
}

// keep notes that a replacement has failed. Whether the gateway has heard of it is not known, so that what is open has to be checked.
func (m *machine) keep(now time.Time, ev event) {
	m.asking = false
	m.kept = ev.err
	for i := range m.paths {
		switch p := &m.paths[i]; {
		case p.gone:
			// It is gone indeed. The gateway has the last word on whether the session is.
			p.gone = false
			p.since, m.last = now, p.err
			p.failed++
			m.wait(p, now)
		case p.phase == open:
			m.todo(doCheck, i)
		}
	}
}

// end notes the end.
func (m *machine) end(err error) {
	m.ended, m.err, m.active = true, err, -1
	m.todo(doEnd, -1)
}

// best returns the most preferred path that is open, or -1.
func (m *machine) best() int {
	for i := range m.paths {
		if m.paths[i].phase == open {
			return i
		}
	}
	return -1
}

// firstPatience is how long the first path is waited for at least. Whoever wants no time to be lost on reconnecting needs some for that.
const firstPatience = 10 * time.Second

// settle draws the consequences of what was noted, and returns when time alone changes anything.
func (m *machine) settle(now time.Time) (next time.Time) {
	best := m.best()
	if best != m.active {
		m.active = best
		if best >= 0 {
			m.switches++
		}
		m.todo(doActivate, best)
	}
	if best >= 0 {
		m.down = time.Time{}
	} else if m.down.IsZero() {
		m.down = now
	}
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if best < 0 && m.giveUp > 0 {
		patience := m.giveUp
		if m.switches == 0 {
			patience = max(patience, firstPatience) // nothing was lost yet
		}
		limit := m.down.Add(patience)
		if !now.Before(limit) {
			m.end(unreachable(patience, m.last))
			return time.Time{}
		}
		earliest(limit)
	}
	for i := range m.paths {
		p := &m.paths[i]
		if !p.retired.IsZero() {
			if now.Before(p.retired) {
				earliest(p.retired)
			} else {
				p.retired = time.Time{}
				m.todo(doDrop, i)
			}
		}
		if p.phase != waiting {
			continue
		}
		if now.Before(p.at) {
			earliest(p.at)
			continue
		}
		p.phase, p.began, p.openings = opening, now, m.openings
		p.try++
		m.todo(doOpen, i)
	}
	return next
}

// unreachable returns the error of a Conn that gives up after d, where last was the last failure.
func unreachable(d time.Duration, last error) error {
	if last == nil {
		last = errors.New("no path could be tried")
	}
	return fmt.Errorf("%w: no connection for %v, the last error was: %w", transport.ErrUnreachable, d, last)
}
