package dtls

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
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
}

func newUDPSocket(conn *net.UDPConn, burst int) (*udpSocket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &udpSocket{conn: conn, raw: raw, burst: burst}
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

// A burstSys is what sendmmsg needs beside the bytes.
type burstSys struct {
	msgs    [burstRecords]mmsghdr
	iovs    [burstRecords]unix.Iovec
	control [burstRecords][controlSpace]byte
	last    [burstRecords]int // the record after the last one of each message

	// The call under way. The closures are made once, since making one for each call would allocate.
	first, count int
	sent         int
	errno        syscall.Errno
	try          func(fd uintptr)
	patient      func(fd uintptr) bool
}

func (y *burstSys) init() {
	y.try = func(fd uintptr) {
		for {
			// This never blocks. Syscall6 would tell the scheduler of a call that may: when it takes longer than 20 µs, as sending
			// through a virtual interface often does, another thread is woken to go on without this one, which costs more than the call.
			n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&y.msgs[y.first])), uintptr(y.count), unix.MSG_DONTWAIT, 0, 0)
			if e != unix.EINTR {
				y.sent, y.errno = int(n), e
				return
			}
		}
	}
	y.patient = func(fd uintptr) bool {
		y.try(fd)
		return y.errno != unix.EAGAIN
	}
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

// build prepares messages for the records from first on, and returns how many. With gso, records of one size go into one
// message, with a smaller one at its end.
func (s *udpSocket) build(b *burst, first int, to *route, gso bool) int {
	y := &b.sys
	n := 0
	for i := first; i < b.count; n++ {
		size := len(b.record(i))
		total, j := size, i+1
		for gso && j < b.count && j-i < s.burst {
			next := len(b.record(j))
			if next > size || total+next > maxDatagram-100 {
				break
			}
			total += next
			j++
			if next < size {
				break
			}
		}
		m := &y.msgs[n].hdr
		y.iovs[n].Base = &b.mem[b.start(i)]
		y.iovs[n].SetLen(total)
		m.Iov = &y.iovs[n]
		m.SetIovlen(1)
		m.Name, m.Namelen = nil, 0
		m.Control = nil
		used := 0
		if to != nil {
			m.Name, m.Namelen = &to.name[0], uint32(to.nameLen)
			used = copy(y.control[n][:], to.info[:to.infoLen])
		}
		if j-i > 1 {
			c := y.control[n][used:]
			h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
			h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
			h.SetLen(unix.CmsgLen(2))
			*(*uint16)(unsafe.Pointer(&c[unix.CmsgLen(0)])) = uint16(size)
			used += unix.CmsgSpace(2)
		}
		if used > 0 {
			m.Control = &y.control[n][0]
		}
		m.SetControllen(used)
		y.last[n] = j
		i = j
	}
	return n
}

// send implements outlet for the peer that the socket is connected with, or the one at the end of the route.
func (s *udpSocket) send(b *burst, to *route, wait bool) (int, error) {
	y := &b.sys
	gso := s.gso.Load()
	doubt := false // whether gso is why a message failed
	done := 0
	refusals := 0
	for done < b.count {
		msgs := s.build(b, done, to, gso)
		y.first = 0
		for y.first < msgs {
			y.count = msgs - y.first
			err := s.raw.Control(y.try)
			if err == nil && y.errno == unix.EAGAIN && wait {
				err = s.raw.Write(y.patient)
			}
			if err != nil {
				return done, err
			}
			if y.errno == 0 {
				if doubt {
					s.gso.Store(false)
					doubt = false
				}
				y.first += y.sent
				done = y.last[y.first-1]
				continue
			}
			if gso && y.last[y.first]-done > 1 {
				switch y.errno {
				case unix.EIO, unix.EINVAL, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE:
					// No offload here, or the segments are larger than the path takes. Sending them one by one tells.
					gso, doubt = false, y.errno != unix.EMSGSIZE
				}
				if !gso {
					break
				}
			}
			switch e := y.errno; {
			case e == unix.EMSGSIZE:
				return done, errTooBig
			case e == unix.ECONNREFUSED && refusals < 3:
				// The answer to an earlier datagram; this one has not been tried.
				refusals++
			case e == unix.ECONNREFUSED, e == unix.EAGAIN, transient(e), to != nil && unreachable(e):
				// Lost, as datagrams may be. One peer that cannot be reached is no reason to close a socket of many.
				done = y.last[y.first]
				y.first++
			default:
				return done, e
			}
		}
	}
	return done, nil
}

