//go:build !linux

package tun

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/offload"
)

// A Device is an open TUN device. Its methods may be called from any goroutine; one may read while another writes.
type Device struct {
	dev    wgtun.Device
	mtu    atomic.Int32
	closed atomic.Bool
	stats  counters
	events sync.WaitGroup

	readMu sync.Mutex
	sizes  []int
	in     [][]byte

	writeMu sync.Mutex
	out     [][]byte
}

var _ packet.Conn = (*Device)(nil)

// Open opens a device. The caller closes it, which deletes the interface. Errors match [ErrNoDriver], [ErrNotPermitted]
// or an error of the system. On Windows the library wintun.dll must lie next to the program. On macOS the name must be
// "utun" or empty, for the kernel to choose, or "utun" with a number.
func Open(cfg Config) (*Device, error) {
	if cfg.File != nil {
		cfg.File.Close()
		return nil, fmt.Errorf("tun: taking over a descriptor: %w", errors.ErrUnsupported)
	}
	if cfg.MTU != 0 && (cfg.MTU < packet.MinMTU4 || cfg.MTU > packet.MaxSize) {
		return nil, fmt.Errorf("tun: MTU %d is not between %d and %d", cfg.MTU, packet.MinMTU4, packet.MaxSize)
	}
	name := cfg.Name
	if name == "" {
		name = defaultName
	}
	dev, err := wgtun.CreateTUN(name, cfg.MTU)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("tun: making the interface %q: %w: run as administrator: %w", name, ErrNotPermitted, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("tun: making the interface %q: %w: %w", name, ErrNoDriver, err)
	case err != nil:
		return nil, fmt.Errorf("tun: making the interface %q: %w", name, err)
	}
	d := &Device{dev: dev, sizes: make([]int, dev.BatchSize())}
	mtu, err := dev.MTU()
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("tun: asking for the MTU of %s: %w", name, err)
	}
	d.mtu.Store(int32(mtu))
	// The device waits for somebody who takes its events. Close ends them.
	d.events.Go(func() {
		for range dev.Events() {
		}
	})
	return d, nil
}

// Name returns the name of the interface.
func (d *Device) Name() string {
	name, err := d.dev.Name()
	if err != nil {
		return ""
	}
	return name
}

// MTU returns the MTU of the interface in bytes.
func (d *Device) MTU() int {
	if mtu, err := d.dev.MTU(); err == nil && mtu > 0 {
		d.mtu.Store(int32(mtu))
	}
	return int(d.mtu.Load())
}

// SetMTU changes the MTU of the interface, which may be from 576 to 65535 bytes.
func (d *Device) SetMTU(mtu int) error {
	if mtu < packet.MinMTU4 || mtu > packet.MaxSize {
		return fmt.Errorf("tun: MTU %d is not between %d and %d", mtu, packet.MinMTU4, packet.MaxSize)
	}
	if err := setMTU(d.dev, mtu); err != nil {
		return fmt.Errorf("tun: setting the MTU to %d: %w", mtu, err)
	}
	d.mtu.Store(int32(mtu))
	return nil
}

// ReadBatch implements packet.Reader.
func (d *Device) ReadBatch(b packet.Batch) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrShortBuffer
	}
	d.readMu.Lock()
	defer d.readMu.Unlock()
	for {
		d.in = d.in[:0]
		for i := range min(len(b), len(d.sizes)) {
			d.in = append(d.in, b[i].SpaceWithHeadroom(packet.Headroom))
		}
		n, err := d.dev.Read(d.in, d.sizes, packet.Headroom)
		if err != nil && !errors.Is(err, wgtun.ErrTooManySegments) {
			return 0, d.fault(err)
		}
		d.stats.reads.Add(1)
		k, size := 0, 0
		for i := range n {
			if _, ok := offload.Parse(d.in[i][packet.Headroom:][:d.sizes[i]]); !ok {
				d.stats.readMalformed.Add(1)
				continue
			}
			b[i].SetLen(d.sizes[i])
			size += d.sizes[i]
			b[k], b[i] = b[i], b[k]
			k++
		}
		d.stats.readPackets.Add(uint64(k))
		d.stats.readBytes.Add(uint64(size))
		if k > 0 {
			return k, nil
		}
	}
}

// WriteBatch implements packet.Writer. A packet that the system refuses is dropped.
func (d *Device) WriteBatch(b packet.Batch) (int, error) {
	d.writeMu.Lock()
	defer d.writeMu.Unlock()
	for i := range b {
		if d.closed.Load() {
			return i, net.ErrClosed
		}
		p := b[i].Bytes()
		if len(p) > int(d.mtu.Load()) && len(p) > d.MTU() {
			d.stats.writeTooBig.Add(1)
			return i, packet.ErrTooBig
		}
		ip, ok := offload.Parse(p)
		if !ok {
			d.stats.writeMalformed.Add(1)
			continue
		}
		if ip.Martian(p) {
			d.stats.writeMartian.Add(1)
			continue
		}
		d.out = append(d.out[:0], b[i].WithHeadroom(packet.Headroom))
		d.stats.writes.Add(1)
		if _, err := d.dev.Write(d.out, packet.Headroom); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return i, d.fault(err)
			}
			d.stats.writeRefused.Add(1)
			continue
		}
		d.stats.writtenPackets.Add(1)
		d.stats.writtenBytes.Add(uint64(len(p)))
	}
	return len(b), nil
}

// fault returns what an error of the device means.
func (d *Device) fault(err error) error {
	switch {
	case d.closed.Load():
		return net.ErrClosed
	case errors.Is(err, os.ErrClosed):
		return fmt.Errorf("tun: %w", ErrDeleted)
	}
	return fmt.Errorf("tun: %w", err)
}

// Close implements packet.Conn. The interface vanishes.
func (d *Device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	err := d.dev.Close()
	d.events.Wait()
	return err
}

// Stats returns what has passed so far.
func (d *Device) Stats() Stats { return d.stats.stats() }
