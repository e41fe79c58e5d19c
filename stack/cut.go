package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/offload"
)

// A cutter divides one large TCP segment into the packets that may travel. It works while the packets are copied into
// the Bufs of a reader, so the payload is touched once for the copy and once, in the cache, for the checksum. It keeps its
// place when a batch is full.
type cutter struct {
	pkt *stack.PacketBuffer

	// hdr[:hdrLen] are the IP and TCP headers of the whole; the first ipLen bytes are the IP header.
	hdr           [headerLen6 + header.TCPHeaderMaximumSize + header.IPv4MaximumHeaderSize]byte
	hdrLen, ipLen int
	v6            bool
	pair          uint16 // sum over the addresses and the protocol number

	// view and rest are where the payload goes on, left is how much is left of it, and mss how much a packet may have.
	view *buffer.View
	rest []byte
	left int
	mss  int

	first bool
	seq   uint32
	id    uint16
}

// segmented reports whether p is a TCP segment that the stack has not divided and summed itself.
func segmented(p *stack.PacketBuffer) bool {
	return p.GSOOptions.Type != stack.GSONone && p.TransportProtocolNumber == header.TCPProtocolNumber
}

// segmentSize returns how much payload each packet of p may have: no more than the connection allows, and no more
// than the MTU of now, which may be lower than it was when the connection was made.
func segmentSize(p *stack.PacketBuffer, mtu int) int {
	n := mtu - p.HeaderSize()
	if mss := int(p.GSOOptions.MSS); mss > 0 {
		n = min(n, mss)
	}
	return n
}

// needsCutting reports whether p has to be divided.
func needsCutting(p *stack.PacketBuffer, mtu int) bool {
	if !segmented(p) {
		return false
	}
	n := segmentSize(p, mtu)
	return n > 0 && p.Data().Size() > n
}

// start takes over the reference to p, for which needsCutting is true.
func (c *cutter) start(p *stack.PacketBuffer, mtu int) {
	c.pkt = p
	ip, tcp := p.NetworkHeader().Slice(), p.TransportHeader().Slice()
	c.ipLen = copy(c.hdr[:], ip)
	c.hdrLen = c.ipLen + copy(c.hdr[c.ipLen:], tcp)
	c.v6 = c.hdr[0]>>4 == 6
	pair := c.hdr[12:20]
	if c.v6 {
		pair = c.hdr[8:40]
	}
	c.pair = offload.Sum(pair, protoTCP)
	c.mss = segmentSize(p, mtu)
	c.left = p.Data().Size()
	c.seq = binary.BigEndian.Uint32(tcp[4:])
	c.id = binary.BigEndian.Uint16(c.hdr[4:])
	c.first = true

	list, offset := p.AsViewList()
	c.view = list.Front()
	c.rest = c.view.AsSlice()
	c.skip(offset + c.hdrLen)
}

// skip moves n bytes on.
func (c *cutter) skip(n int) {
	for n >= len(c.rest) {
		n -= len(c.rest)
		if c.view = c.view.Next(); c.view == nil {
			c.rest = nil
			return
		}
		c.rest = c.view.AsSlice()
	}
	c.rest = c.rest[n:]
}

func (c *cutter) active() bool { return c.pkt != nil }

// stop releases the packet.
func (c *cutter) stop() {
	if c.pkt != nil {
		c.pkt.DecRef()
		c.pkt, c.view, c.rest = nil, nil, nil
	}
}

// fill writes packets into b from the front and returns how many. It stops by itself after the last one. It gives the
// segment up, and reports false, if a Buf has no room for a packet.
func (c *cutter) fill(b packet.Batch) (n int, ok bool) {
	for n < len(b) && c.active() {
		size := min(c.mss, c.left)
		mem := b[n].Space()
		if len(mem) < c.hdrLen+size {
			c.stop()
			return n, false
		}
		copy(mem, c.hdr[:c.hdrLen])
		for to := mem[c.hdrLen : c.hdrLen+size]; len(to) > 0; {
			k := copy(to, c.rest)
			to = to[k:]
			c.skip(k)
		}
		c.left -= size
		c.finish(mem[:c.hdrLen+size], size)
		b[n].SetLen(c.hdrLen + size)
		n++
		c.seq += uint32(size)
		c.id++
		c.first = false
		if c.left == 0 {
			c.stop()
		}
	}
	return n, true
}

// finish makes the headers of p those of a packet of its own, with size bytes of payload.
func (c *cutter) finish(p []byte, size int) {
	if c.v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-headerLen6))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		// Packets that must not be fragmented all have the identification zero (RFC 6864 section 4.1).
		if p[6]&0x40 == 0 {
			binary.BigEndian.PutUint16(p[4:], c.id)
		}
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^offload.Sum(p[:c.ipLen], 0))
	}
	tcp := p[c.ipLen:]
	binary.BigEndian.PutUint32(tcp[4:], c.seq)
	if c.left > 0 {
		tcp[13] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
	}
	if !c.first {
		tcp[13] &^= byte(header.TCPFlagCwr)
	}
	sumTCP(tcp, c.pair)
}

// sumTCP writes the checksum of the segment tcp. pair is the sum over the addresses and the protocol number.
func sumTCP(tcp []byte, pair uint16) {
	tcp[16], tcp[17] = 0, 0
	sum := offload.Sum(tcp, offload.Combine(pair, uint16(len(tcp))))
	binary.BigEndian.PutUint16(tcp[16:], ^sum)
}

// flatten copies p into b as it is, but for a checksum that was left to us. It reports false if b has no room.
func flatten(p *stack.PacketBuffer, b *packet.Buf) bool {
	if p.Size() > b.Size() {
		return false
	}
	mem := b.Space()[:0]
	list, offset := p.AsViewList()
	for v := list.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		if offset >= len(s) {
			offset -= len(s)
			continue
		}
		mem = append(mem, s[offset:]...)
		offset = 0
	}
	b.SetLen(len(mem))
	if segmented(p) && p.GSOOptions.NeedsCsum {
		ip := len(p.NetworkHeader().Slice())
		pair := mem[12:20]
		if mem[0]>>4 == 6 {
			pair = mem[8:40]
		}
		sumTCP(mem[ip:], offload.Sum(pair, protoTCP))
	}
	return true
}
