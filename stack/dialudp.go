package stack

import (
	"context"
	"net"
	"net/netip"
)

// DialUDP returns a UDP connection to remote from local, of which the address, the port or both may be left out. A Stack with one of
// the Accept functions takes any local address, as the sender of what it forwards to remote.
func (s *Stack) DialUDP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	return s.dial(ctx, target{network: "udp", kind: "udp", addr: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}, local)
}
