package split

import (
	"iter"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
)

// Prefixes returns what the Table says of addresses without a name, for a routing table in which the longest prefix decides:
// what matches a prefix of in belongs to the tunnel's device, what matches a prefix of out is reached without it, and
// what matches none is not the tunnel's business. Addresses that go nowhere are in, so that the tunnel gets
// their packets and drops them. The loopback network, and what of IPv6 stays on its link, are left to the machine, which looks for them
// at the interface that they are used with.
//
// The lists are the shortest with which no prefix of in has an address that no rule for the tunnel covers: a hole in a network
// becomes a prefix of out, but networks are not joined across what was never the tunnel's. They are sorted, and
// depend only on what the rules mean, not on their order or on what is said twice. They must be put to use together.
func (t *Table) Prefixes() (in, out []netip.Prefix) {
	for i, rules := range [...]iter.Seq2[netip.Prefix, ref]{t.prefixes.AllSorted4(), t.prefixes.AllSorted6()} {
		p := planner{is4: i == 0}
		segs := segments(&t.families[i], rules)
		p.measure(0, segs)
		p.emit(block{}, segs, false)
		slices.SortFunc(p.in, netip.Prefix.Compare)
		slices.SortFunc(p.out, netip.Prefix.Compare)
		in, out = append(in, p.in...), append(out, p.out...)
	}
	return in, out
}

// A segment is a stretch of addresses, up to where the next one starts, that are of one kind.
type segment struct {
	start   u128
	in      bool // not direct
	covered bool // by a rule for the tunnel, which may have a hole here
}

// segments cuts the addresses of a family at the borders of its rules, which come as bart sorts them: by their first address, and
// longer prefixes after those that contain them. No two neighbours are of one kind.
func segments(f *family, rules iter.Seq2[netip.Prefix, ref]) []segment {
	in := func(r ref) bool {
		if f.absent != 0 && (r.way() == Tunnel || r == f.rest) {
			r = f.absent
		}
		return r.way() != Direct
	}
	var segs []segment
	set := func(start u128, s segment) {
		if n := len(segs); n > 0 && segs[n-1].start == start {
			segs = segs[:n-1] // a longer prefix begins, or a shorter one ends, at the same address
		}
		if n := len(segs); n == 0 || segs[n-1].in != s.in || segs[n-1].covered != s.covered {
			segs = append(segs, segment{start, s.in, s.covered})
		}
	}

	// The stack holds the prefixes around the present address, each with the last address that it has.
	type open struct {
		last u128
		segment
	}
	all := in(f.rest)
	stack := []open{{last: ones(0), segment: segment{in: all, covered: all}}}
	set(u128{}, stack[0].segment)
	pop := func() {
		last := stack[len(stack)-1].last
		stack = stack[:len(stack)-1]
		if next := last.plus1(); next != (u128{}) {
			set(next, stack[len(stack)-1].segment)
		}
	}
	for p, r := range rules {
		start := fromAddr(p.Addr())
		for stack[len(stack)-1].last.less(start) {
			pop()
		}
		s := segment{in: in(r)}
		s.covered = s.in || stack[len(stack)-1].covered
		stack = append(stack, open{start.or(ones(p.Bits())), s})
		set(start, s)
	}
	for len(stack) > 1 {
		pop()
	}
	return segs
}

// A block is the addresses that have their first bits in common with addr, whose other bits are zero.
type block struct {
	addr u128
	bits int
}

// A planner finds the fewest prefixes for a list of segments. It goes down the binary tree of blocks twice, leaving out the
// blocks that hold but one segment and taking at one go the chains of blocks with all borders in one half.
//
// A block has a cost for each way that is inherited from the prefixes around it: how many prefixes it takes to set right
// what lies within. It is the sum of those of its halves, or one more than what that would be had it inherited the other
// way, namely if it gets a prefix itself.
type planner struct {
	is4     bool
	sums    []cost // of the blocks whose halves both have borders or meet in one, in the order of descent
	next    int    // of the sums that emit will need
	in, out []netip.Prefix
}

// A cost is how many prefixes a block takes, by whether it inherits the way out (0) or in (1).
type cost [2]int32

func (a cost) plus(b cost) cost { return cost{a[0] + b[0], a[1] + b[1]} }

// cost returns the cost of a block without a border.
func (s segment) cost() cost {
	if s.in {
		return cost{1, 0}
	}
	return cost{0, 1}
}

// turns reports whether a block should have a prefix for the other way than inherited. sum is the cost of its halves, and covered
// whether all of it is covered by rules for the tunnel. Where it makes no difference, networks stay whole and
// holes small.
func (sum cost) turns(inherited, covered bool) bool {
	if inherited {
		return 1+sum[0] < sum[1]
	}
	return covered && 1+sum[1] <= sum[0]
}

// with returns the cost of a block with halves that cost sum.
func (sum cost) with(covered bool) cost {
	c := sum
	if sum.turns(false, covered) {
		c[0] = 1 + sum[1]
	}
	if sum.turns(true, covered) {
		c[1] = 1 + sum[0]
	}
	return c
}

