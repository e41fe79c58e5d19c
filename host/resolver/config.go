package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Bounds on a Config. What exceeds them is refused.
const (
	maxServers = 16
	maxSearch  = 64
	maxRoutes  = 1024
)

// A Config says which servers are asked for which names.
type Config struct {
	// Device is the interface of the tunnel, by name. Index is its number, which is looked up in the network namespace of the
	// calling thread if it is 0.
	Device string
	Index  int

	// Servers are the DNS servers, the preferred one first; port 0 means 53. Resolv.conf knows no other port. From 1 to 16.
	Servers []netip.AddrPort

	// Search is the search list: suffixes that are tried for names without a dot, and whose names go to Servers. At most 64.
	Search []string

	// Routes are domains whose names go to Servers, with all names below them, and which are not searched. At most 1024.
	Routes []string

	// Default sends names to Servers that no domain of any link claims.
	Default bool

	// TunnelAll sends every name to Servers, and implies Default. Systemd-resolved prefers a link that claims a longer suffix: see
	// [Resolver.Claims].
	TunnelAll bool

	// Fallback keeps the servers that resolv.conf named before, behind ours, for when ours do not answer. Inside names then
	// may leave outside. It cannot be combined with TunnelAll. Systemd-resolved has its own rules and does not look at it.
	Fallback bool
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// normal returns a copy of c in plain form, or says which field is wrong.
func (c Config) normal() (Config, error) {
	if err := checkDevice(c.Device); err != nil {
		return c, err
	}
	if c.Index < 0 {
		return c, invalid("Index: %d", c.Index)
	}
	if len(c.Servers) == 0 || len(c.Servers) > maxServers {
		return c, invalid("Servers: %d of them; there must be from 1 to %d", len(c.Servers), maxServers)
	}
	servers := make([]netip.AddrPort, 0, len(c.Servers))
	for i, s := range c.Servers {
		a := s.Addr().Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || strings.ContainsFunc(a.Zone(), odd) {
			return c, invalid("Servers[%d]: %v is not the address of a server", i, a)
		}
		port := s.Port()
		if port == 0 {
			port = 53
		}
		if p := netip.AddrPortFrom(a, port); !slices.Contains(servers, p) {
			servers = append(servers, p)
		}
	}
	c.Servers = servers
	if c.TunnelAll && c.Fallback {
		return c, invalid("Fallback: with TunnelAll no other server may be asked; leave one of them out")
	}
	c.Default = c.Default || c.TunnelAll
	if len(c.Search) > maxSearch {
		return c, invalid("Search: %d domains, at most %d", len(c.Search), maxSearch)
	}
	if len(c.Routes) > maxRoutes {
		return c, invalid("Routes: %d domains, at most %d", len(c.Routes), maxRoutes)
	}
	var err error
	if c.Search, err = domains("Search", c.Search, nil); err != nil {
		return c, err
	}
	c.Routes, err = domains("Routes", c.Routes, c.Search)
	return c, err
}

// odd reports whether r has no business in a name that becomes part of a file or of a command.
func odd(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"'\/%;#$&|<>*?`+"`", r) }

// checkDevice takes the names of interfaces of all systems: those of Windows may be long and hold spaces.
func checkDevice(name string) error {
	if name == "" || len(name) > 128 || strings.Trim(name, " ") != name ||
		strings.ContainsFunc(name, func(r rune) bool { return r != ' ' && odd(r) }) {
		return invalid("Device: %.40q is not the name of an interface", name)
	}
	return nil
}

// domains returns names in lower case without the dots and stars around them, each once, and none of those in not.
func domains(field string, names, not []string) ([]string, error) {
	var out []string
	for i, name := range names {
		n, err := domain(name)
		if err != nil {
			return nil, invalid("%s[%d]: %.80q %v", field, i, name, err)
		}
		if !slices.Contains(out, n) && !slices.Contains(not, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// domain checks a name by RFC 1035 §2.3.4, with underscores allowed.
func domain(s string) (string, error) {
	const maxName, maxLabel = 253, 63
	s = strings.TrimPrefix(s, "~")
	s = strings.TrimPrefix(s, "*")
	s = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(s, "."), "."))
	if s == "" {
		return "", fmt.Errorf("is the root; set Default or TunnelAll instead")
	}
	if len(s) > maxName {
		return "", fmt.Errorf("is longer than %d bytes", maxName)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel {
			return "", fmt.Errorf("has a label that is empty or longer than %d bytes", maxLabel)
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return "", fmt.Errorf("has other characters than letters, digits, - and _; write international names as xn--")
		}
	}
	return s, nil
}
