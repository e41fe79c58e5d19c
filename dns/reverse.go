package dns

import (
	"net/netip"
	"strconv"
	"strings"
)

// reverseAddr returns the address whose name a PTR question for name asks for (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseAddr(name string) (netip.Addr, bool) {
	name = canonical(name)
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		var a [4]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil || strconv.FormatUint(n, 10) != l {
				return netip.Addr{}, false
			}
			a[3-i] = byte(n)
		}
		return netip.AddrFrom4(a), true
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		n, err := strconv.ParseUint(rest[2*i:2*i+1], 16, 4)
		if err != nil || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}

// ReverseZones returns the names below which the addresses of p have their reverse names, without the final dot: one name
// where the length of p ends with a label (a multiple of 8 bits for IPv4, of 4 for IPv6), and else one for each of the
// labels that it leaves open, at most 128. It returns nil for a prefix that is not valid.
func ReverseZones(p netip.Prefix) []string {
	if !p.IsValid() {
		return nil
	}
	p = p.Masked()
	a, bits, top, width := p.Addr(), p.Bits(), "in-addr.arpa", 8
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	if a.Is6() {
		top, width = "ip6.arpa", 4
	}
	bytes := a.AsSlice()
	label := func(i int) byte {
		if width == 8 {
			return bytes[i]
		}
		return bytes[i/2] >> (4 * (1 - i%2)) & 0x0f
	}
	base := 10
	if width == 4 {
		base = 16
	}
	zone := top
	for i := range bits / width {
		zone = strconv.FormatUint(uint64(label(i)), base) + "." + zone
	}
	if bits%width == 0 {
		return []string{zone}
	}
	first := label(bits / width)
	zones := make([]string, 1<<(width-bits%width))
	for i := range zones {
		zones[i] = strconv.FormatUint(uint64(first)+uint64(i), base) + "." + zone
	}
	return zones
}
