package cstp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// A canned connection gives out the same bytes again and again, at most step at once, and counts what is written.
type canned struct {
	data   []byte
	at     int
	step   int
	once   bool // end after data
	writes int
	bytes  int
}

func (c *canned) Read(p []byte) (int, error) {
	if c.at == len(c.data) {
		if c.once {
			return 0, io.EOF
		}
		c.at = 0
	}
	n := min(len(p), len(c.data)-c.at)
	if c.step > 0 {
		n = min(n, c.step)
	}
	copy(p, c.data[c.at:c.at+n])
	c.at += n
	return n, nil
}

func (c *canned) Write(p []byte) (int, error) {
	c.writes++
	c.bytes += len(p)
	return len(p), nil
}

func (*canned) Close() error                     { return nil }
func (*canned) LocalAddr() net.Addr              { return nil }
func (*canned) RemoteAddr() net.Addr             { return nil }
func (*canned) SetDeadline(time.Time) error      { return nil }
func (*canned) SetReadDeadline(time.Time) error  { return nil }
func (*canned) SetWriteDeadline(time.Time) error { return nil }

// bare returns a Conn on nc without TLS.
func bare(nc net.Conn, cfg Config) *Conn {
	s := &socket{Conn: nc, incoming: true}
	c := newConn(nil, s, s, s, cfg)
	c.start(cfg.Beat)
	return c
}

// TestAllocs has the whole way of packets, less crypto/tls, do without allocations.
func TestAllocs(t *testing.T) {
	for _, compression := range []string{"", wire.LZS, wire.LZ4} {
		cfg := quiet
		cfg.Compression = compression
		nc := new(canned)
		c := bare(nc, cfg)
		b := batch(1400, 1400, 40, 1400)
		write := func() {
			if n, err := c.WriteBatch(b); n != len(b) || err != nil {
				t.Error(n, err)
			}
		}
		write()
		if n := testing.AllocsPerRun(100, write); n != 0 {
			t.Errorf("%q: %v allocations for writing", compression, n)
		}
		if nc.writes != 102 {
			t.Errorf("%q: %d writes for 102 batches", compression, nc.writes)
		}

		// The same frames in a stream whose reads do not keep to them.
		var stream []byte
		for i := range b {
			stream = append(stream, c.frame(&b[i])...)
		}
		for _, step := range []int{0, 1000} {
			c := bare(&canned{data: stream, step: step}, cfg)
			out := packet.NewBatch(8, 1400)
			read := func() {
				if _, err := c.ReadBatch(out); err != nil {
					t.Error(err)
				}
			}
			read()
			if n := testing.AllocsPerRun(100, read); n != 0 {
				t.Errorf("%q, step %d: %v allocations for reading", compression, step, n)
			}
			c.Close()
		}
		c.Close()
	}
}

// FuzzFrames reads a stream in pieces of any size, and compares with a reader that takes its time.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(wire.Data, "one")+frame(wire.Keepalive, "")+frame(wire.Data, "two")), uint16(5), false)
	f.Add([]byte(frame(wire.Data, "")+frame(wire.DPDRequest, "x")+frame(wire.Data, "123456789")+"STX"), uint16(0), false)
	f.Add([]byte(frame(wire.Compressed, "\x20\xe0\x5c\x00")+frame(wire.Disconnect, "\xb0bye")), uint16(1), true)
	f.Add([]byte(frame(200, "")+frame(wire.Terminate, "")), uint16(3), true)
	f.Add([]byte(frame(wire.Compressed, "")), uint16(16), true)
	f.Fuzz(func(t *testing.T, stream []byte, step uint16, compressed bool) {
		const size = 64
		cfg := quiet
		if compressed {
			cfg.Compression = wire.LZS
		}
		want, wantErr := slowly(stream, size, compressed)
		for _, wait := range []bool{false, true} {
			c := bare(&canned{data: stream, step: int(step), once: true}, cfg)
			got, err := all(t, c, size, wait)
			if !errors.Is(err, wantErr) {
				t.Errorf("%v, want %v", err, wantErr)
			}
			if len(got) != len(want) {
				t.Fatalf("%d packets, want %d", len(got), len(want))
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("packet %d: %q, want %q", i, got[i], want[i])
				}
			}
			c.Close()
		}
	})
}

// all reads everything, and returns it with the error at the end.
func all(t *testing.T, c *Conn, size int, wait bool) (got [][]byte, err error) {
	b := packet.NewBatch(3, size)
	for {
		if wait {
			if err := c.Wait(); err != nil {
				return got, err
			}
		}
		n, err := c.ReadBatch(b)
		for i := range b[:n] {
			got = append(got, bytes.Clone(b[i].Bytes()))
		}
		if err != nil {
			return got, err
		}
		if n == 0 {
			t.Fatal("nothing, and no error")
		}
	}
}

// slowly is what ReadBatch should make of a stream.
func slowly(stream []byte, size int, compressed bool) (out [][]byte, end error) {
	r := bytes.NewReader(stream)
	for {
		var head [wire.HeaderLen]byte
		if n, err := io.ReadFull(r, head[:]); err != nil {
			if n == 0 {
				return out, io.EOF
			}
			return out, io.ErrUnexpectedEOF
		}
		typ, n, err := wire.ParseHeader(head[:])
		if err != nil {
			return out, transport.ErrProtocol
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r, payload); err != nil {
			return out, io.ErrUnexpectedEOF
		}
		switch {
		case typ == wire.Disconnect || typ == wire.Terminate:
			return out, transport.ErrDisconnected
		case typ == wire.Compressed && compressed:
			if payload, err = wire.LZSDecompress(nil, payload, size); err != nil {
				continue
			}
		case typ != wire.Data:
			continue
		}
		if len(payload) > 0 && len(payload) <= size {
			out = append(out, payload)
		}
	}
}
