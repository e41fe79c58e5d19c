package filter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// Rules are a compiled [Config]. They do not change, save for their counters, and may be used by several goroutines.
type Rules struct {
	rules     []rule
	words     int // of a set
	byDefault Action
	logAll    bool

	// Each condition has sets of the rules that a value of it meets. A rule without the condition is in all of them.
	users     table[string]
	ids       map[int]set
	programs  table[string]
	dirs      map[string]set // with their final slash
	names     map[string]set // the rules for a name and what is below
	below     map[string]set // the rules for what is below a name
	sure      map[string]set // as names, for confirmed names only
	sureBelow map[string]set
	prefixes  [2]prefixTable // IPv4, IPv6
	anywhere  set            // rules that are not about the other end
	named     set            // rules with Names
	ports     []portSpan     // in order, without gaps
	portless  set            // rules without ports
	protocol  [protocols]set
	direction [directions]set

	// final are the rules that decide, allowing those of them that allow, and noting those that want the flow noted.
	final, allowing, noting set

	hits []atomic.Uint64 // of each rule, and of the default
}

// A set is a set of rules, one bit for each.
type set []uint64

func (s set) add(i int) { s[i/64] |= 1 << (i % 64) }

// A table maps the values of a condition to the rules that they meet; any are the rules without the condition.
type table[K comparable] struct {
	is  map[K]set
	any set
}

// A prefixTable finds the rules with prefixes that contain an address.
type prefixTable struct {
	is      map[netip.Prefix]set
	lengths []int
}

// A portSpan is the rules for the ports from first up to the next span.
type portSpan struct {
	first uint16
	rules set
}

// A rule is what is left of a Rule, for Explain.
type rule struct {
	Rule
	prefixes []netip.Prefix
	ports    []portRange
}

type portRange struct{ first, last uint16 }

// Compile checks cfg and makes Rules of it. An error names the field and the value that are wrong. Cfg may change afterwards.
func Compile(cfg Config) (*Rules, error) {
	switch {
	case cfg.Grade != "" && cfg.Grade != GradeFirewall:
		return nil, fmt.Errorf("filter: grade %.40q does not exist here, only %q", cfg.Grade, GradeFirewall)
	case cfg.FilterSockets != nil && !*cfg.FilterSockets:
		return nil, fmt.Errorf("filter: filter_sockets is false, but sockets are what is filtered: leave it out or set it to true")
	case cfg.FilterPackets != nil && *cfg.FilterPackets:
		return nil, fmt.Errorf("filter: filter_packets is true, but no packets are filtered: leave it out or set it to false")
	case cfg.Default != Block && cfg.Default != Allow:
		return nil, fmt.Errorf("filter: default is %v, want block or allow", cfg.Default)
	case len(cfg.Rules) > MaxRules:
		return nil, fmt.Errorf("filter: %d rules, more than %d", len(cfg.Rules), MaxRules)
	}
	c := compiler{r: &Rules{
		words: (len(cfg.Rules) + 63) / 64, byDefault: cfg.Default, logAll: cfg.LogDefault,
		ids: make(map[int]set), dirs: make(map[string]set),
		names: make(map[string]set), below: make(map[string]set), sure: make(map[string]set), sureBelow: make(map[string]set),
		hits: make([]atomic.Uint64, len(cfg.Rules)+1),
	}}
	r := c.r
	r.users, r.programs = table[string]{make(map[string]set), c.set()}, table[string]{make(map[string]set), c.set()}
	for i := range r.prefixes {
		r.prefixes[i].is = make(map[netip.Prefix]set)
	}
	r.anywhere, r.named, r.portless = c.set(), c.set(), c.set()
	r.final, r.allowing, r.noting = c.set(), c.set(), c.set()
	for i := range r.protocol {
		r.protocol[i] = c.set()
	}
	for i := range r.direction {
		r.direction[i] = c.set()
	}
	seen := make(map[string]int)
	for i := range cfg.Rules {
		if err := c.rule(i, &cfg.Rules[i]); err != nil {
			return nil, fmt.Errorf("filter: rules[%d]%w", i, err)
		}
		name := r.rules[i].Name
		if j, ok := seen[name]; ok {
			return nil, fmt.Errorf("filter: rules[%d] and rules[%d] have the same name %.60q", j, i, name)
		}
		seen[name] = i
	}
	for i := range r.prefixes {
		r.prefixes[i].sortLengths()
	}
	c.spanPorts()
	return r, nil
}

// A compiler makes Rules.
type compiler struct {
	r      *Rules
	values int
	arena  []uint64
}

