package dtls

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

// A relay passes datagrams on between clients and a gateway, and lets a test do with them what a network does.
type relay struct {
	front *net.UDPConn
	gw    netip.AddrPort

	mu    sync.Mutex
	up    func(d []byte) [][]byte // what becomes of a datagram of the client
	down  func(d []byte) [][]byte
	backs map[netip.AddrPort]*net.UDPConn // nil once the relay is closed
	work  sync.WaitGroup
}

func newRelay(t testing.TB, gw netip.AddrPort) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front, gw: gw, backs: map[netip.AddrPort]*net.UDPConn{}}
	r.work.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := front.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if back := r.back(from); back != nil {
				for _, d := range r.apply(&r.up, b[:n]) {
					back.Write(d)
				}
			}
		}
	})
	t.Cleanup(func() {
		front.Close()
		r.mu.Lock()
		for _, c := range r.backs {
			c.Close()
		}
		r.backs = nil // what is just being passed on opens no other socket, which nobody would close
		r.mu.Unlock()
		r.work.Wait()
	})
	return r
}

func (r *relay) addr() netip.AddrPort { return r.front.LocalAddr().(*net.UDPAddr).AddrPort() }

func (r *relay) apply(f *func([]byte) [][]byte, d []byte) [][]byte {
	r.mu.Lock()
	fn := *f
	r.mu.Unlock()
	if fn == nil {
		return [][]byte{d}
	}
	return fn(append([]byte(nil), d...))
}

// set changes what happens from now on; nil means nothing.
func (r *relay) set(up, down func([]byte) [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.down = up, down
}

// back returns the socket to the gateway for one client.
func (r *relay) back(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.backs[from]; c != nil {
		return c
	}
	if r.backs == nil {
		return nil
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.gw))
	if err != nil {
		return nil
	}
	r.backs[from] = c
	r.work.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, err := c.Read(b)
			if err != nil {
				if isRefused(err) {
					continue
				}
				return
			}
			for _, d := range r.apply(&r.down, b[:n]) {
				r.front.WriteToUDPAddrPort(d, from)
			}
		}
	})
	return c
}

// rebind makes the gateway see other source ports from now on, as a NAT does that has lost its state.
func (r *relay) rebind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for from, c := range r.backs {
		c.Close()
		delete(r.backs, from)
	}
}

func pass(d []byte) [][]byte { return [][]byte{d} }

// dropFirst loses the first n datagrams that match.
func dropFirst(n int, match func(d []byte) bool) func([]byte) [][]byte {
	var mu sync.Mutex
	return func(d []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if n > 0 && match(d) {
			n--
			return nil
		}
		return pass(d)
	}
}

// hole loses datagrams longer than n bytes.
func hole(n int) func([]byte) [][]byte {
	return func(d []byte) [][]byte {
		if len(d) > n {
			return nil
		}
		return pass(d)
	}
}

// hasFinished reports whether a datagram ends a flight with a Finished message.
func hasFinished(d []byte) bool {
	for len(d) > 0 {
		r, rest, ok := parseRecord(d)
		if !ok {
			return false
		}
		if r.typ == typeHandshake && r.epoch == epochData {
			return true
		}
		d = rest
	}
	return false
}

func isData(d []byte) bool { return len(d) > 0 && d[0] == typeData }
