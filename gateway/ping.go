package gateway

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingTimeout is how long the answer to a forwarded echo request may take.
const pingTimeout = 5 * time.Second

// errNoPing reports that the system lets this process send no echo requests, or knows no way to the host.
var errNoPing = errors.New("gateway: no way to send an ICMP echo request")

// A pinger sends echo requests for the clients, on one socket for each address family. That is an unprivileged one where
// the system allows it (net.ipv4.ping_group_range on Linux), else a raw one.
type pinger struct {
	mu     sync.Mutex
	closed bool
	v4, v6 *pingSocket
	wg     sync.WaitGroup
}

type pingSocket struct {
	conn *icmp.PacketConn
	raw  bool // the socket also sees the answers to others, and takes IP addresses for UDP addresses
	id   int

	mu      sync.Mutex
	seq     uint16
	waiting map[uint16]*pingWait
}

type pingWait struct {
	to      netip.Addr
	payload []byte
	done    chan struct{}
}

// maxPings bounds the echo requests that wait for an answer on one socket.
const maxPings = 1024

// ping returns nil when the host has answered. An error matches errNoPing, or is that of the context.
func (p *pinger) ping(ctx context.Context, to netip.Addr, payload []byte) error {
	s := p.socket(to.Is4())
	if s == nil {
		return errNoPing
	}
	w := &pingWait{to: to, payload: payload, done: make(chan struct{})}
	seq, ok := s.add(w)
	if !ok {
		return errNoPing
	}
	defer s.remove(seq)
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: s.id, Seq: int(seq), Data: payload}}
	if to.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil) // the kernel computes the checksum of ICMPv6
	if err != nil {
		return errNoPing
	}
	var addr net.Addr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0))
	if s.raw {
		addr = &net.IPAddr{IP: to.AsSlice()}
	}
	if _, err := s.conn.WriteTo(b, addr); err != nil {
		return errNoPing
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// socket returns the socket of the family, nil if there is none.
func (p *pinger) socket(is4 bool) *pingSocket {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, networks, any := &p.v4, []string{"udp4", "ip4:icmp"}, "0.0.0.0"
	if !is4 {
		have, networks, any = &p.v6, []string{"udp6", "ip6:ipv6-icmp"}, "::"
	}
	if p.closed {
		return nil
	}
	if *have == nil {
		s := &pingSocket{waiting: map[uint16]*pingWait{}}
		for i, network := range networks {
			if c, err := icmp.ListenPacket(network, any); err == nil {
				s.conn, s.raw = c, i == 1
				break
			}
		}
		*have = s
		if s.conn != nil {
			s.id = int(uint16(time.Now().UnixNano()))
			p.wg.Go(func() { s.read(is4) })
		}
	}
	if (*have).conn == nil {
		return nil
	}
	return *have
}

func (p *pinger) close() {
	p.mu.Lock()
	p.closed = true
	for _, s := range []*pingSocket{p.v4, p.v6} {
		if s != nil && s.conn != nil {
			s.conn.Close()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (s *pingSocket) add(w *pingWait) (uint16, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxPings {
		return 0, false
	}
	for s.seq++; s.waiting[s.seq] != nil; s.seq++ {
	}
	s.waiting[s.seq] = w
	return s.seq, true
}

func (s *pingSocket) remove(seq uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, seq)
}

func (s *pingSocket) read(is4 bool) {
	protocol, reply := 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if !is4 {
		protocol, reply = 58, ipv6.ICMPTypeEchoReply
	}
	b := make([]byte, 64<<10)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// An ICMP error about an earlier request.
			continue
		}
		m, err := icmp.ParseMessage(protocol, b[:n])
		if err != nil || m.Type != reply {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		if !ok || s.raw && echo.ID != s.id {
			continue
		}
		s.answered(echo, addrOf(from))
	}
}

func (s *pingSocket) answered(echo *icmp.Echo, from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[uint16(echo.Seq)]
	if w != nil && w.to == from && bytes.Equal(w.payload, echo.Data) {
		close(w.done)
		delete(s.waiting, uint16(echo.Seq))
	}
}

func addrOf(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
