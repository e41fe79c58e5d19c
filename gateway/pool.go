package gateway

import (
	"hash/fnv"
	"net/netip"
	"sync/atomic"
)

// maxPool bounds the addresses of a pool that are given out.
const maxPool = 1 << 16

// A pool gives out the host addresses of a prefix, all but the gateway's own. It is not safe for concurrent use, except for
// owner.
type pool struct {
	prefix netip.Prefix
	own    netip.Addr
	size   uint32 // addresses of the prefix, from its first, at most maxPool
	taken  []uint64
	free   int
	owners []atomic.Pointer[session]
}

func newPool(p netip.Prefix) *pool {
	p = p.Masked()
	size := uint32(maxPool)
	if host := p.Addr().BitLen() - p.Bits(); host < 16 {
		size = 1 << host
	}
	l := &pool{prefix: p, own: p.Addr().Next(), size: size, free: int(size)}
	l.taken, l.owners = make([]uint64, (size+63)/64), make([]atomic.Pointer[session], size)
	// The first is the network itself (and the subnet-router anycast address of RFC 4291), the second is the gateway's.
	l.take(0)
	l.take(1)
	if p.Addr().Is4() && p.Bits() <= 30 && size == 1<<(32-p.Bits()) {
		l.take(size - 1) // broadcast
	}
	return l
}

func (l *pool) take(i uint32) {
	l.taken[i/64] |= 1 << (i % 64)
	l.free--
}

// lease returns a free address, and false if there is none. The same user tends to get the same one. It does not return avoid.
func (l *pool) lease(user string, avoid netip.Addr) (netip.Addr, bool) {
	h := fnv.New32a()
	h.Write([]byte(user))
	start := h.Sum32() % l.size
	for n := range l.size {
		i := (start + n) % l.size
		if l.taken[i/64]&(1<<(i%64)) != 0 {
			continue
		}
		a := l.at(i)
		if a == avoid {
			continue
		}
		l.take(i)
		return a, true
	}
	return netip.Addr{}, false
}

// at returns the i-th address of the prefix, i < 65,536.
func (l *pool) at(i uint32) netip.Addr {
	b := l.prefix.Addr().AsSlice()
	n := len(b)
	v := uint32(b[n-2])<<8 | uint32(b[n-1])
	v += i // the low bits of a masked prefix are zero as far as i reaches
	b[n-2], b[n-1] = byte(v>>8), byte(v)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// release takes an address back.
func (l *pool) release(a netip.Addr) {
	if i, ok := l.index(a); ok && l.taken[i/64]&(1<<(i%64)) != 0 {
		l.taken[i/64] &^= 1 << (i % 64)
		l.free++
	}
}

// index is the inverse of at. It reports false for an address that the pool does not give out.
func (l *pool) index(a netip.Addr) (uint32, bool) {
	if !l.prefix.Contains(a) {
		return 0, false
	}
	base := l.prefix.Addr()
	if a.Is4() {
		x, y := a.As4(), base.As4()
		i := uint32(x[0])<<24 | uint32(x[1])<<16 | uint32(x[2])<<8 | uint32(x[3])
		i -= uint32(y[0])<<24 | uint32(y[1])<<16 | uint32(y[2])<<8 | uint32(y[3])
		return i, i < l.size
	}
	x, y := a.As16(), base.As16()
	if [14]byte(x[:14]) != [14]byte(y[:14]) {
		return 0, false
	}
	i := uint32(x[14])<<8 | uint32(x[15])
	i -= uint32(y[14])<<8 | uint32(y[15])
	return i, i < l.size
}

// owner returns the place of the session that has the address, nil for one that the pool does not give out.
func (l *pool) owner(a netip.Addr) *atomic.Pointer[session] {
	i, ok := l.index(a)
	if !ok {
		return nil
	}
	return &l.owners[i]
}
