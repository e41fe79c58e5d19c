package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
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
	hosts  uint32 // those among them that are for clients: without firstHost in front, and without the broadcast address at the end
	taken  []uint64
	free   int
	owners []atomic.Pointer[session]
}

// firstHost is the place of the first address for clients. The first of a prefix is the network itself (and the subnet-router anycast
// address of RFC 4291), the second is the gateway's.
const firstHost = 2

func newPool(p netip.Prefix) *pool {
	p = p.Masked()
	size := uint32(maxPool)
	if host := p.Addr().BitLen() - p.Bits(); host < 16 {
		size = 1 << host
	}
	l := &pool{prefix: p, own: p.Addr().Next(), size: size, hosts: size - firstHost}
	if p.Addr().Is4() && size == 1<<(32-p.Bits()) {
		l.hosts-- // broadcast
	}
	l.free = int(l.hosts)
	l.taken, l.owners = make([]uint64, (size+63)/64), make([]atomic.Pointer[session], size)
	return l
}

func (l *pool) take(i uint32) {
	l.taken[i/64] |= 1 << (i % 64)
	l.free--
}

// preferred returns the place of the address that a user gets if it is free. It depends on nothing but the name and the size of the pool,
// so that it is the same after a restart, and all addresses for clients are equally likely.
func (l *pool) preferred(user string) uint32 {
	sum := sha256.Sum256([]byte(user))
	return firstHost + uint32(binary.BigEndian.Uint64(sum[:])%uint64(l.hosts))
}

// lease returns a free address, and false if there is none: the one that the user prefers, or else the next one that is free. It does not
// return avoid.
func (l *pool) lease(user string, avoid netip.Addr) (netip.Addr, bool) {
	start, end := l.preferred(user), firstHost+l.hosts
	for _, span := range [...][2]uint32{{start, end}, {firstHost, start}} {
		for i, ok := l.next(span[0], span[1]); ok; i, ok = l.next(i+1, span[1]) {
			if a := l.at(i); a != avoid {
				l.take(i)
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// next returns the first free place of those from i up to end, and false if there is none. It looks at 64 of them at a time.
func (l *pool) next(i, end uint32) (uint32, bool) {
	for i < end {
		if free := ^l.taken[i/64] >> (i % 64); free != 0 {
			i += uint32(bits.TrailingZeros64(free))
			return i, i < end
		}
		i = (i/64 + 1) * 64
	}
	return 0, false
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
