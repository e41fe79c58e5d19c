package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// frameHeader is the size of an Ethernet header, and maxFrame of the largest frame that a port takes, in bytes: an IP packet of any
// size with its Ethernet header.
const (
	frameHeader = 14
	maxFrame    = 65535 + frameHeader
)

// A port sends and receives whole Ethernet frames on an interface.
type port struct {
	file *os.File // so that the runtime waits for it
	conn syscall.RawConn

	mu    sync.Mutex
	drops uint64
}

// openPort opens an interface of the host.
func (h *Host) openPort(dev string) (p *port, err error) {
	if e := h.enter(func() { p, err = openPort(dev) }); e != nil {
		return nil, e
	}
	return p, err
}

func openPort(dev string) (*port, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	// With protocol 0 it hears nothing before it is bound, and so nothing of other interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a packet socket: %w", err)
	}
	all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), dev)
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &port{file: file, conn: conn}, nil
}

// receive hands every frame to put, until the port is closed.
func (p *port) receive(put func(frame []byte)) {
	buf := make([]byte, maxFrame)
	gone := false
	// It pauses after some frames, since Close waits for it.
	read := func(fd uintptr) bool {
		for range 64 {
			n, err := unix.Read(int(fd), buf)
			switch err {
			case nil:
				put(buf[:n])
			case unix.EAGAIN:
				return false
			case unix.EINTR, unix.ENETDOWN:
				// An interface that is switched off may be switched on again.
			default:
				gone = true
				return true
			}
		}
		return true
	}
	for !gone && p.conn.Read(read) == nil {
	}
}

// send sends a frame. One that cannot be sent is lost, as on any cable.
func (p *port) send(frame []byte) {
	p.conn.Control(func(fd uintptr) { unix.Write(int(fd), frame) })
}

// missed returns how many frames the socket has had no room for.
func (p *port) missed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.Control(func(fd uintptr) {
		// The kernel begins to count anew each time it is asked.
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			p.drops += uint64(s.Drops)
		}
	})
	return p.drops
}
