package host

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MacCommands returns the commands that make a machine with macOS be as s says, in their order. Whoever runs them notes each Undo
// on the disk before its Do, and runs the Undos in reverse order at the end. The device is an utun interface, which takes its
// addresses and routes with it when its program ends, but not the routes around it and the resolver's settings.
//
// There are no packet marks: programs cannot be told apart, and [Settings.Local] has to be written out as prefixes. Parts
// are left out. Errors match [ErrSettings].
func MacCommands(s Settings, o Surroundings, dns CommandDNS) ([]Command, error) {
	if err := s.forCommands(o, dns); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	routes, err := s.routing(o)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	if o.Router6.IsLinkLocalUnicast() {
		if err := checkName(o.Interface); err != nil {
			return nil, fmt.Errorf("host: %w: Interface: %w", ErrSettings, err)
		}
	}
	var list []Command
	if s.MTU != 0 {
		list = append(list, Command{Do: []string{"/sbin/ifconfig", s.Device, "mtu", strconv.Itoa(s.MTU)}})
	}
	for _, p := range s.Addresses {
		a := p.Addr().WithZone("").String()
		if p.Addr().Is4() {
			// A point-to-point interface wants an address for the other end too, which may be its own.
			list = append(list, Command{
				Do:   []string{"/sbin/ifconfig", s.Device, "inet", a, a, "netmask", "255.255.255.255", "up"},
				Undo: []string{"/sbin/ifconfig", s.Device, "inet", a, "delete"},
			})
		} else {
			list = append(list, Command{
				Do:   []string{"/sbin/ifconfig", s.Device, "inet6", a, "prefixlen", "128", "up"},
				Undo: []string{"/sbin/ifconfig", s.Device, "inet6", a, "delete"},
			})
		}
	}
	for _, r := range routes {
		list = append(list, macRoute(s.Device, o.Interface, r))
	}
	if len(dns.Servers) > 0 {
		list = append(list, macDNS(s.Device, dns))
	}
	return list, nil
}

func macRoute(device, outside string, r wayTo) Command {
	family := "-inet"
	nowhere := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if r.prefix.Addr().Is6() {
		family, nowhere = "-inet6", netip.IPv6Loopback()
	}
	kind, destination := "-net", r.prefix.String()
	if r.prefix.IsSingleIP() {
		kind, destination = "-host", r.prefix.Addr().String()
	}
	how := []string{"-interface", device}
	switch r.way {
	case direct:
		router := r.router.WithZone("")
		how = []string{router.String()}
		if router.Is6() && router.IsLinkLocalUnicast() {
			how = []string{router.String() + "%" + outside}
		}
	case blocked:
		how = []string{nowhere.String(), "-reject"}
	}
	route := func(verb string) []string {
		return append([]string{"/sbin/route", "-n", verb, family, kind, destination}, how...)
	}
	return Command{Do: route("add"), Undo: route("delete")}
}

// macDNS adds a service to the dynamic store of configd, which is where the resolver looks.
func macDNS(device string, dns CommandDNS) Command {
	key := "State:/Network/Service/culvert-" + device + "/DNS"
	var b strings.Builder
	b.WriteString("d.init\n")
	add := func(name string, values []string) {
		if len(values) > 0 {
			fmt.Fprintf(&b, "d.add %s * %s\n", name, strings.Join(values, " "))
		}
	}
	servers := make([]string, len(dns.Servers))
	for i, a := range dns.Servers {
		servers[i] = a.String()
	}
	add("ServerAddresses", servers)
	add("SearchDomains", trimDots(dns.Search))
	if len(dns.Match) > 0 {
		add("SupplementalMatchDomains", trimDots(dns.Match))
		// Matching is not searching.
		b.WriteString("d.add SupplementalMatchDomainsNoSearch # 1\n")
	} else {
		// The empty suffix matches everything.
		b.WriteString("d.add SupplementalMatchDomains * \"\"\n")
	}
	fmt.Fprintf(&b, "set %s\nquit\n", key)
	return Command{
		Do: []string{"/usr/sbin/scutil"}, Input: b.String(),
		Undo: []string{"/usr/sbin/scutil"}, UndoInput: "remove " + key + "\nquit\n",
	}
}

func trimDots(names []string) []string {
	trimmed := make([]string, len(names))
	for i, n := range names {
		trimmed[i] = strings.TrimSuffix(n, ".")
	}
	return trimmed
}
