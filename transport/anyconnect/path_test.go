package anyconnect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/wire"
)

// TestAnnouncement builds packets that routers take for what they are, and drop.
func TestAnnouncement(t *testing.T) {
	for _, addrs := range []string{"10.1.2.3/24", "fd00::7/64"} {
		lease := &transport.Lease{Addresses: []netip.Prefix{netip.MustParsePrefix(addrs)}}
		p := announcement(lease)
		own := lease.Addresses[0].Addr()
		if own.Is4() {
			var sum uint32
			for i := 0; i < len(p); i += 2 {
				sum += uint32(binary.BigEndian.Uint16(p[i:]))
			}
			if sum = sum&0xffff + sum>>16; sum != 0xffff {
				t.Errorf("the checksum is wrong: % x", p)
			}
			if len(p) != 20 || p[0] != 0x45 || int(binary.BigEndian.Uint16(p[2:])) != len(p) || p[8] != 1 || netip.AddrFrom4([4]byte(p[12:])) != own {
				t.Errorf("% x", p)
			}
			continue
		}
		if len(p) != 40 || p[0] != 0x60 || binary.BigEndian.Uint16(p[4:]) != 0 || p[7] != 1 || netip.AddrFrom16([16]byte(p[8:])) != own {
			t.Errorf("% x", p)
		}
	}
}

// TestTerminal tells the errors that end a session from those that pass.
func TestTerminal(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{transport.ErrLogin, true},
		{transport.ErrPrompt, true},
		{fmt.Errorf("tls: %w", transport.ErrExpired), true},
		{transport.ErrAddressChanged, true},
		{transport.ErrUntrusted, true},
		{transport.ErrUnsupported, true},
		{transport.ErrRefused, false},
		{transport.ErrUnreachable, false},
		{transport.ErrProtocol, false},
		{errors.New("anything"), false},
		{io.EOF, false},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, false},
		{&cstp.DisconnectError{Reason: wire.ReasonError}, true},
		{&cstp.DisconnectError{Reason: wire.ReasonUser}, true},
		{&cstp.DisconnectError{Terminated: true}, true},
		{fmt.Errorf("tls: %w", &cstp.DisconnectError{Reason: 0xd0}), false},
	} {
		if got := terminal(tt.err); got != tt.want {
			t.Errorf("%v: terminal is %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestBaseMTU takes the MTU of the interface, but never more than is usual.
func TestBaseMTU(t *testing.T) {
	for _, addr := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), {}} {
		if mtu := baseMTU(addr); mtu < 576 || mtu > 1500 {
			t.Errorf("%v: %d", addr, mtu)
		}
	}
}