func transient(e syscall.Errno) bool {
	return e == unix.ENOBUFS || e == unix.ENOMEM || e == unix.EPERM || e == unix.EINTR
}

func unreachable(e syscall.Errno) bool {
	return e == unix.ENETUNREACH || e == unix.EHOSTUNREACH || e == unix.EADDRNOTAVAIL || e == unix.EACCES || e == unix.ENETDOWN || e == unix.EINVAL
}

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

// An intake receives many datagrams in one system call.
type intake struct {
	sock    *udpSocket
	size    int // bytes for one message
	mem     []byte
	msgs    []mmsghdr
	iovs    []unix.Iovec
	names   []unix.RawSockaddrInet6
	control [][controlSpace]byte
	named   bool

	got, at int // messages received, and the next one to look at
	rest    []byte
	segment int
	from    netip.AddrPort
	local   netip.Addr

	errno syscall.Errno
	last  time.Time // when wait was called last
	fn    func(fd uintptr) bool
}

// Moderation of the wake-ups under load, as network cards have it. A peer that sends one datagram at a time would have the reader,
// and everybody behind it, woken for each. When large datagrams come in quick succession and few at a time, the reader
// lets some more arrive. That doubled the rate of downloads from ocserv on two cores. Small datagrams are acknowledgements and
// the like, which somebody waits for.
const (
	busyGap  = 200 * time.Microsecond // between two reads, at most, if the channel is busy
	busyFew  = 8                      // messages that are worth waiting for more
	busySize = 512                    // bytes in a message at least, on average
	busyNap  = 60 * time.Microsecond
)

// moderate waits a moment if the last messages came one by one and fast.
func (r *intake) moderate() {
	now := time.Now()
	if r.got > 0 && r.got < busyFew && now.Sub(r.last) < busyGap {
		size := 0
		for i := range r.got {
			size += int(r.msgs[i].len)
		}
		if size >= r.got*busySize {
			nap := unix.NsecToTimespec(int64(busyNap))
			unix.Nanosleep(&nap, nil)
			now = time.Now()
		}
	}
	r.last = now
}

// newIntake makes an intake for datagrams of up to size bytes. named says that the sender of each is wanted.
func newIntake(s *udpSocket, size int, named bool) *intake {
	n := burstRecords
	if s.gro {
		n, size = 16, 1<<16 // a message holds many datagrams
	}
	r := &intake{
		sock: s, size: size, mem: make([]byte, n*size), msgs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n),
		names: make([]unix.RawSockaddrInet6, n), control: make([][controlSpace]byte, n), named: named,
	}
	for i := range r.msgs {
		r.iovs[i].Base = &r.mem[i*size]
		r.iovs[i].SetLen(size)
		r.msgs[i].hdr.Iov = &r.iovs[i]
		r.msgs[i].hdr.SetIovlen(1)
	}
	r.fn = func(fd uintptr) bool {
		for yielded := false; ; {
			n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(len(r.msgs)), unix.MSG_DONTWAIT, 0, 0)
			if e == unix.EINTR {
				continue
			}
			if e == unix.EAGAIN && !yielded {
				// The goroutines that wait for what came before go first. Under load more has come when they are done, which saves
				// going to sleep and being woken for every few datagrams.
				yielded = true
				runtime.Gosched()
				continue
			}
			if e == unix.EAGAIN {
				return false
			}
			r.got, r.errno = int(n), e
			return true
		}
	}
	return r
}

