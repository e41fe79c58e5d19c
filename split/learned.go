package split

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

// MaxLearned is how many addresses of names with a rule a [Learned] remembers, and how many of other names. Where there are
// more, those go first that are outside of the tunnel and would go soonest.
const MaxLearned = 1 << 14

const (
	maxAnswer = 64 // addresses that are taken from one answer
	maxShared = 8  // names with a rule that are remembered for one address

	// minLife is how long an address is remembered at least: whoever asked needs a moment to connect, even where the answer
	// may not be kept at all. maxLife is how long at most, whatever the answer says and however much it is used.
	minLife, maxLife = time.Minute, 24 * time.Hour

	// linger is how much longer an address is remembered that is in use when its time is over.
	linger = 5 * time.Minute
)

// A Learned is a [Router]: a [Table] and what DNS answers taught about the addresses of names. It is for packets and flows of
// which only the address is known; those with a name go by the Table alone, so that one name never drags along another
// that happens to share its address. It is rule 5 of the Table, and so never moves what the user's prefixes cover,
// nor the DNS servers or the gateway.
//
// One address may belong to several names, and those may lie on different sides. Then, until their answers have
// expired:
//
//   - If one of the names has a rule for the tunnel, the address is in the tunnel. Nothing that belongs inside gets out because of a
//     neighbour.
//   - Otherwise, if all the names that were asked for have a rule to stay outside, the address is direct.
//   - Otherwise some name is known that has no rule, and the address goes where the prefixes of the Table say.
//
// An outsider can answer for an outside name with any address. So an exclude of the gateway's never takes an address of a
// private network out of the tunnel, and no exclude takes out one of the on-link prefixes.
//
// An answer is remembered for its TTL, but for a minute at least and for a day at most. An address that is still in use then
// lasts another five minutes at a time, since moving it would cut open connections; in use means that Route was
// asked for it without a name, or Keep was called.
//
// The zero Learned sends everything nowhere until it has a Table. It may be used by several goroutines; Route, Why, Explain
// and Keep never wait.
type Learned struct {
	state atomic.Pointer[state]

	mu     sync.Mutex
	listed map[netip.Addr]*record  // addresses of names with a rule
	others map[netip.Addr]sighting // addresses that only names without one have
}

// A state is what readers see. It does not change.
type state struct {
	table *Table
	addrs *bart.Table[*entry]
}

// An entry is what became of an address of names with a rule.
type entry struct {
	rule  ref         // zero if the prefixes of the table decide
	name  string      // that the rule is for
	other string      // name without a rule that shares the address
	used  atomic.Bool // since it was last looked at
}

// A record is what is known of an address.
type record struct {
	listed []sighting // of names with a rule, at least one, no name twice
	other  sighting   // of the name without a rule that lasts longest; the zero sighting if there is none
	entry  *entry     // what readers see
}

// A sighting is a name that an answer gave an address.
type sighting struct {
	name    string
	rule    ref // zero if there is none that could move the address
	expires time.Time
	last    time.Time // that expires may be moved to
}

// NewLearned returns a Learned with t, which may be nil, and without any address.
func NewLearned(t *Table) *Learned {
	l := new(Learned)
	l.SetTable(t)
	return l
}

// Table returns the Table of l. It is not nil.
func (l *Learned) Table() *Table {
	if s := l.state.Load(); s != nil {
		return s.table
	}
	return new(Table)
}

// SetTable gives l another Table, such as that of a new lease or of another local network, at once for all readers. What was
// learned stays, and is judged anew. A nil Table is the zero Table.
func (l *Learned) SetTable(t *Table) {
	if t == nil {
		t = new(Table)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listed, others := l.listed, l.others
	l.listed, l.others = make(map[netip.Addr]*record), make(map[netip.Addr]sighting)
	addrs := new(bart.Table[*entry])
	for a, r := range listed {
		for _, s := range append(r.listed, r.other) {
			if s.name != "" {
				addrs = l.see(t, addrs, a, s)
			}
		}
		if e, ok := addrs.Lookup(a); ok && r.entry.used.Load() {
			e.used.Store(true)
		}
	}
	for a, s := range others {
		addrs = l.see(t, addrs, a, s)
	}
	l.state.Store(&state{table: t, addrs: addrs})
}

// Learn takes in an answer from DNS: name, as it was asked for and not an alias on the way, has addrs for ttl. It reports whether the
// way of an address may have changed, and so what Prefixes returns. An answer may come from anywhere, so what cannot be is
// ignored: a name that is none, addresses that belong to no host, and more than 64 addresses.
func (l *Learned) Learn(now time.Time, name string, addrs []netip.Addr, ttl time.Duration) (changed bool) {
	name, ok := domain(name)
	if !ok || !isName(name) {
		return false
	}
	life := min(max(ttl, minLife), maxLife)
	seen := sighting{name: name, expires: now.Add(life), last: now.Add(maxLife)}

	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state.Load()
	if s == nil {
		return false
	}
	next := s.addrs
	for i, a := range addrs {
		if a = a.Unmap().WithZone(""); i < maxAnswer && a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
			next = l.see(s.table, next, a, seen)
		}
	}
	return l.publish(s, next)
}

