package dtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
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

// retire closes a socket of a client after linger, so that what the peer still sends is not answered with an ICMP message.
func retire(conn net.Conn, linger time.Duration) error {
	udp, ok := conn.(*net.UDPConn)
	if !ok || linger <= 0 {
		return conn.Close()
	}
	udp.SetDeadline(time.Unix(1, 0))
	udp.SetReadBuffer(1) // what comes is thrown away as soon as there is anything
	time.AfterFunc(linger, func() { udp.Close() })
	return nil
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
