package gateway

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
)

const (
	protoICMP4, protoTCP, protoUDP, protoICMP6 = 1, 6, 17, 58

	headerLen4, headerLen6, icmpLen = 20, 40, 8

	// hopLimit is that of packets which are made here.
	hopLimit = 64
	// maxExtensions bounds the IPv6 extension headers that are looked at.
	maxExtensions = 8
)

// A header is what the outside of a packet says.
type header struct {
	src, dst netip.Addr
	total    int    // length of the packet in bytes
	protocol byte   // of the payload, behind all extension headers
	payload  int    // where it begins
	fragment bool   // the packet is a fragment, but not the first
	whole    bool   // IPv4: it must not be cut (DF); IPv6: always
	port     uint16 // destination port of TCP or UDP, else 0
}

// parseHeader reads the headers of p. It reports false if p is no IP packet, or one that lets its sender choose the way it takes: such
// a packet does not end where its destination address says (RFC 7126 section 4.3, RFC 5095).
func parseHeader(p []byte) (h header, ok bool) {
	if len(p) < headerLen4 {
		return h, false
	}
	switch p[0] >> 4 {
	case 4:
		h.src, h.dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		h.payload, h.total = int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		if h.payload < headerLen4 || h.payload > h.total || h.total > len(p) || sourceRouted(p[headerLen4:h.payload]) {
			return h, false
		}
		flags := binary.BigEndian.Uint16(p[6:])
		h.whole, h.fragment = flags&0x4000 != 0, flags&0x1fff != 0
		h.protocol = p[9]
	case 6:
		if len(p) < headerLen6 {
			return h, false
		}
		h.src, h.dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		h.total, h.whole = headerLen6+int(binary.BigEndian.Uint16(p[4:])), true
		if h.total > len(p) || !h.extensions(p[:h.total]) {
			return h, false
		}
	default:
		return h, false
	}
	if (h.protocol == protoTCP || h.protocol == protoUDP) && !h.fragment && h.payload+4 <= h.total {
		h.port = binary.BigEndian.Uint16(p[h.payload+2:])
	}
	return h, true
}

// extensions finds the payload of the IPv6 packet p. It reports false if the headers are malformed, too many, or have a route.
func (h *header) extensions(p []byte) bool {
	const hopByHop, routing, fragment, authentication, options = 0, 43, 44, 51, 60
	h.protocol, h.payload = p[6], headerLen6
	for range maxExtensions {
		rest := p[h.payload:]
		size := 0
		switch h.protocol {
		case hopByHop, options, fragment, routing, authentication:
			if len(rest) < 8 {
				return false
			}
			size = 8 + 8*int(rest[1])
		default:
			return true
		}
		switch h.protocol {
		case routing:
			if rest[3] != 0 { // segments left
				return false
			}
		case fragment:
			size = 8
			h.fragment = binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
		case authentication:
			size = 8 + 4*int(rest[1])
		}
		if size > len(rest) {
			return false
		}
		h.protocol = rest[0]
		h.payload += size
		if h.fragment {
			return true // what follows is somewhere in the middle of something
		}
	}
	return false
}

