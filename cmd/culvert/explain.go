package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
)

// explainTime bounds the search for the addresses of a name that is to be explained.
const explainTime = 3 * time.Second

// A machineView is what a decider sees of a machine that uses tunnels.
type machineView struct {
	plan *plan.Plan // what the documents say, nil for nothing
	sys  interface {
		Explain(ctx context.Context, host string) ([]system.Route, error)
		Status() system.Status
	}
	rules *filter.Rules // of the content filter, nil for none
	file  string        // that they are from
	// wanted is the kill switch of --always-on, nil for none; demanded says that one of the documents is in its place.
	wanted   *system.KillSwitch
	demanded bool
	said     func(flag string) string // where a flag was given
}

// explainer returns what says of a flow what becomes of it on this machine, and why.
func (v machineView) explainer(rules *filter.Config, auto *automat) (func(context.Context, decision.Query) decision.Verdict, error) {
	if rules != nil {
		var err error
		if v.rules, err = filter.Compile(*rules); err != nil {
			return nil, err
		}
	}
	return func(_ context.Context, q decision.Query) decision.Verdict {
		in := v.inputs()
		in.Network = auto.decided()
		return decision.Judge(in, q)
	}, nil
}

// inputs is the state of affairs now. Who else has a say is for the caller to add.
func (v machineView) inputs() decision.Inputs {
	s := v.sys.Status()
	in := decision.Inputs{Plan: v.plan, Down: !s.Attached, Reconnecting: s.Reconnecting, Route: v.route}
	if !v.demanded {
		in.KillSwitch = func(q decision.Query) decision.Answer { return v.killSwitch(s.Firewall, q) }
	}
	if v.rules != nil {
		in.Filter, in.FilterWhy = filterAnswer(v.rules, v.file), "packets take the flow path"
	}
	switch d := s.DataPath; {
	case d.FilterOff:
		in.FilterOff, in.FilterWhy = true, fmt.Sprintf("packets take the packet path (%s), until: %s", d.Reason, health.RevertCommand)
	case s.Attached && d.Path == health.Nowhere:
		in.FilterOff, in.FilterWhy = true, "nothing passes at all"
		in.Route = func(decision.Query) decision.Answer {
			return only(decision.Nowhere, decision.Step{Document: "data path", Says: fmt.Sprintf("nothing passes (%s), until: %s", d.Reason, health.RevertCommand)})
		}
	}
	return in
}

// only is an answer of one step that decides.
func only(o decision.Outcome, s decision.Step) decision.Answer {
	s.Effect = o
	return decision.Answer{Outcome: o, Steps: []decision.Step{s}}
}

// killSwitch says what the kill switch of the command line lets pass while there is no tunnel.
func (v machineView) killSwitch(now system.FirewallStatus, q decision.Query) decision.Answer {
	step := decision.Step{Document: v.said("always-on"), Setting: "--always-on"}
	k := v.wanted
	switch {
	case k == nil:
		step.Document, step.Says = "", "it is not given, so nothing keeps the flow from going past the tunnel"
		return only(decision.Direct, step)
	case k.Open:
		step.Value, step.Says = "open", "the kill switch opens"
		return only(decision.Direct, step)
	case now.Mode == system.FirewallLifted:
		step.Value, step.Says = "closed", "the kill switch is lifted: "+now.Reason
		return only(decision.Direct, step)
	}
	for _, p := range k.AllowedHosts {
		if p.Contains(q.Addr) {
			return only(decision.Direct, decision.Step{Document: v.said("allow-host"), Setting: "--allow-host", Value: p.String(), Says: "the kill switch lets it pass"})
		}
	}
	if k.LocalLAN && (q.Addr.IsPrivate() || q.Addr.IsLinkLocalUnicast()) {
		return only(decision.Direct, decision.Step{Document: v.said("local-lan"), Setting: "--local-lan",
			Says: "the kill switch lets it pass if it is in a network that this machine is connected to"})
	}
	step.Value, step.Says = "closed", "the kill switch lets nothing pass but what it takes to get a tunnel"
	if len(k.AllowedHosts) > 0 {
		step.Says += ", and the addresses of --allow-host"
	}
	return only(decision.Nowhere, step)
}

// gateway says what the kill switch keeps from the gateway while the tunnel is up: all but what the tunnel itself takes. It reports false
// if the flow passes.
func (v machineView) gateway(addr netip.Addr, q decision.Query) (s decision.Step, shut bool) {
	now := v.sys.Status().Firewall
	if !addr.IsValid() {
		addr = q.Addr
	}
	if now.Mode != system.FirewallTunnel || q.Port == 0 && q.Network != "ping" {
		return s, false
	}
	at := strings.TrimSuffix(netip.AddrPortFrom(addr, 0).String(), "0")
	ours := slices.DeleteFunc(slices.Clone(now.Gateways), func(e string) bool { return !strings.HasPrefix(e, at) })
	if len(ours) == 0 || slices.Contains(ours, netip.AddrPortFrom(addr, q.Port).String()+"/"+q.Network) {
		return s, false
	}
	s = decision.Step{Setting: "kill switch", Says: "it lets nothing else pass to the gateway than " + strings.Join(ours, ", ")}
	if !v.demanded {
		s.Document, s.Setting = v.said("always-on"), "--always-on"
	}
	return s, true
}

// route says which way a flow goes while the tunnel is up. The first address of a name decides, since programs try it first.
func (v machineView) route(q decision.Query) decision.Answer {
	host := q.Host
	if host == "" {
		host = q.Addr.String()
	}
	ctx, cancel := context.WithTimeout(context.Background(), explainTime)
	defer cancel()
	routes, err := v.sys.Explain(ctx, host)
	if err != nil {
		return only(decision.Nowhere, decision.Step{Document: "routes", Says: err.Error()})
	}
	var a decision.Answer
	for i, r := range append(routes[1:len(routes):len(routes)], routes[0]) {
		s := decision.Step{Document: r.Origin.String(), Setting: "route", Says: r.Rule}
		if r.Origin == split.FromUser {
			flag := "exclude"
			if r.Way == split.Tunnel {
				flag = "include"
			}
			s.Document, s.Setting = v.said(flag), "--"+flag
		}
		a.Outcome = decision.Nowhere
		switch r.Way {
		case split.Tunnel:
			a.Outcome = decision.Tunnel
		case split.Direct:
			a.Outcome = decision.Direct
		}
		if _, err := netip.ParseAddr(host); err != nil && r.Addr.IsValid() {
			s.Says = fmt.Sprintf("%v: %s", r.Addr, r.Rule)
		}
		if i == len(routes)-1 && a.Outcome == decision.Direct {
			if shut, ok := v.gateway(r.Addr, q); ok {
				s.Says += ", direct"
				a.Steps, a.Outcome, s = append(a.Steps, s), decision.Nowhere, shut
			}
		}
		if i == len(routes)-1 {
			s.Effect = a.Outcome
		} else {
			s.Says += ", " + string(a.Outcome)
		}
		a.Steps = append(a.Steps, s)
	}
	return a
}
