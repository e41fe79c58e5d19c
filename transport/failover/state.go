package failover

import (
	"slices"
	"sync"
)

// State returns what the Conn is doing.
func (c *Conn) State() State {
	return c.complete(*c.state.Load())
}

// complete adds what changes without run.
func (c *Conn) complete(s State) State {
	s.MTU = c.MTU()
	s.TooBig = c.oversize.Load()
	return s
}

// snapshot returns the state of the machine.
func (d *driver) snapshot() *State {
	s := &State{Paths: make([]PathState, len(d.m.paths)), Down: d.m.down, Switches: d.m.switches, Replaced: d.m.replaced, Kept: d.m.kept, Err: d.m.err}
	for i := range d.m.paths {
		p := &d.m.paths[i]
		s.Paths[i] = PathState{
			Name:      d.cfg.Paths[i].Name(),
			Open:      p.phase == open && !d.m.ended,
			Active:    i == d.m.active,
			Since:     p.since,
			Opens:     p.opened,
			Failures:  p.failed,
			LastError: p.err,
		}
		if p.phase == waiting && !d.m.ended {
			s.Paths[i].NextTry = p.at
		}
		if i == d.m.active {
			s.Active = s.Paths[i].Name
		}
	}
	return s
}

// publish makes the state of the machine known, if it is another than before.
func (d *driver) publish() {
	s := d.complete(*d.snapshot())
	if s.same(d.state.Load()) {
		return
	}
	d.state.Store(&s)
	d.notify.tell(s)
}

// same reports whether s and t differ in nothing but counters of packets. Errors are compared by identity. Those of others are wrapped
// before they get here, since comparing two of a type such as a slice panics.
func (s *State) same(t *State) bool {
	return slices.Equal(s.Paths, t.Paths) && s.MTU == t.MTU && s.Down.Equal(t.Down) &&
		s.Replaced == t.Replaced && s.Kept == t.Kept && s.Err == t.Err
}

// A notifier calls a function with the latest state, never twice at a time. It has a goroutine only while there is something to tell,
// so that nobody has to end it, and a function that blocks blocks nothing else.
type notifier struct {
	call func(State)

	mu    sync.Mutex
	busy  bool   // a goroutine is telling
	state *State // what is to be told next
}

// tell has s told soon.
func (n *notifier) tell(s State) {
	if n.call == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = &s
	if !n.busy {
		n.busy = true
		go n.run()
	}
}

// run tells until there is nothing new.
func (n *notifier) run() {
	for {
		n.mu.Lock()
		s := n.state
		n.state = nil
		if s == nil {
			n.busy = false
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
		n.call(*s)
	}
}
