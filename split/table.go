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
//  1. The outer address of the gateway is direct, and so is the loopback network, which is never on any wire.
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
	made     bool // by New
	prefixes bart.Table[*rule]
	onLink   bart.Lite
	names    suffixes
	families [2]family // IPv4, IPv6
}

// A family is what a Table knows of IPv4 or of IPv6 as a whole.
type family struct {
	rest   rule  // for addresses that have no prefix
	absent *rule // instead of the tunnel, if that has no address of the family
}

// New returns the Table of cfg, of which it keeps nothing. It fails on an invalid prefix, address or domain suffix and on
// lists that are too long, and the error says which. Prefixes need not be masked.
func New(cfg Config) (*Table, error) {
	if err := cfg.bound(); err != nil {
		return nil, err
	}
	t := &Table{made: true}
	for i, name := range [...]string{"IPv4", "IPv6"} {
		t.families[i] = family{
			rest:   rule{way: Tunnel, kind: "everything of " + name, origin: FromLease},
			absent: &rule{way: Nowhere, kind: "the tunnel has no " + name + " address", origin: FromLease},
		}
		if cfg.Bypass {
			t.families[i].absent = &rule{way: Direct, kind: "the tunnel has no " + name + " address, bypass", origin: FromGateway}
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
			t.names.add(r.name, &r)
		}
	}
	return t, nil
}

// addPrefixes adds all rules for addresses. What is firm comes first, and hides what lies within it: so one look for the
// longest prefix finds the rule that counts, whatever its rank.
func (t *Table) addPrefixes(cfg *Config) error {
	var strong bart.Lite
	b := builder{table: t, hidden: func(p netip.Prefix, r *rule) bool { return false }}
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
	b.hidden = func(p netip.Prefix, r *rule) bool { return false }
	b.addrs(cfg.Gateway, rule{way: Direct, rank: outermost, kind: "address of the gateway", origin: FromLease})
	return b.err
}

const localNetwork = "local network"

// A builder adds rules for prefixes to a table, until the first error.
type builder struct {
	table  *Table
	hidden func(p netip.Prefix, r *rule) bool // whether p can decide nothing
	err    error
}

func (b *builder) list(list []netip.Prefix, like rule) {
	if b.err != nil {
		return
	}
	rules := make([]rule, len(list)) // in one piece, which is faster than one by one
	for i, p := range list {
		if p, b.err = unmap(p, &like); b.err != nil {
			return
		}
		t, r := b.table, &rules[i]
		*r, r.prefix = like, p
		f := t.family(p.Addr())
		switch r.kind {
		case "on-link":
			f.absent = nil
			t.onLink.Insert(p)
		case "include":
			if r.origin == FromGateway {
				f.rest = rule{way: Direct, kind: "not included", origin: FromGateway}
			}
		case "exclude":
			if IsLocalLAN(p) {
				continue
			}
		}
		if !b.hidden(p, r) {
			t.prefixes.Insert(p, r)
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
		b.table.prefixes.Insert(p, &r)
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
	return r.way
}

// Explain is Route with the rule that decided, in words for a person.
func (t *Table) Explain(host string, addr netip.Addr) (Way, string) {
	v := t.Why(host, addr)
	return v.Way, v.Rule
}

// Why is Route with the rule that decided and who made it.
func (t *Table) Why(host string, addr netip.Addr) Verdict {
	r, _ := t.find(host, addr, nil)
	return r.verdict()
}

// find returns the rule that decides, and what was learned of addr, if that was asked for.
func (t *Table) find(host string, addr netip.Addr, learned *bart.Table[*entry]) (*rule, *entry) {
	if !t.made {
		return &ruleZero, nil
	}
	named := host != "" && isName(host)
	var by suffix
	if named {
		by = t.names.find(host)
	}
	if !addr.IsValid() {
		switch {
		case by.user != nil:
			return by.user, nil
		case by.gateway != nil:
			return by.gateway, nil
		}
		return &ruleUnknown, nil
	}
	addr = addr.Unmap()
	f := t.family(addr)
	r, ok := t.prefixes.Lookup(addr)
	if !ok {
		r = &f.rest
	}
	var e *entry
	switch {
	case r.rank == outermost:
		return r, nil
	case addr.IsLoopback():
		return &ruleLoopback, nil
	case by.user != nil:
		r = by.user
	case r.rank == firm:
	case by.gateway != nil:
		r = by.gateway
	case learned != nil && !named:
		if e, ok = learned.Lookup(addr); ok && e.rule != nil {
			r = e.rule
		}
	}
	if f.absent != nil && (r.way == Tunnel || r == &f.rest) {
		return f.absent, e
	}
	return r, e
}
