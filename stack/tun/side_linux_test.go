package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
)

// BenchmarkWrite hands a batch of 44 consecutive TCP segments to the kernel, which has no route for them and drops what
// it takes. BenchmarkRead takes a train of 44 datagrams of 1372 bytes that the same goroutine has sent. Both compare with
// golang.zx2c4.com/wireguard/tun, without the help of other goroutines, so that their times are processor times.
func BenchmarkWrite(b *testing.B) {
	const offset = packet.Headroom
	segments := make([][]byte, 44)
	for i := range segments {
		segments[i] = segment(uint32(i*1360), 1360)
	}
	b.Run("kind=ours", func(b *testing.B) {
		h := netns.New(b).Host("a")
		d := open(b, h, Config{MTU: 1400})
		up(h, d, near4+"/24")
		batch := packet.NewBatch(len(segments), benchSize)
		for i := range batch {
			batch[i].Set(segments[i])
		}
		b.SetBytes(44 * 1400)
		for b.Loop() {
			if _, err := d.WriteBatch(batch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kind=wireguard", func(b *testing.B) {
		d := openWireguard(b, netns.New(b).Host("a"), near4)
		bufs, out := make([][]byte, len(segments)), make([][]byte, len(segments))
		for i := range bufs {
			bufs[i] = make([]byte, offset+packet.MaxSize)
		}
		b.SetBytes(44 * 1400)
		for b.Loop() {
			// It joins in place, so what it has changed has to be written again: all headers, and the payload of the others is
			// whole.
			for i := range bufs {
				copy(bufs[i][offset:], segments[i][:40])
				out[i] = bufs[i][:offset+1400]
			}
			if _, err := d.Write(out, offset); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	const size, count = 1372, 44
	train, oob := make([]byte, size*count), segments(size)
	send := func(b *testing.B, h *netns.Host) *net.UDPConn {
		c, err := h.DialContext(b.Context(), "udp", far4+":9")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn)
	}
	b.Run("kind=ours", func(b *testing.B) {
		h := netns.New(b).Host("a")
		d := open(b, h, Config{MTU: 1400})
		up(h, d, near4+"/24")
		c := send(b, h)
		batch := packet.NewBatch(count, benchSize)
		b.SetBytes(count * 1400)
		for b.Loop() {
			if _, _, err := c.WriteMsgUDP(train, oob, nil); err != nil {
				b.Fatal(err)
			}
			for n := 0; n < count; {
				k, err := d.ReadBatch(batch)
				if err != nil {
					b.Fatal(err)
				}
				n += k
			}
		}
	})
	b.Run("kind=wireguard", func(b *testing.B) {
		h := netns.New(b).Host("a")
		d := openWireguard(b, h, near4)
		c := send(b, h)
		bufs, sizes := make([][]byte, benchBatch), make([]int, benchBatch)
		for i := range bufs {
			bufs[i] = make([]byte, packet.Headroom+packet.MaxSize)
		}
		b.SetBytes(count * 1400)
		for b.Loop() {
			if _, _, err := c.WriteMsgUDP(train, oob, nil); err != nil {
				b.Fatal(err)
			}
			for n := 0; n < count; {
				k, err := d.Read(bufs, sizes, packet.Headroom)
				if err != nil {
					b.Fatal(err)
				}
				n += k
			}
		}
	})
}

// openWireguard opens a device on a host, switches it on, and closes it with the test.
func openWireguard(tb testing.TB, h *netns.Host, addr string) (d wgtun.Device) {
	tb.Helper()
	var err error
	h.Do(func() { d, err = wgtun.CreateTUN("wg0", 1400) })
	if err != nil {
		tb.Fatal(err)
	}
	h.IP("address", "add", addr+"/24", "dev", "wg0")
	h.IP("link", "set", "wg0", "up")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range d.Events() {
		}
	}()
	tb.Cleanup(func() {
		d.Close()
		<-done
	})
	return d
}

// segment returns a TCP segment from far to a host that is not there, with right checksums.
func segment(seq uint32, size int) []byte {
	p := make([]byte, 40+size)
	p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, 6
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	src, dst := netip.MustParseAddr(far4).As4(), netip.MustParseAddr("10.98.0.1").As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[10:], ^sum(p[:20], 0))
	tcp := p[20:]
	tcp[1], tcp[3], tcp[12], tcp[13], tcp[14] = 7, 8, 0x50, 0x10, 100
	binary.BigEndian.PutUint32(tcp[4:], seq)
	pseudo := append(append([]byte{}, p[12:20]...), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^sum(tcp, sum(pseudo, 0)))
	return p
}
