// Package filter says which flows of a machine may be: the content filter of the flow path.
//
// A [Config] is a list of rules. The first rule that a flow matches decides, and [Config.Default] decides where none does. A rule has
// conditions on the user and the program that the flow belongs to, on the other end's name, address and port, on the protocol and the
// direction; a rule without conditions matches everything. [Compile] checks the rules and makes [Rules] of them, which are asked in
// a microsecond or a few, without memory, however many rules there are.
//
//	rules, err := filter.Compile(filter.Config{
//		Default: filter.Allow,
//		Rules: []filter.Rule{
//			{Name: "payroll", Action: filter.Block, Names: []string{"payroll.corp.example"}, Users: []string{"guest"}},
//			{Name: "mail", Action: filter.Log, Ports: []string{"25", "465", "587"}},
//		},
//	})
//	v := rules.Decide(&filter.Subject{User: "guest", Name: "payroll.corp.example", Port: 443, Protocol: filter.TCP})
//
// The filter is one of grade firewall: it is asked before the first byte of a flow leaves, and looks at sockets, that is at flows,
// never at single packets.
package filter

import (
	"fmt"
	"net/netip"
)

// An Action is what a rule does with a flow. The zero Action blocks.
type Action uint8

const (
	// Block refuses the flow.
	Block Action = iota
	// Allow lets the flow be.
	Allow
	// Log notes the flow, and leaves it to the rules behind to decide.
	Log
)

// String returns block, allow or log.
func (a Action) String() string {
	switch a {
	case Block:
		return "block"
	case Allow:
		return "allow"
	case Log:
		return "log"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// MarshalText implements encoding.TextMarshaler.
func (a Action) MarshalText() ([]byte, error) {
	if a > Log {
		return nil, fmt.Errorf("filter: %v does not exist", a)
	}
	return []byte(a.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Action) UnmarshalText(b []byte) error {
	for _, v := range []Action{Block, Allow, Log} {
		if string(b) == v.String() {
			*a = v
			return nil
		}
	}
	return fmt.Errorf("filter: action %.40q is not block, allow or log", b)
}

// A Protocol is what a flow speaks on top of IP.
type Protocol uint8

const (
	// TCP is a connection.
	TCP Protocol = iota
	// UDP is an exchange of datagrams between two pairs of address and port.
	UDP
	// ICMP is an echo request, to which no port belongs.
	ICMP
	protocols int = iota
)

// String returns tcp, udp or icmp.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// A Direction says who begins a flow.
type Direction uint8

const (
	// Out is a flow that a program of this machine begins.
	Out Direction = iota
	// In is a flow that begins elsewhere and comes to a program of this machine.
	In
	directions int = iota
)

// String returns out or in.
func (d Direction) String() string {
	switch d {
	case Out:
		return "out"
	case In:
		return "in"
	}
	return fmt.Sprintf("direction(%d)", uint8(d))
}

// GradeFirewall is the only [Config.Grade]: the filter is asked before the first byte of a flow leaves, and what it blocks never
// leaves.
const GradeFirewall = "firewall"

// A Config is a list of rules as it stands in a file.
type Config struct {
	// Grade is [GradeFirewall], which an empty one means too.
	Grade string `json:"grade,omitempty" toml:"grade,omitempty"`
	// FilterSockets is true, which a missing one means too, and FilterPackets is false: rules are about flows. They are here so
	// that a file which asks for something else is refused.
	FilterSockets *bool `json:"filter_sockets,omitempty" toml:"filter_sockets,omitempty"`
	FilterPackets *bool `json:"filter_packets,omitempty" toml:"filter_packets,omitempty"`
	// Default is what becomes of a flow that no rule decides: Block or Allow.
	Default Action `json:"default" toml:"default"`
	// LogDefault notes the flows that no rule decides.
	LogDefault bool `json:"log_default,omitempty" toml:"log_default,omitempty"`
	// Rules are asked in order. There may be up to [MaxRules].
	Rules []Rule `json:"rules,omitempty" toml:"rules,omitempty"`
}

// A Rule matches a flow that meets all of its conditions. A condition with several values is met by any one of them, and an empty one
// by every flow. What is not known of a flow meets no condition.
type Rule struct {
	// Name tells a person which rule it is. It is in logs and counters, and no two rules share one. An empty one becomes "rule N",
	// counted from 1.
	Name string `json:"name,omitempty" toml:"name,omitempty"`
	// Action is what becomes of the flow.
	Action Action `json:"action" toml:"action"`
	// Note has the flow logged, as by a rule with action Log in front of this one.
	Note bool `json:"note,omitempty" toml:"note,omitempty"`

	// Users are names or numbers of users.
	Users []string `json:"users,omitempty" toml:"users,omitempty"`
	// Programs are paths of executable files, or directories with a final slash for everything below. They are compared as the
	// system spells them, byte by byte.
	Programs []string `json:"programs,omitempty" toml:"programs,omitempty"`

	// Names and Prefixes together are one condition, on the other end of the flow: it is met by any of them.
	//
	// A name such as "example.com" stands for itself and everything below, ".example.com" and "*.example.com" for everything below
	// alone. International names are spelled with xn--.
	Names []string `json:"names,omitempty" toml:"names,omitempty"`
	// Prefixes are networks such as "10.0.0.0/8" or single addresses.
	Prefixes []string `json:"prefixes,omitempty" toml:"prefixes,omitempty"`
	// Confirmed restricts Names to those that an answer of DNS has connected with the address. Without it the word of the program
	// is taken for whom it talks to.
	Confirmed bool `json:"confirmed,omitempty" toml:"confirmed,omitempty"`

	// Ports are the ports that flows go to, such as "443" or "8000-8999". ICMP has none.
	Ports []string `json:"ports,omitempty" toml:"ports,omitempty"`
	// Protocols are tcp, udp and icmp.
	Protocols []string `json:"protocols,omitempty" toml:"protocols,omitempty"`
	// Direction is out or in.
	Direction string `json:"direction,omitempty" toml:"direction,omitempty"`
}

// A Subject is a flow that is to be judged.
type Subject struct {
	// UID and User are who made the socket; -1 and empty if that is not known.
	UID  int
	User string
	// Program is the path of the executable file, empty if it is not known or is a path in another view of the file system.
	Program string
	// Name is that of the other end in lower case without a final dot, empty if it is not known. Confirmed says that an answer of
	// DNS has connected it with Addr.
	Name      string
	Confirmed bool
	// Others are further names that the other end may go by, because DNS has given them Addr too and nothing says which one is meant.
	// A rule with names that blocks one of them blocks the flow, and one that logs one of them logs it.
	Others []string
	// Addr is the address of the other end.
	Addr netip.Addr
	// Port is the port that the flow goes to: of the other end of a flow out, and of this machine for a flow in.
	Port      uint16
	Protocol  Protocol
	Direction Direction
}

// A Verdict is what the rules say of a flow.
type Verdict struct {
	// Action is Allow or Block.
	Action Action
	// Rule is the index of the rule that decided and Name its name; -1 and "default" if none did.
	Rule int
	Name string
	// Log says that the flow is to be noted, and LogName is the first rule that wants it so.
	Log     bool
	LogName string
	// Provisional says that Action or Log may be another one once the name of the other end is known, or another name.
	Provisional bool
}

// The limits of a Config.
const (
	// MaxRules is how many rules there may be.
	MaxRules = 4096
	// MaxValues is how many values the conditions of all rules may have together.
	MaxValues = 65536

	maxText = 4096 // bytes of a name, a user or a path
)

// defaultName is the name of what decides if no rule does.
const defaultName = "default"
