package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"culvert.example/vpn/packet/offload"
)

const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	headerLen4 = 20
	headerLen6 = 40

	// answerTTL is the hop limit of packets that are built here.
	answerTTL = 64
)

// ipInfo is what the outside of a packet says. It is enough to tell packets apart; the stack does the full validation.
type ipInfo struct {
	v6       bool
	protocol byte // of the payload; for IPv6 the first next header
	header   int  // length of the IP header; for IPv6 without extension headers
	total    int  // length of the packet as its header says, at most that of the memory it came in
	fragment bool
}

func (ip *ipInfo) network() tcpip.NetworkProtocolNumber {
	if ip.v6 {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// parseIP looks at p. It reports false if p cannot be an IP packet.
func parseIP(p []byte) (ip ipInfo, ok bool) {
	o, ok := offload.Parse(p)
	return infoOf(o), ok
}

func infoOf(o offload.IP) ipInfo {
	return ipInfo{v6: o.V6, protocol: o.Protocol, header: o.Header, total: o.Total, fragment: o.Fragment}
}

// outside returns the same in the words of package offload.
func (ip *ipInfo) outside() offload.IP {
	return offload.IP{V6: ip.v6, Protocol: ip.protocol, Header: ip.header, Total: ip.total, Fragment: ip.fragment}
}

// addresses returns the source and the destination of p, which parseIP has accepted.
func (ip *ipInfo) addresses(p []byte) (src, dst netip.Addr) {
	if ip.v6 {
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	}
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
}

// martian reports whether p is from or to a loopback address.
func (ip *ipInfo) martian(p []byte) bool {
	o := ip.outside()
	return o.Martian(p)
}

// pairBytes returns the addresses of p, one behind the other as they stand in the header.
func (ip *ipInfo) pairBytes(p []byte) []byte {
	if ip.v6 {
		return p[8:40]
	}
	return p[12:20]
}

// pseudoSum returns the sum over the pseudo header of a payload of n bytes.
func pseudoSum(pair []byte, protocol byte, n int) uint16 { return offload.PseudoSum(pair, protocol, n) }

// headerSumValid reports whether the IPv4 header checksum of p is right; IPv6 has none.
func (ip *ipInfo) headerSumValid(p []byte) bool {
	o := ip.outside()
	return o.HeaderSumValid(p)
}

// transportSumValid reports whether the checksum of the TCP segment or ICMP message in p is right.
func (ip *ipInfo) transportSumValid(p []byte) bool {
	o := ip.outside()
	return o.TransportSumValid(p)
}

// putHeader writes an IP header without options for a payload of n bytes into the front of b, and returns its length.
func putHeader(b []byte, src, dst netip.Addr, protocol byte, n int) int {
	if src.Is4() {
		clear(b[:headerLen4])
		b[0] = 4<<4 | headerLen4/4
		binary.BigEndian.PutUint16(b[2:], uint16(headerLen4+n))
		binary.BigEndian.PutUint16(b[6:], 0x4000) // do not fragment, so the identification may be zero (RFC 6864)
		b[8] = answerTTL
		b[9] = protocol
		s, d := src.As4(), dst.As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		binary.BigEndian.PutUint16(b[10:], ^offload.Sum(b[:headerLen4], 0))
		return headerLen4
	}
	clear(b[:headerLen6])
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	b[6] = protocol
	b[7] = answerTTL
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return headerLen6
}