// cut returns the smallest block that has all borders between segs inside, and the segments of its halves.
func cut(segs []segment) (b block, lower, upper []segment, covered bool) {
	first, last := segs[1].start.minus1(), segs[len(segs)-1].start
	b.bits = first.common(last)
	b.addr = last.and(ones(b.bits).not())
	middle := last.and(ones(b.bits + 1).not())
	i := sort.Search(len(segs), func(i int) bool { return i > 0 && !segs[i].start.less(middle) })
	lower, upper = segs[:i], segs[i:]
	if segs[i].start != middle {
		upper = segs[i-1:]
	}
	covered = !slices.ContainsFunc(segs, func(s segment) bool { return !s.covered })
	return b, lower, upper, covered
}

// beside returns the segment that the other half of a chain's block lies in, at a depth of n bits, where b is at the end of the
// chain.
func beside(b block, n int, segs []segment) segment {
	if b.addr.bit(n) {
		return segs[0]
	}
	return segs[len(segs)-1]
}

// measure returns the cost of a block of n bits that segs fill.
func (p *planner) measure(n int, segs []segment) cost {
	if len(segs) == 1 {
		return segs[0].cost()
	}
	b, lower, upper, covered := cut(segs)
	i := len(p.sums)
	p.sums = append(p.sums, cost{})
	sum := p.measure(b.bits+1, lower).plus(p.measure(b.bits+1, upper))
	p.sums[i] = sum
	for d := b.bits - 1; d >= n; d-- {
		sum = sum.with(covered).plus(beside(b, d, segs).cost())
	}
	return sum.with(covered)
}

// emit adds the prefixes for a block that segs fill and that inherits a way.
func (p *planner) emit(at block, segs []segment, inherited bool) {
	if len(segs) == 1 {
		if segs[0].in != inherited {
			p.add(at.addr, at.bits, segs[0].in)
		}
		return
	}
	b, lower, upper, covered := cut(segs)
	var sums [129]cost // of the blocks of the chain, by their bits
	sums[b.bits] = p.sums[p.next]
	p.next++
	for d := b.bits - 1; d >= at.bits; d-- {
		sums[d] = sums[d+1].with(covered).plus(beside(b, d, segs).cost())
	}
	for d := at.bits; d <= b.bits; d++ {
		if sums[d].turns(inherited, covered) {
			inherited = !inherited
			p.add(b.addr.and(ones(d).not()), d, inherited)
		}
		if d < b.bits {
			if s := beside(b, d, segs); s.in != inherited {
				p.add(b.addr.and(ones(d).not()).or(b.addr.not().and(bitAt(d))), d+1, s.in)
			}
		}
	}
	p.emit(block{b.addr, b.bits + 1}, lower, inherited)
	p.emit(block{b.addr.or(bitAt(b.bits)), b.bits + 1}, upper, inherited)
}

func (p *planner) add(addr u128, n int, in bool) {
	list := &p.out
	if in {
		list = &p.in
	}
	*list = append(*list, netip.PrefixFrom(addr.addr(p.is4), n))
}

// A u128 is an address as a number. An IPv4 address is in the upper 32 bits, so that bit 0 is the first of any address.
type u128 struct{ hi, lo uint64 }

func fromAddr(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{hi: uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32}
	}
	b := a.As16()
	var u u128
	for i := range 8 {
		u.hi = u.hi<<8 | uint64(b[i])
		u.lo = u.lo<<8 | uint64(b[i+8])
	}
	return u
}

func (u u128) addr(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{byte(u.hi >> 56), byte(u.hi >> 48), byte(u.hi >> 40), byte(u.hi >> 32)})
	}
	var b [16]byte
	for i := range 8 {
		b[i], b[i+8] = byte(u.hi>>(56-8*i)), byte(u.lo>>(56-8*i))
	}
	return netip.AddrFrom16(b)
}

// ones returns all ones but for the first n bits.
func ones(n int) u128 {
	if n < 64 {
		return u128{^uint64(0) >> n, ^uint64(0)}
	}
	return u128{0, ^uint64(0) >> (n - 64)} // a shift by 64 leaves nothing
}

// bitAt returns bit n alone.
func bitAt(n int) u128 {
	if n < 64 {
		return u128{hi: 1 << (63 - n)}
	}
	return u128{lo: 1 << (127 - n)}
}

func (u u128) bit(n int) bool   { return u.and(bitAt(n)) != u128{} }
func (u u128) and(v u128) u128  { return u128{u.hi & v.hi, u.lo & v.lo} }
func (u u128) or(v u128) u128   { return u128{u.hi | v.hi, u.lo | v.lo} }
func (u u128) not() u128        { return u128{^u.hi, ^u.lo} }
func (u u128) less(v u128) bool { return u.hi < v.hi || u.hi == v.hi && u.lo < v.lo }

func (u u128) plus1() u128 {
	lo, carry := bits.Add64(u.lo, 1, 0)
	return u128{u.hi + carry, lo}
}

func (u u128) minus1() u128 {
	lo, borrow := bits.Sub64(u.lo, 1, 0)
	return u128{u.hi - borrow, lo}
}

// common returns how many of the first bits of u and v are the same.
func (u u128) common(v u128) int {
	if u.hi != v.hi {
		return bits.LeadingZeros64(u.hi ^ v.hi)
	}
	return 64 + bits.LeadingZeros64(u.lo^v.lo)
}
