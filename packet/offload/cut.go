package offload

import (
	"encoding/binary"
	"errors"

	"culvert.example/vpn/packet"
)

// ErrMalformed reports a packet that cannot be what the one who handed it over says.
var ErrMalformed = errors.New("malformed large packet")

// A Cutter divides one large packet into those that may travel, with complete checksums. It keeps its place when a batch
// is full. The zero Cutter is ready.
//
// TCP: sequence numbers go up, FIN and PSH are only on the last packet and CWR only on the first. UDP: each packet is a
// datagram. For IPv4, identifications go up.
type Cutter struct {
	// hdr[:header] are the IP and transport headers of the whole; the first ipHeader bytes are the IP header.
	hdr              [maxHeader]byte
	header, ipHeader int
	v6, udp          bool

	rest    []byte // the payload that is not cut yet
	segment int    // how much of it a packet has
	pair    uint64 // sum over the addresses and the protocol number
	seq     uint32
	id      uint16
	first   bool
	active  bool
}

// Start begins to cut p, a TCP segment or UDP datagram, whose transport header begins at the given offset, into packets with
// segment bytes of payload each. The checksums in p are not looked at. Its error matches [ErrMalformed]. The Cutter refers to
// p until Active reports false.
func (c *Cutter) Start(p []byte, transport, segment int) error {
	c.Stop()
	ip, ok := Parse(p)
	if !ok || segment <= 0 || transport < ip.Header || !ip.V6 && transport != ip.Header || ip.Fragment {
		return ErrMalformed
	}
	protocol := ip.Protocol
	if transport > ip.Header {
		if protocol, ok = skipExtensions(p[:ip.Total], transport); !ok {
			return ErrMalformed
		}
	}
	switch {
	case protocol == protoTCP && transport+headerLenTCP <= ip.Total:
		n := int(p[transport+12]>>4) * 4
		if n < headerLenTCP || transport+n > ip.Total {
			return ErrMalformed
		}
		c.header, c.udp = transport+n, false
		c.seq = binary.BigEndian.Uint32(p[transport+4:])
	case protocol == protoUDP && transport+headerLenUDP <= ip.Total:
		c.header, c.udp = transport+headerLenUDP, true
	default:
		return ErrMalformed
	}
	c.ipHeader, c.v6, c.segment = transport, ip.V6, segment
	copy(c.hdr[:c.header], p)
	c.rest = p[c.header:ip.Total]
	c.pair = sum64(ip.Pair(p), uint64(protocol)<<8) // in the byte order of sum64
	c.id = binary.BigEndian.Uint16(p[4:])
	c.first, c.active = true, true
	return nil
}

// skipExtensions follows the extension headers of the IPv6 packet p to the transport header at the given offset, and returns
// its protocol. Only options are among what is ever cut.
func skipExtensions(p []byte, transport int) (protocol byte, ok bool) {
	if transport > headerLen6+maxExtensions || transport > len(p) {
		return 0, false
	}
	const hopByHop, destination = 0, 60
	at := headerLen6
	for protocol = p[6]; at+8 <= transport && (protocol == hopByHop || protocol == destination); {
		protocol = p[at]
		at += 8 + int(p[at+1])*8
	}
	return protocol, at == transport
}

// Active reports whether there is more to cut.
func (c *Cutter) Active() bool { return c.active }

// Stop gives up what is not cut yet.
func (c *Cutter) Stop() { c.active, c.rest = false, nil }

// Fill writes packets into b from the front and returns how many. It gives up what is left, and reports false, if a Buf
// has no room for a packet.
func (c *Cutter) Fill(b packet.Batch) (n int, ok bool) {
	for n < len(b) && c.active {
		size := min(c.segment, len(c.rest))
		mem := b[n].Space()
		if len(mem) < c.header+size {
			c.Stop()
			return n, false
		}
		mem = mem[:c.header+size]
		copy(mem, c.hdr[:c.header])
		copy(mem[c.header:], c.rest[:size])
		c.rest = c.rest[size:]
		c.finish(mem)
		b[n].SetLen(len(mem))
		n++
		if len(c.rest) == 0 {
			c.Stop()
		}
	}
	return n, true
}

// finish makes the headers of p those of a packet of its own.
func (c *Cutter) finish(p []byte) {
	if c.v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-headerLen6))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], c.id)
		c.id++
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^Sum(p[:c.ipHeader], 0))
	}
	h := p[c.ipHeader:c.header]
	length := len(p) - c.ipHeader
	at := 6
	if c.udp {
		binary.BigEndian.PutUint16(h[4:], uint16(length))
	} else {
		at = 16
		binary.BigEndian.PutUint32(h[4:], c.seq)
		c.seq += uint32(len(p) - c.header)
		if len(c.rest) > 0 {
			h[13] &^= flagFin | flagPsh
		}
		if !c.first {
			h[13] &^= flagCwr
		}
	}
	c.first = false
	h[at], h[at+1] = 0, 0
	// The payload is in the cache of the processor now.
	sum := add(c.pair, uint64(length&0xff)<<8|uint64(length>>8))
	check := ^fold(sum64(p[c.ipHeader:], sum))
	if check == 0 && c.udp {
		check = 0xffff // zero would mean none (RFC 768)
	}
	binary.BigEndian.PutUint16(h[at:], check)
}

// Complete finishes a checksum that was left to the device: that of what begins at start, to be written at offset from
// there, where the sum over the pseudo header stands already. It reports false, and changes nothing, if that is not
// within p.
func Complete(p []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start+offset+2 > len(p) {
		return false
	}
	check := ^Sum(p[start:], 0)
	if check == 0 {
		check = 0xffff // the same number, and not "none" to UDP
	}
	binary.BigEndian.PutUint16(p[start+offset:], check)
	return true
}
