package tun

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
)

// TestUDP sends datagrams of many sizes from a to b, some larger than the MTU, so that they come as fragments, and some in
// trains that the kernel of a hands over in one piece.
func TestUDP(t *testing.T) {
	for _, noOffload := range []bool{false, true} {
		p := newPair(t, Config{MTU: 1400, NoOffload: noOffload}, Config{MTU: 1400}, 64)
		for _, addr := range []string{far4, far6} {
			at := netip.AddrPortFrom(netip.MustParseAddr(addr), 9)
			l, err := p.b.ListenPacket("udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.(*net.UDPConn).SetReadBuffer(4 << 20)
			conn, err := p.a.DialContext(t.Context(), "udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c := conn.(*net.UDPConn)
			sent := make(map[uint32]bool)
			for _, size := range []int{8, 100, 1000, 1300, 1500, 9000, 60000} {
				for range 5 {
					d := datagram(size)
					sent[binary.BigEndian.Uint32(d)] = true
					if _, err := c.Write(d); err != nil {
						t.Fatal(err)
					}
				}
			}
			// A train of 40 datagrams of 1000 bytes and one of 77.
			var train []byte
			for i := range 41 {
				d := datagram(1000)
				if i == 40 {
					d = datagram(77)
				}
				sent[binary.BigEndian.Uint32(d)] = true
				train = append(train, d...)
			}
			if _, _, err := c.WriteMsgUDP(train, segments(1000), nil); err != nil {
				t.Fatalf("sending a train: %v", err)
			}
			l.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 65536)
			for len(sent) > 0 {
				n, _, err := l.ReadFrom(buf)
				if err != nil {
					t.Fatalf("%s: %d datagrams are missing: %v; %+v %+v", addr, len(sent), err, p.devA.Stats(), p.devB.Stats())
				}
				sum := binary.BigEndian.Uint32(buf)
				if crc32.ChecksumIEEE(buf[4:n]) != sum || !sent[sum] {
					t.Fatalf("%s: a datagram of %d bytes was not sent like this", addr, n)
				}
				delete(sent, sum)
			}
		}
		a, b := p.devA.Stats(), p.devB.Stats()
		if a.ReadMalformed+a.ReadTooBig+b.WriteRefused+b.WriteMalformed > 0 || a.ReadPackets == 0 {
			t.Errorf("counted %+v at one end and %+v at the other", a, b)
		}
	}
}

// segments returns the control message that makes one datagram a train of datagrams of a size.
func segments(size int) []byte {
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	return oob
}

// TestBatches checks that a ReadBatch takes all that there is, and goes on where the one before had no room.
func TestBatches(t *testing.T) {
	h := netns.New(t).Host("a")
	h.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	d := open(t, h, Config{MTU: 1400})
	up(h, d, near4+"/24")
	conn, err := h.DialContext(t.Context(), "udp", far4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := conn.(*net.UDPConn)
	for _, batch := range []int{64, 45, 7, 1} {
		c.Write(make([]byte, 10))
		if _, _, err := c.WriteMsgUDP(make([]byte, 40*1000+500), segments(1000), nil); err != nil {
			t.Fatal(err)
		}
		c.Write(make([]byte, 20))
		before := d.Stats().Reads
		b := packet.NewBatch(batch, 1400)
		var sizes []int
		calls := 0
		for len(sizes) < 43 {
			n, err := d.ReadBatch(b)
			if err != nil {
				t.Fatal(err)
			}
			for i := range b[:n] {
				sizes = append(sizes, b[i].Len()-28)
			}
			calls++
		}
		for i, size := range sizes {
			want := 1000
			switch i {
			case 0:
				want = 10
			case 41:
				want = 500
			case 42:
				want = 20
			}
			if size != want {
				t.Errorf("batches of %d: datagram %d has %d bytes, want %d", batch, i, size, want)
			}
		}
		if want := (43 + batch - 1) / batch; calls != want {
			t.Errorf("batches of %d: %d calls, want %d", batch, calls, want)
		}
		if reads := d.Stats().Reads - before; d.uso && reads > 4 {
			t.Errorf("batches of %d: %d system calls", batch, reads)
		}
	}
}

// datagram returns random bytes of a size, the first four of which are the sum over the others.
func datagram(size int) []byte {
	d := make([]byte, size)
	for i := range d {
		d[i] = byte(rand.Uint32())
	}
	binary.BigEndian.PutUint32(d, crc32.ChecksumIEEE(d[4:]))
	return d
}

// packet4 returns a datagram in a packet with right checksums.
func packet4(src, dst string, port uint16, payload []byte) []byte {
	p := make([]byte, 28+len(payload))
	p[0], p[8], p[9], p[6] = 0x45, 64, 17, 0x40
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[10:], ^sum(p[:20], 0))
	binary.BigEndian.PutUint16(p[20:], 1000)
	binary.BigEndian.PutUint16(p[22:], port)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	copy(p[28:], payload)
	pseudo := append(append([]byte{}, p[12:20]...), 0, 17, p[24], p[25])
	binary.BigEndian.PutUint16(p[26:], ^sum(p[20:], sum(pseudo, 0)))
	return p
}

func sum(b []byte, initial uint16) uint16 {
	s := uint32(initial)
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// TestOrder writes what may be joined and what may not in turns, and checks the order in which it arrives.
func TestOrder(t *testing.T) {
	p := newPair(t, Config{MTU: 1400}, Config{MTU: 1400}, 16)
	l, err := p.b.ListenPacket("udp", far4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.(*net.UDPConn).SetReadBuffer(1 << 20)
	const count = 120
	b := packet.NewBatch(count, 1400)
	for i := range b {
		size := 100
		if i%17 == 0 {
			size = 5 + i
		}
		payload := make([]byte, size)
		payload[0] = byte(i)
		b[i].Set(packet4(near4, far4, 9, payload))
		if i%23 == 0 {
			q := b[i].Bytes()
			q[26], q[27] = 0, 0 // no checksum: not joined, and good
		}
	}
	before := make([][]byte, count)
	for i := range b {
		before[i] = append([]byte{}, b[i].Bytes()...)
	}
	writes := p.devB.Stats().Writes
	if n, err := p.devB.WriteBatch(b); n != count || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	if used := p.devB.Stats().Writes - writes; p.devB.uso && used > 40 {
		t.Errorf("%d writes for %d packets", used, count)
	}
	for i := range b {
		if string(before[i]) != string(b[i].Bytes()) {
			t.Fatalf("packet %d is not what it was", i)
		}
	}
	buf := make([]byte, 2000)
	l.SetReadDeadline(time.Now().Add(5 * time.Second))
	for i := range count {
		if _, _, err := l.ReadFrom(buf); err != nil || int(buf[0]) != i {
			t.Fatalf("datagram %d came as number %d, %v", buf[0], i, err)
		}
	}
}
