package main

import (
	"net"
	"os"
	"syscall"
)

// trustedPeer reports whether the process at the other end is one of root or of this user (SO_PEERCRED, unix(7)).
func trustedPeer(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	trusted := false
	err = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		trusted = err == nil && (cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()))
	})
	return err == nil && trusted
}
