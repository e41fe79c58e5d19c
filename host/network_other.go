//go:build !linux

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// A Network looks at the network of the machine. It needs no rights, and its methods are safe for concurrent use.
type Network struct {
	config NetworkConfig
	clock  func() reading
	closed atomic.Bool
}

// OpenNetwork opens the network of the machine. The caller closes the Network.
func OpenNetwork(cfg NetworkConfig) (*Network, error) {
	return &Network{config: cfg, clock: clocks()}, nil
}

func (n *Network) kernel() (kernel, error) {
	return nil, fmt.Errorf("changing this system: %w: see MacCommands and WindowsCommands", errors.ErrUnsupported)
}

func namespaceExists(uint64) bool { return false }

// here returns the place of the calling thread, which has no name on this system.
func here() (boot string, namespace uint64) { return "", 0 }

// Close ends the use of the Network.
func (n *Network) Close() error {
	n.closed.Store(true)
	return nil
}

// Interfaces returns the interfaces of the machine. On this system the kind is Loopback, Tunnel for point-to-point links, or
// Unknown, unless [NetworkConfig.Kind] says more.
func (n *Network) Interfaces() ([]Interface, error) {
	if n.closed.Load() {
		return nil, fmt.Errorf("host: %w", ErrClosed)
	}
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("host: listing interfaces: %w", err)
	}
	ifs := make([]Interface, len(list))
	for i, l := range list {
		ifs[i] = Interface{Index: l.Index, Name: l.Name, MTU: l.MTU, Up: l.Flags&net.FlagUp != 0, Running: l.Flags&net.FlagRunning != 0}
		switch {
		case l.Flags&net.FlagLoopback != 0:
			ifs[i].Kind = Loopback
		case l.Flags&net.FlagPointToPoint != 0:
			ifs[i].Kind = Tunnel
		}
		if n.config.Kind != nil {
			ifs[i].Kind = n.config.Kind(ifs[i])
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				ifs[i].Addrs = append(ifs[i].Addrs, p)
			}
		}
	}
	return ifs, nil
}

// Exits returns the way out of the machine to dst, which on this system is only the one that the system would choose. Mark
// has no meaning. The error matches [ErrNoExit].
func (n *Network) Exits(dst netip.Addr, mark uint32) ([]Exit, error) {
	e, err := n.Route(dst, mark)
	if err != nil {
		return nil, err
	}
	return []Exit{e}, nil
}

// Route returns which way the system sends packets to dst now. The error matches [ErrNoExit].
func (n *Network) Route(dst netip.Addr, mark uint32) (Exit, error) {
	ifs, err := n.Interfaces()
	if err != nil {
		return Exit{}, err
	}
	// Connecting a UDP socket sends nothing; the system only chooses the source address.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst.Unmap(), 9)))
	if err != nil {
		return Exit{}, fmt.Errorf("host: %v: %w: %w", dst, ErrNoExit, err)
	}
	defer c.Close()
	source := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
	for _, i := range ifs {
		for _, p := range i.Addrs {
			if p.Addr().WithZone("") == source {
				return Exit{Interface: i.Name, Index: i.Index, Kind: i.Kind, Source: source}, nil
			}
		}
	}
	return Exit{}, fmt.Errorf("host: %v: %w", dst, ErrNoExit)
}

// Leads returns the index of the interface by which the system sends packets to dst now. The error matches [ErrNoExit].
func (n *Network) Leads(dst netip.Addr, mark uint32) (index int, err error) {
	e, err := n.Route(dst, mark)
	return e.Index, err
}
