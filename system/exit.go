package system

import (
	"net/netip"
	"time"

	"culvert.example/vpn/host"
)

// How restless a tunnel may be.
const (
	// roamHold is how long a better way out must have been there before the tunnel moves to it.
	roamHold = time.Second
	// roamDistrust is how long it must if it went away under the tunnel within the last roamMemory.
	roamDistrust = 15 * time.Second
	roamMemory   = time.Minute
	// roamDwell is how long the tunnel stays after a move, if it can.
	roamDwell = 10 * time.Second
	// roamRetry is how long a way out that led nowhere is left alone, and twice as long each time, up to roamRetryMost. That it leads
	// somewhere after all, as when somebody has logged in at a captive portal, no event tells.
	roamRetry     = 5 * time.Second
	roamRetryMost = 5 * time.Minute
)

// A wayOut is what tells a way out from others.
type wayOut struct {
	index          int
	source, router netip.Addr
}

func wayOf(e host.Exit) wayOut { return wayOut{e.Index, e.Source, e.Router} }

// An experience is what is known of a way out.
type experience struct {
	since    time.Time // when it was seen first
	failures int       // in a row
	next     time.Time // not to be tried again before
}

// A chooser decides when a tunnel moves to another way out. It knows no clock of its own.
type chooser struct {
	known map[wayOut]experience
	moved time.Time         // when the tunnel moved of its own will
	lost  map[int]time.Time // when an interface went away under the tunnel
}

// choose returns the way out to move to, if there is one now, and otherwise after how long to ask again; zero is when something
// changes. Exits are the ways to the gateway, the best first, and current is the one in use.
func (c *chooser) choose(now time.Time, exits []host.Exit, current host.Exit) (to host.Exit, move bool, again time.Duration) {
	if c.known == nil {
		c.known, c.lost = make(map[wayOut]experience), make(map[int]time.Time)
	}
	present := make(map[wayOut]bool, len(exits))
	var in *host.Exit // the one in use, as it is now
	for i, e := range exits {
		present[wayOf(e)] = true
		if _, ok := c.known[wayOf(e)]; !ok {
			c.known[wayOf(e)] = experience{since: now}
		}
		if e.Index == current.Index && sameNetwork(e.Source, current.Source) {
			in = &exits[i]
		}
	}
	for w := range c.known {
		if !present[w] {
			delete(c.known, w)
		}
	}
	for index, at := range c.lost {
		if now.Sub(at) >= roamMemory {
			delete(c.lost, index)
		}
	}
	if in == nil {
		c.lost[current.Index] = now
	}
	for _, e := range exits {
		if in != nil && !e.Better(*in) {
			break
		}
		x := c.known[wayOf(e)]
		due := x.next
		if in != nil {
			hold := roamHold
			if _, ok := c.lost[e.Index]; ok {
				hold = roamDistrust
			}
			for _, at := range []time.Time{x.since.Add(hold), c.moved.Add(roamDwell)} {
				if at.After(due) {
					due = at
				}
			}
		}
		if !due.After(now) {
			return e, true, 0
		}
		if wait := due.Sub(now); again == 0 || wait < again {
			again = wait
		}
	}
	return host.Exit{}, false, again
}

// sameNetwork reports whether a connection that comes from the address was lives on when new ones come from the address is. Another
// IPv4 address on an interface is another network. IPv6 addresses come and go for the sake of privacy within one (RFC 8981).
func sameNetwork(is, was netip.Addr) bool {
	if is.Is6() && was.Is6() {
		return netip.PrefixFrom(is, 64).Masked() == netip.PrefixFrom(was, 64).Masked()
	}
	return is == was
}

// tried takes in how a move has ended.
func (c *chooser) tried(now time.Time, e host.Exit, err error) {
	x := c.known[wayOf(e)]
	if err == nil {
		c.moved, x.failures, x.next = now, 0, time.Time{}
	} else {
		x.next = now.Add(min(roamRetry<<min(x.failures, 10), roamRetryMost))
		x.failures++
	}
	c.known[wayOf(e)] = x
}

// forget forgets failures, as after a sleep in which the machine may have been carried elsewhere.
func (c *chooser) forget() { c.known, c.lost = nil, nil }
