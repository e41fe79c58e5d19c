package trusted

import (
	"net/netip"
	"strings"
)

// MatchDomain reports whether a DNS suffix is one that the pattern describes. Capital and small letters are the same, and so is
// a name with and without the dot at its end. A star stands for any characters, dots included, or none: corp.example
// matches only itself, *.corp.example everything below it and not itself, *corp.example both, and evilcorp.example as well.
func MatchDomain(pattern, suffix string) bool {
	pattern, suffix = canonical(pattern), canonical(suffix)
	return pattern != "" && suffix != "" && match(pattern, suffix)
}

// MatchServer reports whether an address is one that the pattern describes: an address, in any of its spellings, or text with
// stars in which each stands for any characters or none, compared with the shortest spelling of the address. IPv4 addresses that are
// wrapped in IPv6 ones count as IPv4, and zones do not count.
func MatchServer(pattern string, server netip.Addr) bool {
	if !server.IsValid() {
		return false
	}
	server = server.Unmap().WithZone("")
	pattern = strings.TrimSpace(pattern)
	if !strings.Contains(pattern, "*") {
		a, err := netip.ParseAddr(pattern)
		return err == nil && a.Unmap().WithZone("") == server
	}
	// A pattern such as 10.* must not match fd10.… or the other way round: a star does not turn one kind of address into another.
	if is6 := strings.Contains(pattern, ":"); is6 && server.Is4() || !is6 && strings.Contains(pattern, ".") && server.Is6() {
		return false
	}
	return match(strings.ToLower(pattern), server.String())
}

func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), "."))
}

// match compares text with a pattern in which each star stands for any number of characters. It takes time of the order of the
// product of the lengths, whatever the pattern.
func match(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0 // star is the last star, mark where what stands behind it was tried last
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
