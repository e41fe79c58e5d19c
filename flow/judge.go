package flow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"culvert.example/vpn/flow/filter"
)

// A Judge is a Decider made of the rules of a content filter and of something that knows the way to a destination.
type Judge struct {
	// Names says that the way may depend on the name of the destination. It must not change once the Judge is used.
	Names bool

	rules atomic.Pointer[filter.Rules]
	route func(name string, addr netip.Addr) Way
}

// NewJudge returns a Judge. Nil rules allow everything. Route says which way leads to a destination whose name may be empty; it is called
// by several goroutines and must not wait.
func NewJudge(rules *filter.Rules, route func(name string, addr netip.Addr) Way) *Judge {
	j := &Judge{route: route}
	j.rules.Store(rules)
	return j
}

// SetRules changes the rules for the flows from now on. Nil allows everything.
func (j *Judge) SetRules(rules *filter.Rules) { j.rules.Store(rules) }

// Rules returns the present rules, nil if there are none.
func (j *Judge) Rules() *filter.Rules { return j.rules.Load() }

// errNetwork reports a flow that no rule can be about.
var errNetwork = errors.New("flow: network is not tcp, udp or ping")

// Subject returns what the rules of a content filter look at.
func (f *Flow) Subject() (filter.Subject, error) {
	s := filter.Subject{
		UID: f.Owner.UID, User: f.Owner.User, Name: f.Name, Confirmed: f.Confirmed, Others: f.Others, Addr: f.Other().Addr(), Port: f.Destination.Port(),
	}
	if !f.Owner.Contained {
		s.Program = f.Owner.Program
	}
	if f.Inward {
		s.Direction = filter.In
	}
	switch f.Network {
	case "tcp":
		s.Protocol = filter.TCP
	case "udp":
		s.Protocol = filter.UDP
	case "ping":
		s.Protocol = filter.ICMP
	default:
		return s, fmt.Errorf("%w: %q", errNetwork, f.Network)
	}
	return s, nil
}

// Decide implements [Decider].
func (j *Judge) Decide(_ context.Context, f *Flow) (Verdict, error) {
	v := Verdict{Allow: true, Rule: "no rules"}
	if f.Inward {
		v.Way = Tunnel // where it comes from
	} else {
		v.Way = j.route(f.Name, f.Destination.Addr())
	}
	rules := j.rules.Load()
	if rules == nil {
		v.Provisional = j.Names && !f.Final && !f.Inward
		return v, nil
	}
	s, err := f.Subject()
	if err != nil {
		return Verdict{}, err
	}
	m := rules.Match(&s)
	v.Allow, v.Rule, v.Log, v.LogRule = m.Action == filter.Allow, m.Name, m.Log, m.LogName
	v.Provisional = !f.Final && (m.Provisional || j.Names && v.Allow && !f.Inward)
	if !v.Provisional {
		rules.Count(m)
	}
	return v, nil
}
