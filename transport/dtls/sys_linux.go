package dtls

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSpace is room for the ancillary data of one message: the size of a segment and the local address.
const controlSpace = 80

// A mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// A udpSocket is a UDP socket that many datagrams go through in one system call.
type udpSocket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	v6    bool // of family AF_INET6, be it for IPv4 as well
	burst int  // the most datagrams in one piece
	gro   bool
	// gso says that the kernel, or the device, cuts a long message into datagrams. It goes off for good on the first failure.
	gso atomic.Bool
	// call is sendmmsg(2) without waiting, but in tests.
	call func(fd uintptr, msgs []mmsghdr) (int, syscall.Errno)
}

func newUDPSocket(conn *net.UDPConn, burst int) (*udpSocket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &udpSocket{conn: conn, raw: raw, burst: burst, call: sendmmsg}
	err = raw.Control(func(fd uintptr) {
		_, e := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(e == nil && burst > 1)
		s.gro = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
		if domain, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); e == nil {
			s.v6 = domain == unix.AF_INET6
		}
	})
	return s, err
}

// A route is where the datagrams of a session go, when the socket is not connected: the address of the peer, and the local
// address that the peer knows. It does not change.
type route struct {
	peer    netip.AddrPort
	name    [unix.SizeofSockaddrInet6]byte
	nameLen int
	info    [controlSpace / 2]byte
	infoLen int
}

func (s *udpSocket) newRoute(peer netip.AddrPort, local netip.Addr) *route {
	r := &route{peer: peer}
	if s.v6 {
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.name))
		sa.Family = unix.AF_INET6
		sa.Port = networkOrder(peer.Port())
		sa.Addr = peer.Addr().As16()
		sa.Scope_id = scope(peer.Addr())
		r.nameLen = unix.SizeofSockaddrInet6
	} else {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name))
		sa.Family = unix.AF_INET
		sa.Port = networkOrder(peer.Port())
		sa.Addr = peer.Addr().As4()
		r.nameLen = unix.SizeofSockaddrInet4
	}
	if !local.IsValid() {
		return r
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&r.info))
	if local.Is4() {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&r.info[unix.CmsgLen(0)])).Spec_dst = local.As4()
		r.infoLen = unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	} else {
		h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
		p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&r.info[unix.CmsgLen(0)]))
		p.Addr = local.As16()
		p.Ifindex = scope(peer.Addr())
		r.infoLen = unix.CmsgSpace(unix.SizeofInet6Pktinfo)
	}
	return r
}

func networkOrder(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}

func scope(a netip.Addr) uint32 {
	n, _ := strconv.ParseUint(a.Zone(), 10, 32)
	return uint32(n)
}

func transient(e syscall.Errno) bool {
	return e == unix.ENOBUFS || e == unix.ENOMEM || e == unix.EPERM || e == unix.EINTR
}

func unreachable(e syscall.Errno) bool {
	return e == unix.ENETUNREACH || e == unix.EHOSTUNREACH || e == unix.EADDRNOTAVAIL || e == unix.EACCES || e == unix.ENETDOWN || e == unix.EINVAL
}

func (s *udpSocket) segments() bool { return s.gso.Load() }

func (s *udpSocket) pathMTU() int {
	mtu := 0
	s.raw.Control(func(fd uintptr) {
		level, opt := unix.IPPROTO_IP, unix.IP_MTU
		if s.v6 {
			level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
		}
		if n, err := unix.GetsockoptInt(int(fd), level, opt); err == nil {
			mtu = n
		}
	})
	return mtu
}

// A connectedUDP is the socket of a client: an inbox and an outlet.
type connectedUDP struct {
	*intake
	sock   *udpSocket
	linger time.Duration
}

func (c connectedUDP) send(b *burst, wait bool) (int, error) { return c.sock.send(b, nil, wait) }

func (c connectedUDP) pathMTU() int { return c.sock.pathMTU() }

func (c connectedUDP) segments() bool { return c.sock.segments() }

func (c connectedUDP) interrupt() { c.sock.conn.SetReadDeadline(time.Unix(1, 0)) }

func (c connectedUDP) resume() { c.sock.conn.SetReadDeadline(time.Time{}) }

func (c connectedUDP) close() error { return retire(c.sock.conn, c.linger) }

// channelOver returns the fastest way to send and receive over conn.
func channelOver(conn net.Conn, burst, size int, batch bool, linger time.Duration) (channel, error) {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return newStreamless(conn, linger), nil
	}
	s, err := newUDPSocket(udp, burst)
	if err != nil {
		return nil, err
	}
	return connectedUDP{intake: newIntake(s, size, false, batch), sock: s, linger: linger}, nil
}

// wantLocal asks for the local address of each datagram, so that answers come from the address that the peer knows.
func (s *udpSocket) wantLocal() {
	s.raw.Control(func(fd uintptr) {
		if s.v6 {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
}

// tune makes the socket of a tunnel out of any: no fragments, and room for the datagrams of a moment.
func tune(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		f := int(fd)
		// With PROBE the kernel sets DF and takes no notice of ICMP messages, which anybody may send: what arrives is what
		// counts. Datagrams that the device itself cannot send are refused.
		e4 := unix.SetsockoptInt(f, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		e6 := unix.SetsockoptInt(f, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		if e4 != nil && e6 != nil {
			failed = errors.Join(e4, e6)
		}
		for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(f, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
				unix.SetsockoptInt(f, unix.SOL_SOCKET, o[1], socketBuffer)
			}
		}
	})
	return errors.Join(err, failed)
}

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func isMessageSize(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

func isTransient(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e) && transient(e)
}
