package dtls

import (
	"encoding/hex"
	"testing"
	"time"

	"culvert.example/vpn/packet"
)

const aHello = "16fefd000000000000000000620100005600000000000000" +
	"56fefd6a22e2f5a7b8ab2ad2c3f6d37c6a8b21e7f6a0f39fba7c10c9c1d2e3f4050607" +
	"2007070707070707070707070707070707070707070707070707070707070707070000" +
	"0600a900a8ccab0100000a00160000001700000000"

// fitted returns the ClientHello with the lengths in the headers of record and handshake made to fit.
func fitted(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return fit(b)
}

func fit(b []byte) []byte {
	n := len(b) - recordHeader
	b[11], b[12] = byte(n>>8), byte(n)
	n -= handshakeHeader
	b[14], b[15], b[16] = 0, byte(n>>8), byte(n)
	copy(b[22:25], b[14:17])
	return b
}

func FuzzHello(f *testing.F) {
	b := fitted(f, aHello)
	f.Add(b)
	f.Add(b[:60])
	f.Fuzz(func(t *testing.T, d []byte) {
		h, ok := parseHello(d)
		if ok && (len(h.id) < 1 || len(h.id) > maxID || len(h.random) != 32) {
			t.Fatalf("parseHello = %x, %x", h.id, h.random)
		}
	})
}

func TestParseHello(t *testing.T) {
	b := fitted(t, aHello)
	if h, ok := parseHello(b); !ok || len(h.id) != 32 || h.id[0] != 7 {
		t.Fatalf("parseHello = %x, %v", h.id, ok)
	}
	// No session id, but the extension.
	ext := append([]byte(nil), b[:59]...)
	ext = append(ext, 0 /* id */, 0 /* cookie */, 0, 2, 0, 0xa9, 1, 0, 0, 14, 0, 23, 0, 0, 0xbb, 0x92, 0, 6, 5, 'h', 'e', 'l', 'l', 'o')
	if h, ok := parseHello(fit(ext)); !ok || string(h.id) != "hello" {
		t.Fatalf("parseHello with the extension = %q, %v", h.id, ok)
	}
	ext[len(ext)-6] = 6
	if _, ok := parseHello(ext); ok {
		t.Fatal("parseHello takes an extension that is too short")
	}
	second := append([]byte(nil), b...)
	second[21] = 1 // a later fragment
	if _, ok := parseHello(second); ok {
		t.Fatal("parseHello takes a later fragment")
	}
}

// FuzzRecords gives a Conn datagrams that anybody may have sent, and the plaintexts that its peer may have.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("\x17\xfe\xfd\x00\x01\x00\x00\x00\x00\x00\x01\x00\x01x"), []byte{0, 0x45})
	f.Add([]byte("\x15\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x02\x28"), []byte{3, 1, 2, 3})
	f.Add([]byte{}, []byte{4})
	f.Add([]byte{}, []byte{5, 0xb0, 'x'})
	f.Fuzz(func(t *testing.T, datagram, plain []byte) {
		c := sinkConn(t, suiteByID(0x00a8), nil)
		seal, open := pair(t, suiteByID(0x00a8))
		c.rx = open
		c.final = []byte("final")
		b := packet.NewBatch(1, 200)
		for d := datagram; len(d) > 0; {
			r, rest, ok := parseRecord(d)
			if !ok {
				break
			}
			if c.accept(r, &b[0]) {
				t.Fatal("a forged record was accepted")
			}
			d = rest
		}
		plain = plain[:min(len(plain), maxPlain)]
		for seq, typ := range []byte{typeData, typeAlert, typeData} {
			rec := make([]byte, seal.size(len(plain)))
			seal.seal(rec, typ, uint64(seq), plain)
			r, _, _ := parseRecord(rec)
			if c.accept(r, &b[0]) && b[0].Len() != len(plain)-1 {
				t.Fatalf("a packet of %d bytes became one of %d", len(plain)-1, b[0].Len())
			}
		}
	})
}

// FuzzSearch has the search run against a path with a hole and with losses. It must end, and find the hole if nothing is lost.
func FuzzSearch(f *testing.F) {
	f.Add(uint16(1000), uint16(1434), true, uint64(0))
	f.Add(uint16(600), uint16(1434), false, uint64(0))
	f.Add(uint16(9000), uint16(8900), true, uint64(0xf0f0))
	f.Add(uint16(100), uint16(700), false, ^uint64(0))
	f.Fuzz(func(t *testing.T, path, most uint16, echoes bool, losses uint64) {
		ceiling := int(most)%maxPlain + minMTU4
		now := time.Duration(1)
		s := newSearch(minMTU4, ceiling, 0, now)
		for steps := 0; ; steps++ {
			if steps > 1000 || now > 2*mostTime {
				t.Fatalf("no end after %d steps and %v: %+v", steps, now, s)
			}
			send, next, done := s.step(now)
			if done {
				break
			}
			came := now + 10*time.Millisecond
			for _, n := range send {
				lost := losses&1 != 0
				losses >>= 1
				if n > int(path) || lost {
					continue
				}
				if s.answer(came, n, echoes); !echoes && n > ceiling {
					t.Fatalf("a probe of %d bytes, more than %d", n, ceiling)
				}
			}
			if s.settled() {
				now = came
			} else {
				now = max(next, came)
			}
		}
		got, err := s.result()
		if err == nil && got > ceiling {
			t.Fatalf("found %d, more than %d", got, ceiling)
		}
		if losses == 0 && err == nil && int(path) >= smallProbe && got > int(path) && s.answered && echoes {
			t.Fatalf("found %d on a path of %d", got, path)
		}
	})
}

func TestSearch(t *testing.T) {
	for _, echoes := range []bool{true, false} {
		for path := 500; path <= 1500; path += 7 {
			now := time.Duration(1)
			s := newSearch(minMTU4, 1434, 0, now)
			for {
				send, next, done := s.step(now)
				if done {
					break
				}
				for _, n := range send {
					if n <= path {
						s.answer(now+30*time.Millisecond, n, echoes)
					}
				}
				if now += 30 * time.Millisecond; !s.settled() {
					now = next
				}
			}
			got, err := s.result()
			switch {
			case path < minMTU4 && err == nil:
				t.Errorf("path %d, echoes %v: found %d, want an error", path, echoes, got)
			case path >= minMTU4 && (err != nil || got > min(path, 1434) || got < min(path, 1434)-nearEnough):
				t.Errorf("path %d, echoes %v: found %d, %v", path, echoes, got, err)
			}
			if limit := 5 * time.Second; now > limit {
				t.Errorf("path %d, echoes %v: took %v", path, echoes, now)
			}
		}
	}
}
