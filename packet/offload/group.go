package offload

import (
	"bytes"
	"encoding/binary"

	"culvert.example/vpn/packet"
)

// A Grouper finds the packets of one batch that follow each other. Nothing waits for the next batch. The zero Grouper is
// ready; it keeps its memory from one batch to the next.
//
// TCP segments are joined if they are of the same flow, have consecutive sequence numbers, no flag but ACK and PSH, and
// the same acknowledgement, window, options, hop limit and traffic class. The checksum of each is verified before it is
// joined; a packet with a wrong one stays alone, for the receiver to refuse and count.
//
// A Grouper is used by one goroutine at a time:
//
//	g.Reset(len(b))
//	for i := range b {
//		ip, ok := offload.Parse(b[i].Bytes())
//		if ok {
//			g.Add(b, i, &ip)
//		}
//	}
//	for i := range g.Groups() { ... }
type Grouper struct {
	// Cuttable restricts groups to those that can be cut again into the packets that they were made of: all have as much
	// payload as the first, but the last may have less. Without it TCP segments of any size are joined.
	Cuttable bool

	// UDP joins datagrams too, at most 64. It needs Cuttable, since datagrams must stay what they were.
	UDP bool

	groups []Group
	// chain[i] is the index in the batch of the packet that follows packet i in its group, or -1.
	chain []int32
	// open are the groups that may grow, by index; the oldest gives way.
	open   [maxOpen]int32
	nOpen  int
	joined int
}

const (
	// maxOpen is how many flows may be joined at the same time. A flow that gives way starts a new group.
	maxOpen = 16
	// maxCount bounds a group that will be cut: it has to fit one gathering system call, which takes 1024 pieces.
	maxCount = 1000
	// maxDatagrams is how many datagrams every Linux takes in one piece (UDP_MAX_SEGMENTS).
	maxDatagrams = 64
)

const (
	flagFin = 1 << 0
	flagPsh = 1 << 3
	flagAck = 1 << 4
	flagCwr = 1 << 7
)

// A Group is one packet to be, made of one or more of a batch.
type Group struct {
	// First is the index of the first packet in the batch, and Count how many there are. [Grouper.Next] leads to the others.
	First, Count int

	// IP is what the outside of the first packet says.
	IP IP

	// Header is the length in bytes of the IP and TCP or UDP headers, which is the same for all packets of the group. It is
	// zero for a packet that is alone because it could not be joined with any.
	Header int

	// Size is the length in bytes of the joined packet.
	Size int

	// Segment is the payload in bytes of the first packet, which is that of all but the last if the Grouper is Cuttable.
	Segment int

	last     int32
	seq      uint32 // of the segment that may follow
	flags    byte   // TCP flags of all together
	verified bool   // the checksums of the first packet are known to be right
}

// Reset forgets the groups and begins a batch of n packets.
func (c *Grouper) Reset(n int) {
	c.groups = c.groups[:0]
	if cap(c.chain) < n {
		c.chain = make([]int32, n)
		c.groups = make([]Group, 0, n)
	}
	c.chain = c.chain[:n]
	c.nOpen = 0
	c.joined = 0
}

// Groups returns the groups in the order of their first packets. They are valid until Reset.
func (c *Grouper) Groups() []Group { return c.groups }

// Next returns the index of the packet that follows packet i in its group, or -1 if that is the last.
func (c *Grouper) Next(i int) int { return int(c.chain[i]) }

// Joined returns how many packets of the batch were added to the group of another.
func (c *Grouper) Joined() int { return c.joined }

// AddAlone makes packet i of the batch a group by itself, which no later packet joins.
func (c *Grouper) AddAlone(i int, ip *IP) {
	c.chain[i] = -1
	c.groups = append(c.groups, Group{First: i, Count: 1, IP: *ip, Size: ip.Total, last: int32(i)})
}

