package failover

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"culvert.example/vpn/packet"
)

// big4 makes an IPv4 UDP packet of size bytes.
func big4(b *packet.Buf, size int) {
	b.SetLen(size)
	p := b.Bytes()
	clear(p)
	copy(p, header4(size, 17, 0x4000))
}

func header4(size int, proto byte, frag uint16) []byte {
	p := make([]byte, size)
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	binary.BigEndian.PutUint16(p[6:], frag)
	copy(p[12:], []byte{10, 0, 0, 2})
	copy(p[16:], []byte{192, 0, 2, 1})
	return p
}

func header6(size int, next byte) []byte {
	p := make([]byte, size)
	p[0], p[6], p[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(p[4:], uint16(size-40))
	src, dst := netip.MustParseAddr("fd00::2").As16(), netip.MustParseAddr("2001:db8::1").As16()
	copy(p[8:], src[:])
	copy(p[24:], dst[:])
	return p
}

// with returns p with bytes put at an offset.
func with(p []byte, at int, b ...byte) []byte {
	copy(p[at:], b)
	return p
}

func TestTooBigReply(t *testing.T) {
	group6 := netip.MustParseAddr("ff02::1").As16()
	for _, test := range []struct {
		name   string
		p      []byte
		answer bool
	}{
		{"udp4", header4(1400, 17, 0x4000), true},
		{"udp4 without don't fragment", header4(1400, 17, 0), true},
		{"first fragment", header4(1400, 17, 0x2000), true},
		{"later fragment", header4(1400, 17, 0x2010), false},
		{"ping", with(header4(1400, 1, 0), 20, 8), true},
		{"icmp error", with(header4(1400, 1, 0), 20, 3), false},
		{"icmp redirect", with(header4(1400, 1, 0), 20, 5), false},
		{"to a group", with(header4(1400, 17, 0), 16, 224, 0, 0, 1), false},
		{"to everybody", with(header4(1400, 17, 0), 16, 255, 255, 255, 255), false},
		{"from nobody", with(header4(1400, 17, 0), 12, 0, 0, 0, 0), false},
		{"from a group", with(header4(1400, 17, 0), 12, 239, 0, 0, 1), false},
		{"from loopback", with(header4(1400, 17, 0), 12, 127, 0, 0, 1), false},
		{"header length too small", with(header4(1400, 17, 0), 0, 0x44), false},
		{"header longer than the packet", with(header4(24, 17, 0), 0, 0x4f), false},
		{"short", header4(27, 17, 0), false},
		{"udp6", header6(1400, 17), true},
		{"ping6", with(header6(1400, 58), 40, 128), true},
		{"icmp6 error", with(header6(1400, 58), 40, 2), false},
		{"icmp6 redirect", with(header6(1400, 58), 40, 137), false},
		{"icmp6 error behind options", with(header6(1400, 0), 40, 58, 0, 0, 0, 0, 0, 0, 0, 1), false},
		{"ping6 behind options", with(header6(1400, 60), 40, 58, 1), false}, // type 0 there is an error
		{"first fragment 6", with(header6(1400, 44), 40, 17, 0, 0, 1), true},
		{"later fragment 6", with(header6(1400, 44), 40, 17, 0, 1, 0), false},
		{"options beyond the end", with(header6(60, 0), 40, 17, 255), false},
		{"to a group 6", with(header6(1400, 17), 24, group6[:]...), false},
		{"short 6", header6(40, 17)[:39], false},
		{"empty", nil, false},
		{"neither", []byte{0x10, 1, 2, 3}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := bytes.Clone(test.p)
			out := bytes.Repeat([]byte{0xff}, maxReply6)
			n := tooBigReply(out, test.p, 1290)
			if !bytes.Equal(before, test.p) {
				t.Error("the packet has changed")
			}
			if (n > 0) != test.answer {
				t.Fatalf("answer of %d bytes, want one: %v", n, test.answer)
			}
			if n > 0 {
				verifyReply(t, out[:n], test.p, 1290)
			}
		})
	}
}

// verifyReply checks a message about p against the RFCs, with its own arithmetic.
func verifyReply(t *testing.T, out, p []byte, mtu int) {
	t.Helper()
	ones := func(chunks ...[]byte) uint16 {
		s := 0
		for i, b := range bytes.Join(chunks, nil) {
			if i%2 == 0 {
				s += int(b) << 8
			} else {
				s += int(b)
			}
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return uint16(s)
	}
	switch out[0] >> 4 {
	case 4:
		if len(out) > 576 || int(binary.BigEndian.Uint16(out[2:])) != len(out) {
			t.Errorf("length %d", len(out))
		}
		if !bytes.Equal(out[12:16], p[16:20]) || !bytes.Equal(out[16:20], p[12:16]) {
			t.Errorf("from %v to %v", out[12:16], out[16:20])
		}
		if ones(out[:20]) != 0xffff || ones(out[20:]) != 0xffff {
			t.Error("checksum")
		}
		if out[9] != 1 || out[20] != 3 || out[21] != 4 || binary.BigEndian.Uint16(out[24:]) != 0 {
			t.Errorf("header % x", out[20:28])
		}
		if got := int(binary.BigEndian.Uint16(out[26:])); got != mtu {
			t.Errorf("MTU %d", got)
		}
		if !bytes.HasPrefix(p, out[28:]) || len(out)-28 < min(len(p), 28) {
			t.Error("quote")
		}
	case 6:
		if len(out) > 1280 || int(binary.BigEndian.Uint16(out[4:])) != len(out)-40 {
			t.Errorf("length %d", len(out))
		}
		if !bytes.Equal(out[8:24], p[24:40]) || !bytes.Equal(out[24:40], p[8:24]) {
			t.Errorf("from % x to % x", out[8:24], out[24:40])
		}
		length := make([]byte, 8)
		binary.BigEndian.PutUint32(length, uint32(len(out)-40))
		length[7] = 58
		if ones(out[8:40], length, out[40:]) != 0xffff {
			t.Error("checksum")
		}
		if out[6] != 58 || out[40] != 2 || out[41] != 0 || int(binary.BigEndian.Uint32(out[44:])) != max(mtu, 1280) {
			t.Errorf("header % x", out[40:48])
		}
		if !bytes.HasPrefix(p, out[48:]) {
			t.Error("quote")
		}
	default:
		t.Errorf("version %d", out[0]>>4)
	}
}

func FuzzTooBigReply(f *testing.F) {
	f.Add(header4(1400, 17, 0), 1300)
	f.Add(with(header6(1400, 0), 40, 60, 0, 0, 0, 0, 0, 0, 0, 44), 1280)
	f.Add([]byte{0x45}, 0)
	f.Fuzz(func(t *testing.T, p []byte, mtu int) {
		if len(p) > packet.MaxSize {
			return
		}
		out := make([]byte, maxReply6)
		if n := tooBigReply(out, p, mtu); n > 0 {
			want := mtu
			if p[0]>>4 == 4 {
				want = min(max(mtu, 68), packet.MaxSize)
			}
			verifyReply(t, out[:n], p, want)
			if p[0]>>4 == 4 && tooBigReply(make([]byte, maxReply6), out[:n], mtu) != 0 {
				t.Error("an answer is answered")
			}
		}
	})
}
