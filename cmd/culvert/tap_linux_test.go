package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
)

// A tap keeps the packets that arrive on an interface.
type tap struct {
	mu      sync.Mutex
	packets []tapped
}

// A tapped packet is known by its destination: "tcp 192.0.2.1 443", "icmp6 ff02::2 133", "17 192.0.2.1", or "arp".
type tapped struct {
	at   time.Time
	what string
	data []byte
}

// tap starts a tap, which ends with the test.
func (l *lab) tap(h *netns.Host, dev string) *tap {
	l.t.Helper()
	const everything = 3 // ETH_P_ALL
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, everything))
	var file *os.File
	h.Do(func() {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			l.t.Fatal(err)
		}
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, int(protocol))
		if err != nil {
			l.t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), "tap")
		if err := syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index}); err != nil {
			file.Close()
			l.t.Fatal(err)
		}
	})
	raw, err := file.SyscallConn()
	if err != nil {
		l.t.Fatal(err)
	}
	t := new(tap)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			var n int
			var from syscall.Sockaddr
			var rerr error
			if raw.Read(func(fd uintptr) bool {
				n, from, rerr = syscall.Recvfrom(int(fd), buf, 0)
				return rerr != syscall.EAGAIN
			}) != nil || rerr != nil {
				return
			}
			if ll, ok := from.(*syscall.SockaddrLinklayer); ok && ll.Pkttype != syscall.PACKET_OUTGOING {
				t.record(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, ll.Protocol)), buf[:n])
			}
		}
	}()
	l.t.Cleanup(func() { file.Close(); <-done })
	return t
}

func (t *tap) record(ethertype uint16, b []byte) {
	p := tapped{at: time.Now(), what: destination(ethertype, b), data: bytes.Clone(b[:min(len(b), 600)])}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packets = append(t.packets, p)
}

// destination names where a packet goes.
func destination(ethertype uint16, b []byte) string {
	var dst netip.Addr
	var proto byte
	switch {
	case ethertype == 0x0806:
		return "arp"
	case ethertype == 0x0800 && len(b) >= 20:
		dst, proto = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		b = b[min(int(b[0]&15)*4, len(b)):]
	case ethertype == 0x86dd && len(b) >= 40:
		dst, proto = netip.AddrFrom16([16]byte(b[24:40])), b[6]
		b = b[40:]
		if proto == 0 && len(b) >= 8 { // hop-by-hop options, which MLD carries
			proto = b[0]
			b = b[min(8+int(b[1])*8, len(b)):]
		}
	default:
		return fmt.Sprintf("ethertype %#04x", ethertype)
	}
	if len(b) >= 4 {
		switch proto {
		case syscall.IPPROTO_TCP:
			return fmt.Sprintf("tcp %v %d", dst, binary.BigEndian.Uint16(b[2:]))
		case syscall.IPPROTO_UDP:
			return fmt.Sprintf("udp %v %d", dst, binary.BigEndian.Uint16(b[2:]))
		case syscall.IPPROTO_ICMP:
			return fmt.Sprintf("icmp %v %d", dst, b[0])
		case syscall.IPPROTO_ICMPV6:
			return fmt.Sprintf("icmp6 %v %d", dst, b[0])
		}
	}
	return fmt.Sprintf("%d %v", proto, dst)
}

// all returns what has come so far.
func (t *tap) all() []tapped {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.packets[:len(t.packets):len(t.packets)]
}

// heard reports whether anything has come since then.
func (t *tap) heard(since time.Time) bool {
	all := t.all()
	return len(all) > 0 && all[len(all)-1].at.After(since)
}

// strangers returns what has come since then that is neither for the gateway nor needed to have a link at all: ARP, neighbour and router
// discovery and multicast listeners (RFC 4861, RFC 3810), DHCP.
func (t *tap) strangers(since time.Time) map[string]int {
	gateway := netip.AddrPortFrom(outside, ocserv.Port)
	found := make(map[string]int)
	for _, p := range t.all() {
		w := strings.Fields(p.what)
		switch {
		case p.at.Before(since):
		case p.what == "arp":
		case p.what == fmt.Sprintf("tcp %v %d", gateway.Addr(), gateway.Port()), p.what == fmt.Sprintf("udp %v %d", gateway.Addr(), gateway.Port()):
		case w[0] == "icmp6" && strings.Contains(" 130 131 132 133 134 135 136 137 143 ", " "+w[2]+" "):
		case w[0] == "udp" && (w[2] == "67" || w[2] == "547"):
		default:
			found[p.what]++
		}
	}
	return found
}

// mentions returns the packets in which a name of DNS stands as it is sent (RFC 1035 section 3.1), in any case of letters.
func (t *tap) mentions(name string) (found []string) {
	var wire []byte
	for label := range strings.SplitSeq(name, ".") {
		wire = append(append(wire, byte(len(label))), strings.ToLower(label)...)
	}
	for _, p := range t.all() {
		if bytes.Contains(bytes.ToLower(p.data), wire) {
			found = append(found, p.what)
		}
	}
	return found
}

func TestDestination(t *testing.T) {
	tcp := append([]byte{0x45, 9: 6, 16: 192, 17: 0, 18: 2, 19: 1}, 0, 1, 1, 0xbb)
	for _, tt := range []struct {
		ethertype uint16
		packet    []byte
		want      string
	}{
		{0x0806, nil, "arp"},
		{0x0800, tcp, "tcp 192.0.2.1 443"},
		{0x0800, tcp[:19], "ethertype 0x0800"},
		{0x86dd, append([]byte{0x60, 6: 58, 24: 0xff, 25: 2, 39: 2}, 133, 0, 0, 0), "icmp6 ff02::2 133"},
		{0x86dd, append([]byte{0x60, 6: 0, 24: 0xff, 25: 2, 39: 22}, 58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0), "icmp6 ff02::16 143"},
	} {
		if got := destination(tt.ethertype, tt.packet); got != tt.want {
			t.Errorf("%x: %q, want %q", tt.packet, got, tt.want)
		}
	}
}
