package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A pinger remembers the echo requests that are on their way.
type pinger struct {
	mu      sync.Mutex
	id, seq uint16
	waiting map[uint16]*pingWait // by sequence number
}

type pingWait struct {
	to     netip.Addr
	nonce  [16]byte
	answer chan error // has room for one
}

// maxPings is how many may be on their way at a time.
const maxPings = 1024

func (g *pinger) init() {
	g.id, g.waiting = randomPort(), make(map[uint16]*pingWait)
}

// Ping sends one echo request to addr and returns how long the answer took. The context says how long to wait; the request is
// not repeated. Errors are *net.OpError; one matches syscall.EHOSTUNREACH or syscall.ENETUNREACH if the network says so.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	addr = addr.Unmap()
	remote := &net.IPAddr{IP: addr.AsSlice()}
	fail := func(err error) (time.Duration, error) { return 0, opError("ping", "icmp", nil, remote, err) }
	if s.isClosed() {
		return fail(net.ErrClosed)
	}
	if !addr.IsValid() || addr.Zone() != "" {
		return fail(&net.AddrError{Err: errNotLiteral.Error(), Addr: addr.String()})
	}
	if s.owns(addr) {
		return 0, nil
	}
	src, ok := s.source(addr)
	if !ok {
		return fail(syscall.ENETUNREACH)
	}
	w := &pingWait{to: addr, answer: make(chan error, 1)}
	rand.Read(w.nonce[:])
	seq, ok := s.pings.add(w)
	if !ok {
		return fail(syscall.ENOBUFS)
	}
	defer s.pings.remove(seq)
	start := time.Now()
	if !s.link.send(echoPacket(src, addr, false, s.pings.id, seq, w.nonce[:]), true) {
		if s.isClosed() {
			return fail(net.ErrClosed)
		}
		return fail(syscall.ENOBUFS)
	}
	select {
	case err := <-w.answer:
		if err != nil {
			return fail(err)
		}
		return time.Since(start), nil
	case <-ctx.Done():
		return fail(ctx.Err())
	case <-s.done:
		return fail(net.ErrClosed)
	}
}

func (g *pinger) add(w *pingWait) (seq uint16, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) >= maxPings {
		return 0, false
	}
	for g.seq++; g.waiting[g.seq] != nil; g.seq++ {
	}
	g.waiting[g.seq] = w
	return g.seq, true
}

func (g *pinger) remove(seq uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, seq)
}

// replied takes the echo reply m from src, and reports whether it answers one of our requests.
func (g *pinger) replied(src netip.Addr, m []byte) bool {
	if binary.BigEndian.Uint16(m[4:]) != g.id {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.waiting[binary.BigEndian.Uint16(m[6:])]
	if w == nil || w.to != src || !bytes.Equal(m[icmpHeaderLen:], w.nonce[:]) {
		return false
	}
	w.tell(nil)
	return true
}

// failed takes the ICMP error m, and reports whether it is about one of our requests.
func (g *pinger) failed(m []byte, ip *ipInfo) bool {
	quoted := m[icmpHeaderLen:]
	if len(quoted) < headerLen4 || ip.v6 != (quoted[0]>>4 == 6) {
		return false
	}
	hdr, protocol := int(quoted[0]&15)*4, quoted[9]
	if ip.v6 {
		hdr, protocol = headerLen6, quoted[6]
	}
	if len(quoted) < hdr+icmpHeaderLen || hdr < headerLen4 || protocol != ip.protocol {
		return false
	}
	inner := ipInfo{v6: ip.v6}
	_, dst := inner.addresses(quoted)
	echo := quoted[hdr:]
	if !isEcho(ip, echo[0]) || binary.BigEndian.Uint16(echo[4:]) != g.id {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.waiting[binary.BigEndian.Uint16(echo[6:])]
	if w == nil || w.to != dst {
		return false
	}
	w.tell(unreachableError(m, ip))
	return true
}

func (w *pingWait) tell(err error) {
	select {
	case w.answer <- err:
	default:
	}
}
