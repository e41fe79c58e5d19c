package dtls

import (
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
