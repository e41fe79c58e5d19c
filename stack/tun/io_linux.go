package tun

import (
	"culvert.example/vpn/packet"
	"net"
)

const vnetLen = 10

type reader struct{ buf []byte }

func (r *reader) init(d *Device) { r.buf = make([]byte, vnetLen+packet.MaxSize) }

type writer struct{}

func (w *writer) init(d *Device) {}

// ReadBatch implements packet.Reader.
func (d *Device) ReadBatch(b packet.Batch) (int, error) {
	for {
		n, err := d.file.Read(d.reader.buf)
		if err != nil {
			return 0, net.ErrClosed
		}
		off := 0
		if d.vnet {
			off = vnetLen
		}
		if b[0].Set(d.reader.buf[off:n]) {
			return 1, nil
		}
	}
}

// WriteBatch implements packet.Writer.
func (d *Device) WriteBatch(b packet.Batch) (int, error) {
	for i := range b {
		off := 0
		if d.vnet {
			off = vnetLen
		}
		p := b[i].WithHeadroom(off)
		clear(p[:off])
		d.file.Write(p)
	}
	return len(b), nil
}
