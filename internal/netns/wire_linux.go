package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFrame is the largest frame that a Wire carries, in bytes: an IP packet of any size with its Ethernet header.
const maxFrame = 65535 + 14

// A Wire is a cable between two hosts that can be made bad while it is in use. It is a bridge in this process, between the
// middle ends of two cables that lie in a namespace of their own.
type Wire struct {
	ends    [2]*wireEnd
	lanes   [2]*lane
	running sync.WaitGroup
}

// JoinThrough lays a cable like [Lab.Join], with the impairment on it. The Wire is taken down with the Lab.
//
// Frames on it are no larger than the MTU of the interfaces and have their checksums: the interfaces are told to
// do without the offloads that put this off until a frame leaves the machine.
func (l *Lab) JoinThrough(a *Host, addrsA string, b *Host, addrsB string, imp Impairment) (ifA, ifB string, w *Wire) {
	l.tb.Helper()
	middle := l.Host(fmt.Sprintf("wire%d", l.links))
	// The middle says nothing by itself.
	middle.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	ifA, endA := l.Join(a, "", middle, "")
	ifB, endB := l.Join(b, "", middle, "")
	w = new(Wire)
	l.wires = append(l.wires, w)
	for i, dev := range []string{endA, endB} {
		middle.IP("link", "set", dev, "mtu", "65535")
		middle.offloadsOff(dev)
		end, err := middle.openWireEnd(dev)
		if err != nil {
			l.tb.Fatalf("netns: the wire's end %s: %v", dev, err)
		}
		w.ends[i] = end
	}
	for i := range w.lanes {
		from, to := w.ends[i], w.ends[1-i]
		w.lanes[i] = newLane(to.send, uint64(i))
		w.lanes[i].set(imp)
		w.running.Go(w.lanes[i].run)
		w.running.Go(func() { from.receive(w.lanes[i].put) })
	}
	a.offloadsOff(ifA)
	b.offloadsOff(ifB)
	// Addresses come last, because the kernel announces them.
	a.setUp(ifA, addrsA)
	b.setUp(ifB, addrsB)
	return ifA, ifB, w
}

// Set replaces the impairment. Frames that are on their way stay as late as they are. It may be called from any goroutine.
func (w *Wire) Set(imp Impairment) {
	for _, l := range w.lanes {
		l.set(imp)
	}
}

// Stats returns the counters of both directions together.
func (w *Wire) Stats() WireStats {
	a, b := w.lanes[0].stats(), w.lanes[1].stats()
	return WireStats{
		Frames: a.Frames + b.Frames, Lost: a.Lost + b.Lost, Late: a.Late + b.Late, Overflowed: a.Overflowed + b.Overflowed,
		Missed: w.ends[0].missed() + w.ends[1].missed(),
	}
}

func (w *Wire) close() {
	for _, e := range w.ends {
		if e != nil {
			e.file.Close()
		}
	}
	for _, l := range w.lanes {
		if l != nil {
			l.close()
		}
	}
	w.running.Wait()
}

// A wireEnd sends and receives whole Ethernet frames on an interface.
type wireEnd struct {
	file *os.File // so that the runtime waits for it
	conn syscall.RawConn

	mu    sync.Mutex
	drops uint64
}

// openWireEnd opens an interface of the host.
func (h *Host) openWireEnd(dev string) (end *wireEnd, err error) {
	if e := h.enter(func() { end, err = openWireEnd(dev) }); e != nil {
		return nil, e
	}
	return end, err
}

func openWireEnd(dev string) (*wireEnd, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	// With protocol 0 it hears nothing before it is bound, and so nothing of other interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a packet socket: %w", err)
	}
	all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), dev)
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &wireEnd{file: file, conn: conn}, nil
}

// receive hands every frame to put, until the end is closed.
func (e *wireEnd) receive(put func(frame []byte)) {
	buf := make([]byte, maxFrame)
	gone := false
	// It pauses after some frames, since Close waits for it.
	read := func(fd uintptr) bool {
		for range 64 {
			n, err := unix.Read(int(fd), buf)
			switch err {
			case nil:
				put(buf[:n])
			case unix.EAGAIN:
				return false
			case unix.EINTR, unix.ENETDOWN:
				// An interface that is switched off may be switched on again.
			default:
				gone = true
				return true
			}
		}
		return true
	}
	for !gone && e.conn.Read(read) == nil {
	}
}

// send sends a frame. One that cannot be sent is lost, as on any cable.
func (e *wireEnd) send(frame []byte) {
	e.conn.Control(func(fd uintptr) { unix.Write(int(fd), frame) })
}

// missed returns how many frames the socket has had no room for.
func (e *wireEnd) missed() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn.Control(func(fd uintptr) {
		// The kernel begins to count anew each time it is asked.
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			e.drops += uint64(s.Drops)
		}
	})
	return e.drops
}
