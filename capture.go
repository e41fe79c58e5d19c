package vpn

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/pcapng"
)

// A tap counts the packets of one direction, and shows them to the capture if there is one. It is a packet.Filter.
type tap struct {
	packets, bytes atomic.Uint64
	capture        *atomic.Pointer[capture]
	out            bool
}

func (t *tap) Filter(b packet.Batch) packet.Batch {
	n := 0
	for i := range b {
		n += b[i].Len()
	}
	t.packets.Add(uint64(len(b)))
	t.bytes.Add(uint64(n))
	if c := t.capture.Load(); c != nil {
		c.write(b, t.out)
	}
	return b
}

// A capture is a pcapng file in the making.
type capture struct {
	mu    sync.Mutex
	w     *pcapng.Writer
	ended bool
}

func (c *capture) write(b packet.Batch, out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dir := pcapng.In
	if out {
		dir = pcapng.Out
	}
	now := time.Now()
	for i := range b {
		if c.ended || c.w.WritePacket(now, dir, b[i].Bytes()) != nil {
			return
		}
	}
}

// close ends the capture and returns the first error of its writer.
func (c *capture) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return c.w.Err()
}

// Capture writes every packet that goes through the tunnel to w, as a pcapng file of whole IP packets with their
// direction, until stop is called or the tunnel ends. One capture runs at a time. A slow w slows the tunnel down, and
// one that never returns keeps it from being closed. Stop returns the first error of w, after which nothing more was written.
func (t *Tunnel) Capture(w io.Writer) (stop func() error, err error) {
	if t.Err() != nil {
		return nil, &OpError{Op: "capture", Server: t.server, Err: t.err}
	}
	c := new(capture)
	c.mu.Lock() // packets wait until the head is written
	defer c.mu.Unlock()
	if !t.capture.CompareAndSwap(nil, c) {
		return nil, &OpError{Op: "capture", Server: t.server, Err: errors.New("a capture is running already; stop it first")}
	}
	c.w = pcapng.NewWriter(w)
	return func() error {
		t.capture.CompareAndSwap(c, nil)
		return c.close()
	}, nil
}
