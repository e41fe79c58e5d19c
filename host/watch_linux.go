package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// eventGroups are the multicast groups of the kernel that tell what happens.
var eventGroups = [...]int{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// openEvents opens a socket for events in the namespace of the calling thread. It gets none until it joins the groups.
func openEvents() (*os.File, int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	// More room for bursts, as far as the machine allows. Whatever does not fit is noticed.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	return os.NewFile(uintptr(fd), "netlink"), fd, nil
}

// linkState is what of an interface is worth an event. The kernel also tells of counters and of radio.
type linkState struct {
	name  string
	flags uint32
	mtu   int
}

// An eventSource is the source of a Watch on Linux.
type eventSource struct {
	n      *Network
	skip   func(name string) bool // interfaces whose changes are our own
	buf    []byte
	links  map[int]linkState
	addrs  map[ifaddr]bool // whether it may be used
	cancel func() bool
}

// source begins a Watch.
func (n *Network) source(skip func(name string) bool) (source, error) {
	if n.closed.Load() {
		return nil, fmt.Errorf("host: %w", ErrClosed)
	}
	if n.watched.Swap(true) {
		return nil, fmt.Errorf("host: the network is being watched already: %w", ErrBusy)
	}
	s := &eventSource{n: n, skip: skip, buf: make([]byte, 1<<16)}
	// What is left of an earlier Watch is read away before the groups are joined; what happens from then on is not lost.
	s.drain()
	for _, g := range eventGroups {
		// A kernel without IPv6 has no such groups.
		if err := unix.SetsockoptInt(n.eventsFD, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil && g == unix.RTNLGRP_LINK {
			s.close()
			return nil, fmt.Errorf("host: watching the network: %w", err)
		}
	}
	if err := s.fill(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *eventSource) close() {
	if s.cancel != nil {
		s.cancel()
	}
	if s.n.closed.Load() {
		return
	}
	for _, g := range eventGroups {
		_ = unix.SetsockoptInt(s.n.eventsFD, unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, g)
	}
	s.n.watched.Store(false)
}

// fill learns how everything is now.
func (s *eventSource) fill() error {
	links, err := dump(s.n.nl.LinkList)
	if err != nil {
		return fmt.Errorf("host: listing interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return s.n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("host: listing addresses: %w", err)
	}
	s.links = make(map[int]linkState)
	for _, l := range links {
		a := l.Attrs()
		s.links[a.Index] = linkState{a.Name, a.RawFlags & (unix.IFF_UP | unix.IFF_RUNNING), a.MTU}
	}
	s.addrs = make(map[ifaddr]bool)
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			s.addrs[ifaddr{a.LinkIndex, p}] = usable(a.Flags)
		}
	}
	return nil
}

func usable(flags int) bool {
	return flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0
}

func (s *eventSource) next(ctx context.Context, wait time.Duration) (news, error) {
	if s.cancel == nil {
		s.cancel = context.AfterFunc(ctx, func() { s.n.events.SetReadDeadline(time.Unix(1, 0)) })
	}
	if err := s.n.events.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return news{}, err
	}
	// The deadline just set may have replaced that of the end of ctx.
	if err := ctx.Err(); err != nil {
		return news{}, err
	}
	raw, err := s.n.events.SyscallConn()
	if err != nil {
		return news{}, err
	}
	var count int
	var from unix.Sockaddr
	var inner error
	err = raw.Read(func(fd uintptr) bool {
		count, from, inner = unix.Recvfrom(int(fd), s.buf, 0)
		return !errors.Is(inner, unix.EAGAIN)
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return news{}, nil
	case err != nil:
		return news{}, err
	case errors.Is(inner, unix.ENOBUFS):
		return s.overrun()
	case errors.Is(inner, unix.EINTR):
		return news{}, nil
	case inner != nil:
		return news{}, inner
	}
	if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != nl.PidKernel {
		return news{}, nil // another process may send to us, and only the kernel is believed
	}
	messages, err := syscall.ParseNetlinkMessage(slices.Clone(s.buf[:count]))
	if err != nil {
		return s.overrun()
	}
	var n news
	for _, m := range messages {
		n.add(s.understand(m))
	}
	return n, nil
}

// drain reads away what has come.
func (s *eventSource) drain() {
	for range 1 << 20 {
		_, _, err := unix.Recvfrom(s.n.eventsFD, s.buf, unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// overrun is the news that something was missed. The kernel throws away what happens until all that came before it is read, and
// says so only once, so that has to be done before everything is looked at anew.
func (s *eventSource) overrun() (news, error) {
	s.drain()
	if err := s.fill(); err != nil {
		return news{}, err
	}
	return news{changed: Overrun, ours: true}, nil
}

// understand returns what a message means, which may be nothing new.
func (s *eventSource) understand(m syscall.NetlinkMessage) news {
	var size int
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		size = unix.SizeofIfInfomsg
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		size = unix.SizeofIfAddrmsg
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		size = unix.SizeofRtMsg
	default:
		return news{}
	}
	if len(m.Data) < size {
		return news{}
	}
	attrs, err := nl.ParseRouteAttr(m.Data[size:])
	if err != nil {
		return news{}
	}
	attribute := func(kind uint16) []byte {
		for _, a := range attrs {
			if a.Attr.Type == kind {
				return a.Value
			}
		}
		return nil
	}
	number := func(kind uint16) (uint32, bool) {
		if v := attribute(kind); len(v) >= 4 {
			return nl.NativeEndian().Uint32(v), true
		}
		return 0, false
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		msg := nl.DeserializeIfInfomsg(m.Data)
		if msg.Family != unix.AF_UNSPEC {
			return news{} // of a bridge's ports, or of IPv6 settings
		}
		index := int(msg.Index)
		was, known := s.links[index]
		is := linkState{name: nl.BytesToString(attribute(unix.IFLA_IFNAME)), flags: msg.Flags & (unix.IFF_UP | unix.IFF_RUNNING)}
		if mtu, ok := number(unix.IFLA_MTU); ok {
			is.mtu = int(mtu)
		}
		if m.Header.Type == unix.RTM_DELLINK {
			delete(s.links, index)
			for a := range s.addrs {
				if a.index == index {
					delete(s.addrs, a)
				}
			}
			return s.about(Links, is.name)
		}
		if known && was == is {
			return news{}
		}
		s.links[index] = is
		return s.about(Links, is.name)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		msg := nl.DeserializeIfAddrmsg(m.Data)
		value := attribute(unix.IFA_LOCAL)
		if value == nil {
			value = attribute(unix.IFA_ADDRESS)
		}
		a, ok := netip.AddrFromSlice(value)
		if !ok {
			return news{}
		}
		key := ifaddr{int(msg.Index), netip.PrefixFrom(a, int(msg.Prefixlen))}
		flags := uint32(msg.Flags)
		if f, ok := number(unix.IFA_FLAGS); ok {
			flags = f
		}
		was, known := s.addrs[key]
		if m.Header.Type == unix.RTM_DELADDR {
			delete(s.addrs, key)
		} else {
			// Each router advertisement repeats the addresses it is about, with a new lifetime.
			is := usable(int(flags))
			if s.addrs[key] = is; known && was == is {
				return news{}
			}
		}
		return s.about(Addresses, s.links[int(msg.Index)].name)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		msg := nl.DeserializeRtMsg(m.Data)
		table := uint32(msg.Table)
		if t, ok := number(unix.RTA_TABLE); ok {
			table = t
		}
		switch {
		case msg.Flags&unix.RTM_F_CLONED != 0, table == unix.RT_TABLE_LOCAL:
			return news{} // those of the local table follow the addresses
		case msg.Protocol == protocol:
			return news{ours: true}
		case table == unix.RT_TABLE_MAIN, table == unix.RT_TABLE_DEFAULT:
			return news{changed: Routes}
		}
		return news{changed: Routes, ours: true} // perhaps in our table
	default: // rules
		if p := attribute(nl.FRA_PROTOCOL); len(p) == 1 && p[0] == protocol {
			return news{ours: true}
		}
		return news{changed: Rules}
	}
}

// about returns the news that an interface has changed.
func (s *eventSource) about(c Change, name string) news {
	if s.skip(name) {
		return news{ours: true}
	}
	return news{changed: c, interfaces: []string{name}}
}

// clocks returns a function that reads the clocks of the machine.
func clocks() func() reading { return readClock }

func readClock() reading {
	read := func(clock int32) time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(clock, &ts); err != nil {
			return 0 // not possible with these
		}
		return time.Duration(ts.Nano())
	}
	return reading{wall: read(unix.CLOCK_REALTIME), boot: read(unix.CLOCK_BOOTTIME), awake: read(unix.CLOCK_MONOTONIC)}
}
