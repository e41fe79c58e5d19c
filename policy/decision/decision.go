package decision

import (
	"fmt"
	"net/netip"
	"strings"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/plan"
)

// An Outcome is what becomes of a flow. The empty Outcome of a [Step] leaves it to the next.
type Outcome string

const (
	// Allow: it may be, and nobody here knows the way it goes.
	Allow Outcome = "allow"
	// Block: a rule about flows forbids it.
	Block Outcome = "block"
	// Direct: it goes past the tunnel.
	Direct Outcome = "direct"
	// Tunnel: it goes through the tunnel.
	Tunnel Outcome = "tunnel"
	// Nowhere: it goes nowhere, since what carries it is not there, or is closed.
	Nowhere Outcome = "nowhere"
)

// Refused reports whether the flow may not be.
func (o Outcome) Refused() bool { return o != Allow && o != Direct && o != Tunnel }

// A Query is a flow that somebody wants, or wants to know about. What is not known is empty.
type Query struct {
	// Network is tcp, udp or ping.
	Network string `json:"network,omitempty"`
	// Host is the name or literal address that was asked for, without port.
	Host string `json:"host"`
	// Addr is the address, and the zero Addr if there is only a name.
	Addr netip.Addr `json:"addr,omitzero"`
	Port uint16     `json:"port,omitempty"`
	// User is the name of the user, and Program the path of the program, whose flow it is.
	User    string `json:"user,omitempty"`
	Program string `json:"program,omitempty"`
}

// normal returns the query as it is judged: addresses in their shortest form, names without a final dot.
func (q Query) normal() Query {
	if addr, err := netip.ParseAddr(q.Host); err == nil && !q.Addr.IsValid() {
		q.Addr = addr
	}
	q.Addr = q.Addr.Unmap()
	q.Host = strings.TrimSuffix(q.Host, ".")
	return q
}

// A Step is what one setting or rule says of a flow.
type Step struct {
	// Document is where it stands, such as "profile corp.xml", "local policy", "flow rules", or "gateway" for what that has sent.
	Document string `json:"document,omitempty"`
	// Setting is its name, and Value its value.
	Setting string `json:"setting,omitempty"`
	Value   string `json:"value,omitempty"`
	// Line and Column are its place in the document; 0 means that it is not known, or that the setting is not written there.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Says is what it says, in words.
	Says string `json:"says"`
	// Effect is the outcome if it decides, "" if the next one is asked.
	Effect Outcome `json:"effect,omitempty"`
}

// String returns the step in one line.
func (s Step) String() string {
	name := s.Setting
	if s.Value != "" {
		name += " = " + s.Value
	}
	if s.Document != "" {
		at := s.Document
		if s.Line > 0 {
			at += fmt.Sprintf(":%d:%d", s.Line, max(s.Column, 1))
		}
		if name == "" {
			name = at
		} else {
			name += " (" + at + ")"
		}
	}
	if name != "" {
		name += ": "
	}
	text := name + s.Says
	if s.Effect != "" {
		text += " => " + string(s.Effect)
	}
	return text
}

// An Answer is what somebody says who is asked from outside of this package.
type Answer struct {
	// Outcome is the word, "" to leave it to the next.
	Outcome Outcome
	// Steps say how it came about, at least one. The last one that has an Effect is the one that decided.
	Steps []Step
}

// Inputs are the state of affairs at one moment. The zero Inputs allow everything.
type Inputs struct {
	// Plan is what the documents say, nil for nothing.
	Plan *plan.Plan
	// Logon is the verdict of the rules about logons, nil if nobody has judged.
	Logon *logon.Verdict
	// Network is what becomes of the tunnel in the network that the machine is in, nil if nobody decides about that. Then a tunnel is
	// presumed to be up unless something refuses it.
	Network *network.Status
	// Down says that there is no tunnel now, where nobody decides about that (Network is nil).
	Down bool
	// Reconnecting says that the tunnel has no connection to its gateway just now. It is there all the same: what goes through it waits.
	// The Network calls it connected until it has ended.
	Reconnecting bool
	// KillSwitch says what becomes of a flow while there is no tunnel by a kill switch that no document demands: Direct or Nowhere. It is
	// asked where the documents keep nothing from passing. Nil means that there is none.
	KillSwitch func(Query) Answer
	// Left says what becomes of all flows by a kill switch that a dead client has left, whatever the documents say now. Nil means that there
	// is none.
	Left func(Query) Answer
	// Filter are the rules about flows, nil for none. An Outcome other than Block leaves it to the Route.
	Filter func(Query) Answer
	// FilterOff says that the rules about flows are not in force, so that they do not decide, and FilterWhy why they are or are not. Empty
	// means that there is nothing to say about that.
	FilterOff bool
	FilterWhy string
	// Route says where a flow goes while the tunnel is up: Tunnel, Direct or Nowhere. Nil means that this is not known, so that the
	// flow is allowed at most.
	Route func(Query) Answer
}

// A Verdict is what becomes of a flow, and why.
type Verdict struct {
	Query   Query   `json:"query"`
	Outcome Outcome `json:"outcome"`
	// Chain are the settings and rules that were asked, in their order. The last one decided.
	Chain []Step `json:"chain"`
	// Down is what becomes of the flow whenever the tunnel is down, and DownChain why. They are empty where the Outcome does not
	// depend on a tunnel, or there is none.
	Down      Outcome `json:"down,omitempty"`
	DownChain []Step  `json:"down_chain,omitempty"`
}

// Decided returns the step that decided.
func (v Verdict) Decided() Step {
	if len(v.Chain) == 0 {
		return Step{}
	}
	return v.Chain[len(v.Chain)-1]
}

// Err returns nil if the flow may be, and a *[policy.RefusedError] with the setting that decided if not.
func (v Verdict) Err() error {
	if !v.Outcome.Refused() {
		return nil
	}
	s := v.Decided()
	return &policy.RefusedError{Document: s.Document, Setting: s.Setting, Value: s.Value, Line: s.Line, Column: s.Column, Reason: s.Says}
}

// String returns the verdict in a few lines for people: the outcome, and the chain, one step in a line; then the same for when the
// tunnel is down.
func (v Verdict) String() string {
	var b strings.Builder
	write := func(about string, o Outcome, chain []Step) {
		fmt.Fprintf(&b, "%s: %s\n", about, o)
		for i, s := range chain {
			fmt.Fprintf(&b, "%3d. %s\n", i+1, s)
		}
	}
	write(v.Query.String(), v.Outcome, v.Chain)
	if v.Down != "" {
		write("whenever the tunnel is down", v.Down, v.DownChain)
	}
	return b.String()
}

// String returns the query as a person would write it.
func (q Query) String() string {
	s := q.Host
	if s == "" && q.Addr.IsValid() {
		s = q.Addr.String()
	}
	if q.Port != 0 {
		if strings.Contains(s, ":") {
			s = "[" + s + "]"
		}
		s = fmt.Sprintf("%s:%d", s, q.Port)
	}
	if q.Network != "" {
		s += "/" + q.Network
	}
	if q.User != "" {
		s += " for " + q.User
	}
	return s
}
