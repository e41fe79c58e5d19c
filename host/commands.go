package host

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Command is one change of a machine and its undoing. Arguments are for execve: no shell reads them.
type Command struct {
	// Do is the program with its arguments, and Input what it reads.
	Do    []string
	Input string

	// Undo takes the change back, and does no harm if the change was never made. It may be empty, if another Undo takes care of
	// it.
	Undo      []string
	UndoInput string
}

// Surroundings are what the commands have to be told about the network outside. Systems other than Linux have no table that only
// some packets obey, so what stays outside needs routes of its own, which have to be made anew when the network
// outside changes.
type Surroundings struct {
	// Interface is the name of the interface outside (macOS) or its alias (Windows).
	Interface string

	// Router4 and Router6 are the routers outside. Without one, the destinations of the family that should stay
	// outside cannot, and there is an error if there are any.
	Router4, Router6 netip.Addr
}

// CommandDNS says whom to ask for names.
type CommandDNS struct {
	// Servers are asked through the tunnel. Without any the resolver is left as it is.
	Servers []netip.Addr

	// Search are the suffixes tried for short names. Match are the suffixes that Servers are asked for; without any they are
	// asked for everything.
	Search, Match []string
}

// check refuses what must not become an argument.
func (d CommandDNS) check() error {
	if len(d.Servers) > 64 || len(d.Search)+len(d.Match) > 4096 {
		return fmt.Errorf("%w: too many DNS servers or suffixes", ErrSettings)
	}
	for _, a := range d.Servers {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%w: %v cannot be a DNS server", ErrSettings, a)
		}
	}
	for _, list := range [][]string{d.Search, d.Match} {
		for _, name := range list {
			if err := checkDomain(name); err != nil {
				return fmt.Errorf("%w: %w", ErrSettings, err)
			}
		}
	}
	return nil
}

// checkDomain refuses what is not a domain name (RFC 1123, section 2.1, and the underscore of real life).
func checkDomain(name string) error {
	trimmed := strings.TrimSuffix(name, ".")
	if trimmed == "" || len(trimmed) > 253 {
		return fmt.Errorf("%q is not a domain name", name)
	}
	for label := range strings.SplitSeq(trimmed, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' {
			return fmt.Errorf("%q is not a domain name", name)
		}
		for i := range len(label) {
			c := label[i]
			if !(c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
				return fmt.Errorf("%q is not a domain name", name)
			}
		}
	}
	return nil
}

// halves returns a default route as two that are more specific, so that the default route outside stays beneath them, and
// other prefixes as they are.
func halves(p netip.Prefix) []netip.Prefix {
	if p.Bits() != 0 {
		return []netip.Prefix{p}
	}
	if p.Addr().Is4() {
		return []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 1),
			netip.PrefixFrom(netip.AddrFrom4([4]byte{128}), 1),
		}
	}
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom16([16]byte{}), 1),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{128}), 1),
	}
}

// A wayTo is a route for the commands.
type wayTo struct {
	prefix netip.Prefix
	way    way
	router netip.Addr // of what stays outside
}

// routing returns the routes that s needs on a system with a single table, those of the gateway first, then the most specific
// first, so that nothing goes astray while they are made.
func (s Settings) routing(o Surroundings) ([]wayTo, error) {
	ways := s.ways(nil)
	list := make([]wayTo, 0, len(ways)+2)
	gateway := make(map[netip.Prefix]bool, len(s.Gateways))
	for _, a := range s.Gateways {
		a = a.Unmap().WithZone("")
		gateway[netip.PrefixFrom(a, a.BitLen())] = true
	}
	for _, p := range slices.SortedFunc(maps.Keys(ways), comparePrefixes) {
		w := wayTo{way: ways[p]}
		if w.way == direct {
			if p.Bits() == 0 {
				continue // the default route outside is there
			}
			if w.router = o.Router4; p.Addr().Is6() {
				w.router = o.Router6
			}
			if !w.router.IsValid() {
				return nil, fmt.Errorf("%w: %v should stay outside, but there is no router for its family", ErrSettings, p)
			}
		}
		for _, half := range halves(p) {
			// What says so itself goes before half of a default route.
			if _, said := ways[half]; said && half != p {
				continue
			}
			w.prefix = half
			list = append(list, w)
		}
	}
	slices.SortStableFunc(list, func(a, b wayTo) int {
		if ga, gb := gateway[a.prefix], gateway[b.prefix]; ga != gb {
			if ga {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.prefix.Bits(), a.prefix.Bits()), a.prefix.Addr().Compare(b.prefix.Addr()))
	})
	return list, nil
}

// forCommands checks all that becomes arguments.
func (s Settings) forCommands(o Surroundings, dns CommandDNS) error {
	if err := s.validate(); err != nil {
		return err
	}
	if s.Device == "" {
		return fmt.Errorf("%w: no Device", ErrSettings)
	}
	if s.Local != LocalTunnelled {
		return fmt.Errorf("%w: Local has to be written out in Direct on this system", ErrSettings)
	}
	for _, a := range []netip.Addr{o.Router4, o.Router6} {
		if a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.Is4In6()) {
			return fmt.Errorf("%w: %v cannot be a router", ErrSettings, a)
		}
	}
	if o.Router4.IsValid() && !o.Router4.Is4() || o.Router6.IsValid() && !o.Router6.Is6() {
		return fmt.Errorf("%w: the router is of the other family", ErrSettings)
	}
	return dns.check()
}