// wait blocks until datagrams have come.
func (r *intake) wait() error {
	r.moderate()
	r.at, r.got, r.rest = 0, 0, nil
	for i := range r.msgs {
		h := &r.msgs[i].hdr
		if r.named {
			h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
			h.Namelen = unix.SizeofSockaddrInet6
		}
		h.Control = &r.control[i][0]
		h.SetControllen(controlSpace)
		h.Flags = 0
	}
	if err := r.sock.raw.Read(r.fn); err != nil {
		return err
	}
	switch r.errno {
	case 0:
		return nil
	case unix.ECONNREFUSED:
		return errRefused
	}
	r.got = 0
	return r.errno
}

// next returns the next datagram; from and local of it are in the intake.
func (r *intake) next() []byte {
	for {
		if len(r.rest) > 0 {
			n := min(r.segment, len(r.rest))
			d := r.rest[:n:n]
			r.rest = r.rest[n:]
			return d
		}
		if r.at >= r.got {
			return nil
		}
		r.message()
	}
}

// message looks at the next message.
func (r *intake) message() {
	i := r.at
	r.at++
	m := &r.msgs[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 || m.len == 0 {
		return
	}
	r.rest = r.mem[i*r.size:][:m.len]
	r.segment = len(r.rest)
	r.local = netip.Addr{}
	c := r.control[i][:min(int(m.hdr.Controllen), controlSpace)]
	for len(c) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		if int(h.Len) < unix.SizeofCmsghdr || int(h.Len) > len(c) {
			break
		}
		body := c[unix.CmsgLen(0):h.Len]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(body) >= 4:
			if n := int(*(*int32)(unsafe.Pointer(&body[0]))); n > 0 {
				r.segment = n
			}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(body) >= unix.SizeofInet4Pktinfo:
			r.local = netip.AddrFrom4((*unix.Inet4Pktinfo)(unsafe.Pointer(&body[0])).Spec_dst)
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(body) >= unix.SizeofInet6Pktinfo:
			r.local = netip.AddrFrom16((*unix.Inet6Pktinfo)(unsafe.Pointer(&body[0])).Addr)
		}
		next := unix.CmsgSpace(int(h.Len) - unix.CmsgLen(0))
		if next > len(c) {
			break
		}
		c = c[next:]
	}
	if !r.named {
		return
	}
	sa := &r.names[i]
	switch sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		r.from = netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), networkOrder(sa4.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(sa.Addr)
		if a.IsLinkLocalUnicast() && sa.Scope_id != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
		}
		r.from = netip.AddrPortFrom(a, networkOrder(sa.Port))
	default:
		r.rest = nil
	}
}

// A connectedUDP is the socket of a client: an inbox and an outlet.
type connectedUDP struct {
	*intake
	sock   *udpSocket
	linger time.Duration
}

func (c connectedUDP) send(b *burst, wait bool) (int, error) { return c.sock.send(b, nil, wait) }

func (c connectedUDP) pathMTU() int { return c.sock.pathMTU() }

func (c connectedUDP) interrupt() { c.sock.conn.SetReadDeadline(time.Unix(1, 0)) }

func (c connectedUDP) resume() { c.sock.conn.SetReadDeadline(time.Time{}) }

func (c connectedUDP) close() error { return retire(c.sock.conn, c.linger) }

func (c connectedUDP) release() {}

// channelOver returns the fastest way to send and receive over conn.
func channelOver(conn net.Conn, burst, size int, linger time.Duration) (channel, error) {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return newStreamless(conn, linger), nil
	}
	s, err := newUDPSocket(udp, burst)
	if err != nil {
		return nil, err
	}
	return connectedUDP{intake: newIntake(s, size, false), sock: s, linger: linger}, nil
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
