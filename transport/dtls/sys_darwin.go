package dtls

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// tune makes the socket of a tunnel out of any: no fragments, and room for the datagrams of a moment.
func tune(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		e4 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1)
		e6 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
		if e4 != nil && e6 != nil {
			failed = errors.Join(e4, e6)
		}
	})
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return errors.Join(err, failed)
}

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func isMessageSize(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

func isTransient(err error) bool { return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EPERM) }
