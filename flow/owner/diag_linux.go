package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The messages of sock_diag(7): struct inet_diag_req_v2 and struct inet_diag_msg.
const (
	sockDiagByFamily = 20
	diagRequestLen   = unix.NLMSG_HDRLEN + 56
	diagMessageLen   = 72
	diagUID          = 64 // where in the message
	diagInode        = 68
	noCookie         = 0xffffffff
)

// askTime bounds how long the kernel may take for an answer. It answers within the system call.
const askTime = time.Second

// A diag asks the kernel for sockets. It may be used by several goroutines, which wait for each other.
type diag struct {
	mu  sync.Mutex
	fd  int // -1 once closed
	seq uint32
	buf [8192]byte
}

// openDiag opens a socket to the kernel. It tells of the sockets in the network namespace of the calling thread.
func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("%w: opening a sock_diag socket: %w", ErrUnsupported, err)
	}
	timeout := unix.NsecToTimeval(askTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("setting the time to wait for sock_diag: %w", err)
	}
	return &diag{fd: fd}, nil
}

func (d *diag) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// find returns the user and the inode of the socket that f belongs to.
func (d *diag) find(f Flow) (uid, inode uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return 0, 0, ErrClosed
	}
	d.seq++
	var req [diagRequestLen]byte
	if err := putRequest(req[:], f, d.seq); err != nil {
		return 0, 0, err
	}
	if err := unix.Sendto(d.fd, req[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, 0, fmt.Errorf("asking sock_diag: %w", err)
	}
	// An answer to an earlier question that was given up may come first.
	for range 16 {
		n, from, err := unix.Recvfrom(d.fd, d.buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("waiting for sock_diag: %w", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not from the kernel
		}
		uid, inode, ours, err := parseAnswer(d.buf[:n], d.seq)
		if ours {
			return uid, inode, err
		}
	}
	return 0, 0, errors.New("sock_diag answers something else")
}

// putRequest writes the question for the socket of f.
func putRequest(b []byte, f Flow, seq uint32) error {
	local, remote := f.Local.Addr().Unmap(), f.Remote.Addr().Unmap()
	if !local.IsValid() || !remote.IsValid() || local.Is4() != remote.Is4() {
		return fmt.Errorf("flow from %v to %v: not two addresses of one family", f.Local, f.Remote)
	}
	native := binary.NativeEndian
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], sockDiagByFamily)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	native.PutUint32(b[8:], seq)
	r := b[unix.NLMSG_HDRLEN:]
	r[0] = unix.AF_INET
	if local.Is6() {
		r[0] = unix.AF_INET6
	}
	src, dst := netip.AddrPortFrom(local, f.Local.Port()), netip.AddrPortFrom(remote, f.Remote.Port())
	switch f.Network {
	case "tcp":
		r[1] = unix.IPPROTO_TCP
	case "udp":
		r[1] = unix.IPPROTO_UDP
		// The kernel looks for a UDP socket as if a datagram had come, with source and destination the other way round: "swapped
		// for historical reasons" (net/ipv4/udp_diag.c).
		src, dst = dst, src
	default:
		return fmt.Errorf("network %q is neither tcp nor udp", f.Network)
	}
	native.PutUint32(r[4:], 0xffffffff) // in any state
	binary.BigEndian.PutUint16(r[8:], src.Port())
	binary.BigEndian.PutUint16(r[10:], dst.Port())
	copy(r[12:28], src.Addr().AsSlice())
	copy(r[28:44], dst.Addr().AsSlice())
	native.PutUint32(r[48:], noCookie)
	native.PutUint32(r[52:], noCookie)
	return nil
}

// parseAnswer reads an answer of the kernel. It reports ours=false if it is one to another question.
func parseAnswer(b []byte, seq uint32) (uid, inode uint32, ours bool, err error) {
	native := binary.NativeEndian
	if len(b) < unix.NLMSG_HDRLEN {
		return 0, 0, false, nil
	}
	n := native.Uint32(b)
	if native.Uint32(b[8:]) != seq || n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
		return 0, 0, false, nil
	}
	m := b[unix.NLMSG_HDRLEN:n]
	switch native.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		if len(m) < 4 {
			return 0, 0, true, errors.New("sock_diag answers with an error that is cut short")
		}
		switch errno := unix.Errno(-int32(native.Uint32(m))); errno {
		case unix.ENOENT, unix.ECONNREFUSED:
			return 0, 0, true, ErrNotFound
		case unix.EOPNOTSUPP, unix.EPROTONOSUPPORT:
			return 0, 0, true, fmt.Errorf("%w: sock_diag: %w", ErrUnsupported, errno)
		default:
			return 0, 0, true, fmt.Errorf("sock_diag: %w", errno)
		}
	case sockDiagByFamily:
		if len(m) < diagMessageLen {
			return 0, 0, true, fmt.Errorf("sock_diag answers with %d bytes instead of %d", len(m), diagMessageLen)
		}
		uid, inode = native.Uint32(m[diagUID:]), native.Uint32(m[diagInode:])
		if inode == 0 {
			// A connection that nobody holds any more, or not yet. The kernel says that it is of user 0, which must not be believed.
			return 0, 0, true, ErrNotFound
		}
		return uid, inode, true, nil
	}
	return 0, 0, false, nil
}
