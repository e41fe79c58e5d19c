package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"culvert.example/vpn/packet"
)

// ErrNoStack is why nothing can listen or dial inside the tunnel: the packets of the clients go to a Device.
var ErrNoStack = errors.New("gateway: with a Device the gateway has no stack of its own")

// A device joins the sessions with Config.Device. What leaves it is found by the address it is for, and what goes into it has
// passed the source gate of its session, and the judgement of where the client may go.
type device struct {
	srv  *Server
	conn packet.Conn

	// mu is held during a write: a packet.Conn takes one writer at a time, and each client is read by a goroutine of its own.
	mu sync.Mutex

	refused atomic.Bool // the device has just taken nothing

	answers chan packet.Buf // ICMP errors on their way into the device
	closing sync.Once
	done    chan struct{}
	wg      sync.WaitGroup
}

// pendingAnswers is how many ICMP errors may wait to be written to the device. More are lost, as they may be anywhere.
const pendingAnswers = 64

func newDevice(srv *Server, conn packet.Conn) *device {
	return &device{srv: srv, conn: conn, answers: make(chan packet.Buf, pendingAnswers), done: make(chan struct{})}
}

func (d *device) start() {
	d.wg.Go(d.read)
	d.wg.Go(d.answer)
}

// close closes the device and waits for its goroutines.
func (d *device) close() (err error) {
	d.closing.Do(func() {
		close(d.done)
		err = d.conn.Close()
	})
	d.wg.Wait()
	return err
}

// read carries packets from the device to the clients until the device is closed. If it fails before, so does the Server.
func (d *device) read() {
	b := packet.NewBatch(2*batchSize, d.srv.size)
	var out dispatcher
	for {
		n, err := d.conn.ReadBatch(b)
		if err != nil {
			select {
			case <-d.done:
			default:
				d.srv.fail(fmt.Errorf("gateway: device: %w", err))
			}
			return
		}
		out.dispatch(d.srv, b[:n], d)
	}
}

// maxFragments is how many fragments a packet may become.
const maxFragments = 64

// fits reports whether the packet may go to the client of s as it is.
func (d *device) fits(s *session, p []byte) bool {
	t := s.paths.tls.Load()
	return t == nil || len(p) <= t.mtu // without a tunnel it is lost anyway, and counted there
}

// reduce deals with a packet that does not fit: it goes in fragments, or its sender is told how large it may be.
func (d *device) reduce(s *session, p []byte) {
	t := s.paths.tls.Load()
	if t == nil {
		s.dropped.Add(1)
		return
	}
	if h, ok := parseHeader(p); ok && !h.whole {
		loan := packet.Borrow(maxFragments, d.srv.size)
		defer loan.Return()
		if f := cut(loan.Batch, p, &h, t.mtu); f != nil {
			s.send(f)
			return
		}
	}
	s.dropped.Add(1)
	d.srv.tooBig(s, p, t.mtu)
}

// answer writes ICMP errors to the device. It is a goroutine of its own, so that the one that reads never waits for writing.
func (d *device) answer() {
	b := make(packet.Batch, 1)
	for {
		select {
		case <-d.done:
			return
		case b[0] = <-d.answers:
			d.write(b)
		}
	}
}

// write hands packets to the device. What it does not take is lost, as on any interface that is down.
func (d *device) write(b packet.Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(b) > 0 {
		n, err := d.conn.WriteBatch(b)
		if err == nil {
			d.refused.Store(false)
			return
		}
		if !errors.Is(err, packet.ErrTooBig) {
			if !errors.Is(err, net.ErrClosed) && !d.refused.Swap(true) {
				d.srv.log.Warn("the device takes no packets", "err", err)
			}
			return
		}
		b = b[n+1:]
	}
}

// fromClient passes on packets of the client of s, whose source is checked: to the device, to other clients, or to nobody.
func (d *device) fromClient(s *session, b packet.Batch) {
	var last netip.Addr
	var where reach
	var to *session
	kept := 0
	for i := range b {
		h, ok := parseHeader(b[i].Bytes())
		if !ok {
			s.dropped.Add(1)
			continue
		}
		b[i].SetLen(h.total) // what is behind the packet is no part of it
		if h.dst != last {
			last = h.dst
			to, where = d.judge(s, h.dst)
		}
		switch {
		case to != nil:
			to.send(b[i : i+1])
			continue
		case where == everything, where == nameServer && h.port == portDNS:
			if kept != i {
				b[kept], b[i] = b[i], b[kept]
			}
			kept++
			continue
		}
		s.dropped.Add(1)
		if e := d.srv.complain(s, b[i].Bytes(), prohibited, 0); e != nil {
			one := packet.Batch{packet.NewBuf(d.srv.size)}
			one[0].Set(e)
			s.send(one)
		}
	}
	if kept > 0 {
		d.write(b[:kept])
	}
}

// judge returns the other client that the address belongs to, if s may send there, or else what of the address s may reach through
// the device.
func (d *device) judge(s *session, dst netip.Addr) (to *session, where reach) {
	owner, pooled := d.srv.table.owner(dst)
	if a := embedded(dst); a != dst {
		// The host may have a translator, from which there is a way to the clients.
		_, pooled = d.srv.table.owner(a)
	}
	switch {
	case owner == s:
		return nil, nothing // it would come back
	case owner != nil && d.srv.cfg.ClientToClient:
		return owner, nothing
	case pooled && d.srv.isOwn(dst):
		return nil, everything
	case pooled:
		return nil, nothing
	}
	return nil, s.network.reach(dst, d.srv.cfg.AllowSpecial)
}

// isOwn reports whether a is one of the gateway's own inner addresses.
func (s *Server) isOwn(a netip.Addr) bool {
	for _, p := range s.table.pools {
		if p.own == a {
			return true
		}
	}
	return false
}