// Add adds packet i of b, whose outside is ip, to the group that it continues or to a new one.
func (c *Grouper) Add(b packet.Batch, i int, ip *IP) {
	switch {
	case ip.Fragment || ip.V6 && isExtension(ip.Protocol):
		// It may belong to any flow between its hosts. None of them may go on as if it were not there.
		c.nOpen = 0
		c.AddAlone(i, ip)
	case ip.Protocol == protoTCP && ip.Total >= ip.Header+headerLenTCP:
		c.addTCP(b, i, ip)
	case ip.Protocol == protoUDP && ip.Total >= ip.Header+headerLenUDP && c.UDP && c.Cuttable:
		c.addUDP(b, i, ip)
	default:
		c.AddAlone(i, ip)
	}
}

func (c *Grouper) addTCP(b packet.Batch, i int, ip *IP) {
	p := b[i].Bytes()
	tcp := p[ip.Header:ip.Total]
	header := int(tcp[12]>>4) * 4
	flags := tcp[13]
	joinable := flags&^flagPsh == flagAck && tcp[12]&0x0f == 0 && header >= headerLenTCP && header < len(tcp) &&
		(ip.V6 || ip.Header == headerLen4)
	slot := c.find(b, p, ip)
	if slot >= 0 {
		g := &c.groups[c.open[slot]]
		if joinable && c.fits(b, g, p, ip, header) && tcpFollows(b, g, tcp, header) && g.verify(b, p, ip) {
			g.seq += uint32(len(tcp) - header)
			g.flags |= flags
			c.join(slot, i, len(tcp)-header)
			return
		}
		// What comes now must not overtake what is joined, nor be overtaken by what follows.
		c.close(slot)
	}
	c.AddAlone(i, ip)
	if joinable {
		g := &c.groups[len(c.groups)-1]
		g.seq = binary.BigEndian.Uint32(tcp[4:]) + uint32(len(tcp)-header)
		g.flags = flags
		c.start(header, len(tcp)-header)
	}
}

func (c *Grouper) addUDP(b packet.Batch, i int, ip *IP) {
	p := b[i].Bytes()
	udp := p[ip.Header:ip.Total]
	joinable := int(binary.BigEndian.Uint16(udp[4:])) == len(udp) && len(udp) > headerLenUDP &&
		(udp[6] != 0 || udp[7] != 0) && (ip.V6 || ip.Header == headerLen4)
	slot := c.find(b, p, ip)
	if slot >= 0 {
		g := &c.groups[c.open[slot]]
		if joinable && g.Count < maxDatagrams && c.fits(b, g, p, ip, headerLenUDP) && g.verify(b, p, ip) {
			c.join(slot, i, len(udp)-headerLenUDP)
			return
		}
		c.close(slot)
	}
	c.AddAlone(i, ip)
	if joinable {
		c.start(headerLenUDP, len(udp)-headerLenUDP)
	}
}

// start opens the newest group for more, whose packet has a transport header and a payload of the given lengths.
func (c *Grouper) start(header, payload int) {
	g := &c.groups[len(c.groups)-1]
	g.Header = g.IP.Header + header
	g.Segment = payload
	if c.nOpen == maxOpen {
		c.close(0)
	}
	c.open[c.nOpen] = int32(len(c.groups) - 1)
	c.nOpen++
}

// join adds packet i to the group in a slot.
func (c *Grouper) join(slot, i, payload int) {
	g := &c.groups[c.open[slot]]
	c.chain[i] = -1
	c.chain[g.last] = int32(i)
	g.last = int32(i)
	g.Count++
	g.Size += payload
	c.joined++
	if c.Cuttable && payload < g.Segment {
		c.close(slot)
	}
}

