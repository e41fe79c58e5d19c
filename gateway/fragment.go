package gateway

import (
	"encoding/binary"

	"culvert.example/vpn/packet"
)

// cut makes fragments of at most mtu bytes of the IPv4 packet p, whose header is h, and returns them as the front of b (RFC 791
// section 3.2). It returns none if p must not or cannot be cut: that is a packet with options, since some of them belong
// into the first fragment only, and one whose fragments do not all find room.
func cut(b packet.Batch, p []byte, h *header, mtu int) packet.Batch {
	const moreFragments, offsetMask = 0x2000, 0x1fff
	room := (mtu - headerLen4) &^ 7
	if p[0] != 4<<4|headerLen4/4 || h.whole || room < 8 {
		return nil
	}
	flags := binary.BigEndian.Uint16(p[6:])
	data := p[headerLen4:h.total]
	n := 0
	for at := 0; at < len(data); at += room {
		end := min(at+room, len(data))
		if n == len(b) || b[n].Size() < headerLen4+end-at {
			return nil
		}
		b[n].SetLen(headerLen4 + end - at)
		f := b[n].Bytes()
		copy(f, p[:headerLen4])
		copy(f[headerLen4:], data[at:end])
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		field := flags&offsetMask + uint16(at/8)
		if end < len(data) || flags&moreFragments != 0 {
			field |= moreFragments
		}
		if int(flags&offsetMask)+at/8 > offsetMask {
			return nil
		}
		binary.BigEndian.PutUint16(f[6:], field)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], ^sum(f[:headerLen4], 0))
		n++
	}
	return b[:n]
}