// set returns an empty set.
func (c *compiler) set() set {
	n := c.r.words
	if len(c.arena) < n {
		c.arena = make([]uint64, max(n*64, 64))
	}
	s := c.arena[:n:n]
	c.arena = c.arena[n:]
	return s
}

// put adds rule i to the set of a value.
func put[K comparable](c *compiler, m map[K]set, k K, i int) {
	s, ok := m[k]
	if !ok {
		s = c.set()
		m[k] = s
	}
	s.add(i)
}

// rule adds one rule.
func (c *compiler) rule(i int, in *Rule) error {
	r := c.r
	out := rule{Rule: *in}
	if out.Name == "" {
		out.Name = "rule " + strconv.Itoa(i+1)
	}
	if err := text(out.Name); err != nil || out.Name == defaultName {
		return fmt.Errorf(".name: %.60q cannot be the name of a rule", in.Name)
	}
	if in.Action > Log {
		return fmt.Errorf(".action: %v does not exist", in.Action)
	}
	for _, list := range []*[]string{&out.Users, &out.Programs, &out.Names, &out.Prefixes, &out.Ports, &out.Protocols} {
		if c.values += len(*list); c.values > MaxValues {
			return fmt.Errorf(": the conditions of all rules have more than %d values", MaxValues)
		}
		*list = slices.Clone(*list)
	}
	if in.Action != Log {
		r.final.add(i)
	}
	if in.Action == Allow {
		r.allowing.add(i)
	}
	if in.Action == Log || in.Note {
		r.noting.add(i)
	}
	for _, add := range []func(int, *rule) error{c.addUsers, c.addPrograms, c.addDestinations, c.addPorts, c.addProtocols, c.addDirection} {
		if err := add(i, &out); err != nil {
			return err
		}
	}
	r.rules = append(r.rules, out)
	return nil
}

// text reports what cannot be in a name or a path.
func text(s string) error {
	if s == "" || len(s) > maxText {
		return fmt.Errorf("%d bytes, want 1 to %d", len(s), maxText)
	}
	for _, b := range []byte(s) {
		if b < ' ' || b == 0x7f {
			return fmt.Errorf("the control character %#02x", b)
		}
	}
	return nil
}

func (c *compiler) addUsers(i int, in *rule) error {
	if len(in.Users) == 0 {
		c.r.users.any.add(i)
	}
	for j, s := range in.Users {
		if err := text(s); err != nil {
			return fmt.Errorf(".users[%d]: %.60q is no user: %w", j, s, err)
		}
		if !number(s) {
			put(c, c.r.users.is, s, i)
			continue
		}
		id, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return fmt.Errorf(".users[%d]: %.60q is too large for the number of a user", j, s)
		}
		put(c, c.r.ids, int(id), i)
	}
	return nil
}

func (c *compiler) addPrograms(i int, in *rule) error {
	if len(in.Programs) == 0 {
		c.r.programs.any.add(i)
	}
	for j, s := range in.Programs {
		if err := text(s); err != nil {
			return fmt.Errorf(".programs[%d]: %.60q is no path: %w", j, s, err)
		}
		if !absolute(s) {
			return fmt.Errorf(".programs[%d]: %.60q is not the whole path of a program, from the root and without detours", j, s)
		}
		if separator(s[len(s)-1]) {
			put(c, c.r.dirs, s, i)
		} else {
			put(c, c.r.programs.is, s, i)
		}
	}
	return nil
}

func separator(c byte) bool { return c == '/' || c == '\\' }

// absolute reports whether s is a path from the root, as the system spells it: /usr/bin/x or C:\Program Files\x.
func absolute(s string) bool {
	drive := len(s) >= 3 && s[1] == ':' && s[2] == '\\'
	if s[0] != '/' && !drive {
		return false
	}
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == '/' || drive && r == '\\' })
	return !slices.Contains(parts, "..") && !slices.Contains(parts, ".") && !strings.Contains(s, "//") && !strings.Contains(s, `\\`)
}

