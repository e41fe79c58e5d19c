package host

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// A way is what a route of our table does with a packet.
type way uint8

const (
	tunnel  way = iota + 1 // through the device
	direct                 // "throw": as if our table did not exist
	blocked                // "unreachable"
)

func (w way) String() string {
	switch w {
	case tunnel:
		return "tunnel"
	case direct:
		return "throw"
	case blocked:
		return "unreachable"
	}
	return fmt.Sprintf("way(%d)", uint8(w))
}

// A link is a network interface. Its index stays the same while it exists, and no other gets it before the next start of
// the machine; its name may go to another.
type link struct {
	name  string
	index int
	mtu   int
	up    bool
}

// An ifaddr is an address on an interface.
type ifaddr struct {
	index  int
	prefix netip.Prefix
}

// A routeKey is what there can be one route for.
type routeKey struct {
	table  int
	prefix netip.Prefix // masked
}

func (k routeKey) v6() bool { return k.prefix.Addr().Is6() }

// A target is what a route does. Dev is the index of the interface of a tunnel route.
type target struct {
	way way
	dev int
}

// A rule sends packets to a routing table.
type rule struct {
	v6       bool
	priority int
	table    int
	// With mark, only packets without that mark obey the rule.
	mark, mask uint32
	// With suppress, default routes of the table count as absent.
	suppress bool
}

// mainTable is the routing table that holds the routes of the machine.
const mainTable = 254

// A state is how the part of the kernel is, or should be, that this package changes.
type state struct {
	dev    link // none if index is 0; mtu 0 means any
	addrs  map[ifaddr]struct{}
	routes map[routeKey]target
	rules  map[rule]struct{}
}

func newState() state {
	return state{addrs: make(map[ifaddr]struct{}), routes: make(map[routeKey]target), rules: make(map[rule]struct{})}
}

// ways returns what our table says of each prefix. Connected are the networks that [Settings.Local] keeps outside.
func (s Settings) ways(connected []netip.Prefix) map[netip.Prefix]way {
	ways := make(map[netip.Prefix]way, len(s.Tunnel)+len(s.Direct)+len(s.Blocked)+len(connected)+len(s.Gateways))
	set := func(w way, list []netip.Prefix) {
		for _, p := range list {
			ways[p.Masked()] = w
		}
	}
	// Who comes later wins.
	set(tunnel, s.Addresses)
	set(tunnel, s.Tunnel)
	set(direct, connected)
	set(direct, s.Direct)
	set(blocked, s.Blocked)
	for _, a := range s.Gateways {
		a = a.Unmap().WithZone("")
		ways[netip.PrefixFrom(a, a.BitLen())] = direct
	}
	return ways
}

// compile returns how the kernel should be for s, which is valid and complete. Where there is no IPv6, nothing has to be done to
// keep it outside or to block it, and it cannot be in the tunnel.
func (s Settings) compile(dev link, connected []netip.Prefix, ipv6 bool) (state, error) {
	st := newState()
	if s.Device != "" {
		st.dev = link{name: dev.name, index: dev.index, mtu: s.MTU, up: true}
	}
	for _, p := range s.Addresses {
		a := p.Addr().WithZone("")
		if a.Is6() && !ipv6 {
			return state{}, fmt.Errorf("%w: cannot have the address %v", ErrNoIPv6, a)
		}
		st.addrs[ifaddr{dev.index, netip.PrefixFrom(a, a.BitLen())}] = struct{}{}
	}
	var used [2]bool // by IPv4, by IPv6
	for p, w := range s.ways(connected) {
		family := 0
		if p.Addr().Is6() {
			family = 1
		}
		if family == 1 && !ipv6 {
			if w == tunnel {
				return state{}, fmt.Errorf("%w: cannot reach %v through the tunnel", ErrNoIPv6, p)
			}
			continue
		}
		used[family] = true
		to := target{way: w}
		if w == tunnel {
			to.dev = dev.index
		}
		st.routes[routeKey{s.Table, p}] = to
	}
	for family, used := range used {
		if !used {
			continue
		}
		v6 := family == 1
		st.rules[rule{v6: v6, priority: s.Priority, table: s.Table, mark: s.Mark, mask: s.Mask}] = struct{}{}
		if s.Local == LocalRoutes {
			st.rules[rule{v6: v6, priority: s.Priority - 1, table: mainTable, suppress: true}] = struct{}{}
		}
	}
	return st, nil
}

// privateNetworks are those whose addresses anybody may use at home (RFC 1918, RFC 3927, RFC 4193).
var privateNetworks = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16}), 12),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16),
	netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7),
}

// multicast are the destinations that reach everybody on a connected IPv4 network. In IPv6 they are in the kernel's table of
// local addresses, which goes before all rules.
var multicast = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32),
}

func private(p netip.Prefix) bool {
	for _, n := range privateNetworks {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// connected returns the networks that l keeps outside, of those that the interfaces are connected to. The device is that of
// the tunnel.
func (l Local) connected(ifs []Interface, device string) []netip.Prefix {
	if l != LocalVirtual && l != LocalNetworks {
		return nil
	}
	var networks []netip.Prefix
	for _, i := range ifs {
		if i.Name == device || !i.Up || i.Kind == Loopback || i.Kind == Tunnel || l == LocalVirtual && i.Kind != Virtual {
			continue
		}
		for _, p := range i.Addrs {
			if l == LocalVirtual && !p.Addr().Is4() || p.IsSingleIP() || !private(p) {
				continue
			}
			networks = append(networks, p.Masked())
		}
	}
	if l == LocalNetworks {
		networks = append(networks, multicast[:]...)
	}
	slices.SortFunc(networks, comparePrefixes)
	return slices.Compact(networks)
}

// comparePrefixes orders prefixes by their length, then by address.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
}
