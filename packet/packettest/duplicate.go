package packettest

import "culvert.example/vpn/packet"

// Duplicate sends the given share of packets twice, from 0 for none to 1 for all.
func Duplicate(c packet.Conn, dir Dir, rate float64, start uint64) packet.Conn {
	return &duplicator{Conn: c, in: newChance(dir, In, rate, start), out: newChance(dir, Out, rate, start)}
}

type duplicator struct {
	packet.Conn
	in, out *chance
	again   []packet.Buf // read once, and to be read again
}

// ReadBatch returns a packet for the second time in the call after that of the first, at the latest.
func (d *duplicator) ReadBatch(b packet.Batch) (int, error) {
	n := 0
	for n < len(b) && len(d.again) > 0 {
		if b[n].Set(d.again[0].Bytes()) {
			n++
		}
		d.again = d.again[1:]
	}
	if n > 0 {
		return n, nil
	}
	n, err := d.Conn.ReadBatch(b)
	for i := range n {
		if d.in.strikes() {
			p := packet.NewBuf(b[i].Len())
			p.Set(b[i].Bytes())
			d.again = append(d.again, p)
		}
	}
	return n, err
}

func (d *duplicator) WriteBatch(b packet.Batch) (int, error) {
	from := 0
	for i := range b {
		if !d.out.strikes() {
			continue
		}
		if n, err := d.Conn.WriteBatch(b[from : i+1]); err != nil {
			return from + n, err
		}
		if _, err := d.Conn.WriteBatch(b[i : i+1]); err != nil {
			return i + 1, err // it went out once
		}
		from = i + 1
	}
	n, err := writeRun(d.Conn, b[from:])
	return from + n, err
}
