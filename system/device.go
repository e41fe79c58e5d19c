package system

import (
	"sync"
	"sync/atomic"

	"culvert.example/vpn"
	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport"
)

// batch is how many packets are carried at a time.
const batch = 128

// A wire is the device of a tunnel that only ever takes the packet path: the network interface as it is.
type wire struct{ t *tunnel }

var _ vpn.SystemDevice = (*wire)(nil)

func (w *wire) ReadBatch(b packet.Batch) (int, error) {
	n, err := w.t.tun.ReadBatch(b)
	return n, w.t.why(err)
}

func (w *wire) WriteBatch(b packet.Batch) (int, error) {
	n, err := w.t.tun.WriteBatch(b)
	return n, w.t.why(err)
}

func (w *wire) MTU() int                                        { return w.t.tun.MTU() }
func (w *wire) SetMTU(mtu int) error                            { return w.t.setMTU(mtu) }
func (w *wire) Changed(state vpn.State, lease *transport.Lease) { w.t.changed(state, lease) }
func (w *wire) Close() error                                    { return w.t.detach() }

// A crossing is the device of a tunnel that can take both paths. On the flow path its packets come from and go to the stack at the end
// of the tunnel, on the packet path the network interface.
type crossing struct {
	t     *tunnel
	side  *flow.Side // of the packet path
	inner *stack.Stack
	link  packet.Conn   // of inner
	path  atomic.Uint32 // a health.Path
}

var (
	_ vpn.SystemDevice = (*crossing)(nil)
	_ packet.Forwarder = (*crossing)(nil)
)

// Forward implements packet.Forwarder.
func (c *crossing) Forward(dst packet.Writer, filters ...packet.Filter) error {
	one := &turns{dst: dst, filters: filters}
	errs := make(chan error, 2)
	go func() { errs <- c.side.Forward(one) }()
	go func() { errs <- packet.Copy(only{one, &c.path}, c.link, max(c.link.MTU(), packet.MinMTU6), batch) }()
	err := <-errs
	c.side.Close()
	c.link.Close()
	<-errs
	return c.t.why(err)
}

// ReadBatch implements packet.Reader. It serves one path: that of the moment.
func (c *crossing) ReadBatch(b packet.Batch) (int, error) {
	var n int
	var err error
	if health.Path(c.path.Load()) == health.Flow {
		n, err = c.link.ReadBatch(b)
	} else {
		n, err = c.side.ReadBatch(b)
	}
	return n, c.t.why(err)
}

// WriteBatch implements packet.Writer.
func (c *crossing) WriteBatch(b packet.Batch) (int, error) {
	var n int
	var err error
	switch health.Path(c.path.Load()) {
	case health.Flow:
		n, err = c.link.WriteBatch(b)
	case health.Packet:
		n, err = c.side.WriteBatch(b)
	default:
		n = len(b) // nothing passes
	}
	return n, c.t.why(err)
}

// MTU implements packet.Conn.
func (c *crossing) MTU() int { return c.side.MTU() }

// SetMTU implements vpn.SystemDevice.
func (c *crossing) SetMTU(mtu int) error {
	if err := c.t.setMTU(mtu); err != nil {
		return err
	}
	if in := c.t.interceptor(); in != nil {
		in.SetMTU(mtu)
	}
	return c.inner.SetMTU(mtu)
}

// Changed implements vpn.SystemDevice.
func (c *crossing) Changed(state vpn.State, lease *transport.Lease) { c.t.changed(state, lease) }

// Close implements packet.Conn.
func (c *crossing) Close() error { return c.t.detach() }

// turns lets several sources write, one batch at a time, through the filters.
type turns struct {
	mu      sync.Mutex
	dst     packet.Writer
	filters []packet.Filter
}

func (w *turns) WriteBatch(b packet.Batch) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := packet.Deliver(w.dst, b, w.filters...); err != nil {
		return 0, err
	}
	return len(b), nil
}

// only passes packets on while the flow path is taken. What its stack still has to say afterwards is of connections that are over.
type only struct {
	dst  packet.Writer
	path *atomic.Uint32
}

func (w only) WriteBatch(b packet.Batch) (int, error) {
	if health.Path(w.path.Load()) != health.Flow {
		return len(b), nil
	}
	return w.dst.WriteBatch(b)
}
