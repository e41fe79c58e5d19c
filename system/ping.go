package system

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/host"
)

// Types of ICMP messages (RFC 792, RFC 4443 section 4).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	echoHeader               = 8
)

// ping sends an echo request to a host on behalf of a program, and returns nil when it has answered.
func (t *tunnel) ping(ctx context.Context, way flow.Way, addr netip.Addr, payload []byte) error {
	var conn net.Conn
	var err error
	if way == flow.Tunnel {
		conn, err = t.stack.DialContext(ctx, "ping", addr.String())
	} else {
		network := "ip4:icmp"
		if addr.Is6() {
			network = "ip6:ipv6-icmp"
		}
		device := t.s.around(addr)
		conn, err = t.s.inner.dial(ctx, network, addr.String(), func(_, _ string, c syscall.RawConn) error {
			if device != "" {
				if err := bind(c, device); err != nil {
					return err
				}
			}
			return mark(c, host.DefaultMark)
		})
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return echo(conn, addr.Is6(), payload)
}

// echo sends an echo request and waits for its answer. The stack of a tunnel replaces the identifier, and answers come back
// with it, so the answer is known by what it carries.
func echo(conn net.Conn, v6 bool, payload []byte) error {
	m := make([]byte, echoHeader, echoHeader+len(payload))
	request, reply := byte(echoRequest4), byte(echoReply4)
	if v6 {
		request, reply = echoRequest6, echoReply6
	}
	m[0] = request
	binary.BigEndian.PutUint32(m[4:], rand.Uint32()) // identifier and sequence number
	m = append(m, payload...)
	if !v6 {
		binary.BigEndian.PutUint16(m[2:], checksum(m)) // the kernel knows that of ICMPv6, which has the addresses in it
	}
	if _, err := conn.Write(m); err != nil {
		return err
	}
	sequence := m[6:8]
	_, local := conn.(*net.IPConn) // which sees the answers to other programs as well
	const maxHeader = 60           // of IPv4, which comes along
	answer := make([]byte, maxHeader+len(m)+1)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return err
		}
		a := answer[:n]
		if local && !v6 && n > 0 {
			a = a[min(n, int(a[0]&15)*4):]
		}
		if len(a) != len(m) || a[0] != reply || !bytes.Equal(a[echoHeader:], payload) {
			continue
		}
		if !local || bytes.Equal(a[4:6], m[4:6]) && bytes.Equal(a[6:8], sequence) {
			return nil
		}
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	sum = sum&0xffff + sum>>16
	return ^uint16(sum&0xffff + sum>>16)
}
