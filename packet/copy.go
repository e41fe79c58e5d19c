package packet

import "errors"

// A Forwarder is a Reader that hands its packets over by itself, without a goroutine between the one that receives them and dst.
type Forwarder interface {
	// Forward carries the packets that come to dst, through the filters in their order, until one of the two fails. It
	// returns the error that ended it, which is never nil; a packet that dst reports as [ErrTooBig] is dropped and
	// does not end it. Dst and the filters are called from any goroutine, but one batch at a time, and no longer
	// when Forward has returned. ReadBatch must not be called meanwhile.
	//
	// A type that embeds a Forwarder to see the packets in its own ReadBatch must have its own Forward as well.
	Forward(dst Writer, filters ...Filter) error
}

// A Waiter is a Reader that can wait without a Batch, so that a connection on which nothing comes needs no memory for packets.
type Waiter interface {
	// Wait returns nil when ReadBatch would return at once, and otherwise the error with which ReadBatch would fail. It owns no
	// memory for packets while it waits. A nil error promises nothing: ReadBatch may still wait. It is called by the
	// goroutine that calls ReadBatch, and Close unblocks it.
	Wait() error
}

// Copy carries packets from src to dst until one of them fails, through the filters in their order. It returns the error that
// ended it, which is never nil; a packet that dst reports as [ErrTooBig] is dropped and does not end it.
//
// If src is a [Forwarder], that does it all. Otherwise Copy owns batch Bufs of size bytes each: always, or if src is a
// [Waiter] only while packets come.
func Copy(dst Writer, src Reader, size, batch int, filters ...Filter) error {
	if f, ok := src.(Forwarder); ok {
		return f.Forward(dst, filters...)
	}
	if w, ok := src.(Waiter); ok {
		return copyWaiting(dst, src, w, size, batch, filters)
	}
	bufs := NewBatch(batch, size)
	for {
		n, err := src.ReadBatch(bufs)
		if err != nil {
			return err
		}
		if err := Deliver(dst, bufs[:n], filters...); err != nil {
			return err
		}
	}
}

// copyWaiting is Copy from a Waiter.
func copyWaiting(dst Writer, src Reader, w Waiter, size, batch int, filters []Filter) error {
	for {
		if err := w.Wait(); err != nil {
			return err
		}
		if err := copyBusy(dst, src, size, batch, filters); err != nil {
			return err
		}
	}
}

// copyBusy copies until a batch was small, which means that src has little more for now.
func copyBusy(dst Writer, src Reader, size, batch int, filters []Filter) error {
	loan := Borrow(batch, size)
	defer loan.Return()
	for {
		n, err := src.ReadBatch(loan.Batch)
		if err != nil {
			return err
		}
		if err := Deliver(dst, loan.Batch[:n], filters...); err != nil {
			return err
		}
		if n < min(Brisk, len(loan.Batch)) {
			return nil
		}
	}
}

// Deliver writes the packets of b that the filters let through to dst. A packet that dst reports as [ErrTooBig] is dropped; any other
// error of dst is returned, and the packets after it are not written. The Bufs of b may have changed places afterwards.
func Deliver(dst Writer, b Batch, filters ...Filter) error {
	for _, f := range filters {
		b = f.Filter(b)
	}
	for len(b) > 0 {
		n, err := dst.WriteBatch(b)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrTooBig) {
			return err
		}
		b = b[n+1:]
	}
	return nil
}
