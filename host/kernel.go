package host

// A kernel is what a Machine needs of the operating system.
//
// Methods that add tolerate that the thing is there already, and those that delete that it is gone. Errors match the
// sentinels of this package where they have one for the reason.
type kernel interface {
	// permitted returns an error matching ErrNotPermitted if it is clear that nothing can be changed.
	permitted() error
	// place returns ids of this start of the machine and of its network namespace.
	place() (boot string, namespace uint64)
	// hasIPv6 reports whether the kernel speaks IPv6 at all.
	hasIPv6() (bool, error)
	// interfaces is [Network.Interfaces].
	interfaces() ([]Interface, error)

	link(name string) (link, error)
	setMTU(l link, mtu int) error
	setUp(l link, up bool) error

	addrs() ([]ifaddr, error)
	addAddr(a ifaddr) error
	delAddr(a ifaddr) error

	// routes returns the routes of a table. Those of other programs have a zero way if it has no name here.
	routes(table int, v6 bool) ([]route, error)
	setRoute(k routeKey, to target) error
	delRoute(k routeKey, to target) error

	// rules returns the rules that could be ours: those with our protocol number and nothing else than a rule can say.
	rules(v6 bool) ([]rule, error)
	addRule(r rule) error
	delRule(r rule) error
}

// A route is an entry of a routing table.
type route struct {
	key  routeKey
	to   target
	ours bool // has our protocol number
}

// do takes one step.
func do(k kernel, s step) error {
	switch s.op {
	case opMTU:
		return k.setMTU(s.dev, s.dev.mtu)
	case opUp:
		return k.setUp(s.dev, true)
	case opAddAddr:
		return k.addAddr(s.addr)
	case opDelAddr:
		return k.delAddr(s.addr)
	case opSetRoute:
		return k.setRoute(s.key, s.to)
	case opDelRoute:
		return k.delRoute(s.key, s.to)
	case opAddRule:
		return k.addRule(s.rule)
	case opDelRule:
		return k.delRule(s.rule)
	}
	panic("host: unknown step")
}
