package failover

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"culvert.example/vpn/packet"
)

const (
	// replyRate and replyBurst bound the messages about packets that are too large: so many a second, and so many at once.
	replyRate, replyBurst = 20, 16

	// maxReply4 and maxReply6 are the largest size in bytes of such a message: as much of the packet as fits (RFC 1812 section 4.3.2.3,
	// RFC 4443 section 2.4).
	maxReply4, maxReply6 = packet.MinMTU4, packet.MinMTU6
)

// replies are ICMP messages on their way to ReadBatch, about packets that were too large. There are never more than replyBurst.
type replies struct {
	waiting chan struct{} // has an element while there are any

	mu     sync.Mutex
	ring   packet.Batch
	begin  int
	n      int
	tokens float64
	filled time.Time // when tokens was brought up to date
}

func (r *replies) init() {
	r.waiting = make(chan struct{}, 1)
	r.tokens = replyBurst
}

// add answers the packet p, for which the path has only mtu bytes, if it may be answered at all.
func (r *replies) add(p []byte, mtu int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.filled.IsZero() {
		r.tokens = min(replyBurst, r.tokens+now.Sub(r.filled).Seconds()*replyRate)
	}
	r.filled = now
	if r.tokens < 1 || r.n == replyBurst {
		return
	}
	if r.ring == nil {
		r.ring = packet.NewBatch(replyBurst, max(maxReply4, maxReply6))
	}
	slot := &r.ring[(r.begin+r.n)%replyBurst]
	n := tooBigReply(slot.Space(), p, mtu)
	if n == 0 {
		return
	}
	slot.SetLen(n)
	r.tokens--
	r.n++
	r.signal()
}

// take copies messages to b and returns how many.
func (r *replies) take(b packet.Batch) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(b) && r.n > 0 {
		if b[n].Set(r.ring[r.begin].Bytes()) {
			n++
		}
		r.begin = (r.begin + 1) % replyBurst
		r.n--
	}
	if r.n > 0 {
		r.signal()
	}
	return n
}

func (r *replies) signal() {
	select {
	case r.waiting <- struct{}{}:
	default:
	}
}

// tooBigReply writes to out the message that a router sends about the packet p if the next link takes only mtu bytes: ICMP
// "fragmentation needed" (RFC 792, RFC 1191) or ICMPv6 "packet too big" (RFC 4443, RFC 8201), from the destination of p to its source. It
// returns the length, or 0 if p must not be answered: an ICMP error, a fragment but the first, a packet from or to a
// group or no host at all, or none that can be understood. Out has room for the largest.
func tooBigReply(out, p []byte, mtu int) int {
	if len(p) == 0 {
		return 0
	}
	switch p[0] >> 4 {
	case 4:
		return tooBigReply4(out, p, mtu)
	case 6:
		return tooBigReply6(out, p, mtu)
	}
	return 0
}

// answerable reports whether a is the address of one host.
func answerable(a netip.Addr) bool {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return false
	}
	return !a.Is4() || a.As4()[0] < 240 // class E and broadcast
}

const (
	protoICMP   = 1
	protoICMPv6 = 58

	typeUnreachable4 = 3
	codeFragNeeded   = 4
	typeTooBig6      = 2
)

func tooBigReply4(out, p []byte, mtu int) int {
	if len(p) < 20 {
		return 0
	}
	header := int(p[0]&15) * 4
	if header < 20 || len(p) < header+8 {
		return 0
	}
	src, dst := [4]byte(p[12:16]), [4]byte(p[16:20])
	if !answerable(netip.AddrFrom4(src)) || !answerable(netip.AddrFrom4(dst)) {
		return 0
	}
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return 0
	}
	if p[9] == protoICMP {
		switch p[header] {
		case 0, 8, 13, 14, 15, 16, 17, 18: // echo, timestamp, information, address mask: no errors
		default:
			return 0
		}
	}
	quote := min(len(p), maxReply4-28)
	n := 28 + quote
	h := out[:20]
	clear(h)
	h[0] = 0x45
	h[1] = 0xc0 // internetwork control (RFC 1812 section 4.3.2.5)
	binary.BigEndian.PutUint16(h[2:], uint16(n))
	h[6] = 0x40 // don't fragment
	h[8] = 64
	h[9] = protoICMP
	copy(h[12:], dst[:])
	copy(h[16:], src[:])
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(0, h)))
	icmp := out[20:n]
	clear(icmp[:8])
	icmp[0], icmp[1] = typeUnreachable4, codeFragNeeded
	binary.BigEndian.PutUint16(icmp[6:], uint16(min(max(mtu, 68), packet.MaxSize))) // RFC 791: 68 is the least
	copy(icmp[8:], p[:quote])
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(0, icmp)))
	return n
}

func tooBigReply6(out, p []byte, mtu int) int {
	if len(p) < 40 {
		return 0
	}
	src, dst := [16]byte(p[8:24]), [16]byte(p[24:40])
	if !answerable(netip.AddrFrom16(src)) || !answerable(netip.AddrFrom16(dst)) {
		return 0
	}
	next, rest := p[6], p[40:]
walk:
	for {
		switch next {
		case 0, 43, 60: // hop-by-hop options, routing, destination options
			if len(rest) < 8 {
				return 0
			}
			length := (int(rest[1]) + 1) * 8
			if len(rest) < length {
				return 0
			}
			next, rest = rest[0], rest[length:]
		case 44: // fragment
			if len(rest) < 8 || binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return 0
			}
			next, rest = rest[0], rest[8:]
		case protoICMPv6:
			if len(rest) < 1 || rest[0] < 128 || rest[0] == 137 { // errors, and redirects (RFC 4443 section 2.4 e)
				return 0
			}
			break walk
		default:
			break walk
		}
	}
	quote := min(len(p), maxReply6-48)
	n := 48 + quote
	h := out[:40]
	clear(h)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(n-40))
	h[6] = protoICMPv6
	h[7] = 64
	copy(h[8:], dst[:])
	copy(h[24:], src[:])
	icmp := out[40:n]
	clear(icmp[:8])
	icmp[0] = typeTooBig6
	binary.BigEndian.PutUint32(icmp[4:], uint32(max(mtu, packet.MinMTU6)))
	copy(icmp[8:], p[:quote])
	pseudo := sum(uint32(n-40)+protoICMPv6, h[8:40])
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(pseudo, icmp)))
	return n
}

// sum adds the 16-bit words of b to s, for the checksum of RFC 1071. B is at most 64 KiB.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold returns the ones' complement sum in 16 bits.
func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
