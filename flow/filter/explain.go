package filter

import (
	"fmt"
	"slices"
	"strings"
)

// An Explanation tells how the rules came to a verdict.
type Explanation struct {
	Verdict Verdict
	// Steps are the rules that were asked, in order, up to the one that decided.
	Steps []Step
}

// A Step is what one rule says of a flow.
type Step struct {
	Rule   int
	Name   string
	Action Action
	// Matched says that the flow meets all conditions. Otherwise Why is the first that it does not meet.
	Matched bool
	Why     string
}

// String returns the explanation in a few lines of text, rules that did not match left out.
func (e Explanation) String() string {
	var b strings.Builder
	passed := 0
	for _, s := range e.Steps {
		if !s.Matched {
			passed++
			continue
		}
		fmt.Fprintf(&b, "rules[%d] %q matches: %v\n", s.Rule, s.Name, s.Action)
	}
	if e.Verdict.Rule < 0 {
		fmt.Fprintf(&b, "no rule decides: %v\n", e.Verdict.Action)
	}
	fmt.Fprintf(&b, "%d rules before that do not match", passed)
	if e.Verdict.Provisional {
		b.WriteString("; the name of the other end may change this")
	}
	return b.String()
}

// Explain tells what Match says of s, and why. It is slow: it asks the rules one by one.
func (r *Rules) Explain(s *Subject) Explanation {
	v, name := r.judge(s)
	e := Explanation{Verdict: v}
	one := *s
	if one.Others = nil; name != s.Name {
		one.Name, one.Confirmed = name, true
	}
	s = &one
	for i := range r.rules {
		d := &r.rules[i]
		step := Step{Rule: i, Name: d.Name, Action: d.Action}
		step.Why = d.fails(s)
		step.Matched = step.Why == ""
		e.Steps = append(e.Steps, step)
		if i == e.Verdict.Rule {
			break
		}
	}
	return e
}

// fails returns the condition that s does not meet, "" if it meets all.
func (d *rule) fails(s *Subject) string {
	switch {
	case d.Direction != "" && d.Direction != s.Direction.String():
		return fmt.Sprintf("the direction is %v", s.Direction)
	case len(d.Protocols) > 0 && !slices.Contains(d.Protocols, s.Protocol.String()):
		return fmt.Sprintf("the protocol is %v", s.Protocol)
	case len(d.Ports) > 0 && s.Protocol == ICMP:
		return "icmp has no port"
	case len(d.Ports) > 0 && !slices.ContainsFunc(d.ports, func(p portRange) bool { return p.first <= s.Port && s.Port <= p.last }):
		return fmt.Sprintf("the port is %d", s.Port)
	case len(d.Users) > 0 && !slices.ContainsFunc(d.Users, s.isUser):
		return "the user is " + known(s.User)
	case len(d.Programs) > 0 && !slices.ContainsFunc(d.Programs, s.isProgram):
		return "the program is " + known(s.Program)
	case len(d.Names)+len(d.Prefixes) == 0:
		return ""
	}
	a := s.Addr.Unmap().WithZone("")
	for _, p := range d.prefixes {
		if p.Contains(a) {
			return ""
		}
	}
	why := ""
	for _, n := range d.Names {
		name, below, _ := suffix(n)
		if len(s.Name) > maxName {
			break
		}
		if s.Name == name && !below || s.Name != name && strings.HasSuffix(s.Name, "."+name) {
			if s.Confirmed || !d.Confirmed {
				return ""
			}
			why = ", which no answer of DNS has confirmed"
		}
	}
	switch {
	case a.IsValid() && s.Name == "":
		return fmt.Sprintf("the destination is %v, whose name is not known", a)
	case a.IsValid():
		return fmt.Sprintf("the destination is %v, %q%s", a, s.Name, why)
	case s.Name == "":
		return "the destination is not known"
	case why != "":
		return fmt.Sprintf("the destination is %q%s, and whose address is not known yet", s.Name, why)
	}
	return fmt.Sprintf("the destination is %q, whose address is not known yet", s.Name)
}

func known(s string) string {
	if s == "" {
		return "not known"
	}
	return fmt.Sprintf("%q", s)
}

// isUser reports whether v, a name or a number, is the user of s.
func (s *Subject) isUser(v string) bool {
	return s.User != "" && v == s.User && !number(v) || s.UID >= 0 && number(v) && strings.TrimLeft(v, "0") == strings.TrimLeft(fmt.Sprint(s.UID), "0")
}

func number(v string) bool { return v != "" && strings.Trim(v, "0123456789") == "" }

// isProgram reports whether v is the program of s or a directory above it.
func (s *Subject) isProgram(v string) bool {
	if s.Program == "" || len(s.Program) > maxText {
		return false
	}
	if separator(v[len(v)-1]) {
		return len(s.Program) > len(v) && strings.HasPrefix(s.Program, v)
	}
	return s.Program == v
}
