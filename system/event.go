package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/host/resolver"
)

// Kinds of events.
const (
	EventNetwork  = "network"   // the network of the machine has changed
	EventAsleep   = "asleep"    // the machine was suspended
	EventRoutes   = "routes"    // another program changed our routes, rules or addresses
	EventResolver = "resolver"  // another program changed our resolver settings
	EventFirewall = "firewall"  // another program changed our firewall, or its state has changed
	EventDataPath = "data-path" // packets take another way
	EventLease    = "lease"     // the gateway has assigned something else
	EventRoam     = "roam"      // the tunnel has moved to another network, or could not
	EventMissed   = "missed"    // events were not told, since OnEvent was too slow
)

// An Event is something that happened to the machine.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is one of the constants above, What happened in words for a person.
	Kind string `json:"kind"`
	What string `json:"what"`
	// Healed says that what was broken has been made again; Err is why that failed, if it was tried.
	Healed bool   `json:"healed,omitempty"`
	Err    string `json:"error,omitempty"`
	// Asleep is how long the machine was suspended.
	Asleep time.Duration `json:"asleep,omitempty"`
	// Missed is how many events were not told.
	Missed int `json:"missed,omitempty"`
}

const (
	// maxEvents is how many events are remembered.
	maxEvents = 64
	// maxUntold is how many events wait for OnEvent.
	maxUntold = 256
	// tellTime is how long Close waits for OnEvent.
	tellTime = 3 * time.Second
)

// events are what happened last, and what of it OnEvent has not been told yet.
type events struct {
	tell func(Event) // OnEvent, or nil

	mu      sync.Mutex
	last    []Event
	untold  []Event       // the next at the start; one more than maxUntold if that is of kind EventMissed
	telling chan struct{} // closed when the goroutine ends that tells; nil if there is none
	over    bool          // nothing is told any more
}

func (l *events) list() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last)
}

// add remembers an event and has it told. It does not wait for that: whoever adds it has a machine to look after.
func (l *events) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == maxEvents {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, e)
	if l.tell == nil || l.over {
		return
	}
	switch n := len(l.untold); {
	case n < maxUntold:
		l.untold = append(l.untold, e)
	case l.untold[n-1].Kind != EventMissed:
		l.untold = append(l.untold, Event{Time: e.Time, Kind: EventMissed, Missed: 1})
	default:
		l.untold[n-1].Missed++
	}
	if l.telling == nil {
		l.telling = make(chan struct{})
		go l.run(l.telling)
	}
}

// run tells what is untold, and closes done when there is nothing left.
func (l *events) run(done chan struct{}) {
	defer close(done)
	for {
		l.mu.Lock()
		if len(l.untold) == 0 {
			l.telling = nil
			l.mu.Unlock()
			return
		}
		e := l.untold[0]
		l.untold = slices.Delete(l.untold, 0, 1)
		l.mu.Unlock()
		if e.Kind == EventMissed {
			e.What = fmt.Sprintf("%d events were not told, since those before them were not taken in time", e.Missed)
		}
		l.tell(e)
	}
}

// close waits until all is told, for most at most, and returns how many events are then left that nobody will be told of.
func (l *events) close(most time.Duration) (left int) {
	l.mu.Lock()
	l.over = true
	telling := l.telling
	l.mu.Unlock()
	if telling != nil {
		timer := time.NewTimer(most)
		defer timer.Stop()
		select {
		case <-telling:
		case <-timer.C:
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.untold {
		left += max(e.Missed, 1)
	}
	l.untold = nil
	return left
}

// note remembers an event and tells of it.
func (s *System) note(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.log.Info("event", "kind", e.Kind, "what", e.What, "healed", e.Healed, "err", e.Err)
	s.events.add(e)
}

// watch looks after the machine until the System is closed.
func (s *System) watch() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.surroundings = s.look(nil)
	s.running.Go(func() {
		if err := s.machine.Watch(ctx, s.happened); err != nil && ctx.Err() == nil {
			s.note(Event{Kind: EventNetwork, What: "the network is not watched any more", Err: err.Error()})
		}
	})
	if !s.shared {
		s.running.Go(func() {
			if err := s.surface.Watch(ctx, s.shifted); err != nil && ctx.Err() == nil {
				s.note(Event{Kind: EventNetwork, What: "the network in front of the gateway is not watched any more", Err: err.Error()})
			}
		})
	}
	if s.cfg.KillSwitch == nil {
		return
	}
	policy := firewall.Repair
	if s.cfg.Heal == HealNothing {
		policy = firewall.Report
	}
	s.running.Go(func() {
		if err := s.firewall.Watch(ctx, policy, s.breached); err != nil && ctx.Err() == nil {
			s.note(Event{Kind: EventFirewall, What: "the kill switch is not watched any more", Err: err.Error()})
		}
	})
	if s.cfg.KillSwitch.Open {
		s.running.Go(func() { s.renew(ctx) })
	}
	if len(s.cfg.KillSwitch.AllowedNames) > 0 {
		s.running.Go(func() { s.resolveAllowed(ctx) })
	}
}

// outward are the changes of the network that may matter to connections with the gateway.
const outward = host.Links | host.Addresses | host.Routes | host.Overrun

// happened takes in what has happened to the network of the device.
func (s *System) happened(h host.Event) {
	if len(h.Lost)+len(h.Foreign) > 0 {
		e := Event{Kind: EventRoutes, Healed: h.Healed}
		var parts []string
		if len(h.Lost) > 0 {
			parts = append(parts, "another program has removed: "+some(h.Lost))
		}
		if len(h.Foreign) > 0 {
			parts = append(parts, "another program has put into our routing table: "+some(h.Foreign))
		}
		e.What = strings.Join(parts, "; ")
		if h.Err != nil {
			e.Err = h.Err.Error()
		}
		s.note(e)
	}
	if s.shared {
		s.shifted(h)
	} else if t := s.current(); t != nil && h.Changed&outward != 0 {
		t.kick(workNetwork)
	}
}

// shifted takes in what has happened to the network in front of the gateway.
func (s *System) shifted(h host.Event) {
	t := s.current()
	if h.Asleep > 0 {
		s.note(Event{Kind: EventAsleep, What: fmt.Sprintf("the machine was asleep for %v", h.Asleep.Round(time.Second)), Asleep: h.Asleep})
	}
	others := slices.DeleteFunc(slices.Clone(h.Interfaces), func(name string) bool { return name == s.cfg.Device })
	moved := h.Changed&outward != 0 && (len(others) > 0 || len(h.Interfaces) == 0) && s.moved(t)
	if moved {
		what := h.Changed.String()
		if len(others) > 0 {
			what += " of " + strings.Join(others, ", ")
		}
		s.note(Event{Kind: EventNetwork, What: "changed: " + what})
		s.wakeAllowed()
	}
	if t == nil || !moved && h.Asleep == 0 {
		return
	}
	t.kick(workNetwork)
	if t.link.NetworkChanged != nil {
		t.link.NetworkChanged()
	}
	t.reconsider(h.Asleep > 0)
}

// surroundings are how the machine was connected when it was last looked at: its networks and the ways out of it, and those to the
// gateway if there is one.
type surroundings struct {
	ways    string
	gateway netip.Addr
	there   string
}

// anywhere are addresses that stand for those of no network in particular (RFC 5737, RFC 3849).
var anywhere = [...]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8})}

