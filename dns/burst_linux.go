package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// burstSize is how many queries are taken from a socket with one system call, and how many answers are sent with one. A query costs
// a few hundred nanoseconds here, and a system call that carries it more than a microsecond.
const burstSize = 32

// A burst is the queries that one system call has brought, and the answers to them that the next one takes. Who asked stays in
// the form in which the system wrote it: it is where the answer goes.
type burst struct {
	raw     syscall.RawConn
	in, out [burstSize]mmsghdr
	iovs    [2 * burstSize]unix.Iovec
	names   [burstSize]unix.RawSockaddrInet6
	memory  []byte // of queries
	answers []byte
	pending int // answers that are to be sent

	// The call under way. The closures are made once, since making one for each call would allocate.
	first, n int
	errno    syscall.Errno
	read     func(fd uintptr) bool
	try      func(fd uintptr)
	patient  func(fd uintptr) bool
}

// An mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

const maxQueryBuffer = maxQuery + 1 // one more than is taken, so that a query that was cut is noticed

// newBurst returns a burst for a socket of the machine, and nil for other sockets.
func newBurst(pc net.PacketConn) *burst {
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	b := &burst{raw: raw, memory: make([]byte, burstSize*maxQueryBuffer), answers: make([]byte, burstSize*udpSize)}
	for i := range burstSize {
		q := &b.iovs[i]
		q.Base = &b.memory[i*maxQueryBuffer]
		q.SetLen(maxQueryBuffer)
		b.in[i].hdr.Iov = q
		b.in[i].hdr.SetIovlen(1)
		b.in[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.out[i].hdr.Iov = &b.iovs[burstSize+i]
		b.out[i].hdr.SetIovlen(1)
	}
	// These calls never block. Syscall6 would tell the scheduler of calls that may, which costs more than it saves.
	b.read = func(fd uintptr) bool {
		b.n, b.errno = mmsg(unix.SYS_RECVMMSG, fd, b.in[:])
		return b.errno != unix.EAGAIN
	}
	b.try = func(fd uintptr) { b.n, b.errno = mmsg(unix.SYS_SENDMMSG, fd, b.out[b.first:b.pending]) }
	b.patient = func(fd uintptr) bool {
		b.try(fd)
		return b.errno != unix.EAGAIN
	}
	return b
}

func mmsg(call, fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, e := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// receive waits for queries and returns how many there are.
func (b *burst) receive() (int, error) {
	for i := range b.in {
		b.in[i].hdr.Namelen = uint32(unsafe.Sizeof(b.names[i]))
	}
	if err := b.raw.Read(b.read); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		return 0, b.errno
	}
	return b.n, nil
}

// query returns a query that was received.
func (b *burst) query(i int) []byte {
	start := i * maxQueryBuffer
	return b.memory[start : start+int(b.in[i].len)]
}

// space returns memory for the answer to a query.
func (b *burst) space(i int) []byte { return b.answers[i*udpSize : i*udpSize : (i+1)*udpSize] }

// answer adds the answer to a query to those that are to be sent.
func (b *burst) answer(i int, answer []byte) {
	h := &b.out[b.pending].hdr
	h.Iov.Base = &answer[0]
	h.Iov.SetLen(len(answer))
	h.Name, h.Namelen = b.in[i].hdr.Name, b.in[i].hdr.Namelen
	b.pending++
}

// send sends the answers. Those that cannot be sent are lost, as the network may lose them.
func (b *burst) send() {
	for b.first = 0; b.first < b.pending; {
		err := b.raw.Control(b.try)
		if err == nil && b.errno == unix.EAGAIN {
			err = b.raw.Write(b.patient)
		}
		if err != nil {
			break
		}
		if b.errno != 0 {
			b.n = 1 // the first of them is why
		}
		b.first += b.n
	}
	b.pending = 0
}

// from returns who asked a query. The socket takes it in this form too.
func (b *burst) from(i int) netip.AddrPort {
	port := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch sa := &b.names[i]; sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), port(&sa4.Port))
	case unix.AF_INET6:
		addr := netip.AddrFrom16(sa.Addr)
		if sa.Scope_id != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
		}
		return netip.AddrPortFrom(addr, port(&sa.Port))
	}
	return netip.AddrPort{}
}
