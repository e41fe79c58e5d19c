package dtls

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/windows"
)

// Socket options of ws2ipdef.h that x/sys does not name.
const (
	ipDontFragment = 14 // of IPPROTO_IP
	ipv6DontFrag   = 14 // of IPPROTO_IPV6
)

// tune makes the socket of a tunnel out of any: no fragments, and room for the datagrams of a moment.
func tune(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		h := windows.Handle(fd)
		e4 := windows.SetsockoptInt(h, windows.IPPROTO_IP, ipDontFragment, 1)
		e6 := windows.SetsockoptInt(h, windows.IPPROTO_IPV6, ipv6DontFrag, 1)
		if e4 != nil && e6 != nil {
			failed = errors.Join(e4, e6)
		}
	})
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return errors.Join(err, failed)
}

func isRefused(err error) bool {
	return errors.Is(err, windows.WSAECONNREFUSED) || errors.Is(err, syscall.Errno(windows.WSAECONNRESET))
}

func isMessageSize(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

func isTransient(err error) bool { return errors.Is(err, windows.WSAENOBUFS) }
