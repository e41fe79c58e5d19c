package offload

import (
	"math/rand/v2"
	"testing"
)

// slowSum is the definition in RFC 1071.
func slowSum(b []byte, initial uint16) uint16 {
	s := uint32(initial)
	for i, c := range b {
		if i%2 == 0 {
			s += uint32(c) << 8
		} else {
			s += uint32(c)
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// same reports whether two sums are the same number: zero has two representations.
func same(a, b uint16) bool { return a == b || a == 0xffff && b == 0 || a == 0 && b == 0xffff }

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{1}, uint16(0xffff))
	full := make([]byte, 1501)
	for i := range full {
		full[i] = 0xff
	}
	f.Add(full, uint16(0xffff))
	f.Fuzz(func(t *testing.T, b []byte, initial uint16) {
		want := slowSum(b, initial)
		if got := Sum(b, initial); !same(got, want) {
			t.Fatalf("Sum of %d bytes = %#x, want %#x", len(b), got, want)
		}
	})
}

func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32()) | byte(rng.IntN(2)*255)
		}
		initial := uint16(rng.Uint32())
		if got, want := Sum(b, initial), slowSum(b, initial); got != want {
			t.Errorf("Sum of %d bytes = %#x, want %#x", n, got, want)
		}
	}
}
