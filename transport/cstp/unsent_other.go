//go:build !linux

package cstp

import "net"

func limitUnsent(net.Conn) {}
