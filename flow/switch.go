package flow

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"culvert.example/vpn/packet"
)

// A Switch lets several users of one device take turns. Each has a [Side], which is a packet.Conn; packets of the device go to the
// side that is selected, and what the others write is dropped, as it is lost on a cable that is not plugged in.
//
//	sw := flow.NewSwitch(dev)
//	packets, flows := sw.Side(), sw.Side()
//	sw.Select(flows)  // and back, at any time
//
// Changing the side does not wait for the one before, even if that hangs in the middle of a packet.
type Switch struct {
	dev  packet.Conn
	size int

	// writing is held while packets are written to the device.
	writing sync.Mutex

	mu       sync.Mutex
	changed  *sync.Cond // the selected side, or its receiver, has changed
	selected *Side
	reader   uint64 // the number of the reader whose turn it is
	busy     *Side  // the side that packets are being delivered to by that reader
	closed   bool
	err      error // why the device cannot be read any more
	readers  sync.WaitGroup
}

// switchBatch is how many packets the reader of a Switch takes at a time.
const switchBatch = 128

// NewSwitch returns a Switch for dev with no side selected: what dev has to say is dropped. Its owner closes it, which closes dev.
func NewSwitch(dev packet.Conn) *Switch {
	s := &Switch{dev: dev, size: max(dev.MTU(), packet.MinMTU6)}
	s.changed = sync.NewCond(&s.mu)
	s.start()
	return s
}

// start starts the next reader. The lock is held, or not needed yet.
func (s *Switch) start() {
	s.reader++
	n := s.reader
	s.readers.Go(func() { s.read(n) })
}

// read carries packets from the device to the selected side, until it is no longer its turn.
func (s *Switch) read(n uint64) {
	b := packet.NewBatch(switchBatch, s.size)
	for {
		k, err := s.dev.ReadBatch(b)
		s.mu.Lock()
		if s.reader != n {
			s.mu.Unlock()
			return
		}
		if err != nil {
			s.err = err
			s.changed.Broadcast()
			s.mu.Unlock()
			return
		}
		side := s.selected
		if side == nil || side.dst == nil || side.closed || side.inside > 0 {
			s.mu.Unlock()
			continue
		}
		s.busy = side
		side.inside++
		dst, filters := side.dst, side.filters
		s.mu.Unlock()

		err = deliver(dst, b[:k], filters)

		s.mu.Lock()
		side.delivered(err)
		turn := s.reader == n
		if turn {
			s.busy = nil
		}
		s.mu.Unlock()
		if !turn {
			return
		}
	}
}

// deliver is packet.Deliver, with an error instead of a panic.
func deliver(dst packet.Writer, b packet.Batch, filters []packet.Filter) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("flow: delivering packets: panic: %.200s", fmt.Sprint(v))
		}
	}()
	return packet.Deliver(dst, b, filters...)
}

// Side returns a new side. Whoever uses it closes it.
func (s *Switch) Side() *Side { return &Side{sw: s} }

// Select gives the device to side from now on, or to nobody if it is nil. It does not wait. The error matches net.ErrClosed if the
// Switch is closed, or says why the device cannot be read any more.
func (s *Switch) Select(side *Side) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.err != nil {
		return fmt.Errorf("flow: the device has failed: %w", s.err)
	}
	if side != nil && side.sw != s {
		return errors.New("flow: the side belongs to another switch")
	}
	s.selected = side
	if s.busy != nil && s.busy != side {
		// The reader may hang there for ever. What it has still in hand is lost.
		s.busy = nil
		s.start()
	}
	s.changed.Broadcast()
	return nil
}

// Selected returns the side that has the device, nil if none has.
func (s *Switch) Selected() *Side {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.selected
}

// Close closes the device, and ends all sides. It waits for its goroutines: for those that hang in a side, too.
func (s *Switch) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	var err error
	if !already {
		err = s.dev.Close()
	}
	s.readers.Wait()
	return err
}

// A Side is one user's view of the device of a [Switch]. It is a packet.Conn; closing it leaves the device open. It is read
// by packet.Copy, which calls Forward.
type Side struct {
	sw *Switch

	// Guarded by the lock of the Switch.
	dst     packet.Writer // of the Forward that goes on
	filters []packet.Filter
	inside  int   // readers of the Switch that are delivering
	err     error // what dst has failed with
	closed  bool
}

var (
	_ packet.Conn      = (*Side)(nil)
	_ packet.Forwarder = (*Side)(nil)
)

// delivered takes in how a delivery has ended. The lock is held.
func (d *Side) delivered(err error) {
	if d.inside--; err != nil && d.err == nil {
		d.err = err
	}
	if d.err != nil || d.dst == nil {
		d.sw.changed.Broadcast()
	}
}

// Forward implements packet.Forwarder. While the side is not selected, it waits.
func (d *Side) Forward(dst packet.Writer, filters ...packet.Filter) error {
	s := d.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.dst != nil {
		return errors.New("flow: a side is read twice at a time")
	}
	d.dst, d.filters, d.err = dst, filters, nil
	for d.err == nil && !d.closed && !s.closed && s.err == nil {
		s.changed.Wait()
	}
	d.dst, d.filters = nil, nil
	for d.inside > 0 {
		s.changed.Wait()
	}
	switch {
	case d.err != nil:
		return d.err
	case s.err != nil && !s.closed:
		return s.err
	}
	return net.ErrClosed
}

// ReadBatch implements packet.Reader for one batch. Packets that come between two calls are lost, so Forward serves better.
func (d *Side) ReadBatch(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	t := &taker{into: b}
	if err := d.Forward(t); !errors.Is(err, errTaken) {
		return 0, err
	}
	return t.n, nil
}

// A taker takes one batch of packets.
type taker struct {
	into packet.Batch
	n    int
}

var errTaken = errors.New("flow: enough packets")

// WriteBatch implements packet.Writer.
func (t *taker) WriteBatch(b packet.Batch) (int, error) {
	for i := range b {
		if t.n < len(t.into) && t.into[t.n].Set(b[i].Bytes()) {
			t.n++
		}
	}
	if t.n == 0 {
		return len(b), nil
	}
	return 0, errTaken
}

// WriteBatch implements packet.Writer. What is written while the side is not selected is dropped.
func (d *Side) WriteBatch(b packet.Batch) (int, error) {
	s := d.sw
	s.mu.Lock()
	closed, mine := d.closed || s.closed, s.selected == d
	s.mu.Unlock()
	switch {
	case closed:
		return 0, net.ErrClosed
	case !mine:
		return len(b), nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.dev.WriteBatch(b)
}

// MTU implements packet.Conn.
func (d *Side) MTU() int { return d.sw.dev.MTU() }

// SetMTU sets the MTU of the device, if it can be set.
func (d *Side) SetMTU(mtu int) error {
	if m, ok := d.sw.dev.(interface{ SetMTU(int) error }); ok {
		return m.SetMTU(mtu)
	}
	return errors.ErrUnsupported
}

// Close ends the side and leaves the device to the others. It does not wait.
func (d *Side) Close() error {
	s := d.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	d.closed = true
	s.changed.Broadcast()
	return nil
}
