package health

import "time"

// A Kind is what an [Event] tells.
type Kind uint8

const (
	// Tick tells only that time has passed.
	Tick Kind = iota
	// Start has the flow path be built up. It does nothing unless the machine is off.
	Start
	// Stop ends everything.
	Stop
	// Up tells that Event.Part has become active.
	Up
	// Alive tells that Event.Part is still well.
	Alive
	// Down tells that Event.Part has failed, for Event.Reason and Event.Err.
	Down
	// Switched tells that the last Switch has been done, or not if Event.Err is not empty.
	Switched
	// FailOver is the command to leave the flow path.
	FailOver
	// Revert is the command to go back to the flow path.
	Revert
)

// An Event is something that has happened.
type Event struct {
	Kind Kind
	// Part is the one that Up, Alive and Down are about.
	Part Part
	// Reason is why a part is Down.
	Reason Reason
	// Err is the error in words.
	Err string
	// Run is the number of the run that Up, Alive and Down are about, and Switched about which switch, see [Action]. What is about an
	// earlier one is ignored.
	Run uint64
}

// A Do is what an [Action] demands.
type Do uint8

const (
	// StartParts demands that the parts be started, as run number Action.Run. Each one is Up, or Down, some time later.
	StartParts Do = iota
	// StopParts demands that the parts be stopped. Nothing is expected in return.
	StopParts
	// Switch demands that packets take Action.Path from now on, as switch number Action.Run. A Switched must follow.
	Switch
)

// String returns start, stop or switch.
func (d Do) String() string {
	switch d {
	case StartParts:
		return "start"
	case StopParts:
		return "stop"
	}
	return "switch"
}

// An Action is something to be done. Actions are to be done in order.
type Action struct {
	Do     Do
	Path   Path
	Reason Reason
	Run    uint64
}

// A phase is where a Machine stands in the diagram of the package.
type phase uint8

const (
	off phase = iota
	starting
	flow
	fallen // on the packet path, or closed
)

// A Machine decides which path packets take. Make one with [New].
type Machine struct {
	cfg   Config
	phase phase
	since time.Time // of phase
	parts [Parts]part
	run   uint64 // of the parts

	// What packets do: path is what was told last, confirmed that it has been done, by the switch with this number.
	path       Path
	confirmed  bool
	switches   uint64
	switchedBy time.Time // until when a switch must be done that is not confirmed
	switched   time.Time // when path was last told

	reason    Reason // why it is not on the flow path
	culprit   Part
	blamed    bool // there is a culprit
	lastErr   string
	failovers int

	due time.Time // what the last step returned
}

// A part is a Part as the Machine knows it.
type part struct {
	state  State
	since  time.Time
	seen   time.Time // the last sign of life
	reason Reason
	err    string
}

// New returns a Machine that is off: packets go nowhere.
func New(cfg Config, now time.Time) *Machine {
	m := &Machine{cfg: cfg.withDefaults(), since: now, switched: now, confirmed: true}
	for i := range m.parts {
		m.parts[i].since = now
	}
	return m
}

// Step tells the machine what has happened, and that it is now. It returns when the machine wants to be told of the time at the
// latest, the zero time for never, and what is to be done. Times must not go back.
func (m *Machine) Step(now time.Time, e Event) (next time.Time, actions []Action) {
	m.forgive(now)
	switch e.Kind {
	case Start:
		if m.phase == off {
			actions = m.start(now, actions)
		}
	case Stop:
		actions = m.stop(now)
	case Up, Alive, Down:
		actions = m.tell(now, e)
	case Switched:
		actions = m.done(now, e)
	case FailOver:
		if m.phase == flow || m.phase == starting {
			m.blamed = false
			actions = m.fall(now, Command, "")
		}
	case Revert:
		if m.phase == fallen {
			actions = m.start(now, actions)
		}
	}
	actions = append(actions, m.overdue(now)...)
	m.due = m.next()
	return m.due, actions
}

// forgive gives everybody another chance after a time in which nobody could do anything, because the whole process was stopped: then the
// machine was not told of the time when it wanted to be.
func (m *Machine) forgive(now time.Time) {
	if m.due.IsZero() || now.Sub(m.due) < m.cfg.Silence/4 {
		return
	}
	for i := range m.parts {
		m.parts[i].seen = now
	}
	if at := now.Add(m.cfg.Silence - m.cfg.StartTime); m.phase == starting && m.since.Before(at) {
		m.since = at
	}
	if at := now.Add(m.cfg.SwitchTime); !m.confirmed && !m.switchedBy.IsZero() && m.switchedBy.Before(at) {
		m.switchedBy = at
	}
}

// enter changes the phase.
func (m *Machine) enter(p phase, now time.Time) { m.phase, m.since = p, now }

func (m *Machine) start(now time.Time, actions []Action) []Action {
	m.enter(starting, now)
	m.run++
	for i := range m.parts {
		m.parts[i] = part{state: Starting, since: now, seen: now}
	}
	// Until the flow path is there, packets take the other one.
	if to := m.cfg.fallback(); m.path != to {
		actions = append(actions, m.turn(now, to, None))
	}
	return append(actions, Action{Do: StartParts, Run: m.run})
}

