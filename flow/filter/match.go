package filter

import (
	"cmp"
	"math/bits"
	"slices"
)

// maxWords is the size of the largest set.
const maxWords = MaxRules / 64

// words is room for any set. It lies on the stack.
type words [maxWords]uint64

// or adds other to s.
func (s set) or(other set) {
	for i, w := range other {
		s[i] |= w
	}
}

// and takes from s what is not in other.
func (s set) and(other set) {
	for i := range s {
		s[i] &= other[i]
	}
}

// Match says what the rules say of s. It counts nothing.
func (r *Rules) Match(s *Subject) Verdict {
	v, _ := r.judge(s)
	return v
}

// judge is Match, and returns the name by which s was judged.
func (r *Rules) judge(s *Subject) (v Verdict, name string) {
	v, name = r.match(s), s.Name
	for _, other := range s.Others {
		one := *s
		one.Name, one.Confirmed, one.Others = other, true, nil
		o := r.match(&one)
		if o.Action == Block && o.Rule >= 0 && len(r.rules[o.Rule].Names) > 0 && v.Action != Block {
			o.Provisional = o.Provisional || v.Provisional
			v, o, name = o, v, other
		}
		v.Provisional = v.Provisional || o.Provisional
		if !v.Log && o.Log && o.LogName != defaultName {
			v.Log, v.LogName = true, o.LogName
		}
	}
	return v, name
}

// match is Match for the first name of s alone.
func (r *Rules) match(s *Subject) Verdict {
	var accMem, altMem, prefixMem words
	acc, alt, byPrefix := set(accMem[:r.words]), set(altMem[:r.words]), set(prefixMem[:r.words])
	if int(s.Protocol) >= protocols || int(s.Direction) >= directions {
		return Verdict{Action: Block, Rule: -1, Name: defaultName} // there are no such flows
	}
	copy(acc, r.direction[s.Direction])
	acc.and(r.protocol[s.Protocol])
	acc.and(r.portRules(s))
	r.userRules(alt, s)
	acc.and(alt)
	clear(alt)
	r.programRules(alt, s.Program)
	acc.and(alt)

	r.prefixRules(byPrefix, s)
	// What depends on the name: rules with names that no prefix has matched.
	clear(alt)
	copy(alt, r.named)
	alt.and(acc)
	for i := range alt {
		alt[i] &^= byPrefix[i]
	}
	depends := alt
	byPrefix.or(r.anywhere)
	r.nameRules(byPrefix, s.Name, s.Confirmed)
	acc.and(byPrefix)
	return r.verdict(acc, depends)
}

// verdict returns what the rules in matched say, of which those in depends could match another name.
func (r *Rules) verdict(matched, depends set) Verdict {
	v := Verdict{Action: r.byDefault, Rule: -1, Name: defaultName, Log: r.logAll}
	for i := range matched {
		if w := matched[i] & r.final[i]; w != 0 {
			v.Rule = i*64 + bits.TrailingZeros64(w)
			d := &r.rules[v.Rule]
			v.Action, v.Name, v.Log = d.Action, d.Name, false
			break
		}
	}
	end := v.Rule // the last rule that counts
	if end < 0 {
		end = len(r.rules) - 1
	}
	for i := 0; i*64 <= end; i++ {
		counts := ^uint64(0)
		if rest := end - i*64; rest < 63 {
			counts = 1<<(rest+1) - 1
		}
		if w := matched[i] & r.noting[i] & counts; w != 0 && v.LogName == "" {
			v.Log, v.LogName = true, r.rules[i*64+bits.TrailingZeros64(w)].Name
		}
		// Only rules that would have it otherwise matter. The one that has decided may not match another name.
		other := r.allowing[i]
		if v.Action == Allow {
			other = r.final[i]&^r.allowing[i] | r.noting[i]
		}
		if v.Rule >= 0 && v.Rule/64 == i {
			other |= 1 << (v.Rule % 64)
		}
		w := depends[i] & counts & other
		if w != 0 {
			v.Provisional = true
		}
	}
	if v.Log && v.LogName == "" {
		v.LogName = defaultName
	}
	return v
}

// portRules returns the rules that the port of s meets.
func (r *Rules) portRules(s *Subject) set {
	if s.Protocol == ICMP {
		return r.portless
	}
	at, found := slices.BinarySearchFunc(r.ports, s.Port, func(p portSpan, port uint16) int { return cmp.Compare(p.first, port) })
	if !found {
		at--
	}
	return r.ports[at].rules
}

// userRules adds the rules that the user of s meets.
func (r *Rules) userRules(to set, s *Subject) {
	to.or(r.users.any)
	if s.User != "" {
		to.or(r.users.is[s.User])
	}
	if s.UID >= 0 {
		to.or(r.ids[s.UID])
	}
}

// programRules adds the rules that a program meets.
func (r *Rules) programRules(to set, program string) {
	to.or(r.programs.any)
	if program == "" || len(program) > maxText {
		return
	}
	to.or(r.programs.is[program])
	if len(r.dirs) == 0 {
		return
	}
	for i := range len(program) - 1 {
		if separator(program[i]) {
			to.or(r.dirs[program[:i+1]])
		}
	}
}

// prefixRules adds the rules that have a prefix with the address of s in it.
func (r *Rules) prefixRules(to set, s *Subject) {
	a := s.Addr.Unmap().WithZone("")
	if !a.IsValid() {
		return
	}
	t := &r.prefixes[familyOf(a)]
	for _, n := range t.lengths {
		if p, err := a.Prefix(n); err == nil {
			to.or(t.is[p])
		}
	}
}

// nameRules adds the rules that a name meets.
func (r *Rules) nameRules(to set, name string, confirmed bool) {
	if name == "" || len(name) > maxName {
		return
	}
	for i := range len(name) {
		if i > 0 && name[i-1] != '.' {
			continue
		}
		to.or(r.names[name[i:]])
		if confirmed {
			to.or(r.sure[name[i:]])
		}
		if i > 0 {
			to.or(r.below[name[i:]])
			if confirmed {
				to.or(r.sureBelow[name[i:]])
			}
		}
	}
}

// Decide is Match for a flow that is judged in earnest: the rule that decides counts it, and so do the rules before it that log.
func (r *Rules) Decide(s *Subject) Verdict {
	v := r.Match(s)
	r.Count(v)
	return v
}

// Count counts a verdict of Match, where it became clear later that it was the final one.
func (r *Rules) Count(v Verdict) {
	at := v.Rule
	if at < 0 || at >= len(r.rules) {
		at = len(r.rules)
	}
	r.hits[at].Add(1)
}

// A Counter is how many flows a rule has decided.
type Counter struct {
	// Rule is the index of the rule, -1 for the default, and Name its name.
	Rule int    `json:"rule"`
	Name string `json:"name"`
	// Action is what became of the flows.
	Action Action `json:"action"`
	// Flows is how many there were.
	Flows uint64 `json:"flows"`
}

// Counters returns how many flows each rule has decided, in the order of the rules, and the default after them. A rule that only logs
// decides nothing.
func (r *Rules) Counters() []Counter {
	out := make([]Counter, 0, len(r.hits))
	for i := range r.rules {
		out = append(out, Counter{Rule: i, Name: r.rules[i].Name, Action: r.rules[i].Action, Flows: r.hits[i].Load()})
	}
	return append(out, Counter{Rule: -1, Name: defaultName, Action: r.byDefault, Flows: r.hits[len(r.rules)].Load()})
}

// Len returns how many rules there are.
func (r *Rules) Len() int { return len(r.rules) }
