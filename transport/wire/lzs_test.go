package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func counting(n, mod int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % mod)
	}
	return b
}

// TestLZSVectors compares with what the encoder of openconnect makes.
func TestLZSVectors(t *testing.T) {
	for _, test := range []struct {
		plain   []byte
		encoded string
	}{
		{[]byte("ABAAAAAACABABABA"), "20 90 88 38 1c 21 e2 5c 15 80"},
		{bytes.Repeat([]byte("A"), 32), "20 e0 7f e3 00"},
		{[]byte("AAAA"), "20 e0 5c 00"},
		{[]byte("ABCD"), "20 90 88 64 4c 00"},
		{make([]byte, 64), "00 60 7f ff eb 00"},
		{nil, "c0 00"},
	} {
		want := unhex(t, test.encoded)
		if got := LZSCompress(nil, test.plain); !bytes.Equal(got, want) {
			t.Errorf("%.20q: % x, want % x", test.plain, got, want)
		}
		if got, err := LZSDecompress(nil, want, len(test.plain)); err != nil || !bytes.Equal(got, test.plain) {
			t.Errorf("% x: %q, %v", want, got, err)
		}
	}
	got := LZSCompress(nil, counting(300, 150))
	if end := unhex(t, "12 df ff ff ff ff ef 80"); len(got) != 177 || !bytes.HasSuffix(got, end) {
		t.Errorf("300 bytes counting to 150: %d bytes, % x", len(got), got)
	}
}

func TestLZSDecompressErrors(t *testing.T) {
	for name, test := range map[string]struct {
		src   string
		limit int
	}{
		"empty":                    {"", 10},
		"no end marker":            {"20 90 88", 10},
		"end marker cut off":       {"20 e0 5c", 10},
		"match before any output":  {"c0 90 00", 10},
		"distance zero, long form": {"20 c0 00 00 00", 10},
		"distance beyond output":   {"20 e1 5c 00", 10},
		"literal over the limit":   {"20 90 88 64 4c 00", 3},
		"match over the limit":     {"20 e0 7f e3 00", 31},
		"endless match":            {"20 e0 7f ff ff ff ff ff ff ff", 1 << 20},
	} {
		had := []byte("before")
		got, err := LZSDecompress(had, unhex(t, test.src), test.limit)
		if !errors.Is(err, ErrLZS) || string(got) != "before" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// What is in front of the output is no history, and what is behind the end marker is padding.
	if got, err := LZSDecompress([]byte("AAAA"), unhex(t, "e0 5c 00"), 10); err == nil {
		t.Errorf("a match reached %q", got)
	}
	if got, err := LZSDecompress([]byte("x"), unhex(t, "20 e0 5c 00 00 ff"), 10); err != nil || string(got) != "xAAAA" {
		t.Errorf("%q, %v", got, err)
	}
}

// samples are packets of several kinds.
func samples() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 1400)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	few := make([]byte, 20000)
	for i := range few {
		few[i] = "abc"[r.IntN(3)]
	}
	return [][]byte{
		{}, {7}, random, few, make([]byte, 65535), counting(5000, 251), counting(6000, 2047), counting(6000, 2048), counting(6000, 2049),
		[]byte(strings.Repeat("GET /index.html HTTP/1.1\r\nHost: intranet.corp.example\r\n", 20)),
	}
}

func TestLZSRoundTrip(t *testing.T) {
	for i, plain := range samples() {
		encoded := LZSCompress([]byte("head"), plain)
		if len(encoded) > 4+len(plain)+len(plain)/8+3 {
			t.Errorf("sample %d: %d bytes became %d", i, len(plain), len(encoded))
		}
		got, err := LZSDecompress(nil, encoded[4:], len(plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("sample %d of %d bytes: %d bytes, %v", i, len(plain), len(got), err)
		}
	}
	if n := len(LZSCompress(nil, make([]byte, 1400))); n > 60 {
		t.Errorf("1400 zeros: %d bytes", n)
	}
}

func TestLZSAllocs(t *testing.T) {
	plain := samples()[9]
	encoded, out := make([]byte, 0, 2000), make([]byte, 0, 2000)
	if n := testing.AllocsPerRun(100, func() {
		got, err := LZSDecompress(out, LZSCompress(encoded, plain), 2000)
		if err != nil || len(got) != len(plain) {
			t.Error(len(got), err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzLZSDecompress(f *testing.F) {
	for _, s := range []string{"20 90 88 38 1c 21 e2 5c 15 80", "20 e0 7f e3 00", "00 60 7f ff eb 00", "c0 00", ""} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 4096
		out, err := LZSDecompress(nil, src, limit)
		if err != nil {
			if !errors.Is(err, ErrLZS) || len(out) != 0 {
				t.Errorf("%d bytes, %v", len(out), err)
			}
			return
		}
		if len(out) > limit {
			t.Errorf("%d bytes", len(out))
		}
		again, err := LZSDecompress(nil, LZSCompress(nil, out), len(out))
		if err != nil || !bytes.Equal(again, out) {
			t.Errorf("round trip: %v", err)
		}
	})
}

func FuzzLZSRoundTrip(f *testing.F) {
	f.Add([]byte("ABAAAAAACABABABA"))
	f.Add(counting(3000, 7))
	f.Fuzz(func(t *testing.T, plain []byte) {
		encoded := LZSCompress(nil, plain)
		if len(encoded) > len(plain)+len(plain)/8+3 {
			t.Errorf("%d bytes became %d", len(plain), len(encoded))
		}
		got, err := LZSDecompress(nil, encoded, len(plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%v", err)
		}
	})
}

func BenchmarkLZSCompress(b *testing.B) {
	for i, name := range map[int]string{2: "random", 9: "text"} {
		b.Run(name, func(b *testing.B) {
			plain := samples()[i]
			dst := make([]byte, 0, 2*len(plain))
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				LZSCompress(dst, plain)
			}
		})
	}
}

func BenchmarkLZSDecompress(b *testing.B) {
	plain := samples()[9]
	encoded := LZSCompress(nil, plain)
	dst := make([]byte, 0, len(plain))
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if _, err := LZSDecompress(dst, encoded, len(plain)); err != nil {
			b.Fatal(err)
		}
	}
}