func (c *compiler) addDestinations(i int, in *rule) error {
	r := c.r
	if len(in.Names)+len(in.Prefixes) == 0 {
		r.anywhere.add(i)
	}
	if in.Confirmed && len(in.Names) == 0 {
		return fmt.Errorf(".confirmed: there are no names that could be confirmed")
	}
	names, below := r.names, r.below
	if in.Confirmed {
		names, below = r.sure, r.sureBelow
	}
	for j, s := range in.Names {
		name, only, ok := suffix(s)
		if !ok {
			return fmt.Errorf(".names[%d]: %.60q is not a domain name (spell international names with xn--, and put addresses into prefixes)", j, s)
		}
		r.named.add(i)
		if only {
			put(c, below, name, i)
		} else {
			put(c, names, name, i)
		}
	}
	for j, s := range in.Prefixes {
		p, err := parsePrefix(s)
		if err != nil {
			return fmt.Errorf(".prefixes[%d]: %.60q is neither an address nor a prefix such as 10.0.0.0/8: %w", j, s, err)
		}
		in.prefixes = append(in.prefixes, p)
		put(c, r.prefixes[familyOf(p.Addr())].is, p, i)
	}
	return nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// maxName is the length of the longest domain name (RFC 1035 section 2.3.4), and maxLabel that of the longest label.
const maxName, maxLabel = 253, 63

// suffix returns the name in s in the form in which it is compared, and whether only what is below it is meant.
func suffix(s string) (name string, below, ok bool) {
	s, star := strings.CutPrefix(s, "*.")
	if !star {
		s, below = strings.CutPrefix(s, ".")
	}
	below = below || star
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", false, false
	}
	letter := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel {
			return "", false, false
		}
		letter = false
		for _, b := range []byte(label) {
			switch {
			case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '-', b == '_':
				letter = true
			case '0' <= b && b <= '9':
			default:
				return "", false, false
			}
		}
	}
	// What ends in digits is an address.
	return strings.ToLower(s), below, letter
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("it has a zone")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("it mixes IPv4 with IPv6")
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("it has bits behind its length: did you mean %v?", p.Masked())
	}
	return p, nil
}

func (t *prefixTable) sortLengths() {
	for p := range t.is {
		if !slices.Contains(t.lengths, p.Bits()) {
			t.lengths = append(t.lengths, p.Bits())
		}
	}
	slices.Sort(t.lengths)
}

func (c *compiler) addPorts(i int, in *rule) error {
	if len(in.Ports) == 0 {
		c.r.portless.add(i)
	}
	for j, s := range in.Ports {
		p, ok := parsePorts(s)
		if !ok {
			return fmt.Errorf(".ports[%d]: %.60q is neither a port such as 443 nor a range such as 8000-8999", j, s)
		}
		in.ports = append(in.ports, p)
	}
	return nil
}

func parsePorts(s string) (p portRange, ok bool) {
	low, high, isRange := strings.Cut(s, "-")
	first, err := strconv.ParseUint(low, 10, 16)
	last := first
	if isRange && err == nil {
		last, err = strconv.ParseUint(high, 10, 16)
	}
	return portRange{uint16(first), uint16(last)}, err == nil && first <= last
}

// spanPorts makes the table of ports: where the rules change, from port 0 on.
func (c *compiler) spanPorts() {
	r := c.r
	starts := []int{0}
	for i := range r.rules {
		for _, p := range r.rules[i].ports {
			starts = append(starts, int(p.first), int(p.last)+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	for _, first := range starts {
		if first > 65535 {
			break
		}
		s := c.set()
		copy(s, r.portless)
		r.ports = append(r.ports, portSpan{uint16(first), s})
	}
	for i := range r.rules {
		for _, p := range joined(r.rules[i].ports) {
			at, _ := slices.BinarySearchFunc(r.ports, p.first, func(s portSpan, first uint16) int { return cmp.Compare(s.first, first) })
			for ; at < len(r.ports) && r.ports[at].first <= p.last; at++ {
				r.ports[at].rules.add(i)
			}
		}
	}
}

// joined returns the same ports in ranges that do not overlap, so that many of them take no longer than one.
func joined(in []portRange) (out []portRange) {
	in = slices.SortedFunc(slices.Values(in), func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	for _, p := range in {
		if n := len(out); n > 0 && p.first <= out[n-1].last {
			out[n-1].last = max(out[n-1].last, p.last)
		} else {
			out = append(out, p)
		}
	}
	return out
}

func (c *compiler) addProtocols(i int, in *rule) error {
	if len(in.Protocols) == 0 {
		for p := range c.r.protocol {
			c.r.protocol[p].add(i)
		}
	}
	for j, s := range in.Protocols {
		known := false
		for p := range c.r.protocol {
			if Protocol(p).String() == s {
				c.r.protocol[p].add(i)
				known = true
			}
		}
		if !known {
			return fmt.Errorf(".protocols[%d]: %.60q is not tcp, udp or icmp", j, s)
		}
	}
	return nil
}

func (c *compiler) addDirection(i int, in *rule) error {
	switch in.Direction {
	case "":
		c.r.direction[Out].add(i)
		c.r.direction[In].add(i)
	case Out.String():
		c.r.direction[Out].add(i)
	case In.String():
		c.r.direction[In].add(i)
	default:
		return fmt.Errorf(".direction: %.60q is not out or in", in.Direction)
	}
	return nil
}
