package portal

import "time"

const (
	// tries is how often a gateway is asked before it is believed that it cannot be said, and pause the time between.
	tries = 3
	pause = time.Second

	// DefaultRecheck is the time between probes where no portal has been found, DefaultPortalRecheck where one has.
	DefaultRecheck       = 5 * time.Minute
	DefaultPortalRecheck = 15 * time.Second

	// MaxOpening is the longest that one [Open] asks for. A longer window is opened again in time, so that whoever opens it can
	// have it closed by a clock that needs nobody, such as the kernel's.
	MaxOpening = time.Hour

	// MaxWindow bounds a whole window. Profiles ask for 100 minutes at most.
	MaxWindow = 24 * time.Hour

	// give is how long an answer to Probe may take before it is asked for again.
	give = 30 * time.Second
)

// A Config says how a [Machine] behaves.
type Config struct {
	// Window is for how long the firewall may be opened for a person to satisfy a portal. Zero, or less, means not at all.
	Window time.Duration
	// Recheck and PortalRecheck are the times between probes, see the defaults that zero means.
	Recheck, PortalRecheck time.Duration
}

func (c Config) withDefaults() Config {
	c.Window = min(max(c.Window, 0), MaxWindow)
	if c.Recheck <= 0 {
		c.Recheck = DefaultRecheck
	}
	if c.PortalRecheck <= 0 {
		c.PortalRecheck = DefaultPortalRecheck
	}
	c.Recheck, c.PortalRecheck = max(c.Recheck, 10*time.Millisecond), max(c.PortalRecheck, 10*time.Millisecond)
	return c
}

// A Kind is what an [Event] tells.
type Kind uint8

const (
	// Tick tells only that time has passed.
	Tick Kind = iota
	// Look has the gateway asked now: the network has changed, or the gateway could not be reached.
	Look
	// Rest ends the asking and closes the window: there is a tunnel, or none is wanted.
	Rest
	// Reported brings the answer to the Probe with number Event.Run.
	Reported
	// Allow says that a window is of use, because a firewall is closed, and Forbid that it is not.
	Allow
	Forbid
	// Again is a person who asks for another window after one that has run out.
	Again
)

// An Event is something that has happened.
type Event struct {
	Kind   Kind
	Run    uint64
	Report Report
}

// A Do is what an [Action] demands.
type Do uint8

const (
	// Probe demands that the gateways be asked, as number Action.Run. A Reported must follow.
	Probe Do = iota
	// Open demands that the firewall be opened for Action.For from now on, and not longer, whatever happens to this process.
	Open
	// Close demands that it be closed at once.
	Close
	// Found tells that a portal has been found, Clean that the gateway can be reached, Expired that a window has run out.
	Found
	Clean
	Expired
)

// An Action is something to be done.
type Action struct {
	Do  Do
	Run uint64
	For time.Duration
}

// A Machine says when to ask for a portal and when a window may be open. Make one with [New].
//
// A window is opened when a portal is found, and closed when the gateway answers or the time is up. One that has run out is
// opened again only for a person, or when a portal is found after the network has changed and the firewall has been closed
// for as long as the window was: a stranger's network cannot keep the firewall open by coming and going.
type Machine struct {
	cfg    Config
	looks  bool // there is something to find out
	allow  bool
	report Report
	known  bool // report is about this network

	run     uint64
	waits   bool // for an answer to run
	left    int  // tries left before it counts as not to be said
	probeAt time.Time

	open     bool
	since    time.Time // of the window
	until    time.Time // the end of the whole window
	renew    time.Time // when it has to be opened again
	spent    bool      // a window was open in this network
	rest     time.Time // no window before, unless a person asks
	asked    bool      // a person has asked for one
	previous Verdict   // that was told by Found or Clean
}

// New returns a Machine that does nothing until it is told to Look.
func New(cfg Config) *Machine { return &Machine{cfg: cfg.withDefaults()} }

