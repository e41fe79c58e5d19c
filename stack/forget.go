package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Forget resets the connections with the host at a, those included that are closed and not delivered yet, because another host
// may be there from now on. Their methods return errors; a RST is sent for each.
func (s *Stack) Forget(a netip.Addr) {
	peer := fromAddr(a)
	for _, e := range s.gs.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		if remote, err := ep.GetRemoteAddress(); err == nil && remote.Addr == peer {
			ep.Abort()
		}
	}
}
