package dtls

import (
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/transport/nap"
)

// An intake receives many datagrams in one system call. It has memory only from when there is something to receive until all of
// that is read.
type intake struct {
	sock  *udpSocket
	land  *landing
	lands *sync.Pool // of *landing that suit this intake
	named bool
	batch bool // wait for small datagrams too

	got, at int // messages received, and the next one to look at
	rest    []byte
	segment int
	from    netip.AddrPort
	local   netip.Addr

	errno  syscall.Errno
	last   time.Time // when wait was called last
	streak int       // how many reads in a row brought little and came fast
	fn     func(fd uintptr) bool
}

// A landing is memory for the messages of one system call.
type landing struct {
	size    int // bytes for one message
	mem     []byte
	msgs    []mmsghdr
	iovs    []unix.Iovec
	names   []unix.RawSockaddrInet6
	control [][controlSpace]byte
}

const (
	// A message with segments is as large as a datagram can be.
	segmentedMessages, segmentedSize = 16, 1 << 16
)

// The memory for receiving is shared by all sockets of the process, since most of them are idle at any moment. One pool is for
// messages with segments, and one for those without.
var segmentedLandings, plainLandings = sync.Pool{New: func() any { return newLanding(segmentedMessages, segmentedSize) }},
	sync.Pool{New: func() any { return newLanding(burstRecords, maxPlain) }}

func newLanding(n, size int) *landing {
	l := &landing{
		size: size, mem: make([]byte, n*size), msgs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n),
		names: make([]unix.RawSockaddrInet6, n), control: make([][controlSpace]byte, n),
	}
	for i := range l.msgs {
		l.iovs[i].Base = &l.mem[i*size]
		l.iovs[i].SetLen(size)
		h := &l.msgs[i].hdr
		h.Iov = &l.iovs[i]
		h.SetIovlen(1)
	}
	return l
}

// prepare undoes what the last system call has written.
func (l *landing) prepare(named bool) {
	for i := range l.msgs {
		h := &l.msgs[i].hdr
		h.Name, h.Namelen = nil, 0
		if named {
			h.Name = (*byte)(unsafe.Pointer(&l.names[i]))
			h.Namelen = unix.SizeofSockaddrInet6
		}
		h.Control = &l.control[i][0]
		h.SetControllen(controlSpace)
		h.Flags = 0
	}
}

// Moderation of the wake-ups under load, as network cards have it. A peer that sends one datagram at a time would have the reader,
// and everybody behind it, woken for each. When large datagrams come in quick succession and few at a time, the reader
// lets some more arrive. That doubled the rate of downloads from ocserv on two cores. Small datagrams are acknowledgements and
// the like: a netstack inside the program is waiting for them, and without it they have to come fast for longer.
const (
	busyGap    = 200 * time.Microsecond // between two reads, at most, if the channel is busy
	busyFew    = 8                      // messages that are worth waiting for more
	busySize   = 512                    // bytes in a large message at least, on average
	busyStreak = 4                      // reads one after another for which small messages are worth it
	busyNap    = 60 * time.Microsecond
)

// moderate waits a moment if the last messages were worth it, and came few at a time and fast. Unless the packets go to
// a device, somebody in the program was woken by them and runs first: the nap would keep the processor from them.
func (r *intake) moderate() {
	now := time.Now()
	busy := 0 < r.got && r.got < busyFew && now.Sub(r.last) < busyGap
	r.last = now
	if !busy {
		r.streak = 0
		return
	}
	r.streak++
	size := 0
	for i := range r.got {
		size += int(r.land.msgs[i].len)
	}
	if size >= r.got*busySize || r.batch && r.streak >= busyStreak {
		if !r.batch {
			runtime.Gosched()
		}
		nap.For(busyNap)
		r.last = time.Now()
	}
}

// newIntake makes an intake. named says that the sender of each datagram is wanted.
func newIntake(s *udpSocket, _ int, named, batch bool) *intake {
	r := &intake{sock: s, lands: &plainLandings, named: named, batch: batch}
	if s.gro {
		r.lands = &segmentedLandings
	}
	r.fn = r.receive
	return r
}

// receive is what the poller of package net calls until it returns true.
func (r *intake) receive(fd uintptr) bool {
	if r.land == nil {
		r.land = r.lands.Get().(*landing)
	}
	r.land.prepare(r.named)
	msgs := r.land.msgs
	for yielded := false; ; {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == unix.EINTR:
		case e == unix.EAGAIN && !yielded:
			// The goroutines that wait for what came before go first. Under load more has come when they are done, which saves
			// going to sleep and being woken for every few datagrams.
			yielded = true
			runtime.Gosched()
		case e == unix.EAGAIN:
			r.release()
			return false
		default:
			if r.got, r.errno = int(n), e; e != 0 {
				r.got = 0
			}
			return true
		}
	}
}

// wait blocks until datagrams have come.
func (r *intake) wait() error {
	r.moderate()
	r.at, r.got, r.rest = 0, 0, nil
	if err := r.sock.raw.Read(r.fn); err != nil {
		r.release()
		return err
	}
	switch r.errno {
	case 0:
		return nil
	case unix.ECONNREFUSED:
		return errRefused
	}
	return r.errno
}

// release gives the memory back. What next has returned is not valid any more.
func (r *intake) release() {
	if r.land != nil {
		r.at, r.got, r.rest = 0, 0, nil
		r.lands.Put(r.land)
		r.land = nil
	}
}

// next returns the next datagram; from and local of it are in the intake. Of one that was too large nothing is left.
func (r *intake) next() []byte {
	if len(r.rest) == 0 {
		if r.at >= r.got {
			return nil
		}
		r.message()
	}
	n := min(r.segment, len(r.rest))
	d := r.rest[:n:n]
	r.rest = r.rest[n:]
	return d
}

// message looks at the next message.
func (r *intake) message() {
	i := r.at
	r.at++
	m := &r.land.msgs[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		m.len = 0
	}
	r.rest = r.land.mem[i*r.land.size:][:min(int(m.len), r.land.size)]
	r.segment = len(r.rest)
	r.local = netip.Addr{}
	c := r.land.control[i][:min(int(m.hdr.Controllen), controlSpace)]
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
	sa := &r.land.names[i]
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
		r.from, r.rest = netip.AddrPort{}, r.rest[:0]
	}
}
