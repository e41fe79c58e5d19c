package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Network looks at the network of the machine, on Linux of one network namespace. It needs no rights, and its methods are
// safe for concurrent use.
type Network struct {
	nl        *netlink.Handle
	events    *os.File // a socket for Watch
	eventsFD  int
	watched   atomic.Bool
	config    NetworkConfig
	sys       fs.FS
	boot      string
	namespace uint64
	clock     func() reading
	closed    atomic.Bool
}

// OpenNetwork opens the network namespace of the calling thread. The caller closes the Network.
func OpenNetwork(cfg NetworkConfig) (*Network, error) {
	// The namespace is that of the thread, which the goroutine must not leave between the two looks at it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("host: opening netlink: %w", err)
	}
	events, fd, err := openEvents()
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("host: opening netlink: %w", err)
	}
	n := &Network{nl: nl, events: events, eventsFD: fd, config: cfg, sys: os.DirFS("/sys/class/net"), clock: clocks()}
	n.boot, n.namespace = here()
	return n, nil
}

// kernel returns the side of the Network that can change things.
func (n *Network) kernel() (kernel, error) { return n, nil }

// Close ends the use of the Network. It must not be called while another method runs, but for Watch, whose context has to end
// before.
func (n *Network) Close() error {
	// A closed handle would open new sockets, in whatever namespace its caller happens to be.
	if n.closed.Swap(true) {
		return nil
	}
	n.nl.Close()
	return n.events.Close()
}

// Interfaces returns the interfaces of the machine, in the order of their indices.
func (n *Network) Interfaces() ([]Interface, error) {
	if n.closed.Load() {
		return nil, fmt.Errorf("host: %w", ErrClosed)
	}
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("host: listing interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("host: listing addresses: %w", err)
	}
	of := make(map[int][]netip.Prefix)
	for _, a := range addrs {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) != 0 {
			continue
		}
		if p, ok := prefixOf(a.IPNet); ok {
			of[a.LinkIndex] = append(of[a.LinkIndex], p)
		}
	}
	raw := make([]rawLink, len(links))
	for i, l := range links {
		a := l.Attrs()
		raw[i] = rawLink{index: a.Index, parent: a.ParentIndex, master: a.MasterIndex, name: a.Name, kind: l.Type(),
			hardware: a.EncapType, loopback: a.Flags&net.FlagLoopback != 0}
		if a.NetNsID >= 0 {
			raw[i].parent = 0 // an index in another namespace
		}
	}
	kinds := kindsOf(raw, n.sys)
	ifs := make([]Interface, len(links))
	for i, l := range links {
		a := l.Attrs()
		ifs[i] = Interface{Index: a.Index, Name: a.Name, Kind: kinds[a.Index], MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, Running: a.RawFlags&unix.IFF_RUNNING != 0}
		if n.config.Kind != nil {
			ifs[i].Kind = n.config.Kind(ifs[i])
		}
		ifs[i].Addrs = of[a.Index]
	}
	return ifs, nil
}

// Exits returns the ways out of the machine to dst for packets with that mark, the best first, one for each interface that
// has a carrier and a route. The most specific route decides, then the kind of the interface, then the metric. An empty result has
// an error matching [ErrNoExit]. With the mark of the tunnel's own sockets, the tunnel is no exit.
func (n *Network) Exits(dst netip.Addr, mark uint32) ([]Exit, error) {
	ifs, err := n.Interfaces()
	if err != nil {
		return nil, err
	}
	dst = dst.Unmap().WithZone("")
	if !dst.IsValid() {
		return nil, fmt.Errorf("host: exits to an invalid address: %w", ErrNoExit)
	}
	var exits []Exit
	for _, i := range ifs {
		if !i.Up || !i.Running || i.Kind == Loopback {
			continue
		}
		e, err := n.exit(dst, mark, i.Index)
		if err != nil {
			continue // no route by this interface
		}
		if e.Index != i.Index {
			continue
		}
		e.Interface, e.Kind = i.Name, i.Kind
		exits = append(exits, e)
	}
	if len(exits) == 0 {
		return nil, fmt.Errorf("host: %v: %w", dst, ErrNoExit)
	}
	sortExits(exits)
	return exits, nil
}

// Route returns which way the kernel sends packets with that mark to dst now, the tunnel among the possible ones. The error
// matches [ErrNoExit] if it sends them nowhere.
func (n *Network) Route(dst netip.Addr, mark uint32) (Exit, error) {
	ifs, err := n.Interfaces()
	if err != nil {
		return Exit{}, err
	}
	e, err := n.exit(dst.Unmap().WithZone(""), mark, 0)
	if err != nil {
		return Exit{}, fmt.Errorf("host: %v: %w: %w", dst, ErrNoExit, err)
	}
	for _, i := range ifs {
		if i.Index == e.Index {
			e.Interface, e.Kind = i.Name, i.Kind
		}
	}
	return e, nil
}

// Leads returns the index of the interface by which the kernel sends packets with that mark to dst now. It is less than Route tells, and
// costs less. It fails if the kernel sends them nowhere.
func (n *Network) Leads(dst netip.Addr, mark uint32) (index int, err error) {
	if n.closed.Load() {
		return 0, fmt.Errorf("host: %w", ErrClosed)
	}
	found, err := n.nl.RouteGetWithOptions(net.IP(dst.Unmap().AsSlice()), &netlink.RouteGetOptions{Mark: mark})
	if err != nil {
		return 0, fmt.Errorf("host: %v: %w: %w", dst, ErrNoExit, err)
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("host: %v: %w", dst, ErrNoExit)
	}
	return found[0].LinkIndex, nil
}

// exit asks the kernel for the route to dst by an interface, or by any if index is 0.
func (n *Network) exit(dst netip.Addr, mark uint32, index int) (Exit, error) {
	if !dst.IsValid() {
		return Exit{}, errors.New("not an address")
	}
	ip := net.IP(dst.AsSlice())
	// The kernel answers the first question with the entry of its table, and fails if there is none. Asked the second, it
	// would assume that a destination without a route is on the link, but only then does it choose a source address.
	match, err := n.nl.RouteGetWithOptions(ip, &netlink.RouteGetOptions{OifIndex: index, Mark: mark, FIBMatch: true})
	if err != nil {
		return Exit{}, err
	}
	found, err := n.nl.RouteGetWithOptions(ip, &netlink.RouteGetOptions{OifIndex: index, Mark: mark})
	if err != nil {
		return Exit{}, err
	}
	if len(match) == 0 || len(found) == 0 {
		return Exit{}, errors.New("no route")
	}
	switch match[0].Type {
	case unix.RTN_UNICAST, unix.RTN_LOCAL:
	default:
		return Exit{}, fmt.Errorf("route of type %d", match[0].Type)
	}
	e := Exit{Index: found[0].LinkIndex, Metric: match[0].Priority}
	e.Route, _ = prefixOf(match[0].Dst)
	if a, ok := netip.AddrFromSlice(found[0].Src); ok {
		e.Source = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(found[0].Gw); ok {
		e.Router = a.Unmap()
	}
	return e, nil
}
