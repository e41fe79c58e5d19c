package vpn

import (
	"context"
	"net"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
)

// A System makes tunnels carry the traffic of the whole machine. The one of this module is in the package system; a [Config]
// that has none gives a tunnel for this program alone. A System outlives the tunnels that use it, one after the other.
type System interface {
	// DialContext connects to the gateway, over tcp or udp, in such a way that the packets are not caught by the tunnel that
	// they carry and that the firewall lets them through. It asks for the name of the gateway outside of the tunnel.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)

	// Attach makes the machine use a tunnel and returns what carries the packets between the two. It is called when the first
	// lease of the tunnel is known. The Tunnel closes the device, which ends the use of the tunnel. If the device fails, so
	// does the tunnel.
	Attach(ctx context.Context, link SystemLink) (SystemDevice, error)
}

// A SystemLink is a tunnel as a [System] sees it.
type SystemLink struct {
	// Lease is what the gateway has assigned, and MTU the size of the largest packet in bytes, which may be less than that
	// of the lease.
	Lease *transport.Lease
	MTU   int
	// NetworkChanged is to be called when the network of the machine has changed; see [Tunnel.NetworkChanged]. It does not wait.
	NetworkChanged func()
	// Roam moves the tunnel to another network, make before break, with dials that are bound to it; see [Tunnel.Roam]. It is nil if
	// the tunnel cannot be moved by the System, such as because its connections are made by Config.Dial.
	Roam func(ctx context.Context, dial, dialUDP DialFunc) error
}

// A SystemDevice carries packets between the machine and a tunnel.
type SystemDevice interface {
	packet.Conn

	// SetMTU changes the size of the largest packet. It must not wait for the network.
	SetMTU(mtu int) error

	// Changed tells the state of the tunnel and its lease, after each change of one of them. It must not wait.
	Changed(state State, lease *transport.Lease)
}
