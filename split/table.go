package split

import (
	"fmt"
	"net/netip"
	"strings"
)

// Config is what a [Table] is made from: the part of a lease that says where destinations lie. The zero Config has no
// tunnel, and sends nothing anywhere.
type Config struct {
	// Addresses are the inner addresses with their on-link prefix. A family without one cannot use the tunnel. Where
	// Include names networks, the on-link prefixes belong to the tunnel too.
	Addresses []netip.Prefix

	// Include are the destinations that belong to the tunnel. A family without any belongs to it as a whole.
	Include []netip.Prefix

	// Exclude are the destinations that stay outside of the tunnel.
	Exclude []netip.Prefix

	// LocalLAN are the networks that the machine is directly connected to, if they are to stay outside of the tunnel.
	LocalLAN []netip.Prefix

	// DNS are the servers that are asked through the tunnel; they are reached through it whatever Include says.
	DNS []netip.Addr

	// Gateway are the outer addresses of the gateway, which are never reached through the tunnel that they carry.
	Gateway []netip.Addr

	// DynamicInclude and DynamicExclude are domain suffixes whose names lie inside or outside of the tunnel whatever their
	// addresses are. They match whole labels: corp.example is a suffix of itself and of git.corp.example, not of
	// evilcorp.example. A leading "*." or "." means nothing.
	DynamicInclude, DynamicExclude []string

	// Bypass lets a family without an inner address out directly; otherwise its packets go nowhere.
	Bypass bool
}

// A Table is a [Router] made from a [Config]. It does not change. The zero Table sends everything nowhere.
//
// The first of these rules that knows the destination decides:
//
//  1. The outer address of the gateway is direct, and so is the loopback network, which is never on any wire.
//  2. The longest dynamic suffix of the host name decides; an exclude beats an equal include.
//  3. The longest prefix of the address decides; an exclude beats an equal include.
//  4. What no include mentions is direct, if there are includes for its family; it is in the tunnel otherwise.
//
// If the result is the tunnel but that has no address of the family, [Config.Bypass] makes it direct, or else nowhere.
// So does rule 4 for such a family as a whole.
type Table struct {
	gateway  map[netip.Addr]struct{}
	names    map[string]*rule
	families [2]family // IPv4, IPv6
}

// A family is what a Table knows of IPv4 or of IPv6.
type family struct {
	lengths  []int // of the prefixes, longest first
	prefixes map[netip.Prefix]*rule
	rest     rule  // for addresses that have no prefix
	absent   *rule // instead of the tunnel, if that has no address of the family
}

// A rule is a way and the reason for it.
type rule struct {
	way  Way
	text string
}

var (
	ruleUnknown  = rule{Nowhere, "no address"}
	ruleGateway  = rule{Direct, "address of the gateway"}
	ruleLoopback = rule{Direct, "loopback"}
	ruleZero     = rule{Nowhere, "no tunnel"}
)

