package dtls

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A burstSys is what sendmmsg needs beside the bytes.
type burstSys struct {
	msgs    []mmsghdr
	iovs    []unix.Iovec
	control [][controlSpace]byte
	last    []int // the record after the last one of each message

	// The call under way. The closures are made once, since making one for each call would allocate.
	call        func(fd uintptr, msgs []mmsghdr) (int, syscall.Errno)
	first, next int // the messages to send
	sent        int
	errno       syscall.Errno
	try         func(fd uintptr)
	patient     func(fd uintptr) bool
}

// sendmmsg hands messages to the system, and returns how many it took.
func sendmmsg(fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		// This never blocks. Syscall6 would tell the scheduler of a call that may: when it takes longer than 20 µs, as sending
		// through a virtual interface often does, another thread is woken to go on without this one, which costs more than the call.
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func (y *burstSys) init(n int) {
	y.msgs, y.iovs = make([]mmsghdr, n), make([]unix.Iovec, n)
	y.control, y.last = make([][controlSpace]byte, n), make([]int, n)
	y.try = func(fd uintptr) { y.sent, y.errno = y.call(fd, y.msgs[y.first:y.next]) }
	y.patient = func(fd uintptr) bool {
		y.try(fd)
		return y.errno != unix.EAGAIN
	}
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
	y.call = s.call
	gso := s.gso.Load()
	doubt := false // whether gso is why a message failed
	done := 0
	refusals := 0
	for done < b.count {
		msgs := s.build(b, done, to, gso)
		y.first, y.next = 0, msgs
		for y.first < msgs {
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
			case e == unix.ECONNREFUSED, e == unix.EAGAIN, e == unix.EIO, transient(e), to != nil && unreachable(e):
				// Lost, as datagrams may be. One peer that cannot be reached is no reason to close a socket of many.
				b.lose(done, y.last[y.first])
				done = y.last[y.first]
				y.first++
			default:
				return done, e
			}
		}
	}
	return done, nil
}
