package netns

import (
	"fmt"
	"sync"
)

// A Wire is a cable between two hosts that can be made bad while it is in use. It is a bridge in this process, between the
// middle ends of two cables that lie in a namespace of their own.
type Wire struct {
	ends    [2]*port
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
		end, err := middle.openPort(dev)
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
