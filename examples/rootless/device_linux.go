package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
)

// A device is a TUN device in a network namespace of somebody else. It passes one packet with each system call; package stack/tun
// is much faster, but configures the interface, and so has to be in its namespace.
type device struct {
	file *os.File
	mtu  int
}

// newDevice takes the descriptor over.
func newDevice(fd, mtu int) (*device, error) {
	// So that Close ends a Read that waits.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &device{os.NewFile(uintptr(fd), "tun"), mtu}, nil
}

// ReadBatch implements packet.Reader.
func (d *device) ReadBatch(b packet.Batch) (int, error) {
	n, err := d.file.Read(b[0].Space())
	if err != nil {
		return 0, err
	}
	b[0].SetLen(n)
	return 1, nil
}

// WriteBatch implements packet.Writer. What the interface does not take is lost, as on any network.
func (d *device) WriteBatch(b packet.Batch) (int, error) {
	for i := range b {
		if _, err := d.file.Write(b[i].Bytes()); err != nil && errors.Is(err, os.ErrClosed) {
			return i, err
		}
	}
	return len(b), nil
}

// MTU implements packet.Conn.
func (d *device) MTU() int { return d.mtu }

// Close implements packet.Conn.
func (d *device) Close() error { return d.file.Close() }