// New returns the Table of cfg, of which it keeps nothing. It fails on an invalid prefix, address or domain suffix, and
// the error says which. Prefixes need not be masked.
func New(cfg Config) (*Table, error) {
	t := &Table{gateway: make(map[netip.Addr]struct{}), names: make(map[string]*rule)}
	for i, name := range [...]string{"IPv4", "IPv6"} {
		t.families[i] = family{
			prefixes: make(map[netip.Prefix]*rule),
			rest:     rule{Tunnel, "everything of " + name},
			absent:   &rule{Nowhere, "the tunnel has no " + name + " address"},
		}
		if cfg.Bypass {
			t.families[i].absent = &rule{Direct, "the tunnel has no " + name + " address, bypass"}
		}
	}

	// Excludes come after includes, so that they win where both name the same prefix.
	for _, p := range cfg.Addresses {
		if err := t.addPrefix(p, Tunnel, "on-link"); err != nil {
			return nil, err
		}
		t.family(p.Addr()).absent = nil
	}
	for _, p := range cfg.Include {
		if err := t.addPrefix(p, Tunnel, "include"); err != nil {
			return nil, err
		}
		t.family(p.Addr()).rest = rule{Direct, "not included"}
	}
	for _, a := range cfg.DNS {
		if err := t.addPrefix(netip.PrefixFrom(a.WithZone(""), a.BitLen()), Tunnel, "DNS server"); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.LocalLAN {
		if err := t.addPrefix(p, Direct, "local network"); err != nil {
			return nil, err
		}
	}
	for _, p := range cfg.Exclude {
		if err := t.addPrefix(p, Direct, "exclude"); err != nil {
			return nil, err
		}
	}
	for _, a := range cfg.Gateway {
		if !a.IsValid() {
			return nil, fmt.Errorf("split: gateway: the address is not valid")
		}
		t.gateway[a.Unmap().WithZone("")] = struct{}{}
	}
	for i := range t.families {
		t.families[i].sortLengths()
	}

	for _, s := range cfg.DynamicInclude {
		if err := t.addName(s, Tunnel, "dynamic include"); err != nil {
			return nil, err
		}
	}
	for _, s := range cfg.DynamicExclude {
		if err := t.addName(s, Direct, "dynamic exclude"); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) addPrefix(p netip.Prefix, way Way, what string) error {
	if !p.IsValid() {
		return fmt.Errorf("split: %s: prefix %v is not valid", what, p)
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return fmt.Errorf("split: %s: prefix %v mixes IPv4 with IPv6", what, p)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	t.family(p.Addr()).prefixes[p] = &rule{way, what + " " + p.String()}
	return nil
}

func (t *Table) addName(s string, way Way, what string) error {
	name, ok := canonical(s)
	if !ok {
		return fmt.Errorf("split: %s: %q is not a domain name", what, s)
	}
	t.names[name] = &rule{way, what + " " + name}
	return nil
}

// family returns the half of the table that a belongs to. It must be valid.
func (t *Table) family(a netip.Addr) *family {
	if a.Is4() || a.Is4In6() {
		return &t.families[0]
	}
	return &t.families[1]
}

func (f *family) sortLengths() {
	var present [129]bool
	for p := range f.prefixes {
		present[p.Bits()] = true
	}
	for n := len(present) - 1; n >= 0; n-- {
		if present[n] {
			f.lengths = append(f.lengths, n)
		}
	}
}

// Route implements [Router].
func (t *Table) Route(host string, addr netip.Addr) Way { return t.find(host, addr).way }

// Explain is Route with the rule that decided, in words for a person.
func (t *Table) Explain(host string, addr netip.Addr) (Way, string) {
	r := t.find(host, addr)
	return r.way, r.text
}

func (t *Table) find(host string, addr netip.Addr) *rule {
	if t.names == nil {
		return &ruleZero
	}
	if !addr.IsValid() {
		if r := t.findName(host); r != nil {
			return r
		}
		return &ruleUnknown
	}
	addr = addr.Unmap().WithZone("")
	if _, ok := t.gateway[addr]; ok {
		return &ruleGateway
	}
	if addr.IsLoopback() {
		return &ruleLoopback
	}
	f := t.family(addr)
	r := t.findName(host)
	if r == nil {
		r = f.find(addr)
	}
	if f.absent != nil && (r.way == Tunnel || r == &f.rest) {
		return f.absent
	}
	return r
}

// find returns the rule of the longest prefix that contains addr.
func (f *family) find(addr netip.Addr) *rule {
	for _, n := range f.lengths {
		p, err := addr.Prefix(n)
		if err != nil {
			continue
		}
		if r, ok := f.prefixes[p]; ok {
			return r
		}
	}
	return &f.rest
}

// maxName is the length of the longest domain name without its final dot (RFC 1035 section 2.3.4).
const maxName = 253

// findName returns the rule of the longest suffix of host, or nil. It looks the suffixes up one by one, in lower
// case on the stack.
func (t *Table) findName(host string) *rule {
	host = strings.TrimSuffix(host, ".")
	if len(t.names) == 0 || host == "" || len(host) > maxName {
		return nil
	}
	var mem [maxName]byte
	name := mem[:len(host)]
	for i := range name {
		name[i] = lower(host[i])
	}
	for i := 0; i < len(name); i++ {
		if i > 0 && name[i-1] != '.' {
			continue
		}
		if r, ok := t.names[string(name[i:])]; ok {
			return r
		}
	}
	return nil
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// canonical returns the form of a domain suffix in which it is compared: lower case, without a final dot and without a
// wildcard in front. It reports false for what cannot be a domain name.
func canonical(s string) (string, bool) {
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(s, "*")
	s = strings.TrimPrefix(s, ".")
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", false
	}
	b := make([]byte, len(s))
	label := 0
	for i := range b {
		c := lower(s[i])
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		case c <= ' ' || c == '*' || c >= 0x7f:
			return "", false
		}
		if label++; label > 63 {
			return "", false
		}
		b[i] = c
	}
	return string(b), label > 0
}
