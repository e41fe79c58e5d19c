package split

import "net/netip"

// An Origin is who made a rule. The zero Origin is nobody: there was no rule, or nothing to decide.
type Origin uint8

const (
	// FromMachine: the rule follows from the machine that the tunnel runs on, such as its loopback and local networks.
	FromMachine Origin = iota + 1
	// FromLease: the rule follows from what the session was given: addresses, DNS servers, the gateway's own address.
	FromLease
	// FromGateway: the rule stands in a list of the gateway's.
	FromGateway
	// FromUser: the rule stands in a list of the user's.
	FromUser
)

// String returns machine, lease, gateway, user or nobody.
func (o Origin) String() string {
	switch o {
	case FromMachine:
		return "machine"
	case FromLease:
		return "lease"
	case FromGateway:
		return "gateway"
	case FromUser:
		return "user"
	}
	return "nobody"
}

// A Verdict is the way to a destination and why it is that one.
type Verdict struct {
	Way Way
	// Rule is the rule that decided, in words for a person, such as "exclude 10.1.0.0/16".
	Rule string
	// Origin is who made the rule.
	Origin Origin
}

// A rank says how early a rule of a prefix speaks.
type rank uint8

const (
	ordinary  rank = iota // after the names and the learned addresses
	firm                  // before the gateway's names and what was learned
	outermost             // before everything
)

// A rule is a way and the reason for it. Its text is put together only when somebody wants to read it, because a table may
// have a hundred thousand rules.
type rule struct {
	way    Way
	origin Origin
	rank   rank
	kind   string       // such as "include", the whole text if there is neither name nor prefix
	name   string       // the domain suffix, if any
	prefix netip.Prefix // the prefix, if any
}

func (r *rule) text() string {
	s := r.kind
	if r.origin == FromUser {
		s = "user " + s
	}
	switch {
	case r.name != "":
		s += " " + r.name
	case r.prefix.IsValid():
		s += " " + r.prefix.String()
	}
	return s
}

func (r *rule) verdict() Verdict { return Verdict{Way: r.way, Rule: r.text(), Origin: r.origin} }

// A ref stands for a rule of a table, and holds what the path of a packet needs of it, so that only who asks for the reason
// reads the rule itself. The zero ref is no rule.
type ref uint32

const refBits = 4 // below the index of the rule: two for the rank, two for the way

func (r ref) way() Way   { return Way(r & 3) }
func (r ref) rank() rank { return rank(r >> 2 & 3) }

// ref returns the ref for a rule that is the i-th of its table.
func (r *rule) ref(i int) ref { return ref(i)<<refBits | ref(r.rank)<<2 | ref(r.way) }

// The first rules of every table, and the only one of the zero Table. They do not change.
var (
	ruleUnknown  = rule{way: Nowhere, kind: "no address"}
	ruleLoopback = rule{way: Direct, kind: "loopback", origin: FromMachine}
	ruleLink     = rule{way: Direct, kind: "on the link", origin: FromMachine}
	ruleZero     = rule{way: Nowhere, kind: "no tunnel"}
)

const (
	refLoopback = 1<<refBits | ref(Direct)
	refLink     = 2<<refBits | ref(Direct)
)
