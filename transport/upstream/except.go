package upstream

import (
	"net"
	"net/netip"
	"strings"
)

// maxExceptions bounds a list of exceptions; what comes after is not looked at.
const maxExceptions = 4096

// split takes a value of no_proxy apart, at commas and white space.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}

// excepted reports whether a list of exceptions names a host, and which of them does. An entry is * for all hosts; a name, with or
// without a dot or *. before it, for itself and the names below it; an address; or a prefix such as 10.0.0.0/8. With :port behind
// it, it is for that port only.
func excepted(host, port string, list []string) (string, bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	addr, err := netip.ParseAddr(host)
	isAddr := err == nil
	addr = addr.Unmap().WithZone("")
	for _, entry := range list[:min(len(list), maxExceptions)] {
		e := strings.ToLower(strings.TrimSpace(entry))
		if e == "*" {
			return entry, true
		}
		if prefix, err := netip.ParsePrefix(e); err == nil {
			if isAddr && prefix.Contains(addr) {
				return entry, true
			}
			continue
		}
		if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(e, "["), "]")); err == nil {
			if isAddr && a.Unmap().WithZone("") == addr {
				return entry, true
			}
			continue
		}
		if h, p, err := net.SplitHostPort(e); err == nil {
			if p != port {
				continue
			}
			if e = h; e == "*" {
				return entry, true
			}
		}
		if isAddr {
			if a, err := netip.ParseAddr(e); err == nil && a.Unmap() == addr {
				return entry, true
			}
			continue
		}
		e = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(e, "*"), "."), ".")
		if e != "" && (host == e || strings.HasSuffix(host, "."+e)) {
			return entry, true
		}
	}
	return "", false
}