// publish shows readers other entries, and reports whether they are others.
func (l *Learned) publish(s *state, addrs *bart.Table[*entry]) bool {
	if addrs == s.addrs {
		return false
	}
	l.state.Store(&state{table: s.table, addrs: addrs})
	return true
}

// see notes that a name has the address a, and returns what addrs becomes of it.
func (l *Learned) see(t *Table, addrs *bart.Table[*entry], a netip.Addr, seen sighting) *bart.Table[*entry] {
	if seen.rule = t.names.find(seen.name).rule(); !t.moves(a, seen.rule) {
		seen.rule = 0
	}
	r := l.listed[a]
	if r == nil && seen.rule == 0 {
		o, ok := l.others[a]
		if !ok && len(l.others) >= MaxLearned {
			delete(l.others, soonest(l.others, func(s sighting) time.Time { return s.expires }))
		}
		l.others[a] = o.or(seen)
		return addrs
	}
	if r == nil {
		if len(l.listed) >= MaxLearned {
			victim := soonest(l.listed, (*record).worth)
			delete(l.listed, victim)
			addrs = addrs.DeletePersist(hostPrefix(victim))
		}
		r = &record{other: l.others[a]}
		delete(l.others, a)
		l.listed[a] = r
	}
	r.add(seen)
	return r.judge(addrs, a)
}

// moves reports whether r may move a away from where the prefixes of t say that it is.
func (t *Table) moves(a netip.Addr, r ref) bool {
	switch {
	case r == 0:
		return false
	case r.way() == Tunnel:
		return true
	}
	return !t.onLink.Contains(a) && (t.rule(r).origin == FromUser || !internal(a))
}

// soonest returns the key of m whose time is over first, among a few that the map happens to begin with. Who fills the map on
// purpose cannot foresee which those are.
func soonest[V any](m map[netip.Addr]V, expires func(V) time.Time) netip.Addr {
	var victim netip.Addr
	var first time.Time
	n := 0
	for a, v := range m {
		if t := expires(v); n == 0 || t.Before(first) {
			victim, first = a, t
		}
		if n++; n == 16 {
			break
		}
	}
	return victim
}

// add notes a sighting, of names without a rule only the one that lasts longest.
func (r *record) add(seen sighting) {
	if seen.rule == 0 {
		r.other = r.other.or(seen)
		return
	}
	victim := -1
	for i, s := range r.listed {
		if s.name == seen.name {
			r.listed[i] = s.or(seen)
			return
		}
		// The rules for the tunnel stay longest, because they decide.
		if victim < 0 || s.rule.way() < r.listed[victim].rule.way() ||
			s.rule.way() == r.listed[victim].rule.way() && s.expires.Before(r.listed[victim].expires) {
			victim = i
		}
	}
	if len(r.listed) < maxShared {
		r.listed = append(r.listed, seen)
	} else if seen.rule.way() >= r.listed[victim].rule.way() {
		r.listed[victim] = seen
	}
}

// judge returns what addrs becomes when a goes the way that the names of r agree on.
func (r *record) judge(addrs *bart.Table[*entry], a netip.Addr) *bart.Table[*entry] {
	best := &r.listed[0]
	for i := range r.listed {
		if s := &r.listed[i]; s.rule.way() > best.rule.way() || s.rule.way() == best.rule.way() && s.name < best.name {
			best = s
		}
	}
	e := &entry{rule: best.rule, name: best.name}
	if best.rule.way() == Direct && r.other.name != "" {
		e.rule, e.other = 0, r.other.name
	}
	if old := r.entry; old != nil {
		if old.rule == e.rule && old.name == e.name && old.other == e.other {
			return addrs
		}
		e.used.Store(old.used.Load())
	}
	r.entry = e
	return addrs.InsertPersist(hostPrefix(a), e)
}

