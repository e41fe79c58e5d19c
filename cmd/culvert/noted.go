package main

import (
	"cmp"
	"fmt"
	"strconv"
	"sync/atomic"

	"culvert.example/vpn/flow"
)

// maxNotes is how many flows wait to be told of. The flow path never waits for who reads.
const maxNotes = 256

// tellFlows returns a function that tells of flows that the content filter has noted, and one that ends that when all are told. Both may
// be called at the same time.
func tellFlows(r *reporter) (noted func(flow.Note), end func()) {
	notes, over, done := make(chan flow.Note, maxNotes), make(chan struct{}), make(chan struct{})
	var lost atomic.Uint64
	tell := func(n flow.Note) {
		n.Skipped += lost.Swap(0)
		tellFlow(r, n)
	}
	go func() {
		defer close(done)
		for {
			select {
			case n := <-notes:
				tell(n)
				continue
			case <-over:
			}
			for {
				select {
				case n := <-notes:
					tell(n)
				default:
					return
				}
			}
		}
	}()
	noted = func(n flow.Note) {
		select {
		case notes <- n:
		default:
			lost.Add(1 + n.Skipped)
		}
	}
	return noted, func() {
		close(over)
		<-done
	}
}

// tellFlow tells of one flow.
func tellFlow(r *reporter, n flow.Note) {
	f, v := &n.Flow, &n.Verdict
	e := event{
		Event: "flow", Rule: v.LogRule, Decided: v.Rule, Name: f.Name, Protocol: f.Network, Target: f.Other().String(),
		User: f.Owner.User, Program: f.Owner.Program, Action: "block", Skipped: n.Skipped,
	}
	if e.User == "" && f.Owner.UID >= 0 {
		e.User = strconv.Itoa(f.Owner.UID)
	}
	became := "blocked"
	if v.Allow {
		e.Action, became = "allow", "allowed"
	}
	if f.Network == "ping" {
		e.Target = f.Other().Addr().String()
	}
	direction := "to"
	if f.Inward {
		direction = "from"
	}
	text := fmt.Sprintf("flow noted by rule %q: %s of user %s %s %s/%s%s: %s by %q", v.LogRule, cmp.Or(e.Program, "an unknown program"),
		cmp.Or(e.User, "unknown"), direction, e.Target, f.Network, orNothing(" ", f.Name), became, v.Rule)
	if n.Skipped > 0 {
		text += fmt.Sprintf(" (%d others are not told of)", n.Skipped)
	}
	r.say(e, "%s", oneLine(text))
}
