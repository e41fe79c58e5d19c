package offload

import (
	"encoding/binary"
	"math/bits"
)

// Sum returns the ones' complement sum (RFC 1071) over b in network byte order, where an odd last byte counts as the
// high one of a pair, and initial. A checksum is its complement.
//
// A ones' complement sum does not care for the width of its words nor, but for one exchange of bytes at the end, for
// their byte order, so it is taken over machine words of 64 bits with the carry going around.
func Sum(b []byte, initial uint16) uint16 {
	return fold(sum64(b, uint64(bits.ReverseBytes16(initial))))
}

// sum64 adds the little-endian words of b to acc.
func sum64(b []byte, acc uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc += c // cannot overflow again: a sum that has carried is less than all ones
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(last[:]), 0)
		acc += c
	}
	return acc
}

// fold returns the sum of the 16-bit words of acc in network byte order.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return bits.ReverseBytes16(uint16(acc))
}

// Combine returns the ones' complement sum of two sums.
func Combine(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s&0xffff)
}

// PseudoSum returns the sum over the pseudo header of a payload of n bytes (RFC 9293 section 3.1, RFC 8200 section 8.1). Pair
// are the addresses as they stand in the header.
func PseudoSum(pair []byte, protocol byte, n int) uint16 {
	return Combine(Sum(pair, uint16(protocol)), uint16(n))
}

// add returns the ones' complement sum of two sums.
func add(a, b uint64) uint64 {
	s, c := bits.Add64(a, b, 0)
	return s + c
}

// copySum copies src to dst, which must be as long, and returns the sum over it. Reading memory once for both is
// cheaper than twice.
func copySum(dst, src []byte) (acc uint64) {
	dst = dst[:len(src)]
	var c uint64
	for len(src) >= 64 && len(dst) >= 64 {
		s, d := (*[64]byte)(src), (*[64]byte)(dst)
		w0, w1 := binary.LittleEndian.Uint64(s[0:]), binary.LittleEndian.Uint64(s[8:])
		w2, w3 := binary.LittleEndian.Uint64(s[16:]), binary.LittleEndian.Uint64(s[24:])
		w4, w5 := binary.LittleEndian.Uint64(s[32:]), binary.LittleEndian.Uint64(s[40:])
		w6, w7 := binary.LittleEndian.Uint64(s[48:]), binary.LittleEndian.Uint64(s[56:])
		binary.LittleEndian.PutUint64(d[0:], w0)
		binary.LittleEndian.PutUint64(d[8:], w1)
		binary.LittleEndian.PutUint64(d[16:], w2)
		binary.LittleEndian.PutUint64(d[24:], w3)
		binary.LittleEndian.PutUint64(d[32:], w4)
		binary.LittleEndian.PutUint64(d[40:], w5)
		binary.LittleEndian.PutUint64(d[48:], w6)
		binary.LittleEndian.PutUint64(d[56:], w7)
		acc, c = bits.Add64(acc, w0, 0)
		acc, c = bits.Add64(acc, w1, c)
		acc, c = bits.Add64(acc, w2, c)
		acc, c = bits.Add64(acc, w3, c)
		acc, c = bits.Add64(acc, w4, c)
		acc, c = bits.Add64(acc, w5, c)
		acc, c = bits.Add64(acc, w6, c)
		acc, c = bits.Add64(acc, w7, c)
		acc += c
		src, dst = src[64:], dst[64:]
	}
	copy(dst, src)
	return sum64(src, acc)
}
