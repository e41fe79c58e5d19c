package stack

import (
	"encoding/binary"
	"hash/maphash"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// acks remembers the latest acknowledgement of each TCP peer, and the window that came with it. It makes up for what this
// netstack leaves out: only the latest segment may say how much room the peer has (RFC 9293 section 3.10.7.4), but the netstack
// believes any, also one that others have overtaken. It then sends more than there is room for, and a peer without
// room does not look at acknowledgements from beyond its window: if it waits for one, both wait for ever. Segments overtake
// each other whenever the packets of a flow take two paths to the gateway.
//
// It is a cache, of flows that a hash tells apart: one that gave way to another flow is only as bad off as without.
type acks struct {
	seed  maphash.Seed
	flows []latestAck // nil until something is remembered: many stacks are idle
}

type latestAck struct {
	flow   uint64
	at     int64 // Unix milliseconds
	ack    uint32
	window uint16
}

const (
	// ackFlows is how many flows are remembered at most.
	ackFlows = 1024

	// ackMemory is for how many milliseconds. A segment is not late by more, and if an acknowledgement was forged that runs ahead,
	// this is how long it can do harm.
	ackMemory = 3000
)

// init must be called before the first use.
func (a *acks) init() { a.seed = maphash.MakeSeed() }

// correct changes the window of the TCP segment in p, if that was overtaken by another, to the window of the other.
func (a *acks) correct(p []byte, ip *ipInfo, now time.Time) {
	if ip.fragment || ip.total < ip.header+header.TCPMinimumSize {
		return
	}
	tcp := p[ip.header:ip.total]
	var key [36]byte
	n := copy(key[:], ip.pairBytes(p))
	n += copy(key[n:], tcp[:4])
	flow := maphash.Bytes(a.seed, key[:n])
	if a.flows == nil {
		a.flows = make([]latestAck, ackFlows)
	}
	latest := &a.flows[flow%ackFlows]
	switch flags := header.TCPFlags(tcp[13]); {
	case flags&(header.TCPFlagSyn|header.TCPFlagRst) != 0:
		// This connection has ended, or begins.
		if latest.flow == flow {
			*latest = latestAck{}
		}
		return
	case flags&header.TCPFlagAck == 0:
		return
	}
	ack, window := binary.BigEndian.Uint32(tcp[8:]), binary.BigEndian.Uint16(tcp[14:])
	at := now.UnixMilli()
	if latest.flow != flow || int32(ack-latest.ack) >= 0 || at-latest.at > ackMemory {
		*latest = latestAck{flow: flow, at: at, ack: ack, window: window}
		return
	}
	if window == latest.window {
		return
	}
	setWindow(tcp, latest.window)
}

// modest announces a little less room than the netstack does in the TCP segment of p. The netstack takes its window for what is
// left of it after rounding down to the unit of its scale (RFC 7323 section 2.3), which is less than it has announced before by up to
// a unit. A peer that believed it then has the last bytes refused, and its acknowledgements as well, since they come from
// beyond the window: if this end has data to send it waits for them, and reads nothing meanwhile, for ever. With a unit less the
// peer stays inside.
func modest(p []byte) {
	ip, ok := parseIP(p)
	if !ok || ip.protocol != protoTCP || ip.fragment || ip.total < ip.header+header.TCPMinimumSize {
		return
	}
	lessWindow(p[ip.header:ip.total])
}

// lessWindow announces a unit less in the TCP header tcp.
func lessWindow(tcp []byte) {
	window := binary.BigEndian.Uint16(tcp[14:])
	if window > 0 && header.TCPFlags(tcp[13])&(header.TCPFlagSyn|header.TCPFlagRst) == 0 {
		setWindow(tcp, window-1)
	}
}

// setWindow changes the window of a segment. The checksum follows without a look at the rest, and stays wrong if it was
// (RFC 1624).
func setWindow(tcp []byte, window uint16) {
	sum := uint32(^binary.BigEndian.Uint16(tcp[16:])) + uint32(^binary.BigEndian.Uint16(tcp[14:])) + uint32(window)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(tcp[14:], window)
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
}
