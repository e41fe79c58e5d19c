package system

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"culvert.example/vpn/host"
)

// looseFilter is the command that has the kernel take answers by whatever interface they come, as long as it has a route to who sent
// them: of the values for all interfaces and for one the greater counts, and 2 is loose (ip-sysctl).
const looseFilter = "sysctl net.ipv4.conf.all.rp_filter=2"

// tellFiltered says on which interfaces the kernel drops the answers to what leaves past the tunnel, if there are others than before. It runs
// in the goroutine that describes leases.
//
// Where the filter of reverse paths is strict (RFC 3704 section 2.2), an answer must come by the interface by which packets to its sender
// would leave. The kernel asks itself that without the mark of our sockets, so that it means the tunnel wherever a route of ours leads
// there. There is no such filter for IPv6.
func (t *tunnel) tellFiltered() {
	filtered := t.filtered()
	news := slices.ContainsFunc(filtered, func(name string) bool { return !slices.Contains(t.toldFiltered, name) })
	t.toldFiltered = filtered
	if news {
		t.s.note(Event{Kind: EventRoutes, What: "the kernel drops the answers to what leaves past the tunnel by " + strings.Join(filtered, ", ") +
			", since its reverse-path filter is strict there; make it loose with: " + looseFilter})
	}
}

// filtered returns the interfaces by which marked sockets get no answer from where they have to reach something past the tunnel: the DNS
// servers outside, and the Internet if all of it is in the tunnel.
func (t *tunnel) filtered() (names []string) {
	s := t.s
	if s.cfg.Configurator != nil {
		return nil // the routes are not ours
	}
	targets := []netip.Addr{anywhere[0]}
	if n := t.names; n != nil {
		n.mu.Lock()
		if n.leaves && len(n.upstreams) == 0 {
			for _, server := range n.outside {
				if a := server.Addr().Unmap(); a.Is4() && a.IsGlobalUnicast() {
					targets = append(targets, a)
				}
			}
		}
		n.mu.Unlock()
	}
	network := s.machine.Network()
	for _, to := range targets {
		if index, err := network.Leads(to, 0); err == nil && index != t.index {
			continue
		}
		exits, _ := network.Exits(to, host.DefaultMark)
		for _, e := range exits {
			if e.Index != t.index && !slices.Contains(names, e.Interface) && s.inner.strict(e.Interface) {
				names = append(names, e.Interface)
			}
		}
	}
	slices.Sort(names)
	return names
}

// strict reports whether the kernel filters strictly by reverse paths what comes by an interface. It does not where that cannot be read.
func (p *place) strict(device string) (strict bool) {
	p.do(func() error {
		mode := 0
		for _, name := range []string{"all", device} {
			b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "rp_filter"))
			if err != nil {
				continue
			}
			if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				mode = max(mode, n)
			}
		}
		strict = mode == 1
		return nil
	})
	return strict
}
