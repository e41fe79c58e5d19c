// Package health decides which data path a tunnel uses, by how the parts of the flow path are.
//
// The flow path has three parts, the DNS proxy, the transparent proxy and the content filter, and is healthy while all three are
// active. When one fails, a [Machine] says to go over to the packet path, or to let nothing through, within a second; there it stays
// until a person has it go back, since whatever failed once is likely to fail again.
//
//	            Start                       all active
//	off ─────────────────▶ starting ───────────────────────▶ flow
//	                          │  ▲                             │
//	            time is up,   │  │ Revert           a part fails, FailOver
//	            a part fails  ▼  │                             │
//	                        packet or closed ◀─────────────────┘
//
// A Machine is pure: it has no clock, no goroutine and no lock. Whoever drives it tells it what happened, and when, and does what
// it says.
package health

import (
	"fmt"
	"time"
)

// A Part is one of the three components of the flow path.
type Part uint8

const (
	// DNSProxy answers what programs ask on port 53, whatever server they ask.
	DNSProxy Part = iota
	// TransparentProxy ends the flows of programs and carries them on.
	TransparentProxy
	// ContentFilter judges them.
	ContentFilter

	// Parts is how many there are.
	Parts int = iota
)

// String returns dns-proxy, transparent-proxy or content-filter.
func (p Part) String() string {
	switch p {
	case DNSProxy:
		return "dns-proxy"
	case TransparentProxy:
		return "transparent-proxy"
	case ContentFilter:
		return "content-filter"
	}
	return fmt.Sprintf("part(%d)", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p Part) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A State is how a Part is.
type State uint8

const (
	// Inactive: it does not run.
	Inactive State = iota
	// Starting: it has been told to run and has not said yet that it does.
	Starting
	// Active: it runs.
	Active
	// Failed: it has failed, for the reason that the status gives, and does not run any more.
	Failed
)

// String returns inactive, starting, active or failed.
func (s State) String() string {
	switch s {
	case Inactive:
		return "inactive"
	case Starting:
		return "starting"
	case Active:
		return "active"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Path is where the packets of the machine go.
type Path uint8

const (
	// Nowhere: nothing passes.
	Nowhere Path = iota
	// Flow: the flow path, through the three parts.
	Flow
	// Packet: the packet path, straight to the tunnel.
	Packet
)

// String returns nowhere, flow or packet.
func (p Path) String() string {
	switch p {
	case Nowhere:
		return "nowhere"
	case Flow:
		return "flow"
	case Packet:
		return "packet"
	}
	return fmt.Sprintf("path(%d)", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A Reason is why a path was left or not taken.
type Reason uint8

const (
	// None: there is none.
	None Reason = iota
	// Panic: a part panicked.
	Panic
	// Watchdog: a part has not shown a sign of life for [Config.Silence].
	Watchdog
	// Overload: a part has had more to do than it can for longer than a moment.
	Overload
	// Failure: a part has ended with an error.
	Failure
	// TooSlow: not all parts became active within [Config.StartTime].
	TooSlow
	// Command: a person wanted it so.
	Command
	// NoSwitch: the path that was to be taken could not be.
	NoSwitch
)

// String returns the name of the reason, empty for None.
func (r Reason) String() string {
	names := [...]string{"", "panic", "watchdog", "overload", "failure", "too slow", "command", "no switch"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// A Config says how patient a [Machine] is. The zero Config is usable, and fails over to the packet path.
type Config struct {
	// Close has nothing pass instead of failing over to the packet path, as always-on with failure policy closed demands.
	Close bool
	// StartTime is how long the parts may take to become active. Zero means 5 s.
	StartTime time.Duration
	// Silence is how long an active part may show no sign of life. Zero means 700 ms, so that all is over within a second.
	Silence time.Duration
	// SwitchTime is how long changing the path may take before it counts as failed. Zero means 250 ms.
	SwitchTime time.Duration
}

// DefaultSwitchTime is what a [Config.SwitchTime] of zero means.
const DefaultSwitchTime = 250 * time.Millisecond

func (c Config) withDefaults() Config {
	for _, f := range []struct {
		value *time.Duration
		or    time.Duration
	}{{&c.StartTime, 5 * time.Second}, {&c.Silence, 700 * time.Millisecond}, {&c.SwitchTime, DefaultSwitchTime}} {
		if *f.value <= 0 {
			*f.value = f.or
		}
	}
	return c
}

// fallback is where packets go when the flow path is not healthy.
func (c Config) fallback() Path {
	if c.Close {
		return Nowhere
	}
	return Packet
}
