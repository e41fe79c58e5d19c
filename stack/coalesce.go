package stack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/offload"
)

// A coalescer joins the TCP segments of one batch that follow each other, so that the stack processes one large segment
// instead of dozens.
type coalescer struct{ offload.Grouper }

const (
	tcpAck = byte(header.TCPFlagAck)
	tcpPsh = byte(header.TCPFlagPsh)
)

// add adds packet i of b.
func (c *coalescer) add(b packet.Batch, i int, ip *ipInfo) {
	o := ip.outside()
	c.Add(b, i, &o)
}

// build returns the packet of g. The caller releases it.
func (c *coalescer) build(b packet.Batch, g *offload.Group) *stack.PacketBuffer {
	ip := infoOf(g.IP)
	if g.Count == 1 {
		return newInbound(b[g.First].Bytes()[:g.IP.Total], &ip)
	}
	var mem [headerLen6 + header.TCPHeaderMaximumSize]byte
	hdr := mem[:g.PutHeader(mem[:], b)]
	payload := buffer.NewView(g.Size - g.Header)
	for i := g.First; i >= 0; i = c.Next(i) {
		p := b[i].Bytes()
		// All packets of a group have headers of the same length. Their own may be followed by padding.
		payload.Write(p[g.Header:offload.Total(p)])
	}
	pkt := newPacket(hdr, payload, &ip)
	// The checksum of TCP in the joined headers is not complete. The stack need not look at it.
	pkt.RXChecksumValidated = true
	return pkt
}