// look returns how the machine is connected.
func (s *System) look(t *tunnel) surroundings {
	var r surroundings
	ways := func(targets ...netip.Addr) string {
		var b strings.Builder
		for _, a := range targets {
			fmt.Fprint(&b, a, s.exits(a))
		}
		return b.String()
	}
	r.ways = fmt.Sprint(s.connected()) + ways(anywhere[:]...)
	if t != nil {
		r.gateway = t.gateway()
		r.there = ways(r.gateway)
	}
	return r
}

// moved reports whether the machine is connected in another way than when it was last looked at.
func (s *System) moved(t *tunnel) bool {
	was := s.surroundings
	now := s.look(t)
	s.surroundings = now
	return now.ways != was.ways || now.gateway == was.gateway && now.there != was.there
}

// some joins the first few of a list.
func some(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], "; "), len(list)-most)
}

// breached takes in what somebody else has done to the kill switch.
func (s *System) breached(f firewall.Event) {
	e := Event{Time: f.Time, Kind: EventFirewall, What: "another program has changed the kill switch", Healed: f.Repaired}
	if f.Removed {
		e.What = "another program has removed the kill switch"
	}
	if f.By != "" {
		e.What += ": " + f.By
	}
	if f.Err != nil {
		e.Err = f.Err.Error()
	}
	s.note(e)
}

// fights bounds how often resolver settings are made again in a minute.
const fights = 5

// rest is how long settings of others are left alone before they are made again.
const rest = 200 * time.Millisecond

// watchResolver looks after the resolver of the machine until the tunnel ends.
func (t *tunnel) watchResolver() {
	s := t.s
	var times []time.Time
	found := make(chan resolver.Event, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-found:
				// Who writes a file in place empties it first, and what it then says must not be taken for all.
				select {
				case <-time.After(rest):
				case <-t.ctx.Done():
					return
				}
				times = slices.DeleteFunc(times, func(at time.Time) bool { return time.Since(at) > time.Minute })
				t.mend(e, len(times) < fights)
				times = append(times, time.Now())
			case <-t.ctx.Done():
				return
			}
		}
	}()
	// What is found is told without a record, so that it cannot be repaired here: that is up to the Machine, which has the journal.
	err := s.resolver.Watch(t.ctx, resolver.Report, func([]byte) error { return errors.ErrUnsupported }, func(e resolver.Event) {
		select {
		case found <- e:
		default: // one is being looked after, which will find this too
		}
	})
	<-done
	if err != nil && t.ctx.Err() == nil {
		s.note(Event{Kind: EventResolver, What: "the resolver settings are not watched any more", Err: err.Error()})
	}
}

// mend makes the resolver settings again that another program has changed.
func (t *tunnel) mend(found resolver.Event, again bool) {
	s := t.s
	e := Event{Time: found.Time, Kind: EventResolver, What: found.What, Healed: found.Repaired}
	if found.Err != nil {
		e.Err = found.Err.Error()
	}
	switch {
	case found.Repaired || s.cfg.Heal != HealAll:
	case !again:
		e.Err = resolver.ErrFight.Error()
	default:
		ctx, cancel := context.WithTimeout(t.ctx, s.applyTime)
		s.applying.Lock()
		err := s.machine.Renew(ctx)
		s.applying.Unlock()
		cancel()
		e.Healed, e.Err = err == nil, ""
		if err != nil {
			e.Err = err.Error()
		}
	}
	if t.ctx.Err() != nil {
		return
	}
	s.note(e)
	t.kick(workNetwork) // the servers outside may be others now
}

// keep says which addresses are in use, so that their ways are not changed under open connections.
func (t *tunnel) keep() {
	for _, a := range t.s.inner.peers() {
		t.router.Keep(a)
	}
}
