package tun

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/offload"
)

// A reader is the state of ReadBatch.
type reader struct {
	d   *Device
	mem []byte // where what was read lies while it is cut
	cut offload.Cutter

	// The call that goes on. Ready is a function value that is made once, so that no call has to allocate it.
	ready func(fd uintptr) bool
	batch packet.Batch
	n     int
	err   error
	reads int
}

func (r *reader) init(d *Device) {
	r.d = d
	r.mem = make([]byte, vnetLen+packet.MaxSize)
	r.ready = r.drain
}

// ReadBatch implements packet.Reader. Goroutines that call it at the same time wait for each other. After Close the error
// matches net.ErrClosed; it matches [ErrDeleted] if the interface was deleted.
func (d *Device) ReadBatch(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	d.readMu.Lock()
	defer d.readMu.Unlock()
	r := &d.reader
	r.batch, r.n, r.err, r.reads = b, 0, nil, 0
	r.cutMore()
	err := error(nil)
	if r.n < len(b) {
		// Even if there are packets already, it has to be seen whether there are more. RawConn.Read waits if ready
		// says so.
		err = d.raw.Read(r.ready)
	}
	n := r.n
	r.batch = nil
	d.stats.reads.Add(uint64(r.reads))
	if n == 0 {
		if err == nil {
			err = r.err
		}
		return 0, d.fault("reading", err)
	}
	size := 0
	for i := range b[:n] {
		size += b[i].Len()
	}
	d.stats.readPackets.Add(uint64(n))
	d.stats.readBytes.Add(uint64(size))
	d.sawUp()
	return n, nil
}

// drain reads until the batch is full or the device empty. It reports false if there is nothing at all yet.
func (r *reader) drain(fd uintptr) bool {
	for r.n < len(r.batch) {
		n, err := readNonblock(fd, r.mem)
		r.reads++
		switch err {
		case 0:
			r.take(r.mem[:n])
		case unix.EINTR:
		case unix.EAGAIN:
			return r.n > 0
		default:
			r.err = err
			return true
		}
	}
	return true
}

// take puts what was read into the batch, as far as there is room.
func (r *reader) take(p []byte) {
	if !r.d.vnet {
		r.put(p)
		return
	}
	if len(p) < vnetLen {
		r.d.stats.readMalformed.Add(1)
		return
	}
	var h virtioHeader
	h.decode(p)
	p = p[vnetLen:]
	switch {
	case !h.large():
		if h.needsSum() && !offload.Complete(p, int(h.sumStart), int(h.sumFrom)) {
			r.d.stats.readMalformed.Add(1)
			return
		}
		r.put(p)
	case r.cut.Start(p, int(h.sumStart), int(h.segment)) != nil:
		r.d.stats.readMalformed.Add(1)
	default:
		r.cutMore()
	}
}

// put adds a packet to the batch.
func (r *reader) put(p []byte) {
	if _, ok := offload.Parse(p); !ok {
		r.d.stats.readMalformed.Add(1)
		return
	}
	if !r.batch[r.n].Set(p) {
		r.d.stats.readTooBig.Add(1)
		return
	}
	r.n++
}

// cutMore cuts as much of the large packet as there is room for.
func (r *reader) cutMore() {
	n, ok := r.cut.Fill(r.batch[r.n:])
	r.n += n
	if !ok {
		r.d.stats.readTooBig.Add(1)
	}
}

// readNonblock reads from a descriptor that does not block, so the scheduler need not be told.
func readNonblock(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
