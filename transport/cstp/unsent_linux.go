package cstp

import (
	"net"

	"golang.org/x/sys/unix"
)

// maxUnsent is how much the system may hold of what it has not sent yet, in bytes: a quarter of a second at 4 Mbit/s.
const maxUnsent = 128 << 10

// limitUnsent keeps the system from hoarding packets that cannot leave yet. Without it megabytes may wait in the socket of a
// slow link, with the probes behind them, and a link that works looks dead.
func limitUnsent(nc net.Conn) {
	c, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// An older kernel does without.
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}
