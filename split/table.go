package split

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Table is a [Router] made from a [Config]. It does not change. The zero Table sends everything nowhere.
//
// The first of these rules that knows the destination decides:
//
//  1. The outer address of the gateway is direct, and so is the loopback network, which is never on any wire, and what is never sent
//     on from the link that it is on: link-local addresses and multicast of IPv6 (RFC 4291 sections 2.5.6 and 2.7).
//  2. The longest dynamic suffix of the user's for the host name.
//  3. The longest of the user's prefixes and the addresses of the DNS servers of the lease, which are in the tunnel.
//  4. The longest dynamic suffix of the gateway's for the host name.
//  5. In a [Learned], what was learned of the address, if there is no host name.
//  6. The longest prefix of Include, Exclude, LocalLAN and the on-link prefixes of Addresses.
//  7. What no Include mentions is direct, if there are any for its family; it is in the tunnel otherwise.
//
// Among equal suffixes or prefixes an exclude beats an include, and a local network beats an on-link prefix.
//
// If the result is the tunnel but that has no address of the family, [Config.Bypass] makes it direct, or else nowhere.
// So does rule 7 for such a family as a whole.
type Table struct {
	rules    []rule // none in the zero Table
	prefixes bart.Fast[ref]
	onLink   bart.Lite
	names    suffixes
	families [2]family // IPv4, IPv6
}

// A family is what a Table knows of IPv4 or of IPv6 as a whole.
type family struct {
	rest   ref // for addresses that have no prefix
	absent ref // instead of the tunnel, if that has no address of the family, or else zero
}

// New returns the Table of cfg, of which it keeps nothing. It fails on an invalid prefix, address or domain suffix and on
// lists that are too long, and the error says which. Prefixes need not be masked.
func New(cfg Config) (*Table, error) {
	prefixes, names := cfg.size()
	if prefixes > MaxPrefixes {
		return nil, fmt.Errorf("split: %d prefixes and addresses, more than %d: merge neighbours into shorter prefixes", prefixes, MaxPrefixes)
	}
	if names > MaxNames {
		return nil, fmt.Errorf("split: %d domain suffixes, more than %d: name the suffix that they share", names, MaxNames)
	}
	t := &Table{rules: make([]rule, 0, prefixes+names+8)}
	t.rules = append(t.rules, ruleUnknown, ruleLoopback, ruleLink)
	for i, name := range [...]string{"IPv4", "IPv6"} {
		absent := rule{way: Nowhere, kind: "the tunnel has no " + name + " address", origin: FromLease}
		if cfg.Bypass {
			absent = rule{way: Direct, kind: "the tunnel has no " + name + " address, bypass", origin: FromGateway}
		}
		t.families[i] = family{
			rest:   t.add(rule{way: Tunnel, kind: "everything of " + name, origin: FromLease}),
			absent: t.add(absent),
		}
	}
	if err := t.addPrefixes(&cfg); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		names []string
		rule  rule
	}{
		// Excludes come after includes, so that they win where both name the same suffix.
		{cfg.DynamicInclude, rule{way: Tunnel, kind: "dynamic include", origin: FromGateway}},
		{cfg.DynamicExclude, rule{way: Direct, kind: "dynamic exclude", origin: FromGateway}},
		{cfg.User.DynamicInclude, rule{way: Tunnel, kind: "dynamic include", origin: FromUser}},
		{cfg.User.DynamicExclude, rule{way: Direct, kind: "dynamic exclude", origin: FromUser}},
	} {
		for _, s := range l.names {
			r := l.rule
			var ok bool
			if r.name, ok = canonical(s); !ok {
				return nil, fmt.Errorf("split: %s: %q is not a domain name", r.text(), s)
			}
			t.names.add(r.name, r.origin, t.add(r))
		}
	}
	return t, nil
}

// add adds a rule that nothing leads to yet.
func (t *Table) add(r rule) ref {
	t.rules = append(t.rules, r)
	return r.ref(len(t.rules) - 1)
}

// rule returns the rule that r stands for.
func (t *Table) rule(r ref) *rule {
	if t.rules == nil {
		return &ruleZero
	}
	return &t.rules[r>>refBits]
}

