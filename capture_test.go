package vpn_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A captured packet is what a pcapng file says of one.
type captured struct {
	at   time.Time
	out  bool
	data []byte
}

// readCapture reads a pcapng file (draft-ietf-opsawg-pcapng) of one interface with whole IP packets.
func readCapture(b []byte) ([]captured, error) {
	const section, iface, enhanced = 0x0a0d0d0a, 1, 6
	le := binary.LittleEndian
	var packets []captured
	for n := 0; len(b) > 0; n++ {
		if len(b) < 12 {
			return nil, fmt.Errorf("%d bytes behind block %d", len(b), n)
		}
		kind, size := le.Uint32(b), int(le.Uint32(b[4:]))
		if size < 12 || size%4 != 0 || size > len(b) || int(le.Uint32(b[size-4:])) != size {
			return nil, fmt.Errorf("block %d has a size of %d, and %d bytes are left", n, size, len(b))
		}
		body := b[8 : size-4]
		b = b[size:]
		switch {
		case n == 0 && kind == section && le.Uint32(body) == 0x1a2b3c4d && le.Uint16(body[4:]) == 1:
		case n == 1 && kind == iface && le.Uint16(body) == 101:
		case n > 1 && kind == enhanced && le.Uint32(body) == 0:
			p := captured{at: time.Unix(0, int64(le.Uint32(body[4:]))<<32|int64(le.Uint32(body[8:])))}
			length := int(le.Uint32(body[12:]))
			if int(le.Uint32(body[16:])) != length || 20+length > len(body) {
				return nil, fmt.Errorf("block %d holds %d of %d bytes", n, length, le.Uint32(body[16:]))
			}
			p.data = body[20 : 20+length]
			options := body[20+(length+3)&^3:]
			if le.Uint16(options) != 2 || le.Uint16(options[2:]) != 4 {
				return nil, fmt.Errorf("block %d says no direction", n)
			}
			p.out = le.Uint32(options[4:])&3 == 2
			packets = append(packets, p)
		default:
			return nil, fmt.Errorf("block %d has the type %#x: % x", n, kind, body)
		}
	}
	return packets, nil
}

// addresses returns source and destination of an IP packet, which must be whole.
func (p captured) addresses() (src, dst netip.Addr, err error) {
	b := p.data
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && int(binary.BigEndian.Uint16(b[2:])) == len(b):
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), nil
	case len(b) >= 40 && b[0]>>4 == 6 && int(binary.BigEndian.Uint16(b[4:])) == len(b)-40:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), nil
	}
	return src, dst, fmt.Errorf("no whole IP packet: % x", b)
}

// TestCapture records what goes through the tunnel, both ways.
func TestCapture(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		file, err := os.Create(filepath.Join(t.TempDir(), "tunnel.pcapng"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		begin := time.Now()
		stop, err := tun.Capture(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tun.Capture(io.Discard); err == nil {
			t.Error("a second capture beside the first")
		} else {
			checkError(t, "capture", gw.URL, "", err)
		}
		for _, to := range []netip.AddrPort{gw.Echo, netip.AddrPortFrom(gw.Web6.Addr(), gw.Echo.Port())} {
			conn, err := tun.DialContext(timeout(t, 10*time.Second), "udp", to.String())
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, conn, []byte("seen on the way"))
			conn.Close()
			if conn, err = tun.DialContext(timeout(t, 10*time.Second), "tcp", to.String()); err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, 50_000)
		}
		for range 2 {
			if err := stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		packets, err := readCapture(b)
		if err != nil {
			t.Fatal(err)
		}
		own := map[netip.Addr]bool{}
		for _, p := range tun.Status().Addresses {
			own[p.Addr()] = true
		}
		var bytesOut, bytesIn [2]int // by family
		var datagrams [2]int
		for i, p := range packets {
			src, dst, err := p.addresses()
			if err != nil {
				t.Fatalf("packet %d: %v", i, err)
			}
			if !own[src] && p.out || !own[dst] && !p.out {
				t.Errorf("packet %d from %v to %v, out=%v", i, src, dst, p.out)
			}
			if p.at.Before(begin.Add(-time.Second)) || p.at.After(time.Now().Add(time.Second)) || i > 0 && p.at.Before(packets[i-1].at) {
				t.Errorf("packet %d at %v", i, p.at)
			}
			family := 0
			if src.Is6() {
				family = 1
			}
			way := &bytesIn
			if p.out {
				way = &bytesOut
			}
			way[family] += len(p.data)
			if bytes.HasSuffix(p.data, []byte("seen on the way")) {
				datagrams[family]++
			}
		}
		for family := range 2 {
			if bytesOut[family] < 50_000 || bytesIn[family] < 50_000 || datagrams[family] < 2 {
				t.Errorf("family %d: %d bytes out, %d in, %d datagrams of the test, in %d packets", family, bytesOut[family], bytesIn[family],
					datagrams[family], len(packets))
			}
		}

		// The end of the tunnel ends the next one.
		var second bytes.Buffer
		if stop, err = tun.Capture(&second); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "an answer", func() bool {
			_, err := tun.Ping(timeout(t, time.Second), gw.Web.Addr().String())
			return err == nil
		})
		tun.Close()
		size := second.Len()
		if packets, err := readCapture(second.Bytes()); err != nil || len(packets) < 2 {
			t.Errorf("the second capture has %d packets, %v", len(packets), err)
		}
		if err := stop(); err != nil || second.Len() != size {
			t.Errorf("stop after the end: %v, and %d more bytes", err, second.Len()-size)
		}
		if after, err := os.ReadFile(file.Name()); err != nil || len(after) != len(b) {
			t.Errorf("the first file grew from %d to %d bytes after its end, %v", len(b), len(after), err)
		}
	})
}
