package offload

import "encoding/binary"

// Numbers of the protocols that packets are joined and cut of, and of ICMP for IPv4, whose checksum covers no pseudo header.
const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
)

const (
	headerLen4   = 20
	headerLen6   = 40
	headerLenTCP = 20
	headerLenUDP = 8

	// maxExtensions bounds the IPv6 extension headers, and maxHeader all the headers, of a packet that is cut. TCP has
	// headers of up to 60 bytes, and IPv4 too.
	maxExtensions = 64
	maxHeader     = headerLen6 + maxExtensions + 60
)

// IP is what the outside of a packet says. It is enough to tell packets apart; it is no full validation.
type IP struct {
	V6       bool
	Protocol byte // of the payload; for IPv6 the first next header
	Header   int  // length of the IP header in bytes; for IPv6 without extension headers
	Total    int  // length of the packet in bytes as its header says, at most that of the memory it came in
	Fragment bool // only for IPv4
}

// Parse looks at p. It reports false if p cannot be an IP packet.
func Parse(p []byte) (ip IP, ok bool) {
	if len(p) < headerLen4 {
		return ip, false
	}
	switch p[0] >> 4 {
	case 4:
		ip.Header = int(p[0]&15) * 4
		ip.Total = int(binary.BigEndian.Uint16(p[2:]))
		ip.Protocol = p[9]
		ip.Fragment = binary.BigEndian.Uint16(p[6:])&0x3fff != 0
		return ip, ip.Header >= headerLen4 && ip.Header <= ip.Total && ip.Total <= len(p)
	case 6:
		if len(p) < headerLen6 {
			return ip, false
		}
		ip.V6 = true
		ip.Header = headerLen6
		ip.Total = headerLen6 + int(binary.BigEndian.Uint16(p[4:]))
		ip.Protocol = p[6]
		return ip, ip.Total <= len(p)
	}
	return ip, false
}

// isExtension reports whether a next header of IPv6 is one that a transport header may stand behind: options, a route, a fragment
// or authentication.
func isExtension(next byte) bool {
	switch next {
	case 0, 43, 44, 51, 60:
		return true
	}
	return false
}

// Total returns the length of p, which Parse has accepted, as its header says.
func Total(p []byte) int {
	if p[0]>>4 == 6 {
		return headerLen6 + int(binary.BigEndian.Uint16(p[4:]))
	}
	return int(binary.BigEndian.Uint16(p[2:]))
}

// The methods of IP take the packet that it was parsed from.

// Pair returns the addresses of p, one behind the other as they stand in the header.
func (ip *IP) Pair(p []byte) []byte {
	if ip.V6 {
		return p[8:40]
	}
	return p[12:20]
}

// Martian reports whether p is from or to a loopback address, which never travels (RFC 1122 section 3.2.1.3, RFC 4291
// section 2.5.3).
func (ip *IP) Martian(p []byte) bool {
	if !ip.V6 {
		return p[12] == 127 || p[16] == 127
	}
	return loopback6(p[8:24]) || loopback6(p[24:40])
}

func loopback6(a []byte) bool {
	return binary.BigEndian.Uint64(a) == 0 && binary.BigEndian.Uint64(a[8:]) == 1
}

// HeaderSumValid reports whether the IPv4 header checksum of p is right; IPv6 has none.
func (ip *IP) HeaderSumValid(p []byte) bool {
	return ip.V6 || Sum(p[:ip.Header], 0) == 0xffff
}

// TransportSumValid reports whether the checksum of the TCP segment, UDP datagram or ICMP message in p is right. It does
// not know of UDP datagrams without one, nor of fragments.
func (ip *IP) TransportSumValid(p []byte) bool {
	payload := p[ip.Header:ip.Total]
	var sum uint16
	if ip.Protocol != protoICMP4 {
		sum = PseudoSum(ip.Pair(p), ip.Protocol, len(payload))
	}
	return Sum(payload, sum) == 0xffff
}