// find returns the slot of the open group of the flow that p belongs to, or -1.
func (c *Grouper) find(b packet.Batch, p []byte, ip *IP) int {
	ports := binary.NativeEndian.Uint32(p[ip.Header:])
	for slot := c.nOpen - 1; slot >= 0; slot-- {
		g := &c.groups[c.open[slot]]
		if g.IP.V6 != ip.V6 || g.IP.Protocol != ip.Protocol {
			continue
		}
		q := b[g.First].Bytes()
		if ports == binary.NativeEndian.Uint32(q[g.IP.Header:]) && bytes.Equal(ip.Pair(p), g.IP.Pair(q)) {
			return slot
		}
	}
	return -1
}

func (c *Grouper) close(slot int) {
	copy(c.open[slot:], c.open[slot+1:c.nOpen])
	c.nOpen--
}

// fits reports whether p may be joined to g as far as its IP header and its size say. Header is the length of its
// transport header.
func (c *Grouper) fits(b packet.Batch, g *Group, p []byte, ip *IP, header int) bool {
	payload := ip.Total - ip.Header - header
	if g.Header-g.IP.Header != header || g.Size+payload > packet.MaxSize {
		return false
	}
	if c.Cuttable && (payload > g.Segment || g.Count == maxCount) {
		return false
	}
	q := b[g.First].Bytes()
	if ip.V6 {
		return bytes.Equal(p[:4], q[:4]) && p[7] == q[7] // traffic class, flow label, hop limit
	}
	if p[1] != q[1] || p[6] != q[6] || p[8] != q[8] { // type of service, flags, time to live
		return false
	}
	if c.Cuttable && p[6]&0x40 == 0 {
		// Where packets may be fragmented, their identifications matter, and cutting counts them up.
		return binary.BigEndian.Uint16(p[4:]) == binary.BigEndian.Uint16(q[4:])+uint16(g.Count)
	}
	return true
}

// tcpFollows reports whether the segment tcp continues g.
func tcpFollows(b packet.Batch, g *Group, tcp []byte, header int) bool {
	first := b[g.First].Bytes()[g.IP.Header:g.Header]
	return binary.BigEndian.Uint32(tcp[4:]) == g.seq &&
		bytes.Equal(tcp[8:12], first[8:12]) && // acknowledgement
		bytes.Equal(tcp[14:16], first[14:16]) && // window
		bytes.Equal(tcp[18:header], first[18:]) // urgent pointer and options
}

// verify reports whether the checksums of p are right, and those of the first packet of g, if that is not known yet.
func (g *Group) verify(b packet.Batch, p []byte, ip *IP) bool {
	if !g.verified {
		q := b[g.First].Bytes()
		if !g.IP.HeaderSumValid(q) || !g.IP.TransportSumValid(q) {
			return false
		}
		g.verified = true
	}
	return ip.HeaderSumValid(p) && ip.TransportSumValid(p)
}

// PutHeader writes the headers of the joined packet into dst, which must have room for them, and returns their length. They
// are those of the first packet with the lengths and the TCP flags of the whole. In the place of the checksum of TCP or
// UDP stands the sum over the pseudo header, which is what a device expects that completes it. The Group must have more
// than one packet.
func (g *Group) PutHeader(dst []byte, b packet.Batch) int {
	copy(dst[:g.Header], b[g.First].Bytes())
	size := g.Size - g.IP.Header
	if g.IP.V6 {
		binary.BigEndian.PutUint16(dst[4:], uint16(size))
	} else {
		binary.BigEndian.PutUint16(dst[2:], uint16(g.Size))
		dst[10], dst[11] = 0, 0
		binary.BigEndian.PutUint16(dst[10:], ^Sum(dst[:g.IP.Header], 0))
	}
	transport := dst[g.IP.Header:]
	sum := PseudoSum(g.IP.Pair(dst), g.IP.Protocol, size)
	if g.IP.Protocol == protoUDP {
		binary.BigEndian.PutUint16(transport[4:], uint16(size))
		binary.BigEndian.PutUint16(transport[6:], sum)
	} else {
		transport[13] = g.flags
		binary.BigEndian.PutUint16(transport[16:], sum)
	}
	return g.Header
}
