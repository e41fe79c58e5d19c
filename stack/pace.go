package stack

import (
	"encoding/binary"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet/offload"
)

const (
	// paceLate is how late the pacer may be and make up for it: goroutines do not always run in time.
	paceLate = 2 * paceQuantum
)

// given returns the end of what the netstack has sent.
func (f *flow) given() uint32 { return f.nxt + uint32(f.heldBytes) }

func (f *flow) holds() bool { return f.heldHead < len(f.held) }

// hold appends p, whose reference it takes over.
func (f *flow) hold(p *stack.PacketBuffer) {
	if f.heldHead > 0 && len(f.held) == cap(f.held) {
		n := copy(f.held, f.held[f.heldHead:])
		clear(f.held[n:])
		f.held, f.heldHead = f.held[:n], 0
	}
	f.held = append(f.held, p)
	f.heldBytes += sequenceSize(p)
}

// unhold returns the first packet that is held, and its reference.
func (f *flow) unhold() *stack.PacketBuffer {
	p := f.held[f.heldHead]
	f.held[f.heldHead] = nil
	f.heldHead++
	if f.heldHead == len(f.held) {
		f.held, f.heldHead = f.held[:0], 0
	}
	f.heldBytes -= sequenceSize(p)
	return p
}

// sequenceSize returns how many sequence numbers p takes.
func sequenceSize(p *stack.PacketBuffer) int {
	n := p.Data().Size()
	if finishes(p) {
		n++
	}
	return n
}

// finishes reports whether p carries a FIN.
func finishes(p *stack.PacketBuffer) bool {
	return header.TCPFlags(p.TransportHeader().Slice()[13])&header.TCPFlagFin != 0
}

// stock returns how much of what the netstack sends may be held if it leaves at the given rate: enough for that acknowledgements, which
// make the netstack send, may come in lumps, but no more, since what is held grows old. It also bounds the size of the netstack's
// segments, which go as a whole.
func (f *flow) stock(pace float64) int {
	return int(pace*max(f.minRTT/4, 4*paceQuantum).Seconds()) + 4*f.mss
}

// may reports whether the pacer lets something go now. If not, it will come back.
func (f *flow) may(now time.Duration) bool {
	if f.free <= now || f.cc.pace() == 0 {
		return true
	}
	f.wake(max(f.free-now, paceQuantum))
	return false
}

// spend notes that size bytes go now.
func (f *flow) spend(size int, now time.Duration) {
	if pace := f.cc.pace(); pace > 0 {
		f.free = max(f.free, now-paceLate) + time.Duration(float64(size)/pace*float64(time.Second))
	}
}

func (f *flow) wake(d time.Duration) {
	if f.pacing {
		return
	}
	f.pacing = true
	if f.pacer == nil {
		f.pacer = time.AfterFunc(d, f.resume)
	} else {
		f.pacer.Reset(d)
	}
}

// resume is what the pacer calls.
func (f *flow) resume() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	f.pacing = false
	if f.agreed {
		f.transmit(f.g.now())
	}
}

// portion returns how much is sent at once at the given rate.
func (f *flow) portion(pace float64) int {
	return max(int(pace*paceQuantum.Seconds())/f.mss, 2) * f.mss
}

// transmit sends what may be sent now: first what is lost, then what is held.
func (f *flow) transmit(now time.Duration) {
	f.resendLost(now)
	for f.holds() && f.lost == 0 {
		// One portion more than the window may go, for it was sent by the netstack when there was room.
		if in := f.pipe(); in > 0 && float64(in) > f.cc.window() || !f.may(now) {
			return
		}
		if pace := f.cc.pace(); pace > 0 {
			f.cutHeld(f.portion(pace))
		}
		p := f.held[f.heldHead]
		if !f.g.l.queue.put(p, false) {
			f.wake(paceQuantum)
			return
		}
		f.unhold()
		n := sequenceSize(p)
		f.spend(n, now)
		f.leaves(p, f.nxt, f.nxt+uint32(n), finishes(p), now)
		p.DecRef()
	}
	if f.lost == 0 && !f.holds() && f.free <= now && 4*float64(f.peak) < 3*f.cc.window() {
		f.rate.rest(f.pipe())
	}
}

// cutHeld makes the first packet that is held no larger than size bytes of payload, which is a multiple of the segment size. The rest
// becomes the next packet. Their payload is not copied.
func (f *flow) cutHeld(size int) {
	p := f.held[f.heldHead]
	if !segmented(p) || p.Data().Size() <= size+size/2 {
		return
	}
	first, rest := part(p, 0, size), part(p, size, p.Data().Size()-size)
	f.held[f.heldHead] = rest
	if f.heldHead > 0 {
		f.heldHead--
		f.held[f.heldHead] = first
	} else {
		f.held = slices.Insert(f.held, 0, first)
	}
	p.DecRef()
}

// part returns size bytes of p, a TCP segment, from offset on as a segment of its own.
func part(p *stack.PacketBuffer, offset, size int) *stack.PacketBuffer {
	ip, tcp := p.NetworkHeader().Slice(), p.TransportHeader().Slice()
	payload := p.Data().ToBuffer()
	last := offset+size == int(payload.Size())
	payload.TrimFront(int64(offset))
	payload.Truncate(int64(size))
	q := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: len(ip) + len(tcp), Payload: payload})
	t := q.TransportHeader().Push(len(tcp))
	copy(t, tcp)
	i := q.NetworkHeader().Push(len(ip))
	copy(i, ip)
	q.TransportProtocolNumber, q.NetworkProtocolNumber = p.TransportProtocolNumber, p.NetworkProtocolNumber
	q.GSOOptions = p.GSOOptions
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(offset))
	if !last {
		t[13] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
	}
	total := len(ip) + len(tcp) + size
	if i[0]>>4 == 6 {
		binary.BigEndian.PutUint16(i[4:], uint16(total-headerLen6))
	} else {
		binary.BigEndian.PutUint16(i[2:], uint16(total))
		i[10], i[11] = 0, 0
		binary.BigEndian.PutUint16(i[10:], ^offload.Sum(i, 0))
	}
	return q
}
