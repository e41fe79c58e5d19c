package host

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// An op is a kind of step.
type op uint8

const (
	opMTU op = iota + 1
	opUp
	opAddAddr
	opDelAddr
	opSetRoute
	opDelRoute
	opAddRule
	opDelRule
)

// A step is one small change of the kernel.
type step struct {
	op   op
	dev  link // of opMTU, opUp, and for a name in what is printed
	addr ifaddr
	key  routeKey
	to   target
	rule rule
}

// String returns the step as a command of iproute2 that would do the same.
func (s step) String() string {
	switch s.op {
	case opMTU:
		return fmt.Sprintf("ip link set %s mtu %d", s.dev.name, s.dev.mtu)
	case opUp:
		return fmt.Sprintf("ip link set %s up", s.dev.name)
	case opAddAddr:
		return fmt.Sprintf("ip address add %v dev %s", s.addr.prefix, s.device(s.addr.index))
	case opDelAddr:
		return fmt.Sprintf("ip address del %v dev %s", s.addr.prefix, s.device(s.addr.index))
	case opSetRoute:
		return "ip route replace " + s.route()
	case opDelRoute:
		return "ip route del " + s.route()
	case opAddRule:
		return s.rule.command("add")
	case opDelRule:
		return s.rule.command("del")
	}
	return fmt.Sprintf("step(%d)", s.op)
}

// had reports whether a state has what a step makes.
func (st state) had(s step) (ok bool) {
	switch s.op {
	case opAddAddr:
		_, ok = st.addrs[s.addr]
	case opSetRoute:
		to, known := st.routes[s.key]
		ok = known && to == s.to
	case opAddRule:
		_, ok = st.rules[s.rule]
	}
	return ok
}

func (s step) device(index int) string {
	if index == s.dev.index {
		return s.dev.name
	}
	return fmt.Sprintf("if%d", index)
}

func (s step) route() string {
	if s.to.way == tunnel {
		return fmt.Sprintf("%v dev %s table %d", s.key.prefix, s.device(s.to.dev), s.key.table)
	}
	return fmt.Sprintf("%v %v table %d", s.to.way, s.key.prefix, s.key.table)
}

func (r rule) command(verb string) string {
	command := "ip "
	if r.v6 {
		command += "-6 "
	}
	command += fmt.Sprintf("rule %s priority %d ", verb, r.priority)
	if r.mark != 0 {
		command += fmt.Sprintf("not fwmark %#x/%#x ", r.mark, r.mask)
	}
	command += fmt.Sprintf("lookup %d", r.table)
	if r.suppress {
		command += " suppress_prefixlength 0"
	}
	return command
}

// plan returns the steps that lead from one state to another, in an order in which no destination ever has a third way,
// neither that of have nor that of want:
//
// A rule that puts the machine's own routes first hides our table from the destinations it takes, so it comes before and
// goes after all changes of the table.
//
// Routes are set from the most specific to the least. When one is set, all that are more specific and wanted are there, so it
// changes the way only of the destinations for which it is the wanted one, and those of which a route that is yet to be
// deleted takes care. Such routes are deleted from the least specific to the most, for when the last of those that contain a
// destination goes, the wanted one is all that remains.
//
// The rule that leads to our table comes after its first routes and goes before the last ones.
func plan(have, want state) []step {
	var steps []step
	dev := want.dev
	if dev.index != 0 {
		same := have.dev.index == dev.index
		if dev.mtu != 0 && !(same && have.dev.mtu == dev.mtu) {
			steps = append(steps, step{op: opMTU, dev: dev})
		}
		// Addresses of IPv6 are refused by a device whose MTU is too small for it, and routes by one that is down.
		if dev.up && !(same && have.dev.up) {
			steps = append(steps, step{op: opUp, dev: dev})
		}
	} else {
		dev = have.dev // for its name
	}
	for _, a := range missing(want.addrs, have.addrs) {
		steps = append(steps, step{op: opAddAddr, dev: dev, addr: a})
	}
	add, remove := missingRules(want.rules, have.rules), missingRules(have.rules, want.rules)
	rules := func(op op, list []rule, suppress bool) {
		for _, r := range list {
			if r.suppress == suppress {
				steps = append(steps, step{op: op, rule: r})
			}
		}
	}
	rules(opAddRule, add, true)

	var set, del []step
	for k, to := range want.routes {
		if was, ok := have.routes[k]; !ok || was != to {
			set = append(set, step{op: opSetRoute, dev: dev, key: k, to: to})
		}
	}
	for k, to := range have.routes {
		if _, ok := want.routes[k]; !ok {
			del = append(del, step{op: opDelRoute, dev: dev, key: k, to: to})
		}
	}
	slices.SortFunc(set, func(a, b step) int { return compareKeys(b.key, a.key) })
	slices.SortFunc(del, func(a, b step) int { return compareKeys(a.key, b.key) })

	steps = append(steps, set...)
	rules(opAddRule, add, false)
	rules(opDelRule, remove, false)
	steps = append(steps, del...)
	rules(opDelRule, remove, true)
	for _, a := range missing(have.addrs, want.addrs) {
		steps = append(steps, step{op: opDelAddr, dev: dev, addr: a})
	}
	return steps
}

// compareKeys orders routes by the length of their prefix first.
func compareKeys(a, b routeKey) int {
	return cmp.Or(comparePrefixes(a.prefix, b.prefix), cmp.Compare(a.table, b.table))
}

// missing returns the members of a that are not in b, in order.
func missing(a, b map[ifaddr]struct{}) []ifaddr {
	var list []ifaddr
	for m := range maps.Keys(a) {
		if _, ok := b[m]; !ok {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b ifaddr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), a.prefix.Addr().Compare(b.prefix.Addr()))
	})
	return list
}

func missingRules(a, b map[rule]struct{}) []rule {
	var list []rule
	for m := range maps.Keys(a) {
		if _, ok := b[m]; !ok {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b rule) int {
		family := 0
		if a.v6 != b.v6 {
			family = -1
			if a.v6 {
				family = 1
			}
		}
		return cmp.Or(family, cmp.Compare(a.priority, b.priority), cmp.Compare(a.table, b.table),
			cmp.Compare(a.mark, b.mark), cmp.Compare(a.mask, b.mask))
	})
	return list
}

// did returns what a state becomes by a step.
func (st *state) did(s step) {
	switch s.op {
	case opMTU:
		st.dev.name, st.dev.index, st.dev.mtu = s.dev.name, s.dev.index, s.dev.mtu
	case opUp:
		st.dev.name, st.dev.index, st.dev.up = s.dev.name, s.dev.index, true
	case opAddAddr:
		st.addrs[s.addr] = struct{}{}
	case opDelAddr:
		delete(st.addrs, s.addr)
	case opSetRoute:
		st.routes[s.key] = s.to
	case opDelRoute:
		delete(st.routes, s.key)
	case opAddRule:
		st.rules[s.rule] = struct{}{}
	case opDelRule:
		delete(st.rules, s.rule)
	}
}
