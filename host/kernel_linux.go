package host

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// protocol marks routes and rules as ours (RTA_PROTOCOL, FRA_PROTOCOL). No routing daemon has that number.
	protocol = 207
	// dumpRetries is how often a list is asked for again that changed while the kernel wrote it.
	dumpRetries = 20
)

// dump asks for a list until it did not change meanwhile. The library returns what it has together with the error, which may
// lack entries.
func dump[T any](list func() (T, error)) (T, error) {
	var result T
	var err error
	for range dumpRetries {
		if result, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return result, err
		}
	}
	return result, err
}

// family returns the number that netlink has for IPv4 or IPv6.
func family(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// explain makes errors match our sentinels.
func explain(err error, v6 bool) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run as root or with CAP_NET_ADMIN (docker: --cap-add NET_ADMIN): %w", ErrNotPermitted, err)
	case v6 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)):
		return fmt.Errorf("%w: enable it (sysctl net.ipv6.conf.all.disable_ipv6=0), or use no IPv6 in the tunnel: %w", ErrNoIPv6, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrNoDevice, err)
	}
	return err
}

// tolerate returns nil for the errors that mean that nothing had to be done.
func tolerate(err error, harmless ...error) error {
	for _, h := range harmless {
		if errors.Is(err, h) {
			return nil
		}
	}
	return err
}

// permitted implements kernel. It looks at the capabilities of the thread; whether they hold in the user namespace that
// owns the network is up to the first change.
func (n *Network) permitted() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil // a sandbox; let us see
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("%w: run as root or with CAP_NET_ADMIN (docker: --cap-add NET_ADMIN)", ErrNotPermitted)
	}
	return nil
}

// place implements kernel.
func (n *Network) place() (boot string, namespace uint64) { return n.boot, n.namespace }

// here returns the place of the calling thread.
func here() (boot string, namespace uint64) {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		boot = strings.TrimSpace(string(text))
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err == nil {
		namespace = st.Ino
	}
	return boot, namespace
}

// namespaceExists reports whether something keeps a network namespace alive: a process in it, or a mount as "ip netns" makes
// them. It may miss namespaces that this process is not allowed to see.
func namespaceExists(inode uint64) bool {
	name := fmt.Sprintf("net:[%d]", inode)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && bytes.Contains(mounts, []byte(name)) {
		return true
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, pid := range names {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		if link, err := os.Readlink("/proc/" + pid + "/ns/net"); err == nil && link == name {
			return true
		}
	}
	return false
}

func (n *Network) hasIPv6() (bool, error) {
	_, err := dump(func() ([]netlink.Rule, error) { return n.nl.RuleList(netlink.FAMILY_V6) })
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, err
}

func (n *Network) interfaces() ([]Interface, error) { return n.Interfaces() }

func (n *Network) link(name string) (link, error) {
	l, err := dump(func() (netlink.Link, error) { return n.nl.LinkByName(name) })
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return link{}, fmt.Errorf("%w: %q: the TUN device has to be opened first", ErrNoDevice, name)
	}
	if err != nil {
		return link{}, err
	}
	a := l.Attrs()
	return link{name: a.Name, index: a.Index, mtu: a.MTU, up: a.Flags&net.FlagUp != 0}, nil
}

// byIndex is a netlink.Link that is only known by its index.
func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (n *Network) setMTU(l link, mtu int) error {
	return explain(n.nl.LinkSetMTU(byIndex(l.index), mtu), false)
}

func (n *Network) setUp(l link, up bool) error {
	if up {
		return explain(n.nl.LinkSetUp(byIndex(l.index)), false)
	}
	return explain(n.nl.LinkSetDown(byIndex(l.index)), false)
}

func (n *Network) addrs() ([]ifaddr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	addrs := make([]ifaddr, 0, len(list))
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok {
			addrs = append(addrs, ifaddr{a.LinkIndex, p})
		}
	}
	return addrs, nil
}

func (n *Network) address(a ifaddr) *netlink.Addr {
	address := &netlink.Addr{IPNet: ipnet(a.prefix), LinkIndex: a.index}
	if a.prefix.Addr().Is6() {
		// No route in the main table, and no second of looking for others with that address on a link that has no others.
		address.Flags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD
	}
	return address
}

