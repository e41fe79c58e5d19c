package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"culvert.example/vpn/packet/offload"
)

// option returns the option of a TCP header with the given number, or nil.
func option(tcp []byte, number byte) []byte {
	n := int(tcp[12]>>4) * 4
	if n > len(tcp) || n < header.TCPMinimumSize {
		return nil
	}
	for o := tcp[header.TCPMinimumSize:n]; len(o) > 0; {
		switch o[0] {
		case header.TCPOptionEOL:
			return nil
		case header.TCPOptionNOP:
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) < 2 || int(o[1]) > len(o) {
			return nil
		}
		if o[0] == number {
			return o[:o[1]]
		}
		o = o[o[1]:]
	}
	return nil
}

// timeStamps returns the two time stamps in a TCP header, or nil.
func timeStamps(tcp []byte) []byte {
	if o := option(tcp, header.TCPOptionTS); len(o) == header.TCPOptionTSLength {
		return o[2:]
	}
	return nil
}

// blank overwrites the option o of the TCP header tcp with padding. The checksum follows (RFC 1624).
func blank(tcp, o []byte) {
	h := tcp[header.TCPMinimumSize : int(tcp[12]>>4)*4]
	sum := uint32(^binary.BigEndian.Uint16(tcp[16:])) + uint32(^offload.Sum(h, 0))
	for i := range o {
		o[i] = header.TCPOptionNOP
	}
	sum += uint32(offload.Sum(h, 0))
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
}