// addPrefixes adds all rules for addresses. What is firm comes first, and hides what lies within it: so one look for the
// longest prefix finds the rule that counts, whatever its rank.
func (t *Table) addPrefixes(cfg *Config) error {
	var strong bart.Lite
	b := builder{table: t}
	b.addrs(cfg.DNS, rule{way: Tunnel, rank: firm, kind: "DNS server", origin: FromLease})
	b.list(cfg.User.Include, rule{way: Tunnel, rank: firm, kind: "include", origin: FromUser})
	b.list(cfg.User.Exclude, rule{way: Direct, rank: firm, kind: "exclude", origin: FromUser})
	for p := range t.prefixes.All() {
		strong.Insert(p)
	}

	b.hidden = func(p netip.Prefix, r *rule) bool {
		switch {
		case strong.LookupPrefix(p):
			return true
		case r.kind == localNetwork:
			return !cfg.PublicLAN && public(p)
		}
		return cfg.OnLinkFirst && r.way == Direct && t.onLink.LookupPrefix(p)
	}
	// Among equal prefixes the last one stays.
	b.list(cfg.Addresses, rule{way: Tunnel, kind: "on-link", origin: FromLease})
	b.list(cfg.Include, rule{way: Tunnel, kind: "include", origin: FromGateway})
	b.list(cfg.LocalLAN, rule{way: Direct, kind: localNetwork, origin: FromMachine})
	b.list(cfg.Exclude, rule{way: Direct, kind: "exclude", origin: FromGateway})

	// A lease that names the gateway's own address, by whatever prefix or as a DNS server, cannot capture it.
	b.addrs(cfg.Gateway, rule{way: Direct, rank: outermost, kind: "address of the gateway", origin: FromLease})
	return b.err
}

const localNetwork = "local network"

// A builder adds rules for prefixes to a table, until the first error.
type builder struct {
	table  *Table
	hidden func(p netip.Prefix, r *rule) bool // whether p can decide nothing, if not nil
	err    error
}

func (b *builder) list(list []netip.Prefix, like rule) {
	if b.err != nil {
		return
	}
	t := b.table
	for _, p := range list {
		if p, b.err = unmap(p, &like); b.err != nil {
			return
		}
		r := like
		r.prefix = p
		f := t.family(p.Addr())
		switch r.kind {
		case "on-link":
			f.absent = 0
			t.onLink.Insert(p)
		case "include":
			if r.origin == FromGateway && f.rest.way() == Tunnel {
				f.rest = t.add(rule{way: Direct, kind: "not included", origin: FromGateway})
			}
		case "exclude":
			if IsLocalLAN(p) {
				continue
			}
		}
		if b.hidden == nil || !b.hidden(p, &r) {
			t.prefixes.Insert(p, t.add(r))
		}
	}
}

func (b *builder) addrs(list []netip.Addr, like rule) {
	for _, a := range list {
		if b.err != nil {
			return
		}
		if !a.IsValid() {
			b.err = fmt.Errorf("split: %s: the address is not valid", like.text())
			return
		}
		r := like
		p := hostPrefix(a)
		if r.rank != outermost {
			r.prefix = p
		}
		b.table.prefixes.Insert(p, b.table.add(r))
	}
}

// unmap returns p masked and, if it is an IPv4 prefix in the clothes of IPv6, as an IPv4 prefix.
func unmap(p netip.Prefix, r *rule) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, fmt.Errorf("split: %s: prefix %v is not valid", r.text(), p)
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("split: %s: prefix %v mixes IPv4 with IPv6", r.text(), p)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// hostPrefix returns the prefix that holds only a.
func hostPrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen())
}

// family returns the half of the table that a belongs to. It must be valid.
func (t *Table) family(a netip.Addr) *family {
	if a.Is4() || a.Is4In6() {
		return &t.families[0]
	}
	return &t.families[1]
}

// Route implements [Router].
func (t *Table) Route(host string, addr netip.Addr) Way {
	r, _ := t.find(host, addr, nil)
	return r.way()
}

// Explain is Route with the rule that decided, in words for a person.
func (t *Table) Explain(host string, addr netip.Addr) (Way, string) {
	v := t.Why(host, addr)
	return v.Way, v.Rule
}

// Why is Route with the rule that decided and who made it.
func (t *Table) Why(host string, addr netip.Addr) Verdict {
	r, _ := t.find(host, addr, nil)
	return t.rule(r).verdict()
}

// find returns the rule that decides, and what was learned of addr, if learned is not nil and there is no name to go by.
func (t *Table) find(host string, addr netip.Addr, learned *bart.Table[*entry]) (ref, *entry) {
	var by suffix
	if host != "" && isName(host) {
		by = t.names.find(host)
		learned = nil
	}
	if !addr.IsValid() || t.rules == nil {
		return by.rule(), nil
	}
	if addr.Is4In6() {
		addr = addr.Unmap()
	}
	f := &t.families[1]
	if addr.Is4() {
		f = &t.families[0]
	}
	r, ok := t.prefixes.Lookup(addr)
	if !ok {
		r = f.rest
	}
	var e *entry
	switch {
	case r.rank() == outermost:
		return r, nil
	case addr.IsLoopback():
		return refLoopback, nil
	case addr.Is6() && (addr.IsLinkLocalUnicast() || addr.IsMulticast()):
		return refLink, nil
	case by.user != 0:
		r = by.user
	case r.rank() == firm:
	case by.gateway != 0:
		r = by.gateway
	case learned != nil:
		if e, ok = learned.Lookup(addr); ok && e.rule != 0 {
			r = e.rule
		}
	}
	if f.absent != 0 && (r.way() == Tunnel || r == f.rest) {
		return f.absent, e
	}
	return r, e
}