func (m *Machine) stop(now time.Time) (actions []Action) {
	if m.phase == off {
		return nil
	}
	m.enter(off, now)
	m.reason, m.blamed, m.lastErr = None, false, ""
	if m.path != Nowhere {
		actions = append(actions, m.turn(now, Nowhere, Command))
	}
	return append(actions, m.halt(now))
}

// halt ends the parts that have not ended by themselves.
func (m *Machine) halt(now time.Time) Action {
	m.run++
	for i := range m.parts {
		if p := &m.parts[i]; p.state != Failed && p.state != Inactive {
			*p = part{state: Inactive, since: now}
		}
	}
	return Action{Do: StopParts, Run: m.run}
}

// turn has packets take another path.
func (m *Machine) turn(now time.Time, to Path, why Reason) Action {
	m.switches++
	m.path, m.confirmed, m.switched, m.switchedBy = to, false, now, now.Add(m.cfg.SwitchTime)
	return Action{Do: Switch, Path: to, Reason: why, Run: m.switches}
}

// fall leaves the flow path, or gives up building it.
func (m *Machine) fall(now time.Time, why Reason, err string) (actions []Action) {
	m.enter(fallen, now)
	m.reason, m.lastErr = why, err
	m.failovers++
	if to := m.cfg.fallback(); m.path != to {
		actions = append(actions, m.turn(now, to, why))
	}
	return append(actions, m.halt(now))
}

// tell takes in news of a part.
func (m *Machine) tell(now time.Time, e Event) []Action {
	if int(e.Part) >= Parts || e.Run != m.run {
		return nil
	}
	p := &m.parts[e.Part]
	switch {
	case p.state != Starting && p.state != Active:
		return nil
	case e.Kind == Down:
		return m.failed(now, e.Part, e.Reason, e.Err)
	case e.Kind == Up && p.state == Starting:
		*p = part{state: Active, since: now, seen: now}
		if m.phase == starting && m.all(Active) {
			m.enter(flow, now)
			m.reason, m.blamed, m.lastErr = None, false, ""
			return []Action{m.turn(now, Flow, None)}
		}
	case p.state == Active:
		p.seen = now
	}
	return nil
}

func (m *Machine) all(s State) bool {
	for i := range m.parts {
		if m.parts[i].state != s {
			return false
		}
	}
	return true
}

// failed notes that a part has failed, and leaves the flow path.
func (m *Machine) failed(now time.Time, which Part, why Reason, err string) []Action {
	if why == None {
		why = Failure
	}
	m.parts[which] = part{state: Failed, since: now, reason: why, err: err}
	m.culprit, m.blamed = which, true
	return m.fall(now, why, err)
}

// done takes in how a switch went.
func (m *Machine) done(now time.Time, e Event) []Action {
	if e.Run != m.switches || m.confirmed {
		return nil
	}
	if e.Err != "" {
		return m.stuck(now, e.Err)
	}
	m.confirmed = true
	return nil
}

// stuck takes the next worse path, because the one that was wanted cannot be had.
func (m *Machine) stuck(now time.Time, err string) (actions []Action) {
	m.blamed = false
	switch m.path {
	case Flow:
		return m.fall(now, NoSwitch, err)
	case Packet:
		if m.phase == starting {
			actions = append(actions, m.halt(now))
		}
		m.enter(fallen, now)
		m.reason, m.lastErr = NoSwitch, err
		return append(actions, m.turn(now, Nowhere, NoSwitch))
	}
	// It cannot get worse. Who asked for it has to see to it that nothing passes.
	m.reason, m.lastErr = NoSwitch, err
	m.switchedBy = time.Time{}
	return nil
}

// overdue does what is due by now.
func (m *Machine) overdue(now time.Time) (actions []Action) {
	if !m.confirmed && !m.switchedBy.IsZero() && !now.Before(m.switchedBy) {
		actions = append(actions, m.stuck(now, "changing the data path takes too long")...)
	}
	if m.phase == starting && !now.Before(m.since.Add(m.cfg.StartTime)) {
		for i := range m.parts {
			if m.parts[i].state == Starting {
				return append(actions, m.failed(now, Part(i), TooSlow, "it did not become active in time")...)
			}
		}
	}
	if m.phase == starting || m.phase == flow {
		for i := range m.parts {
			if p := &m.parts[i]; p.state == Active && !now.Before(p.seen.Add(m.cfg.Silence)) {
				return append(actions, m.failed(now, Part(i), Watchdog, "it shows no sign of life")...)
			}
		}
	}
	return actions
}

// next returns when the first thing is due, the zero time if nothing is.
func (m *Machine) next() (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if !m.confirmed && !m.switchedBy.IsZero() {
		sooner(m.switchedBy)
	}
	if m.phase == starting {
		sooner(m.since.Add(m.cfg.StartTime))
	}
	if m.phase == starting || m.phase == flow {
		for i := range m.parts {
			if p := &m.parts[i]; p.state == Active {
				sooner(p.seen.Add(m.cfg.Silence))
			}
		}
	}
	return at
}
