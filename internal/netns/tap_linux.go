package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Tap keeps the packets that arrive at an interface.
type Tap struct {
	mu      sync.Mutex
	packets []Packet
}

// A Packet is one that a [Tap] has seen.
type Packet struct {
	// At is when it arrived.
	At time.Time
	// To is where it goes: "tcp 192.0.2.1 443", "udp 2001:db8::1 53", "icmp 192.0.2.1 8", "icmp6 ff02::2 133", the number of any other
	// protocol as in "2 224.0.0.22", "arp", or "ethertype 0x88cc".
	To string
	// Data begins with the header of IP. No more than 600 bytes are kept.
	Data []byte
}

// linkTypes are the messages of ICMPv6 without which there is no link: multicast listeners (RFC 3810), router and neighbour discovery
// (RFC 4861).
var linkTypes = []string{"130", "131", "132", "133", "134", "135", "136", "137", "143"}

// Link reports whether the packet is needed to have a link at all: ARP, IGMP and what ICMPv6 has in their place.
func (p Packet) Link() bool {
	w := strings.Fields(p.To)
	return w[0] == "arp" || w[0] == "2" || w[0] == "icmp6" && slices.Contains(linkTypes, w[2])
}

// Tap listens to what arrives at an Ethernet interface of the host, until the Lab ends.
func (h *Host) Tap(dev string) *Tap {
	h.tb.Helper()
	p, err := h.openPort(dev)
	if err != nil {
		h.tb.Fatalf("netns: a tap on %s: %v", dev, err)
	}
	t := new(Tap)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.receive(t.record)
	}()
	h.tb.Cleanup(func() {
		p.file.Close()
		<-done
	})
	return t
}

func (t *Tap) record(frame []byte) {
	if len(frame) < frameHeader {
		return
	}
	b := frame[frameHeader:]
	p := Packet{At: time.Now(), To: destination(binary.BigEndian.Uint16(frame[12:]), b), Data: bytes.Clone(b[:min(len(b), 600)])}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packets = append(t.packets, p)
}

// destination returns the To of a packet.
func destination(ethertype uint16, b []byte) string {
	var dst netip.Addr
	var proto byte
	switch {
	case ethertype == unix.ETH_P_ARP:
		return "arp"
	case ethertype == unix.ETH_P_IP && len(b) >= 20:
		dst, proto = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		b = b[min(int(b[0]&15)*4, len(b)):]
	case ethertype == unix.ETH_P_IPV6 && len(b) >= 40:
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
		case unix.IPPROTO_TCP:
			return fmt.Sprintf("tcp %v %d", dst, binary.BigEndian.Uint16(b[2:]))
		case unix.IPPROTO_UDP:
			return fmt.Sprintf("udp %v %d", dst, binary.BigEndian.Uint16(b[2:]))
		case unix.IPPROTO_ICMP:
			return fmt.Sprintf("icmp %v %d", dst, b[0])
		case unix.IPPROTO_ICMPV6:
			return fmt.Sprintf("icmp6 %v %d", dst, b[0])
		}
	}
	return fmt.Sprintf("%d %v", proto, dst)
}

// Packets returns what has come so far, oldest first.
func (t *Tap) Packets() []Packet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clip(t.packets)
}

// Count returns how many packets have come with that To.
func (t *Tap) Count(to string) int {
	n := 0
	for _, p := range t.Packets() {
		if p.To == to {
			n++
		}
	}
	return n
}

// Forget forgets what has come so far.
func (t *Tap) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packets = nil
}
