//go:build !linux

package dns

import (
	"net"
	"net/netip"
)

// A burst is several queries at a time, which only Linux has system calls for.
type burst struct{}

func newBurst(net.PacketConn) *burst       { return nil }
func (*burst) receive() (int, error)       { return 0, net.ErrClosed }
func (*burst) query(int) []byte            { return nil }
func (*burst) space(int) []byte            { return nil }
func (*burst) answer(int, []byte)          {}
func (*burst) send()                       {}
func (*burst) from(int) (p netip.AddrPort) { return p }
