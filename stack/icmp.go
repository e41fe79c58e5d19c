package stack

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
)

// ICMP types and codes (RFC 792, RFC 4443).
const (
	echoReply4, unreachable4, echo4           = 0, 3, 8
	timeExceeded4, parameterProblem4          = 11, 12
	unreachable6, tooBig6, echo6, echoReply6  = 1, 2, 128, 129
	timeExceeded6, parameterProblem6          = 3, 4
	codeNet4, codeHost4, codePort4, codeFrag4 = 0, 1, 3, 4
	codeNoRoute6, codeAddress6, codePort6     = 0, 3, 4
	icmpHeaderLen                             = 8
	quote4, quote6                            = 548, packet.MinMTU6 - headerLen6 - icmpHeaderLen
)

// interceptICMP looks at the ICMP packet p before the stack does, and reports whether that is all that happens to it.
func (s *Stack) interceptICMP(p []byte, ip *ipInfo) bool {
	if ip.v6 != (ip.protocol == protoICMP6) {
		// ICMP of the other family is a protocol like any other that nobody speaks.
		return false
	}
	src, dst := ip.addresses(p)
	if ip.fragment {
		// The stack would put the fragments together and then answer for somebody else.
		if s.forwarding && !s.owns(dst) {
			s.stats.icmpDropped.Add(1)
			return true
		}
		return false
	}
	m := p[ip.header:ip.total]
	if len(m) < icmpHeaderLen {
		return false
	}
	switch t := m[0]; {
	case isEcho(ip, t):
		if s.owns(dst) {
			return false
		}
		return s.offerPing(p, m, ip, src, dst)
	case !ip.v6 && t == echoReply4, ip.v6 && t == echoReply6:
		return ip.transportSumValid(p) && s.pings.replied(src, m)
	case isICMPError(ip, t):
		if !ip.headerSumValid(p) || !ip.transportSumValid(p) {
			s.stats.checksum.Add(1)
			return true
		}
		if mtu, ok := nextHopMTU(m, ip); ok && mtu < minMTU(ip) {
			// Nobody may make connections crawl with segments of a few bytes.
			s.stats.icmpDropped.Add(1)
			return true
		}
		if !s.pings.failed(m, ip) {
			s.link.deferError(p[:ip.total], ip)
		}
		return true
	}
	return false
}

func isEcho(ip *ipInfo, t byte) bool { return !ip.v6 && t == echo4 || ip.v6 && t == echo6 }

func isICMPError(ip *ipInfo, t byte) bool {
	if ip.v6 {
		return t < 128
	}
	return t == unreachable4 || t == timeExceeded4 || t == parameterProblem4
}

// nextHopMTU returns the MTU that the error m announces, and whether it announces one.
func nextHopMTU(m []byte, ip *ipInfo) (int, bool) {
	switch {
	case ip.v6 && m[0] == tooBig6:
		return int(min(binary.BigEndian.Uint32(m[4:]), packet.MaxSize)), true
	case !ip.v6 && m[0] == unreachable4 && m[1] == codeFrag4:
		return int(binary.BigEndian.Uint16(m[6:])), true
	}
	return 0, false
}

func minMTU(ip *ipInfo) int {
	if ip.v6 {
		return packet.MinMTU6
	}
	return packet.MinMTU4
}

// unreachableError returns what the destination unreachable message m means.
func unreachableError(m []byte, ip *ipInfo) error {
	code := m[1]
	switch {
	case !ip.v6 && m[0] == unreachable4:
		switch code {
		case codeNet4:
			return syscall.ENETUNREACH
		case codePort4:
			return syscall.ECONNREFUSED
		}
	case ip.v6 && m[0] == unreachable6:
		switch code {
		case codeNoRoute6:
			return syscall.ENETUNREACH
		case codePort6:
			return syscall.ECONNREFUSED
		}
	}
	return syscall.EHOSTUNREACH
}

// hostUnreachable is an ICMPv6 error that the stack does not understand by itself.
type hostUnreachable struct{ code byte }

var _ stack.TransportError = hostUnreachable{}

func (hostUnreachable) Origin() tcpip.SockErrOrigin { return tcpip.SockExtErrorOriginICMP6 }
func (hostUnreachable) Type() uint8                 { return unreachable6 }
func (e hostUnreachable) Code() uint8               { return e.code }
func (hostUnreachable) Info() uint32                { return 0 }
func (hostUnreachable) Kind() stack.TransportErrorKind {
	return stack.DestinationHostUnreachableTransportError
}

