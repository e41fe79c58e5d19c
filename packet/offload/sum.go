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
	// Adding the last carry cannot overflow again: a sum that has carried is less than all ones.
	var c uint64
	for len(b) >= 128 {
		w := (*[128]byte)(b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[64:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[72:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[80:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[88:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[96:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[104:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[112:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[120:]), c)
		acc += c
		b = b[128:]
	}
	for len(b) >= 32 {
		w := (*[32]byte)(b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc += c
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) == 0 {
		return acc
	}
	// What is left, less than 8 bytes, makes one more word. Its parts stay where they belong in it, or move by an even number of
	// bytes, which the sum does not notice.
	var w uint64
	if len(b) >= 4 {
		w = uint64(binary.LittleEndian.Uint32(b)) << 32
		b = b[4:]
	}
	if len(b) >= 2 {
		w |= uint64(binary.LittleEndian.Uint16(b)) << 16
		b = b[2:]
	}
	if len(b) > 0 {
		w |= uint64(b[0])
	}
	acc, c = bits.Add64(acc, w, 0)
	return acc + c
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