// Configure changes the Config. A window that is open ends no later than it would under the new one.
func (m *Machine) Configure(cfg Config) {
	m.cfg = cfg.withDefaults()
	if end := m.since.Add(m.cfg.Window); m.open && end.Before(m.until) {
		m.until = end
	}
}

// Report returns what is known of the network, and whether anything is.
func (m *Machine) Report() (Report, bool) { return m.report, m.known }

// Window returns until when a window is open; the zero time if none is.
func (m *Machine) Window() time.Time {
	if !m.open {
		return time.Time{}
	}
	return m.until
}

// Step tells the machine what has happened, and that it is now. It returns when it wants to be told of the time at the latest,
// the zero time for never, and what is to be done, in that order. Times must not go back.
func (m *Machine) Step(now time.Time, e Event) (next time.Time, actions []Action) {
	switch e.Kind {
	case Look:
		m.looks, m.known, m.spent, m.previous = true, false, false, Unknown
		m.left, m.probeAt, m.waits = tries, now, false
	case Rest:
		m.looks, m.known, m.waits, m.asked, m.previous = false, false, false, false, Unknown
	case Reported:
		if m.looks && m.waits && e.Run == m.run {
			actions = m.reported(now, e.Report)
		}
	case Allow:
		m.allow = true
	case Forbid:
		m.allow = false
	case Again:
		m.asked, m.spent = true, false
		if m.looks && !m.waits {
			m.probeAt = now
		}
	}
	if m.looks && !now.Before(m.probeAt) {
		m.run++
		m.waits, m.probeAt = true, now.Add(give)
		actions = append(actions, Action{Do: Probe, Run: m.run})
	}
	return m.window(now, actions)
}

func (m *Machine) reported(now time.Time, r Report) (actions []Action) {
	m.waits = false
	if r.Verdict == Unknown || r.Verdict == Offline {
		if m.left--; m.left > 0 {
			m.probeAt = now.Add(pause)
			return nil
		}
	}
	// An answer that decides nothing does not undo a portal that has been seen in this network.
	if !m.known || m.report.Verdict != Portal || r.Verdict == None || r.Verdict == Portal {
		m.report, m.known = r, true
	}
	m.left = 1
	m.probeAt = now.Add(m.cfg.Recheck)
	if m.report.Verdict == Portal {
		m.probeAt = now.Add(m.cfg.PortalRecheck)
	}
	if v := m.report.Verdict; v != m.previous && (v == Portal || v == None) {
		m.previous = v
		return []Action{{Do: map[Verdict]Do{Portal: Found, None: Clean}[v]}}
	}
	return nil
}

// window opens and closes it.
func (m *Machine) window(now time.Time, actions []Action) (time.Time, []Action) {
	wanted := m.looks && m.allow && m.known && m.report.Verdict == Portal && m.cfg.Window > 0
	if m.open {
		if ended := !now.Before(m.until); ended || !wanted {
			m.open, m.spent, m.asked = false, true, false
			m.rest = now.Add(now.Sub(m.since))
			actions = append(actions, Action{Do: Close})
			if ended && wanted {
				actions = append(actions, Action{Do: Expired})
			}
		}
	} else if wanted && !m.spent && (m.asked || !now.Before(m.rest)) {
		m.open, m.asked, m.since, m.until, m.renew = true, false, now, now.Add(m.cfg.Window), now
	}
	if m.open && !now.Before(m.renew) && now.Before(m.until) {
		d := min(m.until.Sub(now), MaxOpening)
		// Half of the time is left when it is opened again, so that nothing is interrupted.
		m.renew = now.Add(d / 2)
		if now.Add(d).Equal(m.until) {
			m.renew = m.until
		}
		actions = append(actions, Action{Do: Open, For: d})
	}
	return m.next(now, wanted), actions
}

// next returns when something is due.
func (m *Machine) next(now time.Time, wanted bool) (next time.Time) {
	at := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if m.looks {
		at(m.probeAt)
	}
	if m.open {
		at(m.until)
		at(m.renew)
	} else if wanted && !m.spent && now.Before(m.rest) {
		at(m.rest)
	}
	return next
}
