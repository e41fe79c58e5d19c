package gateway

import (
	"net"
	"syscall"
)

// rawConn returns the socket of a connection, which may be wrapped in something that says so by a method NetConn.
func rawConn(nc net.Conn) (syscall.RawConn, bool) {
	for {
		switch c := nc.(type) {
		case syscall.Conn:
			raw, err := c.SyscallConn()
			return raw, err == nil
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return nil, false
		}
	}
}
