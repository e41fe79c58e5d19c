package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
)

// A tap hears what leaves a machine.
type tap struct{ *netns.Tap }

// heard reports whether anything has come since then.
func (t tap) heard(since time.Time) bool {
	all := t.Packets()
	return len(all) > 0 && all[len(all)-1].At.After(since)
}

// strangers returns what has come since then that is neither for the gateway nor needed to have a link and addresses on it.
func (t tap) strangers(since time.Time) map[string]int {
	gateway := netip.AddrPortFrom(outside, ocserv.Port)
	found := make(map[string]int)
	for _, p := range t.Packets() {
		w := strings.Fields(p.To)
		switch {
		case p.At.Before(since), p.Link():
		case p.To == fmt.Sprintf("tcp %v %d", gateway.Addr(), gateway.Port()), p.To == fmt.Sprintf("udp %v %d", gateway.Addr(), gateway.Port()):
		case w[0] == "udp" && (w[2] == "67" || w[2] == "547"):
		default:
			found[p.To]++
		}
	}
	return found
}

// mentions returns the packets in which a name of DNS stands as it is sent (RFC 1035 section 3.1), in any case of letters.
func (t tap) mentions(name string) (found []string) {
	var wire []byte
	for label := range strings.SplitSeq(name, ".") {
		wire = append(append(wire, byte(len(label))), strings.ToLower(label)...)
	}
	for _, p := range t.Packets() {
		if bytes.Contains(bytes.ToLower(p.Data), wire) {
			found = append(found, p.To)
		}
	}
	return found
}
