package host

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

var discard = slog.New(slog.DiscardHandler)

// A fakeKernel is a kernel in memory that obeys rules and routes as the real one does.
type fakeKernel struct {
	denied    error
	boot      string
	namespace uint64
	noIPv6    bool
	ifs       []Interface
	links     map[string]link
	addresses map[ifaddr]bool
	table     map[routeKey]route
	rulebook  []rule // equal priorities in the order they came
	main      []netip.Prefix

	// before is called before each change, and its error is that of the change.
	before  func(what string) error
	changes []string
}

func newFake() *fakeKernel {
	return &fakeKernel{
		boot: "boot-1", namespace: 1,
		links:     map[string]link{"culvert0": {"culvert0", 7, 1500, false}},
		addresses: map[ifaddr]bool{{2, pfx("192.168.1.2/24")}: true},
		table:     make(map[routeKey]route),
		ifs: []Interface{
			{Index: 1, Name: "lo", Kind: Loopback, Up: true, Running: true, Addrs: []netip.Prefix{pfx("127.0.0.1/8")}},
			{Index: 2, Name: "eth0", Kind: Wired, Up: true, Running: true, Addrs: []netip.Prefix{pfx("192.168.1.2/24"), pfx("2001:db8::2/64")}},
			{Index: 3, Name: "docker0", Kind: Virtual, Up: true, Running: true, Addrs: []netip.Prefix{pfx("172.17.0.1/16"), pfx("fd00::1/64")}},
		},
	}
}

// A picture is all that can be changed of a fakeKernel.
type picture struct {
	Links     map[string]link
	Addresses map[ifaddr]bool
	Table     map[routeKey]route
	Rules     []rule
}

func (f *fakeKernel) picture() picture {
	return picture{maps.Clone(f.links), maps.Clone(f.addresses), maps.Clone(f.table), slices.Clone(f.rulebook)}
}

func (p picture) equal(o picture) bool {
	return reflect.DeepEqual(p.Links, o.Links) && reflect.DeepEqual(p.Addresses, o.Addresses) && reflect.DeepEqual(p.Table, o.Table) &&
		slices.Equal(p.Rules, o.Rules)
}

func (f *fakeKernel) change(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if f.before != nil {
		if err := f.before(what); err != nil {
			return err
		}
	}
	f.changes = append(f.changes, what)
	return nil
}

func (f *fakeKernel) permitted() error                 { return f.denied }
func (f *fakeKernel) place() (string, uint64)          { return f.boot, f.namespace }
func (f *fakeKernel) hasIPv6() (bool, error)           { return !f.noIPv6, nil }
func (f *fakeKernel) interfaces() ([]Interface, error) { return f.ifs, nil }

func (f *fakeKernel) link(name string) (link, error) {
	l, ok := f.links[name]
	if !ok {
		return link{}, fmt.Errorf("%w: %q", ErrNoDevice, name)
	}
	return l, nil
}

func (f *fakeKernel) setMTU(l link, mtu int) error {
	if err := f.change("mtu %s %d", l.name, mtu); err != nil {
		return err
	}
	is := f.links[l.name]
	is.mtu = mtu
	f.links[l.name] = is
	return nil
}

func (f *fakeKernel) setUp(l link, up bool) error {
	if err := f.change("up %s %t", l.name, up); err != nil {
		return err
	}
	is := f.links[l.name]
	is.up = up
	f.links[l.name] = is
	if !up {
		maps.DeleteFunc(f.table, func(_ routeKey, r route) bool { return r.to.dev == l.index })
	}
	return nil
}

func (f *fakeKernel) addrs() ([]ifaddr, error) { return slices.Collect(maps.Keys(f.addresses)), nil }

func (f *fakeKernel) addAddr(a ifaddr) error {
	if err := f.change("add %v", a.prefix); err != nil {
		return err
	}
	f.addresses[a] = true
	return nil
}

func (f *fakeKernel) delAddr(a ifaddr) error {
	if err := f.change("del %v", a.prefix); err != nil {
		return err
	}
	delete(f.addresses, a)
	return nil
}

func (f *fakeKernel) routes(table int, v6 bool) ([]route, error) {
	var list []route
	for k, r := range f.table {
		if k.table == table && k.v6() == v6 {
			list = append(list, r)
		}
	}
	return list, nil
}

func (f *fakeKernel) setRoute(k routeKey, to target) error {
	if err := f.change("route %v %v", k.prefix, to.way); err != nil {
		return err
	}
	if to.way == tunnel {
		up := false
		for _, l := range f.links {
			up = up || l.index == to.dev && l.up
		}
		if !up {
			return errors.New("network is down")
		}
	}
	f.table[k] = route{k, to, true}
	return nil
}

func (f *fakeKernel) delRoute(k routeKey, to target) error {
	if err := f.change("unroute %v", k.prefix); err != nil {
		return err
	}
	delete(f.table, k)
	return nil
}

func (f *fakeKernel) rules(v6 bool) ([]rule, error) {
	var list []rule
	for _, r := range f.rulebook {
		if r.v6 == v6 {
			list = append(list, r)
		}
	}
	return list, nil
}

func (f *fakeKernel) addRule(r rule) error {
	if err := f.change("rule %d lookup %d", r.priority, r.table); err != nil {
		return err
	}
	if slices.Contains(f.rulebook, r) {
		return nil
	}
	f.rulebook = append(f.rulebook, r)
	slices.SortStableFunc(f.rulebook, func(a, b rule) int { return a.priority - b.priority })
	return nil
}

func (f *fakeKernel) delRule(r rule) error {
	if err := f.change("unrule %d lookup %d", r.priority, r.table); err != nil {
		return err
	}
	f.rulebook = slices.DeleteFunc(f.rulebook, func(o rule) bool { return o == r })
	return nil
}

// way returns which way a packet with a mark takes.
func (f *fakeKernel) way(a netip.Addr, mark uint32) way {
	for _, r := range f.rulebook {
		if r.v6 != a.Is6() || r.mark != 0 && mark&r.mask == r.mark {
			continue
		}
		if r.table == mainTable {
			for _, p := range f.main {
				if p.Contains(a) && !(r.suppress && p.Bits() == 0) {
					return direct
				}
			}
			continue
		}
		best := -1
		var to target
		for k, route := range f.table {
			if k.table == r.table && k.prefix.Contains(a) && k.prefix.Bits() > best {
				best, to = k.prefix.Bits(), route.to
			}
		}
		if best >= 0 && to.way != direct {
			return to.way
		}
	}
	return direct
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func pfxs(list ...string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, s := range list {
		prefixes = append(prefixes, pfx(s))
	}
	return prefixes
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// difference returns the lines that only one of two texts has.
func difference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for _, l := range la {
		if !slices.Contains(lb, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range lb {
		if !slices.Contains(la, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
