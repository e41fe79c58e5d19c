//go:build !linux

package main

import "net"

// trustedPeer relies on the rights of the socket: whoever could connect may ask.
func trustedPeer(net.Conn) bool { return true }
