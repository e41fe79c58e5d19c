package wire

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A HeaderField is one line of a header, with its name in the case in which it is written.
type HeaderField struct{ Name, Value string }

const (
	// maxList is how many items a repeated header, or a list in one, may have; more are left out.
	maxList = 4096

	// maxSeconds bounds every duration a peer may name, to 100 years, so that sums with it do not overflow.
	maxSeconds = 100 * 365 * 24 * 3600
)

// appendField appends one header line. Line breaks and other control characters in the value would begin a line of their
// own, so they become spaces. A field without name or with one that is no token is left out.
func appendField(b []byte, name, value string) []byte {
	if !isToken(name) {
		return b
	}
	b = append(b, name...)
	b = append(b, ": "...)
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' || c == 0x7f {
			b = append(b, ' ')
		} else {
			b = append(b, c)
		}
	}
	return append(b, '\r', '\n')
}

// appendOpt is appendField for values that are left out when empty.
func appendOpt(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendField(b, name, value)
}

func appendInt(b []byte, name string, n int) []byte {
	return appendField(b, name, strconv.Itoa(n))
}

func appendBool(b []byte, name string, v bool) []byte {
	return appendField(b, name, strconv.FormatBool(v))
}

// appendSeconds appends d in whole seconds, at least 1, or else what zero says unless that is empty.
func appendSeconds(b []byte, name string, d time.Duration, zero string) []byte {
	if d <= 0 {
		return appendOpt(b, name, zero)
	}
	return appendField(b, name, strconv.FormatInt(int64(max(d/time.Second, 1)), 10))
}

// isToken reports whether s may be the name of a header (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// parseInt returns the decimal number s, 0 <= n <= 1<<31 - 1.
func parseInt(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

// parseSeconds returns a duration given in decimal seconds. None, empty and zero are zero, as is everything that is no
// number; the bool is false for the latter.
func parseSeconds(s string) (time.Duration, bool) {
	if s == "" || strings.EqualFold(s, "none") {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && n != math.MaxUint64 {
		return 0, false
	}
	return time.Duration(min(n, maxSeconds)) * time.Second, true
}

func parseBool(s string) (v, ok bool) {
	switch {
	case strings.EqualFold(s, "true"), s == "1":
		return true, true
	case strings.EqualFold(s, "false"), s == "0", s == "":
		return false, true
	}
	return false, false
}

// parseAddr returns an inner address. Zones and IPv4 in IPv6 form do not make sense for one.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == "" && !a.Is4In6()
}

// parsePrefix returns a network in the forms 10.0.0.0/255.0.0.0, 10.0.0.0/8 and fd00::/8, or a lone address, masked.
func parsePrefix(s string) (netip.Prefix, bool) {
	p, ok := parseInterface(s)
	return p.Masked(), ok
}

// parseInterface is parsePrefix for an address with the length of its on-link prefix, unmasked.
func parseInterface(s string) (netip.Prefix, bool) {
	addr, mask, slash := strings.Cut(s, "/")
	a, ok := parseAddr(strings.TrimSpace(addr))
	if !ok {
		return netip.Prefix{}, false
	}
	bits := a.BitLen()
	if slash {
		if bits, ok = parseMask(strings.TrimSpace(mask), a.BitLen()); !ok {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(a, bits), true
}

// parseMask returns the length of a mask: a number, or for IPv4 a dotted mask with its ones in front.
func parseMask(s string, bitLen int) (int, bool) {
	if strings.IndexByte(s, '.') < 0 {
		n, ok := parseInt(s)
		return n, ok && n <= bitLen
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || bitLen != 32 {
		return 0, false
	}
	b := a.As4()
	m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := 0
	for m&(1<<31) != 0 {
		n++
		m <<= 1
	}
	return n, m == 0
}

// dottedMask returns the mask of n bits as IPv4 writes it, 0 <= n <= 32.
func dottedMask(n int) string {
	m := uint32(math.MaxUint32)
	if n < 32 {
		m = ^(m >> n)
	}
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
}

// appendDomains appends the domain names of a list that is separated by commas, semicolons or spaces to list.
func appendDomains(list []string, s string) []string {
	for _, d := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' }) {
		if d = domain(d); d != "" && len(list) < maxList {
			list = append(list, d)
		}
	}
	return list
}

// domain returns s as a domain suffix in lower case without dots at its ends, or "" if it is none. Suffixes such as
// *.corp.example occur, and mean corp.example.
func domain(s string) string {
	s = strings.TrimPrefix(s, "*")
	s = strings.ToLower(strings.Trim(s, "."))
	if len(s) > 253 {
		return ""
	}
	label := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return ""
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return ""
		}
		if label++; label > 63 {
			return ""
		}
	}
	return s
}

// list returns the items of a list with the given separator, trimmed, without empty ones.
func list(s string, sep byte) []string {
	var out []string
	for len(s) > 0 && len(out) < maxList {
		item, rest, _ := strings.Cut(s, string(sep))
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
		s = rest
	}
	return out
}