// sourceRouted reports whether the IPv4 options have a source route, or are malformed.
func sourceRouted(options []byte) bool {
	const end, nop, loose, strict = 0, 1, 131, 137
	for len(options) > 0 {
		switch options[0] {
		case end:
			return false
		case nop:
			options = options[1:]
			continue
		case loose, strict:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

// A complaint is what an ICMP error says.
type complaint uint8

const (
	tooBig complaint = iota
	prohibited
)

// complain returns an ICMP error to the sender of the packet p, which came from the client of s or is for it, or nil if none may or can
// be sent (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4). To a client it comes from the gateway's own address. To the others it
// comes from that of the client: the host, which has the gateway's, drops what comes from the device with an address of its own.
func (srv *Server) complain(s *session, p []byte, what complaint, mtu int) []byte {
	h, ok := parseHeader(p)
	if !ok || h.fragment || !answerable(h.src) || h.dst.IsMulticast() || h.isError(p) || !s.complaints.allow(time.Now()) {
		return nil
	}
	if what == tooBig {
		return icmpError(h.dst, h.src, what, mtu, p[:h.total])
	}
	for _, pool := range srv.table.pools {
		if own := pool.own; own.Is4() == h.src.Is4() {
			return icmpError(own, h.src, what, mtu, p[:h.total])
		}
	}
	return nil
}

// tooBig tells the sender of the packet p, which is for the client of s, how large its packets may be.
func (srv *Server) tooBig(s *session, p []byte, mtu int) {
	e := srv.complain(s, p, tooBig, mtu)
	if e == nil {
		return
	}
	buf := packet.NewBuf(len(e))
	buf.Set(e)
	if srv.device == nil {
		srv.toStack(packet.Batch{buf})
		return
	}
	select {
	case srv.device.answers <- buf:
	default:
	}
}

// answerable reports whether a can be a single host.
func answerable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// isError reports whether p is an ICMP error, or too short an ICMP message to tell.
func (h *header) isError(p []byte) bool {
	const echo4, redirect4, unreachable4, quench4, exceeded4, problem4 = 8, 5, 3, 4, 11, 12
	switch h.protocol {
	case protoICMP4, protoICMP6:
	default:
		return false
	}
	if h.payload >= h.total {
		return true
	}
	t := p[h.payload]
	if h.protocol == protoICMP6 {
		const redirect6 = 137
		return t < 128 || t == redirect6
	}
	return t == unreachable4 || t == quench4 || t == redirect4 || t == exceeded4 || t == problem4
}

// icmpError returns an ICMP error about the packet p.
func icmpError(src, dst netip.Addr, what complaint, mtu int, p []byte) []byte {
	const (
		unreachable4, codeFrag4, codeProhibited4 = 3, 4, 13
		unreachable6, codeProhibited6, tooBig6   = 1, 1, 2
		quote4                                   = 576 - headerLen4 - icmpLen
		quote6                                   = packet.MinMTU6 - headerLen6 - icmpLen
	)
	if src.Is4() {
		p = p[:min(len(p), quote4)]
		b := make([]byte, headerLen4+icmpLen+len(p))
		b[0], b[8], b[9] = 4<<4|headerLen4/4, hopLimit, protoICMP4
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], 0x4000)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:headerLen4], 0))
		m := b[headerLen4:]
		m[0], m[1] = unreachable4, codeProhibited4
		if what == tooBig {
			m[1] = codeFrag4
			binary.BigEndian.PutUint16(m[6:], uint16(mtu))
		}
		copy(m[icmpLen:], p)
		binary.BigEndian.PutUint16(m[2:], ^sum(m, 0))
		return b
	}
	p = p[:min(len(p), quote6)]
	b := make([]byte, headerLen6+icmpLen+len(p))
	b[0], b[6], b[7] = 6<<4, protoICMP6, hopLimit
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-headerLen6))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	m := b[headerLen6:]
	m[0], m[1] = unreachable6, codeProhibited6
	if what == tooBig {
		m[0], m[1] = tooBig6, 0
		binary.BigEndian.PutUint32(m[4:], uint32(mtu))
	}
	copy(m[icmpLen:], p)
	// The pseudo header: the addresses, the length, and the protocol (RFC 8200 section 8.1).
	binary.BigEndian.PutUint16(m[2:], ^sum(m, uint32(sum(b[8:40], uint32(len(m)+protoICMP6)))))
	return b
}

// sum returns the Internet checksum of b, not inverted (RFC 1071). Its result may be the start of another.
func sum(b []byte, start uint32) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// A limiter lets complaintRate events through in a second, and complaintBurst at once. The zero value is ready.
type limiter struct{ next atomic.Int64 }

const (
	complaintGap   = 10 * time.Millisecond
	complaintBurst = 50
)

func (l *limiter) allow(now time.Time) bool {
	old := l.next.Load()
	at := max(old, now.Add(-complaintBurst*complaintGap).UnixNano())
	return at <= now.UnixNano() && l.next.CompareAndSwap(old, at+int64(complaintGap))
}
