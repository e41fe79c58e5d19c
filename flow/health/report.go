package health

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ConfirmCommand is the command by which a person confirms that the data path is as it should be, and RevertCommand the one by which
// they go back to the flow path after a failure.
const (
	ConfirmCommand = "culvert data-path confirm"
	RevertCommand  = "culvert data-path revert"
)

// A Report is how a [Machine] and the parts are. It does not change once it is handed out.
type Report struct {
	// Path is where packets go, since Since. Confirmed says that this has been done, and not only been told.
	Path      Path      `json:"path"`
	Since     time.Time `json:"since"`
	Confirmed bool      `json:"confirmed"`
	// Healthy says that packets take the flow path and all parts are active.
	Healthy bool `json:"healthy"`
	// Reason is why packets do not take the flow path, with the error in words, and Part which part failed, empty if none did.
	Reason Reason `json:"reason,omitempty"`
	Err    string `json:"error,omitempty"`
	Part   string `json:"part,omitempty"`
	// Parts are the three components.
	Parts [Parts]PartReport `json:"parts"`
	// Failovers counts how often the flow path was left, or not taken, other than by the end of the tunnel.
	Failovers int `json:"failovers"`
	// Confirm is the command to confirm the data path with, and Revert the one to go back to the flow path with, empty if that makes
	// no sense now.
	Confirm string `json:"confirm"`
	Revert  string `json:"revert,omitempty"`
}

// A PartReport is how one part is.
type PartReport struct {
	Part  Part  `json:"part"`
	State State `json:"state"`
	// Since is when State last changed.
	Since time.Time `json:"since"`
	// Reason is why State is Failed, with the last error in words.
	Reason Reason `json:"reason,omitempty"`
	Err    string `json:"error,omitempty"`
}

// Report returns how everything is.
func (m *Machine) Report() Report {
	r := Report{
		Path: m.path, Since: m.switched, Confirmed: m.confirmed, Healthy: m.phase == flow && m.path == Flow && m.confirmed && m.all(Active),
		Reason: m.reason, Err: m.lastErr, Failovers: m.failovers, Confirm: ConfirmCommand,
	}
	if m.blamed {
		r.Part = m.culprit.String()
	}
	if m.phase == fallen {
		r.Revert = RevertCommand
	}
	for i := range m.parts {
		p := &m.parts[i]
		r.Parts[i] = PartReport{Part: Part(i), State: p.state, Since: p.since, Reason: p.reason, Err: p.err}
	}
	return r
}

// ErrNotConfirmed is what the errors of [Report.Check] match.
var ErrNotConfirmed = errors.New("the data path is not confirmed")

// Check confirms that packets take the path want, and that this is in order: for the flow path that all parts are active. The error says
// what is amiss and what to do.
func (r Report) Check(want Path) error {
	switch {
	case r.Path != want && r.Reason != None:
		err := fmt.Errorf("%w: packets go %v and not %v, because of %v", ErrNotConfirmed, r.Path, want, r.cause())
		if want == Flow && r.Revert != "" {
			err = fmt.Errorf("%w; when the cause is gone, run %q", err, r.Revert)
		}
		return err
	case r.Path != want:
		return fmt.Errorf("%w: packets go %v and not %v", ErrNotConfirmed, r.Path, want)
	case !r.Confirmed:
		return fmt.Errorf("%w: packets were told to go %v, and it is not known whether they do", ErrNotConfirmed, want)
	}
	if want == Flow {
		for _, p := range r.Parts {
			if p.State != Active {
				return fmt.Errorf("%w: the %v is %v", ErrNotConfirmed, p.Part, p.State)
			}
		}
	}
	return nil
}

// Why says in a sentence without an end why packets do not take the flow path, and "" if there is no reason.
func (r Report) Why() string {
	part := "the " + r.Part
	if r.Part == "" {
		part = "a component"
	}
	switch r.Reason {
	case None:
		return ""
	case Panic:
		return part + " has panicked"
	case Watchdog:
		return part + " shows no sign of life"
	case Overload:
		return part + " has more to do than it can"
	case TooSlow:
		return part + " did not start in time"
	case Command:
		return "somebody wanted it so"
	case NoSwitch:
		return "another path could not be taken"
	}
	return part + " has failed"
}

// cause returns the reason in words.
func (r Report) cause() string {
	s := r.Reason.String()
	if r.Reason == Command {
		s = "a command"
	}
	if r.Part != "" {
		s += " of the " + r.Part
	}
	if r.Err != "" {
		s += " (" + r.Err + ")"
	}
	return s
}

// String returns the report as a table for a person: a line for each part, with a star where it is enabled and one where it is
// active.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data path: %v", r.Path)
	switch {
	case r.Healthy:
		b.WriteString(", healthy")
	case r.Reason != None:
		b.WriteString(", because of " + r.cause())
	}
	if !r.Confirmed {
		b.WriteString(", not confirmed")
	}
	fmt.Fprintf(&b, "\n%d component(s)\nenabled active name              since                state\n", Parts)
	for _, p := range r.Parts {
		enabled, active := " ", " "
		if p.State != Inactive {
			enabled = "*"
		}
		if p.State == Active {
			active = "*"
		}
		state := p.State.String()
		if p.Reason != None {
			state += ": " + p.Reason.String()
		}
		if p.Err != "" {
			state += ": " + p.Err
		}
		fmt.Fprintf(&b, "%-7s %-6s %-17s %s [%s]\n", enabled, active, p.Part, p.Since.UTC().Format(time.RFC3339), state)
	}
	fmt.Fprintf(&b, "confirm: %s", r.Confirm)
	if r.Revert != "" {
		fmt.Fprintf(&b, "\nrevert: %s", r.Revert)
	}
	return b.String()
}