func (n *Network) addAddr(a ifaddr) error {
	return explain(tolerate(n.nl.AddrAdd(nil, n.address(a)), unix.EEXIST), a.prefix.Addr().Is6())
}

func (n *Network) delAddr(a ifaddr) error {
	return explain(tolerate(n.nl.AddrDel(nil, n.address(a)), unix.EADDRNOTAVAIL, unix.ENODEV), false)
}

func (n *Network) routes(table int, v6 bool) ([]route, error) {
	list, err := dump(func() ([]netlink.Route, error) {
		return n.nl.RouteListFiltered(family(v6), &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if v6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	routes := make([]route, 0, len(list))
	for _, r := range list {
		p, ok := prefixOf(r.Dst)
		if !ok {
			continue
		}
		to := target{}
		switch r.Type {
		case unix.RTN_UNICAST:
			if r.Gw == nil && len(r.MultiPath) == 0 {
				to = target{way: tunnel, dev: r.LinkIndex}
			}
		case unix.RTN_THROW:
			to.way = direct
		case unix.RTN_UNREACHABLE:
			to.way = blocked
		}
		routes = append(routes, route{routeKey{table, p}, to, r.Protocol == protocol})
	}
	return routes, nil
}

func netlinkRoute(k routeKey, to target) *netlink.Route {
	r := &netlink.Route{Dst: ipnet(k.prefix), Table: k.table, Protocol: protocol}
	switch to.way {
	case tunnel:
		r.Type, r.LinkIndex = unix.RTN_UNICAST, to.dev
		if !k.v6() {
			r.Scope = netlink.SCOPE_LINK
		}
	case direct:
		r.Type = unix.RTN_THROW
	case blocked:
		r.Type = unix.RTN_UNREACHABLE
	}
	return r
}

func (n *Network) setRoute(k routeKey, to target) error {
	return explain(n.nl.RouteReplace(netlinkRoute(k, to)), k.v6())
}

func (n *Network) delRoute(k routeKey, to target) error {
	r := netlinkRoute(k, to)
	r.Scope = netlink.SCOPE_NOWHERE // any
	return explain(tolerate(n.nl.RouteDel(r), unix.ESRCH, unix.ENODEV), k.v6())
}

func (n *Network) rules(v6 bool) ([]rule, error) {
	list, err := dump(func() ([]netlink.Rule, error) { return n.nl.RuleList(family(v6)) })
	if v6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rules []rule
	for _, r := range list {
		mine := r.Protocol == protocol && r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.Goto < 0 &&
			r.Tos == 0 && r.IPProto == 0 && r.Sport == nil && r.Dport == nil && r.UIDRange == nil && r.SuppressIfgroup < 0 &&
			r.SuppressPrefixlen <= 0 && r.Invert == (r.Mark != 0)
		if !mine {
			continue
		}
		o := rule{v6: v6, priority: r.Priority, table: r.Table, mark: r.Mark, suppress: r.SuppressPrefixlen == 0}
		if r.Mask != nil {
			o.mask = *r.Mask
		}
		rules = append(rules, o)
	}
	return rules, nil
}

func netlinkRule(r rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Protocol = family(r.v6), r.priority, r.table, protocol
	if r.mark != 0 {
		n.Invert, n.Mark, n.Mask = true, r.mark, &r.mask
	}
	if r.suppress {
		n.SuppressPrefixlen = 0
	}
	return n
}

func (n *Network) addRule(r rule) error {
	return explain(tolerate(n.nl.RuleAdd(netlinkRule(r)), unix.EEXIST), r.v6)
}

func (n *Network) delRule(r rule) error {
	return explain(tolerate(n.nl.RuleDel(netlinkRule(r)), unix.ENOENT, unix.ESRCH), r.v6)
}

// ipnet returns a prefix as the library has it.
func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf returns a prefix of the library's, with the bits of the host.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap() // the library's own 0.0.0.0 has 16 bytes
	}
	if !ok || bits != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}