// tellUnreachable tells the connection that the ICMPv6 error p concerns that its peer cannot be reached, if p is one of
// those that the stack ignores: the host does not answer, or a filter or policy forbids. It reports whether p is.
func (s *Stack) tellUnreachable(pkt *stack.PacketBuffer) bool {
	if pkt.NetworkProtocolNumber != header.IPv6ProtocolNumber {
		return false
	}
	v := pkt.ToView()
	defer v.Release()
	p := v.AsSlice()
	if len(p) < headerLen6+icmpHeaderLen {
		return false
	}
	m := p[headerLen6:]
	if m[0] != unreachable6 || m[1] == codeNoRoute6 || m[1] == codePort6 {
		return false
	}
	quoted := m[icmpHeaderLen:]
	if len(quoted) < headerLen6+8 || quoted[0]>>4 != 6 || quoted[6] != protoTCP {
		return true
	}
	inner := ipInfo{v6: true}
	local, remote := inner.addresses(quoted)
	if !s.owns(local) {
		return true
	}
	ep := s.gs.FindTransportEndpoint(header.IPv6ProtocolNumber, header.TCPProtocolNumber, stack.TransportEndpointID{
		LocalAddress: fromAddr6(local), LocalPort: binary.BigEndian.Uint16(quoted[headerLen6:]),
		RemoteAddress: fromAddr6(remote), RemotePort: binary.BigEndian.Uint16(quoted[headerLen6+2:]),
	}, nicID)
	if ep != nil {
		ep.HandleError(hostUnreachable{m[1]}, pkt)
	}
	return true
}

func fromAddr6(a netip.Addr) tcpip.Address { return tcpip.AddrFrom16(a.As16()) }

// sealICMP writes the checksum of the message m.
func sealICMP(m []byte, src, dst netip.Addr) {
	m[2], m[3] = 0, 0
	var sum uint16
	if src.Is6() {
		var pair [32]byte
		s, d := src.As16(), dst.As16()
		copy(pair[:], s[:])
		copy(pair[16:], d[:])
		sum = pseudoSum(pair[:], protoICMP6, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, sum))
}

// echoPacket returns an echo request or reply.
func echoPacket(src, dst netip.Addr, reply bool, id, seq uint16, payload []byte) []byte {
	protocol, t, hdr := byte(protoICMP4), byte(echo4), headerLen4
	if reply {
		t = echoReply4
	}
	if src.Is6() {
		protocol, t, hdr = protoICMP6, echo6, headerLen6
		if reply {
			t = echoReply6
		}
	}
	p := make([]byte, hdr+icmpHeaderLen+len(payload))
	m := p[putHeader(p, src, dst, protocol, icmpHeaderLen+len(payload)):]
	m[0] = t
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], seq)
	copy(m[icmpHeaderLen:], payload)
	sealICMP(m, src, dst)
	return p
}

// quote returns as much of the packet p as an error about it quotes (RFC 1812 section 4.3.2.3, RFC 4443 section 3.1).
func quote(p []byte) []byte {
	if p[0]>>4 == 6 {
		return p[:min(len(p), quote6)]
	}
	return p[:min(len(p), quote4)]
}

// unreachablePacket returns a destination unreachable message from src to dst about the packet that starts with quoted. The
// codes are those of IPv4 and IPv6.
func unreachablePacket(src, dst netip.Addr, code4, code6 byte, quoted []byte) []byte {
	protocol, t, code, hdr := byte(protoICMP4), byte(unreachable4), code4, headerLen4
	if src.Is6() {
		protocol, t, code, hdr = protoICMP6, unreachable6, code6, headerLen6
	}
	p := make([]byte, hdr+icmpHeaderLen+len(quoted))
	m := p[putHeader(p, src, dst, protocol, icmpHeaderLen+len(quoted)):]
	m[0], m[1] = t, code
	copy(m[icmpHeaderLen:], quoted)
	sealICMP(m, src, dst)
	return p
}

// sendError sends an ICMP error, if the limit that every host keeps for them allows it (RFC 4443 section 2.4).
func (s *Stack) sendError(p []byte) {
	if !s.gs.AllowICMPMessage() {
		s.stats.icmpDropped.Add(1)
		return
	}
	s.link.send(p, false)
}
