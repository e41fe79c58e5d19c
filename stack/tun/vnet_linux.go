package tun

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// vnetLen is the length of a virtioHeader in bytes.
const vnetLen = 10

// A virtioHeader stands in front of each packet (struct virtio_net_hdr, virtio 1.2 section 5.1.6), in the byte order of
// the machine.
type virtioHeader struct {
	flags, gso        byte
	header            uint16 // length of all headers, a hint
	segment           uint16 // payload of each packet that a large one is to be cut into
	sumStart, sumFrom uint16 // where the checksum begins, and where it belongs from there
}

func (h *virtioHeader) decode(b []byte) {
	*h = virtioHeader{
		flags: b[0], gso: b[1],
		header: binary.NativeEndian.Uint16(b[2:]), segment: binary.NativeEndian.Uint16(b[4:]),
		sumStart: binary.NativeEndian.Uint16(b[6:]), sumFrom: binary.NativeEndian.Uint16(b[8:]),
	}
}

func (h *virtioHeader) encode(b []byte) {
	b[0], b[1] = h.flags, h.gso
	binary.NativeEndian.PutUint16(b[2:], h.header)
	binary.NativeEndian.PutUint16(b[4:], h.segment)
	binary.NativeEndian.PutUint16(b[6:], h.sumStart)
	binary.NativeEndian.PutUint16(b[8:], h.sumFrom)
}

// needsSum reports whether a checksum is not complete.
func (h *virtioHeader) needsSum() bool { return h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 }

// large reports whether the packet has to be cut.
func (h *virtioHeader) large() bool {
	return h.gso&^unix.VIRTIO_NET_HDR_GSO_ECN != unix.VIRTIO_NET_HDR_GSO_NONE
}
