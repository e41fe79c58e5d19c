package stack

import (
	"hash/maphash"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A Reason is why a flow does not come about, as far as the peer learns it.
type Reason uint8

const (
	// PortUnreachable says that the host is there and nobody listens.
	PortUnreachable Reason = iota
	// HostUnreachable says that the host does not answer.
	HostUnreachable
	// NetUnreachable says that there is no way to the host.
	NetUnreachable
	// Prohibited says that a policy forbids the flow (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
	Prohibited
)

// codes returns the codes of the destination unreachable message of either family.
func (r Reason) codes() (code4, code6 byte) {
	switch r {
	case HostUnreachable:
		return codeHost4, codeAddress6
	case NetUnreachable:
		return codeNet4, codeNoRoute6
	case Prohibited:
		return codeProhibited4, codeProhibited6
	}
	return codePort4, codePort6
}

const codeProhibited4, codeProhibited6 = 13, 1

// Unreachable answers the peer with an ICMP error instead of the RST of Reject, so that its connect fails with the true reason.
// For PortUnreachable it is Reject. It does nothing after another decision. The stack sends no more errors than a host may
// (RFC 4443 section 2.4), and remembers only the most recent requests; then the peer hears nothing and gives up by itself.
func (r *TCPRequest) Unreachable(why Reason) {
	if why == PortUnreachable {
		r.Reject()
		return
	}
	if !r.decide() {
		return
	}
	r.r.Complete(false)
	if len(r.quoted) > 0 {
		code4, code6 := why.codes()
		r.s.sendError(unreachablePacket(r.Destination.Addr(), r.Source.Addr(), code4, code6, r.quoted))
	}
}

// Ignore leaves the peer without an answer, as a host does that is not there. It does nothing after another decision.
func (r *TCPRequest) Ignore() {
	if r.decide() {
		r.r.Complete(false)
	}
}

// Unreachable tells the peer by an ICMP error that its datagrams do not arrive. Before a decision it is Reject with another reason.
// After Accept it only sends the error: what became of a datagram is often known later. The stack sends no more errors
// than a host may (RFC 4443 section 2.4).
func (r *UDPRequest) Unreachable(why Reason) {
	if r.decide() {
		r.s.pendingUDP.Add(-1)
		r.ep.Close()
		r.leave()
	}
	code4, code6 := why.codes()
	r.s.sendError(unreachablePacket(r.Destination.Addr(), r.Source.Addr(), code4, code6, r.quoted))
}

// Ignore leaves the peer without an answer. It does nothing after another decision.
func (r *UDPRequest) Ignore() {
	if r.decide() {
		r.s.pendingUDP.Add(-1)
		r.ep.Close()
		r.leave()
	}
}

const (
	// maxSyns is how many SYNs are remembered, by their hash.
	maxSyns = 256
	// maxSynQuote is the front of a SYN that an ICMP error has to quote: the IP header and 8 bytes (RFC 792).
	maxSynQuote = 60 + 8
)

// syns remembers the fronts of the SYNs that have just come. The netstack keeps the segment of a request to itself, but an ICMP
// error about it has to quote its sequence number. What is forgotten because of another SYN with the same hash is only not answered.
type syns struct {
	mu   sync.Mutex
	seed maphash.Seed
	ring []syn // nil until the first
}

type syn struct {
	id     stack.TransportEndpointID
	n      int // of quoted; 0 if there is none
	quoted [maxSynQuote]byte
}

// at returns the place of the SYN with the given id. The lock is held.
func (s *syns) at(id stack.TransportEndpointID) *syn {
	if s.ring == nil {
		s.seed, s.ring = maphash.MakeSeed(), make([]syn, maxSyns)
	}
	return &s.ring[maphash.Comparable(s.seed, id)%maxSyns]
}

// note remembers p if it is a SYN.
func (s *syns) note(id stack.TransportEndpointID, p *stack.PacketBuffer) {
	tcp := p.TransportHeader().Slice()
	if len(tcp) < header.TCPMinimumSize || header.TCPFlags(tcp[13])&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return
	}
	ip := p.NetworkHeader().Slice()
	if len(ip)+8 > maxSynQuote {
		return // IPv6 with extension headers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.at(id)
	e.id = id
	e.n = copy(e.quoted[:], ip)
	e.n += copy(e.quoted[e.n:], tcp[:8])
}

// take returns the front of the SYN with the given id and forgets it, or nil.
func (s *syns) take(id stack.TransportEndpointID) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.at(id)
	if e.n == 0 || e.id != id {
		return nil
	}
	b := append([]byte(nil), e.quoted[:e.n]...)
	e.n = 0
	return b
}

// Refuse tells the peer by an ICMP error why its echo request is not answered. Unreachable is Refuse with HostUnreachable. It does
// nothing after another decision.
func (r *PingRequest) Refuse(why Reason) {
	if r.decide() {
		code4, code6 := why.codes()
		r.s.sendError(unreachablePacket(r.Destination, r.Source, code4, code6, r.quoted))
	}
}

// Ignore leaves the peer without an answer, as when the host has not answered in time. It does nothing after another decision.
func (r *PingRequest) Ignore() { r.decide() }
