package tun

import (
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/offload"
)

// A writer is the state of WriteBatch.
type writer struct {
	d      *Device
	group  offload.Grouper
	header [vnetLen + maxHeader]byte // of a joined packet
	pieces []unix.Iovec

	// The call that goes on. Ready is a function value that is made once, so that no call has to allocate it.
	ready                  func(fd uintptr) bool
	batch                  packet.Batch
	next                   int // the group that is written next
	packets, bytes, writes uint64
	err                    error
}

// maxHeader is the length of the largest headers of a joined packet: IPv6 without extensions, and TCP.
const maxHeader = 40 + 60

func (w *writer) init(d *Device) {
	w.d = d
	w.group.Cuttable = true
	w.group.UDP = d.uso
	w.ready = w.drain
}

// WriteBatch implements packet.Writer. Goroutines that call it at the same time wait for each other. Packets that are no
// IP packets, or that the kernel refuses, are counted and dropped, as all are before the interface is switched on. After
// that, the error matches [ErrDown] while it is switched off. It matches [ErrDeleted] if the interface was deleted, and
// net.ErrClosed after Close.
func (d *Device) WriteBatch(b packet.Batch) (int, error) {
	d.writeMu.Lock()
	defer d.writeMu.Unlock()
	w := &d.writer
	end := len(b)
	var tooBig error
	w.group.Reset(len(b))
	limit := int(d.mtu.Load())
	for i := range b {
		p := b[i].Bytes()
		if len(p) > limit {
			// It may have been raised by somebody else.
			if limit = d.MTU(); len(p) > limit {
				d.stats.writeTooBig.Add(1)
				end, tooBig = i, packet.ErrTooBig
				break
			}
		}
		ip, ok := offload.Parse(p)
		switch {
		case !ok:
			d.stats.writeMalformed.Add(1)
		case ip.Martian(p):
			d.stats.writeMartian.Add(1)
		case d.joins:
			w.group.Add(b, i, &ip)
		default:
			w.group.AddAlone(i, &ip)
		}
	}
	w.batch, w.next, w.packets, w.bytes, w.writes, w.err = b, 0, 0, 0, 0, nil
	var err error
	if len(w.group.Groups()) > 0 {
		if err = d.raw.Write(w.ready); err == nil {
			err = w.err
		}
	}
	if err != nil {
		end, err = w.group.Groups()[w.next].First, d.fault("writing", err)
	} else {
		err = tooBig
	}
	d.stats.writes.Add(w.writes)
	d.stats.writtenPackets.Add(w.packets)
	d.stats.writtenBytes.Add(w.bytes)
	if w.packets > 0 {
		d.sawUp()
	}
	w.batch = nil
	clear(w.pieces[:cap(w.pieces)])
	return end, err
}

// drain writes the groups. It reports false if there is no room for the next one yet.
func (w *writer) drain(fd uintptr) bool {
	groups := w.group.Groups()
	for w.next < len(groups) {
		g := &groups[w.next]
		w.gather(w.batch, g)
		switch errno := w.send(fd); errno {
		case 0:
			w.packets += uint64(g.Count)
			w.bytes += uint64(g.Size)
		case unix.EAGAIN:
			return false
		default:
			if w.err = w.refused(g, errno); w.err != nil {
				return true
			}
		}
		w.next++
	}
	return true
}

// gather makes the pieces of the packet of g.
func (w *writer) gather(b packet.Batch, g *offload.Group) {
	w.pieces = w.pieces[:0]
	if g.Count == 1 {
		if !w.d.vnet {
			w.add(b[g.First].Bytes()[:g.IP.Total])
			return
		}
		p := b[g.First].WithHeadroom(vnetLen)
		clear(p[:vnetLen])
		w.add(p[:vnetLen+g.IP.Total])
		return
	}
	h := virtioHeader{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, header: uint16(g.Header), segment: uint16(g.Segment), sumStart: uint16(g.IP.Header)}
	switch {
	case g.IP.Protocol == unix.IPPROTO_UDP:
		h.gso, h.sumFrom = unix.VIRTIO_NET_HDR_GSO_UDP_L4, 6
	case g.IP.V6:
		h.gso, h.sumFrom = unix.VIRTIO_NET_HDR_GSO_TCPV6, 16
	default:
		h.gso, h.sumFrom = unix.VIRTIO_NET_HDR_GSO_TCPV4, 16
	}
	h.encode(w.header[:])
	n := g.PutHeader(w.header[vnetLen:], b)
	w.add(w.header[:vnetLen+n])
	left := g.Size - g.Header
	for i := g.First; i >= 0; i = w.group.Next(i) {
		// All have the same payload but the last. What may follow it in the Buf is padding.
		size := min(g.Segment, left)
		left -= size
		w.add(b[i].Bytes()[g.Header : g.Header+size])
	}
}

func (w *writer) add(p []byte) {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	w.pieces = append(w.pieces, v)
}

// send writes the pieces as one packet. The descriptor does not block, but the kernel may do all the work of the receiver meanwhile, so
// that the scheduler, if it were told, would give up waiting and wake another thread. That took a fifth of the processor time of an upload.
func (w *writer) send(fd uintptr) syscall.Errno {
	for {
		var errno syscall.Errno
		if len(w.pieces) == 1 {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(w.pieces[0].Base)), uintptr(w.pieces[0].Len))
		} else {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.pieces[0])), uintptr(len(w.pieces)))
		}
		if errno != unix.EINTR {
			w.writes++
			return errno
		}
	}
}

// refused counts the packets of g, which the kernel did not take, unless there is more to it.
func (w *writer) refused(g *offload.Group, errno syscall.Errno) error {
	switch {
	case errno == unix.EBADFD:
		return ErrDeleted
	case errno != unix.EIO || w.d.isUp():
		w.d.stats.writeRefused.Add(uint64(g.Count))
	case w.d.wasUp.Load():
		return ErrDown
	default:
		w.d.stats.writeDown.Add(uint64(g.Count))
	}
	return nil
}

// sawUp remembers that the interface is switched on.
func (d *Device) sawUp() {
	if !d.wasUp.Load() {
		d.wasUp.Store(true)
	}
}

// fault returns what an error means that ended a call.
func (d *Device) fault(doing string, err error) error {
	if d.closed.Load() {
		return net.ErrClosed
	}
	// The poller of Go may have seen the end first, and then says only that it cannot wait any more.
	if d.Name() == "" {
		err = ErrDeleted
	}
	return fmt.Errorf("tun: %s: %w", doing, err)
}
