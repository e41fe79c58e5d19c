package wire

import (
	"errors"
	"fmt"
)

// ErrLZS reports data that LZSDecompress cannot make anything of.
var ErrLZS = errors.New("wire: malformed LZS data")

const (
	lzsWindow = 2048 // distances are less than this
	lzsHash   = 1 << 12
	lzsChain  = 48 // candidates that are looked at for one match
)

// LZSCompress appends src, compressed as RFC 1974 says and without any history, to dst. The result may be longer than
// src by an eighth and three bytes. It does not allocate if dst has that room.
func LZSCompress(dst, src []byte) []byte {
	w := lzsWriter{out: dst}
	// head is the last position with a hash plus one, and prev, indexed by a position within the window, the one before with the same
	// hash. Positions that have left the window end a chain.
	var head [lzsHash]int32
	var prev [lzsWindow]int32
	insert := func(i int) {
		if i+1 < len(src) {
			h := lzsHashOf(src[i], src[i+1])
			prev[i%lzsWindow] = head[h]
			head[h] = int32(i + 1)
		}
	}
	for i := 0; i < len(src); {
		length, distance := 0, 0
		if i+1 < len(src) {
			at := int(head[lzsHashOf(src[i], src[i+1])]) - 1
			for tries := 0; at >= 0 && i-at < lzsWindow && tries < lzsChain; tries++ {
				if length == 0 || src[at+length] == src[i+length] {
					n := 0
					for i+n < len(src) && src[at+n] == src[i+n] {
						n++
					}
					if n > length {
						length, distance = n, i-at
						if i+n == len(src) {
							break
						}
					}
				}
				at = int(prev[at%lzsWindow]) - 1
			}
		}
		if length < 2 {
			w.put(uint32(src[i]), 9)
			insert(i)
			i++
			continue
		}
		w.match(distance, length)
		// A long match is a run mostly. Not all of its positions are needed, and the time for them all is.
		for n := min(length, 64); n > 0; n-- {
			insert(i + length - n)
		}
		i += length
	}
	w.put(0b1_1_0000000, 9)
	return w.flush()
}

func lzsHashOf(a, b byte) int {
	return int((uint32(a)<<8|uint32(b))*40503>>4) & (lzsHash - 1)
}

// An lzsWriter appends bits to out, the most significant first.
type lzsWriter struct {
	out  []byte
	acc  uint64
	bits uint
}

// put appends the n low bits of v, n <= 32.
func (w *lzsWriter) put(v uint32, n uint) {
	w.acc = w.acc<<n | uint64(v)
	w.bits += n
	for w.bits >= 8 {
		w.bits -= 8
		w.out = append(w.out, byte(w.acc>>w.bits))
	}
}

func (w *lzsWriter) match(distance, length int) {
	if distance < 128 {
		w.put(0b1_1<<7|uint32(distance), 9)
	} else {
		w.put(0b1_0<<11|uint32(distance), 13)
	}
	switch {
	case length < 5:
		w.put(uint32(length-2), 2)
	case length < 8:
		w.put(0b11<<2|uint32(length-5), 4)
	default:
		w.put(0b1111, 4)
		for length -= 8; length >= 15; length -= 15 {
			w.put(15, 4)
		}
		w.put(uint32(length), 4)
	}
}

// flush fills the last byte up with zeros.
func (w *lzsWriter) flush() []byte {
	if w.bits > 0 {
		w.put(0, 8-w.bits)
	}
	return w.out
}

// LZSDecompress appends what src is the compression of to dst, at most limit bytes. It needs the end marker, and ignores what
// follows it. Matches do not reach into what was in dst before. On an error, which matches ErrLZS, it returns dst as it was.
// It does not allocate if dst has room for limit bytes.
func LZSDecompress(dst, src []byte, limit int) ([]byte, error) {
	r := lzsReader{src: src}
	out := dst
	start := len(dst)
	for {
		if r.get(1) == 0 {
			c := r.get(8)
			if r.short {
				break
			}
			if len(out)-start >= limit {
				return dst, fmt.Errorf("%w: more than %d bytes", ErrLZS, limit)
			}
			out = append(out, byte(c))
			continue
		}
		var distance int
		if r.get(1) == 1 {
			if distance = int(r.get(7)); distance == 0 && !r.short {
				return out, nil
			}
		} else {
			distance = int(r.get(11))
		}
		length := r.length(limit)
		if r.short {
			break
		}
		if distance == 0 || distance > len(out)-start {
			return dst, fmt.Errorf("%w: a match reaches %d bytes back, of %d", ErrLZS, distance, len(out)-start)
		}
		if len(out)-start+length > limit {
			return dst, fmt.Errorf("%w: more than %d bytes", ErrLZS, limit)
		}
		// The match may overlap what it makes, so what is copied at once doubles.
		for from := len(out) - distance; length > 0; {
			n := min(length, len(out)-from)
			out = append(out, out[from:from+n]...)
			length -= n
		}
	}
	return dst, fmt.Errorf("%w: no end marker", ErrLZS)
}

// An lzsReader takes bits from src, the most significant first. After the last it gives zeros, and short is set.
type lzsReader struct {
	src   []byte
	acc   uint32
	bits  uint
	short bool
}

// get returns the next n bits, n <= 16.
func (r *lzsReader) get(n uint) uint32 {
	for r.bits < n {
		if len(r.src) == 0 {
			r.short = true
			return 0
		}
		r.acc = r.acc<<8 | uint32(r.src[0])
		r.src = r.src[1:]
		r.bits += 8
	}
	r.bits -= n
	return r.acc >> r.bits & (1<<n - 1)
}

// length returns the length of a match. Lengths over limit need not be exact.
func (r *lzsReader) length(limit int) int {
	if v := int(r.get(2)); v < 3 {
		return v + 2
	}
	if v := int(r.get(2)); v < 3 {
		return v + 5
	}
	n := 8
	for !r.short {
		v := int(r.get(4))
		if n += v; v < 15 || n > limit {
			break
		}
	}
	return n
}
