package dtls

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
)

// TestIdleMemory has a channel hold no memory for receiving while nothing comes.
func TestIdleMemory(t *testing.T) {
	client, server := quietPair(t)
	done := make(chan error, 1)
	go func() {
		_, err := client.ReadBatch(packet.NewBatch(8, testMTU))
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	send(t, server, numbered(0, 4, testMTU))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go func() { done <- client.Wait() }()
	client.in.(connectedUDP).sock.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := <-done; !isTimeout(err) {
		t.Fatalf("Wait = %v, want a time-out", err)
	}
	if client.in.(connectedUDP).land != nil {
		t.Error("a channel on which nothing comes has memory for receiving")
	}
}

// TestEmptyDatagrams sends datagrams without a byte in them, and with one, between others. They are counted and change nothing.
func TestEmptyDatagrams(t *testing.T) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn, err := net.DialUDP("udp4", nil, pc.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := newUDPSocket(conn, 8)
	if err != nil {
		t.Fatal(err)
	}
	in := newIntake(s, maxPlain, false, false)
	defer in.release()
	sent := [][]byte{{}, []byte("one"), {}, {}, []byte("three"), {7}, {}}
	for _, d := range sent {
		if _, err := pc.WriteToUDP(d, conn.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for i := 0; i < len(sent); {
		d := in.next()
		if d == nil {
			if err := in.wait(); err != nil {
				t.Fatalf("after %d datagrams: %v", i, err)
			}
			continue
		}
		if !bytes.Equal(d, sent[i]) {
			t.Errorf("datagram %d is %q, want %q", i, d, sent[i])
		}
		i++
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if err := in.wait(); !isTimeout(err) && err != os.ErrDeadlineExceeded {
		t.Errorf("wait = %v, want a time-out", err)
	}
}

// cmsg returns one element of ancillary data that says it is n bytes long.
func cmsg(level, typ int32, n uint64, body ...byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(body)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(int(n))
	copy(b[unix.CmsgLen(0):], body)
	return b
}

// segments is the ancillary data for datagrams of n bytes.
func segments(n int32) []byte {
	return cmsg(unix.IPPROTO_UDP, unix.UDP_GRO, uint64(unix.CmsgLen(4)), binary.NativeEndian.AppendUint32(nil, uint32(n))...)
}

// FuzzAncillary takes messages apart whatever the ancillary data says about them: all bytes come out once, and in order.
func FuzzAncillary(f *testing.F) {
	f.Add(segments(7), uint16(30), uint8(1), false)
	f.Add(segments(0), uint16(30), uint8(1), false)
	f.Add(segments(-5), uint16(30), uint8(1), true)
	f.Add(segments(1<<30), uint16(30), uint8(2), false)
	f.Add(cmsg(unix.IPPROTO_UDP, unix.UDP_GRO, 1<<63-1, 1, 0, 0, 0), uint16(9), uint8(1), false)
	f.Add(cmsg(unix.IPPROTO_UDP, unix.UDP_GRO, 0, 1, 0, 0, 0), uint16(9), uint8(1), false)
	f.Add(cmsg(unix.IPPROTO_UDP, unix.UDP_GRO, 17, 1, 0, 0, 0), uint16(9), uint8(1), false)
	f.Add(append(cmsg(unix.IPPROTO_IP, unix.IP_PKTINFO, uint64(unix.CmsgLen(12)), make([]byte, 12)...), segments(3)...), uint16(10), uint8(3), false)
	f.Add(cmsg(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, uint64(unix.CmsgLen(3)), 1, 2, 3), uint16(0), uint8(1), false)
	f.Fuzz(func(t *testing.T, control []byte, size uint16, count uint8, truncated bool) {
		const most = 1500
		n := int(count)%4 + 1
		r := &intake{land: newLanding(n, most), named: true, got: n}
		r.land.prepare(true)
		want := 0
		for i := range n {
			m := &r.land.msgs[i]
			m.len = uint32(int(size) % (most + 1))
			for j := range int(m.len) {
				r.land.mem[i*most+j] = byte(i)
			}
			r.land.names[i].Family = unix.AF_INET
			m.hdr.SetControllen(copy(r.land.control[i][:], control))
			if truncated && i == 0 {
				m.hdr.Flags = unix.MSG_TRUNC
				continue
			}
			want += int(m.len)
		}
		got, last := 0, byte(0)
		for d := r.next(); d != nil; d = r.next() {
			got += len(d)
			for _, b := range d {
				if b < last {
					t.Fatal("datagrams have changed places")
				}
				last = b
			}
			if r.from != netip.AddrPortFrom(netip.AddrFrom4([4]byte{}), 0) {
				t.Fatal("wrong sender", r.from)
			}
		}
		if got != want {
			t.Errorf("%d bytes of datagrams, want %d", got, want)
		}
	})
}
