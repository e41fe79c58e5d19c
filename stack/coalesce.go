package stack

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
)

// A coalescer joins the TCP segments of one batch that follow each other, so that the stack processes one large segment
// instead of dozens. Nothing waits for the next batch.
//
// Segments are joined only when a receiver could not tell the difference: the same flow, consecutive sequence numbers,
// no flag but ACK and PSH, and the same acknowledgement, window, options, hop limit and traffic class. The checksum of
// each is verified before it is joined; one that is wrong goes on alone, for the stack to refuse and count.
type coalescer struct {
	groups []group
	// chain[i] is the index in the batch of the packet that follows packet i in its group, or -1.
	chain []int32
	// open are the groups that may grow, by index; the oldest gives way.
	open   [maxOpen]int32
	nOpen  int
	merged int
}

// maxOpen is how many flows may be joined at the same time. A flow that gives way starts a new group.
const maxOpen = 16

// A group is one packet for the stack, made of one or more of the batch.
type group struct {
	first, last int32
	count       int32
	ip          ipInfo // of the first packet
	hdr         int    // length of the IP and TCP headers
	size        int    // bytes of the joined packet
	seq         uint32 // of the segment that may follow
	flags       byte   // TCP flags of all together
	verified    bool   // the checksums of the first packet are known to be right
}

// reset begins a batch of n packets.
func (c *coalescer) reset(n int) {
	c.groups = c.groups[:0]
	if cap(c.chain) < n {
		c.chain = make([]int32, n)
	}
	c.chain = c.chain[:n]
	c.nOpen = 0
	c.merged = 0
}

// addOther adds packet i of the batch by itself.
func (c *coalescer) addOther(i int, ip *ipInfo) {
	c.chain[i] = -1
	c.groups = append(c.groups, group{first: int32(i), last: int32(i), count: 1, ip: *ip, size: ip.total})
}

const (
	tcpAck = byte(header.TCPFlagAck)
	tcpPsh = byte(header.TCPFlagPsh)
)

// addTCP adds packet i of b, a TCP segment or what claims to be one.
func (c *coalescer) addTCP(b packet.Batch, i int, ip *ipInfo) {
	p := b[i].Bytes()
	if ip.fragment || ip.total < ip.header+header.TCPMinimumSize {
		c.addOther(i, ip)
		return
	}
	tcp := p[ip.header:ip.total]
	dataOffset := int(tcp[12]>>4) * 4
	slot := c.find(b, p, ip, tcp)
	flags := tcp[13]
	mergeable := flags&^tcpPsh == tcpAck && tcp[12]&0x0f == 0 && dataOffset >= header.TCPMinimumSize && dataOffset < len(tcp) &&
		(ip.v6 || ip.header == headerLen4)
	if slot >= 0 {
		g := &c.groups[c.open[slot]]
		if mergeable && c.fits(b, g, p, ip, tcp, dataOffset) {
			c.chain[i] = -1
			c.chain[g.last] = int32(i)
			g.last = int32(i)
			g.count++
			g.size += len(tcp) - dataOffset
			g.seq += uint32(len(tcp) - dataOffset)
			g.flags |= flags
			c.merged++
			return
		}
		// What comes now must not overtake what is joined, nor be overtaken by what follows.
		c.close(slot)
	}
	c.addOther(i, ip)
	if !mergeable {
		return
	}
	g := &c.groups[len(c.groups)-1]
	g.hdr = ip.header + dataOffset
	g.seq = binary.BigEndian.Uint32(tcp[4:]) + uint32(len(tcp)-dataOffset)
	g.flags = flags
	if c.nOpen == maxOpen {
		c.close(0)
	}
	c.open[c.nOpen] = int32(len(c.groups) - 1)
	c.nOpen++
}

// find returns the slot of the open group of the flow that p belongs to, or -1.
func (c *coalescer) find(b packet.Batch, p []byte, ip *ipInfo, tcp []byte) int {
	for slot := c.nOpen - 1; slot >= 0; slot-- {
		g := &c.groups[c.open[slot]]
		if g.ip.v6 != ip.v6 {
			continue
		}
		q := b[g.first].Bytes()
		if bytes.Equal(tcp[:4], q[g.ip.header:g.ip.header+4]) && bytes.Equal(ip.pairBytes(p), g.ip.pairBytes(q)) {
			return slot
		}
	}
	return -1
}

func (c *coalescer) close(slot int) {
	copy(c.open[slot:], c.open[slot+1:c.nOpen])
	c.nOpen--
}

// fits reports whether the segment in p may be joined to g, and verifies what was not verified yet.
func (c *coalescer) fits(b packet.Batch, g *group, p []byte, ip *ipInfo, tcp []byte, dataOffset int) bool {
	q := b[g.first].Bytes()
	first := q[g.ip.header:g.hdr]
	if binary.BigEndian.Uint32(tcp[4:]) != g.seq || g.size+len(tcp)-dataOffset > packet.MaxSize ||
		g.hdr-g.ip.header != dataOffset ||
		!bytes.Equal(tcp[8:12], first[8:12]) || // acknowledgement
		!bytes.Equal(tcp[14:16], first[14:16]) || // window
		!bytes.Equal(tcp[18:dataOffset], first[18:]) { // urgent pointer and options
		return false
	}
	if ip.v6 {
		if !bytes.Equal(p[:4], q[:4]) || p[7] != q[7] { // traffic class, flow label, hop limit
			return false
		}
	} else if p[1] != q[1] || p[6] != q[6] || p[8] != q[8] { // type of service, flags, time to live
		return false
	}
	if !g.verified {
		if !g.ip.headerSumValid(q) || !g.ip.transportSumValid(q) {
			return false
		}
		g.verified = true
	}
	return ip.headerSumValid(p) && ip.transportSumValid(p)
}

// build returns the packet of g. The caller releases it.
func (c *coalescer) build(b packet.Batch, g *group) *stack.PacketBuffer {
	first := b[g.first].Bytes()[:g.ip.total]
	if g.count == 1 {
		return newInbound(first, &g.ip)
	}
	var hdr [headerLen6 + header.TCPHeaderMaximumSize]byte
	copy(hdr[:], first[:g.hdr])
	if g.ip.v6 {
		binary.BigEndian.PutUint16(hdr[4:], uint16(g.size-headerLen6))
	} else {
		binary.BigEndian.PutUint16(hdr[2:], uint16(g.size))
	}
	hdr[g.ip.header+13] = g.flags
	payload := buffer.NewView(g.size - g.hdr)
	for i := g.first; i >= 0; i = c.chain[i] {
		p := b[i].Bytes()
		// All packets of a group have headers of the same length. Their own may be followed by padding.
		payload.Write(p[g.hdr:totalLen(p, g.ip.v6)])
	}
	pkt := newPacket(hdr[:g.hdr], payload, &g.ip)
	// The checksums in the joined headers are those of the first packet. The stack need not look at them.
	pkt.RXChecksumValidated = true
	return pkt
}

// totalLen returns the length of p, which parseIP has accepted, as its header says.
func totalLen(p []byte, v6 bool) int {
	if v6 {
		return headerLen6 + int(binary.BigEndian.Uint16(p[4:]))
	}
	return int(binary.BigEndian.Uint16(p[2:]))
}
