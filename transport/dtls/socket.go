package dtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// socketBuffer is what is asked of the system for each direction of a socket, in bytes: 40 ms at 1 Gbit/s.
const socketBuffer = 4 << 20

var (
	errTooBig  = errors.New("dtls: datagram too large for the path")
	errRefused = errors.New("dtls: nobody listens at the peer's UDP port")
)

// A channel is both sides of a socket.
type channel interface {
	inbox
	outlet
}

// OpenSocket returns a new UDP socket that is connected with remote, sets DF on what it sends, and has large buffers where the
// system allows it. Use a new one for each attempt: state in NATs and firewalls may be what made the last one fail. dial
// is what makes the socket, nil for a net.Dialer; it must return a *net.UDPConn. The caller closes the socket, or hands it
// to Dial.
func OpenSocket(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), remote netip.AddrPort) (*net.UDPConn, error) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	network := "udp4"
	if !remote.Addr().Unmap().Is4() {
		network = "udp6"
	}
	conn, err := dial(ctx, network, netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()).String())
	if err != nil {
		return nil, fmt.Errorf("UDP socket for %s: %w", remote, err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("UDP socket for %s: the dialer made a %T", remote, conn)
	}
	if err := tune(udp); err != nil {
		udp.Close()
		return nil, fmt.Errorf("UDP socket for %s: no fragments: %w", remote, err)
	}
	return udp, nil
}