// Expire forgets what is over at now, and reports whether the way of an address may have changed. Next is when the next answer
// will be over, or the zero Time if there is none. Until Expire is called everything stays as it was, so call it at next, but
// every few seconds is often enough.
func (l *Learned) Expire(now time.Time) (changed bool, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state.Load()
	if s == nil {
		return false, time.Time{}
	}
	wait := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for a, o := range l.others {
		if o.over(now) {
			delete(l.others, a)
		} else {
			wait(o.expires)
		}
	}
	addrs := s.addrs
	for a, r := range l.listed {
		if r.expire(now) {
			if len(r.listed) > 0 {
				addrs = r.judge(addrs, a)
			} else {
				delete(l.listed, a)
				addrs = addrs.DeletePersist(hostPrefix(a))
				if r.other.name != "" && len(l.others) < MaxLearned {
					l.others[a] = r.other
					wait(r.other.expires)
				}
				continue
			}
		}
		for _, x := range r.listed {
			wait(x.expires)
		}
		if r.other.name != "" {
			wait(r.other.expires)
		}
	}
	return l.publish(s, addrs), next
}

// or returns the one of s and t that lasts longer. If both are of one name, the result may be prolonged as the later one may.
func (s sighting) or(t sighting) sighting {
	if s.name == t.name && s.last.Before(t.last) {
		s.last = t.last
	}
	if s.expires.Before(t.expires) {
		return t
	}
	return s
}

func (s *sighting) over(now time.Time) bool { return !now.Before(s.expires) }

// worth returns when r may go if there is no room. Who answers for names outside could fill it up, and what belongs inside
// would get out, so addresses in the tunnel go last.
func (r *record) worth() time.Time {
	if r.entry.rule.way() == Tunnel {
		return r.listed[0].expires.Add(maxLife)
	}
	return r.listed[0].expires
}

// expire removes the sightings that are over, or prolongs them if the address is in use. It reports whether any is gone.
func (r *record) expire(now time.Time) (gone bool) {
	due := r.other.name != "" && r.other.over(now)
	for i := range r.listed {
		due = due || r.listed[i].over(now)
	}
	if !due {
		return false
	}
	used := r.entry.used.Swap(false)
	stays := func(s *sighting) bool {
		if s.over(now) && used {
			if s.expires = now.Add(linger); s.expires.After(s.last) {
				s.expires = s.last
			}
		}
		return !s.over(now)
	}
	if r.other.name != "" && !stays(&r.other) {
		r.other, gone = sighting{}, true
	}
	kept := r.listed[:0]
	for i := range r.listed {
		if stays(&r.listed[i]) {
			kept = append(kept, r.listed[i])
		} else {
			gone = true
		}
	}
	r.listed = kept
	return gone
}

// Keep says that addr is in use, as Route does, for connections whose packets do not come by here because the
// operating system sends them past the tunnel.
func (l *Learned) Keep(addr netip.Addr) {
	if s := l.state.Load(); s != nil {
		if e, ok := s.addrs.Lookup(addr.Unmap()); ok {
			e.use()
		}
	}
}

// use notes that an address is in use. It writes only if that is news, so that the processors can share the memory.
func (e *entry) use() {
	if !e.used.Load() {
		e.used.Store(true)
	}
}

// Route implements [Router].
func (l *Learned) Route(host string, addr netip.Addr) Way {
	s := l.state.Load()
	if s == nil {
		return Nowhere
	}
	r, e := s.table.find(host, addr, s.addrs)
	if e != nil {
		e.use()
	}
	return r.way()
}

// Explain is Route with the rule that decided, in words for a person. To explain is not to use.
func (l *Learned) Explain(host string, addr netip.Addr) (Way, string) {
	v := l.Why(host, addr)
	return v.Way, v.Rule
}

// Why is Route with the rule that decided and who made it. To explain is not to use.
func (l *Learned) Why(host string, addr netip.Addr) Verdict {
	s := l.state.Load()
	if s == nil {
		return ruleZero.verdict()
	}
	r, e := s.table.find(host, addr, s.addrs)
	v := s.table.rule(r).verdict()
	switch {
	case e == nil:
	case e.rule == r:
		v.Rule += ", as the address of " + e.name
	case e.rule == 0 && v.Way != Direct:
		v.Rule += ", because " + e.other + " shares the address with " + e.name
	}
	return v
}

// Prefixes returns the learned addresses that lie elsewhere than the prefixes of [Table.Prefixes] say, in the same form, to be
// added to those. Where both have the same prefix, this one counts.
func (l *Learned) Prefixes() (in, out []netip.Prefix) {
	s := l.state.Load()
	if s == nil {
		return nil, nil
	}
	for p := range s.addrs.AllSorted() {
		was, _ := s.table.find("", p.Addr(), nil)
		is, _ := s.table.find("", p.Addr(), s.addrs)
		switch {
		case was.way() == Direct && is.way() != Direct:
			in = append(in, p)
		case was.way() != Direct && is.way() == Direct:
			out = append(out, p)
		}
	}
	return in, out
}
