package stack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Stats are counters since the stack was made, except where they say "now".
type Stats struct {
	// PacketsIn and BytesIn went through WriteBatch of the Link, PacketsOut and BytesOut through ReadBatch.
	PacketsIn, BytesIn, PacketsOut, BytesOut uint64

	// Merged are incoming TCP segments that were joined to the one before them, and acknowledgements that went without saying
	// because a later one of the same batch says more.
	Merged uint64
	// Malformed are incoming packets that are no IP packets, lie about their length, or have a loopback address.
	Malformed uint64
	// ChecksumErrors are incoming packets with a wrong checksum, which were dropped.
	ChecksumErrors uint64

	// QueueDrops are outgoing packets that found the queue full, because the Link was not read fast enough. TCP sends them
	// again.
	QueueDrops uint64
	// TooBig are outgoing packets that were dropped because they fit neither the MTU nor the Buf.
	TooBig uint64

	// TCPOpen are the TCP connections now on which either side may still have something to send or to hear, half-closed ones
	// among them, and those that were closed with data under way. Retransmits are TCP segments sent again, Timeouts how often
	// that was because a timer ran out, and Recoveries how often because acknowledgements told of a loss.
	TCPOpen, Retransmits, Timeouts, Recoveries uint64

	// Flows are the accepted flows of the Accept functions now, FlowsRefused those that were refused by a limit, and
	// RequestsDropped those that found too many others waiting for a decision.
	Flows, FlowsRefused, RequestsDropped uint64

	// ICMPIgnored are ICMP messages that were dropped: errors with an impossible MTU, pings in fragments to foreign
	// addresses, and messages that came faster than they could be processed.
	ICMPIgnored uint64
}

type counters struct {
	inPackets, inBytes, inMerged, inMalformed   atomic.Uint64
	outPackets, outBytes, outDropped, outTooBig atomic.Uint64
	flowsRefused, requestsDropped, icmpDropped  atomic.Uint64
	checksum                                    atomic.Uint64
	retransmits, recoveries, timeouts           atomic.Uint64
}

// Stats returns the counters of now.
func (s *Stack) Stats() Stats {
	c, g := &s.stats, s.gs.Stats()
	return Stats{
		PacketsIn: c.inPackets.Load(), BytesIn: c.inBytes.Load(),
		PacketsOut: c.outPackets.Load(), BytesOut: c.outBytes.Load(),
		Merged: c.inMerged.Load(), Malformed: c.inMalformed.Load(),
		ChecksumErrors: c.checksum.Load() + g.TCP.ChecksumErrors.Value() + g.UDP.ChecksumErrors.Value(),
		QueueDrops:     c.outDropped.Load(), TooBig: c.outTooBig.Load(),
		TCPOpen:     s.tcpOpen(),
		Retransmits: g.TCP.Retransmits.Value() + c.retransmits.Load(), Timeouts: g.TCP.Timeouts.Value() + c.timeouts.Load(),
		Recoveries: g.TCP.FastRecovery.Value() + g.TCP.SACKRecovery.Value() + c.recoveries.Load(),
		Flows:      uint64(max(s.flows.Load(), 0)), FlowsRefused: c.flowsRefused.Load(), RequestsDropped: c.requestsDropped.Load(),
		ICMPIgnored: c.icmpDropped.Load(),
	}
}

// tcpOpen counts by the states of RFC 9293 section 3.3.2.
func (s *Stack) tcpOpen() (n uint64) {
	for _, e := range s.gs.RegisteredEndpoints() {
		if ep, ok := e.(*tcp.Endpoint); ok {
			switch ep.EndpointState() {
			case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateCloseWait, tcp.StateLastAck:
				n++
			}
		}
	}
	return n
}
