package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// small is the size of a small packet, in bytes, with the headers of IP and UDP.
	small = 64
	// window is how many datagrams may be under way, over all flows together. It keeps batches full, and is less than any queue on
	// the way holds: that of a TUN device takes 500 packets, the buffer of a UDP socket of Linux 277.
	window = 256
	// overdue is how long a sender waits for a datagram to arrive before it takes all that are under way for lost.
	overdue = 50 * time.Millisecond
)

// datagrams are flows of small UDP packets in one direction. Each begins with a sequence number, so that what is lost is known.
// A sender has so many under way at a time and no more: blindly sent, most of them would be dropped on a machine whose
// processors the receiver shares.
type datagrams struct {
	meter
	flows   []*flow
	done    chan struct{}
	running sync.WaitGroup
}

// A flow is one sender and one receiver.
type flow struct {
	payload int // of a packet, in bytes
	window  uint64
	write   func([]byte) (int, error)
	read    func([]byte) (int, error)
	ends    []interface{ Close() error }

	arrived atomic.Int64  // packets
	highest atomic.Uint64 // the largest number that has arrived
	credit  chan struct{} // of capacity 1: highest has grown
}

// A udpConn is what both *net.UDPConn and the sockets of package stack are.
type udpConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// datagrams begins to send packets of size bytes between the client and an address of the server.
func (n *network) datagrams(tb testing.TB, addr netip.Addr, flows, size int, up bool) *datagrams {
	tb.Helper()
	headers := 20 + 8
	if addr.Is6() {
		headers = 40 + 8
	}
	d := &datagrams{done: make(chan struct{})}
	d.init()
	for range flows {
		f := &flow{payload: size - headers, window: uint64(window / flows), credit: make(chan struct{}, 1)}
		n.connect(tb, f, addr, up)
		d.flows = append(d.flows, f)
	}
	for _, f := range d.flows {
		d.running.Go(func() { f.send(d.done) })
		d.running.Go(func() { f.receive(&d.meter) })
	}
	return d
}

// connect makes the two ends of a flow. The client speaks first, so that the server knows where it is; its datagram has the number 0,
// which no other has.
func (n *network) connect(tb testing.TB, f *flow, addr netip.Addr, up bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	pc, err := n.listenPacket("udp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		tb.Fatal(err)
	}
	server := pc.(udpConn)
	client, err := n.dial(ctx, "udp", pc.LocalAddr().String())
	if err != nil {
		tb.Fatal(err)
	}
	f.ends = append(f.ends, server, client)
	var from netip.AddrPort
	buf := make([]byte, f.payload)
	for !from.IsValid() {
		if _, err := client.Write(buf); err != nil {
			tb.Fatal(err)
		}
		server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, from, err = server.ReadFromUDPAddrPort(buf)
		if err != nil && !(errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil) {
			tb.Fatal(err)
		}
	}
	server.SetReadDeadline(time.Time{})
	if up {
		f.write = client.Write
		f.read = func(b []byte) (int, error) {
			n, _, err := server.ReadFromUDPAddrPort(b)
			return n, err
		}
	} else {
		f.write = func(b []byte) (int, error) { return server.WriteToUDPAddrPort(b, from) }
		f.read = client.Read
	}
}

func (f *flow) send(done <-chan struct{}) {
	buf := make([]byte, f.payload)
	late := time.NewTimer(overdue)
	defer late.Stop()
	var given uint64 // numbers up to here have arrived or are taken for lost
	for sequence := uint64(1); ; sequence++ {
		for given = max(given, f.highest.Load()); sequence-given > f.window; given = max(given, f.highest.Load()) {
			late.Reset(overdue)
			select {
			case <-f.credit:
			case <-late.C:
				given = sequence - 1
			case <-done:
				return
			}
		}
		binary.BigEndian.PutUint64(buf, sequence)
		if _, err := f.write(buf); errors.Is(err, net.ErrClosed) {
			return
		} // a datagram that another error keeps back is one that is lost
	}
}

func (f *flow) receive(m *meter) {
	buf := make([]byte, 2048)
	step := int64(f.window / 4)
	for {
		n, err := f.read(buf)
		if err != nil {
			m.add(0, err)
			return
		}
		if n != f.payload {
			continue
		}
		sequence := binary.BigEndian.Uint64(buf)
		if sequence == 0 {
			continue
		}
		if sequence > f.highest.Load() {
			f.highest.Store(sequence)
		}
		if f.arrived.Add(1)%step != 0 {
			continue
		}
		m.add(step, nil)
		select {
		case f.credit <- struct{}{}:
		default:
		}
	}
}

func (d *datagrams) tally() (t tally) {
	for _, f := range d.flows {
		arrived := f.arrived.Load()
		t.packets += arrived
		t.bytes += arrived * int64(f.payload)
		t.lost += int64(f.highest.Load()) - arrived
	}
	return t
}

func (d *datagrams) stop() {
	close(d.done)
	for _, f := range d.flows {
		for _, c := range f.ends {
			c.Close()
		}
	}
	d.running.Wait()
}
