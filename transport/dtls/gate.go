package dtls

import (
	"net"
	"os"
	"sync"
	"time"
)

const (
	gateDepth = 16 // datagrams of a handshake that wait for pion
	maxEarly  = 16 // datagrams of data that wait for the end of the handshake
)

// A gate is the net.PacketConn that pion performs a handshake over. Datagrams come in by deliver and go out by the function
// send. It takes notes: which record numbers have been used, and the datagram that ended the handshake.
type gate struct {
	local, remote net.Addr
	send          func(datagram []byte) error
	in            chan []byte
	closed        chan struct{}

	mu     sync.Mutex
	done   bool          // closed is closed
	late   chan struct{} // closed while the read deadline is in the past
	isLate bool
	next   uint64 // the next number in epoch 1
	final  []byte
	early  [][]byte
	dead   error // why the path is no good
}

func newGate(local, remote net.Addr, send func([]byte) error) *gate {
	return &gate{
		local: local, remote: remote, send: send,
		in: make(chan []byte, gateDepth), closed: make(chan struct{}), late: make(chan struct{}),
	}
}

// deliver hands a datagram to the handshake. It never waits: what there is no room for is lost, like any datagram.
func (g *gate) deliver(datagram []byte) {
	r, _, ok := parseRecord(datagram)
	if !ok {
		return
	}
	datagram = append([]byte(nil), datagram...)
	if r.typ == typeData {
		g.mu.Lock()
		if len(g.early) < maxEarly {
			g.early = append(g.early, datagram)
		}
		g.mu.Unlock()
		return
	}
	select {
	case g.in <- datagram:
	default:
	}
}

// fail ends the handshake with err.
func (g *gate) fail(err error) {
	g.mu.Lock()
	if g.dead == nil {
		g.dead = err
	}
	g.mu.Unlock()
	g.Close()
}

func (g *gate) refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// shut ends the traffic of pion and returns the notes.
func (g *gate) shut() (next uint64, final []byte, early [][]byte) {
	g.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	// Handshake records that came too late for pion are repetitions; they are of no interest.
	return g.next, g.final, g.early
}

// ReadFrom implements net.PacketConn.
func (g *gate) ReadFrom(b []byte) (int, net.Addr, error) {
	g.mu.Lock()
	late := g.late
	g.mu.Unlock()
	select {
	case d := <-g.in:
		return copy(b, d), g.remote, nil
	case <-late:
		return 0, nil, os.ErrDeadlineExceeded
	case <-g.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn. The lock is held while it sends, so that no datagram leaves after shut.
func (g *gate) WriteTo(b []byte, _ net.Addr) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done {
		return 0, net.ErrClosed
	}
	protected := false
	for rest := b; len(rest) > 0; {
		r, more, ok := parseRecord(rest)
		if !ok {
			break
		}
		if r.epoch == epochData {
			protected = true
			g.next = max(g.next, r.sequence+1)
		}
		rest = more
	}
	if protected {
		g.final = append([]byte(nil), b...)
	}
	if err := g.send(b); err != nil {
		// A datagram that could not be sent is one that was lost: it will be sent again. If the path is gone for good, the
		// handshake runs out of time, or the receiving side notices.
		return len(b), nil
	}
	return len(b), nil
}

// Close implements net.PacketConn.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.done {
		g.done = true
		close(g.closed)
	}
	return nil
}

// LocalAddr implements net.PacketConn.
func (g *gate) LocalAddr() net.Addr { return g.local }

// RemoteAddr returns the address of the peer.
func (g *gate) RemoteAddr() net.Addr { return g.remote }

// SetReadDeadline implements net.PacketConn. pion sets it to a time long past when a context ends, and to zero afterwards, and
// so only those two are told apart.
func (g *gate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch late := !t.IsZero(); {
	case late && !g.isLate:
		close(g.late)
		g.isLate = true
	case !late && g.isLate:
		g.late = make(chan struct{})
		g.isLate = false
	}
	return nil
}

// SetWriteDeadline implements net.PacketConn. Writing does not wait.
func (g *gate) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.PacketConn.
func (g *gate) SetDeadline(t time.Time) error { return g.SetReadDeadline(t) }
