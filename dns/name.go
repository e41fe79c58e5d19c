package dns

import "strings"

const (
	maxName  = 253 // bytes without the final dot (RFC 1035 section 2.3.4)
	maxLabel = 63
)

// validName reports whether s, with or without a final dot, is a name that can be asked for: labels of letters, digits,
// hyphens and underscores. Names in other scripts must be in their ASCII form (RFC 5891).
func validName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return false
	}
	label := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return false
		}
		if label > maxLabel {
			return false
		}
	}
	return label > 0
}

// canonical returns the form of a name in which it is compared: lower case, no final dot.
func canonical(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// inDomain reports whether name is suffix or below it. Both are canonical. Whole labels match: evilcorp.example is not
// inside corp.example.
func inDomain(name, suffix string) bool {
	if len(name) == len(suffix) {
		return name == suffix
	}
	return len(name) > len(suffix) && strings.HasSuffix(name, suffix) && name[len(name)-len(suffix)-1] == '.'
}
