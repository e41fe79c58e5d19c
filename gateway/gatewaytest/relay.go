package gatewaytest

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// A gate stops what waits at it while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
	shut bool
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if shut == g.shut {
		return
	}
	g.shut = shut
	if shut {
		g.open = make(chan struct{})
	} else {
		close(g.open)
	}
}

// wait returns false if done is closed first.
func (g *gate) wait(done <-chan struct{}) bool {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return true
	case <-done:
		return false
	}
}

// A tcpRelay stands in front of the gateway's TCP socket.
type tcpRelay struct {
	ln     net.Listener
	to     string
	gate   *gate
	done   chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  map[*net.TCPConn]struct{}
	closed bool

	connections, in, out atomic.Int64
}

func newTCPRelay(ln net.Listener, to string) *tcpRelay {
	r := &tcpRelay{ln: ln, to: to, gate: newGate(), done: make(chan struct{}), conns: map[*net.TCPConn]struct{}{}}
	r.wg.Go(r.run)
	return r
}

func (r *tcpRelay) run() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.connections.Add(1)
		r.wg.Go(func() { r.carry(c.(*net.TCPConn)) })
	}
}

func (r *tcpRelay) add(c *net.TCPConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *tcpRelay) remove(c *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	c.Close()
}

func (r *tcpRelay) carry(client *net.TCPConn) {
	if !r.add(client) {
		return
	}
	defer r.remove(client)
	up, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	gateway := up.(*net.TCPConn)
	if !r.add(gateway) {
		return
	}
	defer r.remove(gateway)
	var wg sync.WaitGroup
	wg.Go(func() { r.pump(gateway, client, &r.in) })
	r.pump(client, gateway, &r.out)
	wg.Wait()
}

func (r *tcpRelay) pump(dst, src *net.TCPConn, count *atomic.Int64) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !r.gate.wait(r.done) {
				return
			}
			count.Add(int64(n))
			if _, err := dst.Write(buf[:n]); err != nil {
				src.Close()
				return
			}
		}
		if err != nil {
			// The end of a connection does not get through a cut either.
			if r.gate.wait(r.done) {
				dst.CloseWrite()
			}
			return
		}
	}
}

func (r *tcpRelay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.SetLinger(0)
		c.Close()
	}
}

func (r *tcpRelay) close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	close(r.done)
	r.ln.Close()
	r.wg.Wait()
}

// A udpRelay stands in front of the gateway's UDP socket, with a socket of its own for each client.
type udpRelay struct {
	front *net.UDPConn
	to    netip.AddrPort
	wg    sync.WaitGroup

	cut         atomic.Bool
	hole, limit atomic.Int64 // limit counts down; less than 0 is no limit

	in, out, lost atomic.Int64

	mu     sync.Mutex
	up     map[netip.AddrPort]*net.UDPConn
	closed bool
}

// socketBuffer is what a batch of a fast sender needs, in bytes.
const socketBuffer = 4 << 20

func newUDPRelay(front *net.UDPConn, to netip.AddrPort) *udpRelay {
	r := &udpRelay{front: front, to: to, up: map[netip.AddrPort]*net.UDPConn{}}
	r.limit.Store(-1)
	front.SetReadBuffer(socketBuffer)
	front.SetWriteBuffer(socketBuffer)
	r.wg.Go(r.run)
	return r
}

// pass reports whether a datagram of n bytes gets through.
func (r *udpRelay) pass(n int) bool {
	ok := !r.cut.Load()
	if hole := r.hole.Load(); hole > 0 && int64(n) > hole {
		ok = false
	}
	for ok {
		left := r.limit.Load()
		if left < 0 {
			break
		}
		if left == 0 {
			ok = false
			break
		}
		if r.limit.CompareAndSwap(left, left-1) {
			break
		}
	}
	if !ok {
		r.lost.Add(1)
	}
	return ok
}

func (r *udpRelay) run() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			if r.isClosed() {
				return
			}
			continue
		}
		if !r.pass(n) {
			continue
		}
		r.in.Add(1)
		if up := r.upstream(from); up != nil {
			_, _ = up.Write(buf[:n]) // lost, like any datagram
		}
	}
}

func (r *udpRelay) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func (r *udpRelay) upstream(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	if up := r.up[from]; up != nil {
		return up
	}
	up, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.to))
	if err != nil {
		return nil
	}
	up.SetReadBuffer(socketBuffer)
	r.up[from] = up
	r.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := up.Read(buf)
			if err != nil {
				if r.isClosed() || r.isOld(from, up) {
					return
				}
				continue
			}
			if r.pass(n) {
				r.out.Add(1)
				_, _ = r.front.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	})
	return up
}

func (r *udpRelay) isOld(from netip.AddrPort, up *net.UDPConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up[from] != up
}

// roam makes the gateway see all clients at new ports.
func (r *udpRelay) roam() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for from, up := range r.up {
		delete(r.up, from)
		up.Close()
	}
}

func (r *udpRelay) close() {
	r.mu.Lock()
	r.closed = true
	for _, up := range r.up {
		up.Close()
	}
	r.mu.Unlock()
	r.front.Close()
	r.wg.Wait()
}
