package packettest

import (
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/packet/pcapng"
)

// Recorder writes each packet that is read or written to w. Where that fails the packets still pass;
// [pcapng.Writer.Err] tells.
func Recorder(c packet.Conn, w *pcapng.Writer) packet.Conn { return &recorder{c, w} }

type recorder struct {
	packet.Conn
	w *pcapng.Writer
}

func (r *recorder) ReadBatch(b packet.Batch) (int, error) {
	n, err := r.Conn.ReadBatch(b)
	r.record(pcapng.In, b[:n])
	return n, err
}

func (r *recorder) WriteBatch(b packet.Batch) (int, error) {
	n, err := r.Conn.WriteBatch(b)
	r.record(pcapng.Out, b[:n])
	return n, err
}

func (r *recorder) record(dir pcapng.Dir, b packet.Batch) {
	now := time.Now()
	for i := range b {
		// The first error stays in the Writer.
		_ = r.w.WritePacket(now, dir, b[i].Bytes())
	}
}
