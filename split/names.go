package split

import "strings"

// maxName is the length of the longest domain name without its final dot (RFC 1035 section 2.3.4).
const maxName = 253

// suffixes are the rules for names, by domain suffix. A host is looked up label by label, from its longest suffix that any
// rule could have to its shortest.
type suffixes struct {
	rules  map[string]suffix
	labels int // of the longest suffix
}

// A suffix is what the user and the gateway say of the names under it. Either may be zero.
type suffix struct {
	user, gateway ref
}

// rule returns the one that counts where only the name is known.
func (s suffix) rule() ref {
	if s.user != 0 {
		return s.user
	}
	return s.gateway
}

func (s *suffixes) add(name string, origin Origin, r ref) {
	if s.rules == nil {
		s.rules = make(map[string]suffix)
	}
	x := s.rules[name]
	if origin == FromUser {
		x.user = r
	} else {
		x.gateway = r
	}
	s.rules[name] = x
	s.labels = max(s.labels, 1+strings.Count(name, "."))
}

// find returns the user's rule for the longest suffix of host that the user has a rule for, and the same of the gateway's.
// It does not allocate: the lower case of host is on the stack.
func (s *suffixes) find(host string) suffix {
	var found suffix
	host = strings.TrimSuffix(host, ".")
	if len(s.rules) == 0 || host == "" || len(host) > maxName {
		return found
	}
	var mem [maxName]byte
	name := mem[:len(host)]
	start := 0
	for i, labels := len(name)-1, 1; i >= 0; i-- {
		if name[i] = lower(host[i]); name[i] == '.' {
			if labels++; labels > s.labels {
				start = i + 1
				break
			}
		}
	}
	for i := start; i < len(name); i++ {
		if i > start && name[i-1] != '.' {
			continue
		}
		x, ok := s.rules[string(name[i:])]
		if !ok {
			continue
		}
		if found.gateway == 0 {
			found.gateway = x.gateway
		}
		if x.user != 0 {
			found.user = x.user
			break // the user's word is final
		}
	}
	return found
}

// isName reports whether host is a name, and neither empty nor an address as text, which has colons or ends with a number.
func isName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	return strings.Trim(last, "0123456789") != "" && strings.IndexByte(host, ':') < 0
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// canonical returns the form of a domain suffix in which it is compared: lower case, without a final dot and without a
// wildcard in front. It reports false for what cannot be a domain name.
func canonical(s string) (string, bool) {
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(s, "*")
	s = strings.TrimPrefix(s, ".")
	return domain(s)
}

// domain returns s in lower case and without a final dot. It reports false if it is not a domain name.
func domain(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", false
	}
	b := make([]byte, len(s))
	label := 0
	for i := range b {
		c := lower(s[i])
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		case c <= ' ' || c == '*' || c >= 0x7f:
			return "", false
		}
		if label++; label > 63 {
			return "", false
		}
		b[i] = c
	}
	return string(b), label > 0
}
