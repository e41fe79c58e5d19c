package stack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet/offload"
)

// resendLost sends what is lost again, as far as the window allows.
func (f *flow) resendLost(now time.Duration) {
	for i := f.head; i < len(f.pieces) && f.lost > 0; i++ {
		if !f.pieces[i].lost {
			continue
		}
		// One segment may always go: that which was lost has left room.
		if p := f.pipe(); p > 0 && float64(p+f.mss) > f.cc.window() {
			return
		}
		if !f.may(now) || !f.resend(i, now) {
			return
		}
	}
}

// resend sends up to a segment of the piece with index i again, the rest of which becomes the next piece.
func (f *flow) resend(i int, now time.Duration) bool {
	c := &f.pieces[i]
	if c.pkt == nil {
		return false
	}
	room := min(f.mss, int(f.g.l.mtu.Load())-c.pkt.HeaderSize())
	if room <= 0 {
		return false
	}
	if c.size() > room {
		f.split(c.seq + uint32(room))
		c = &f.pieces[i]
	}
	p := f.packet(c)
	ok := f.g.l.queue.put(p, false)
	p.DecRef()
	if !ok {
		f.g.l.s.stats.outDropped.Add(1)
		return false
	}
	f.found(c)
	f.spend(c.size(), now)
	c.sent, c.mark = now, f.rate.mark(f.pipe()-c.size(), now)
	c.tries++
	f.needed++
	f.g.l.s.stats.retransmits.Add(1)
	return true
}

// packet returns c as a packet, with the acknowledgement of now.
func (f *flow) packet(c *piece) *stack.PacketBuffer {
	ip, tcp := c.pkt.NetworkHeader().Slice(), c.pkt.TransportHeader().Slice()
	size := c.size()
	if c.fin {
		size--
	}
	v := buffer.NewView(len(ip) + len(tcp) + size)
	v.Write(ip)
	v.Write(tcp)
	list, offset := c.pkt.AsViewList()
	skip := offset + len(ip) + len(tcp) + int(c.seq-c.base)
	for w := list.Front(); w != nil && size > 0; w = w.Next() {
		s := w.AsSlice()
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		s = s[:min(len(s), size)]
		v.Write(s)
		size -= len(s)
	}
	b := v.AsSlice()
	pair := addressPair(b)
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-headerLen6))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^offload.Sum(b[:len(ip)], 0))
	}
	t := b[len(ip):]
	binary.BigEndian.PutUint32(t[4:], c.seq)
	copy(t[8:12], f.latest[:4])
	copy(t[14:16], f.latest[6:8])
	if ts := timeStamps(t[:len(tcp)]); ts != nil {
		copy(ts, f.latestStamps[:])
	}
	if !c.fin {
		t[13] &^= byte(header.TCPFlagFin)
	}
	sumTCP(t, offload.Sum(pair, protoTCP))
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
}
