//go:build !linux

package gateway

import "net"

func tuneTCP(net.Conn) {}

// pathMTU returns 0: it is not known.
func pathMTU(net.Conn) int { return 0 }
