package gateway

import (
	"net"

	"golang.org/x/sys/unix"
)

// notSent is how many bytes wait in the kernel for the client at most, besides those that are on their way: enough to keep the path
// busy, and little enough that a slow path is noticed here, where packets can still be dropped or sent another way.
const notSent = 128 << 10

// tuneTCP prepares the connection of a client. What the system refuses is done without.
func tuneTCP(nc net.Conn) {
	if c, ok := rawConn(nc); ok {
		c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		})
	}
}

// pathMTU returns what the kernel takes for the MTU of the path, and 0 if it does not know.
func pathMTU(nc net.Conn) int {
	mtu := 0
	if c, ok := rawConn(nc); ok {
		c.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				mtu = int(info.Pmtu)
			}
		})
	}
	return mtu
}
