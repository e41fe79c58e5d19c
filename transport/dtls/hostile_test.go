package dtls

import (
	"bytes"
	"io"
	"testing"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
)

// A script is a channel on which the given datagrams come, several at a time, and then nothing more.
type script struct {
	sink
	datagrams [][]byte
	at, end   int
	buf       []byte // datagrams lie here, and are overwritten as those of a socket are
}

func (s *script) wait() error {
	if s.end == len(s.datagrams) {
		return io.EOF
	}
	s.end = min(s.end+3, len(s.datagrams))
	return nil
}

func (s *script) next() []byte {
	if s.at == s.end {
		return nil
	}
	s.buf = append(s.buf[:0:0], s.datagrams[s.at]...)
	s.at++
	return s.buf[:len(s.buf):len(s.buf)]
}

// scriptedConn returns a Conn on which datagrams come that makes makes with the keys of the peer.
func scriptedConn(t testing.TB, makes func(seal func(sequence uint64, plain ...byte) []byte) [][]byte) *Conn {
	t.Helper()
	s := suiteByID(0x00a8)
	k, err := expand(s, make([]byte, 48), make([]byte, 32), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := k.protection(false)
	if err != nil {
		t.Fatal(err)
	}
	ch := &script{datagrams: makes(func(sequence uint64, plain ...byte) []byte {
		rec := make([]byte, peer.size(len(plain)))
		peer.seal(rec, typeData, sequence, plain)
		return rec
	})}
	c, err := newConn(connParams{
		client: true, out: &outcome{keys: k, next: 1}, channel: ch, pool: newBurstPool(), mtu: testMTU,
		log: (&Config{}).logger(), beat: liveness.Config{Load: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readAll reads until the end, with Wait before each batch or without.
func readAll(t testing.TB, c *Conn, wait bool) (got [][]byte) {
	t.Helper()
	b := packet.NewBatch(4, 100)
	for {
		if wait {
			if err := c.Wait(); err != nil {
				return got
			}
		}
		n, err := c.ReadBatch(b)
		for i := range n {
			got = append(got, bytes.Clone(b[i].Bytes()))
		}
		if err != nil {
			return got
		}
	}
}

// TestHostile has nonsense of all kinds between the packets of the peer: it is counted, and the packets come in the order in which
// they were received.
func TestHostile(t *testing.T) {
	for _, wait := range []bool{false, true} {
		c := scriptedConn(t, func(seal func(uint64, ...byte) []byte) [][]byte {
			data := func(sequence uint64, b byte) []byte { return seal(sequence, 0, b) }
			with := func(rec []byte, at int, b byte) []byte {
				rec = bytes.Clone(rec)
				rec[at] = b
				return rec
			}
			big := make([]byte, 1+101) // more than the Bufs of the reader
			return [][]byte{
				data(1, 'a'),
				{},                              // no byte: malformed
				data(1, 'a'),                    // replayed
				with(data(2, 'x'), 4, 0),        // epoch 0: malformed
				with(data(3, 'x'), 4, 2),        // epoch 2: malformed
				with(data(3, 'x'), 3, 1),        // epoch 257: malformed
				data(4, 'b'),                    // first of all after them
				data(4, 'b')[:20],               // truncated: malformed
				with(data(5, 'x'), 20, 0),       // forged
				with(data(5, 'x'), 10, 77),      // another number: forged, and it must not move the window
				{0x17},                          // malformed
				bytes.Repeat([]byte{0xff}, 300), // malformed
				append(append(data(6, 'c'), data(7, 'd')...), 1, 2, 3), // two records, then malformed
				with(data(8, 'x'), 0, 99),                              // no type of record
				seal(8),                                                // nothing in it: malformed
				seal(9, 0),                                             // no packet
				seal(10, 200, 1, 2),                                    // unknown
				seal(11, big...),                                       // oversize
				data(3000, 'e'),                                        // after a gap
				data(12, 'x'),                                          // older than the window: replayed
				data(2900, 'f'),                                        // late, and new
				data(2900, 'f'),                                        // replayed
			}
		})
		got := readAll(t, c, wait)
		if want := "abcdef"; string(bytes.Join(got, nil)) != want {
			t.Errorf("wait %v: packets %q, want %q", wait, got, want)
		}
		s := c.Stats()
		if s.Malformed != 9 || s.Replayed != 3 || s.Forged != 2 || s.Unknown != 1 || s.Oversize != 1 || s.PacketsReceived != 6 {
			t.Errorf("wait %v: counted %+v", wait, s)
		}
	}
}

// FuzzWait reads the same datagrams with Wait and without. What comes out and what is counted must be the same.
func FuzzWait(f *testing.F) {
	f.Add([]byte{0, 10, 11, 1, 2, 200, 3}, []byte{0, 1, 2, 3, 4})
	f.Add([]byte{7, 7, 7}, []byte{3, 'x'})
	f.Add([]byte{255, 4, 9, 128, 64, 1}, bytes.Repeat([]byte{0}, 120))
	f.Fuzz(func(t *testing.T, ops, plain []byte) {
		ops, plain = ops[:min(len(ops), 64)], plain[:min(len(plain), 300)]
		makes := func(seal func(uint64, ...byte) []byte) (all [][]byte) {
			for i, op := range ops {
				body := append([]byte{op % 4 * (op >> 7)}, plain[:min(len(plain), int(op))]...)
				body = append(body, byte(i))
				d := seal(uint64(op%32), body...)
				switch op % 5 {
				case 1:
					d[i%len(d)] ^= op
				case 2:
					d = d[:len(d)-min(len(d), i)]
				case 3:
					d = append(d, seal(uint64(i), 0, op)...)
				}
				all = append(all, d)
			}
			return all
		}
		plainly, waiting := scriptedConn(t, makes), scriptedConn(t, makes)
		want, got := readAll(t, plainly, false), readAll(t, waiting, true)
		if len(got) != len(want) {
			t.Fatalf("%d packets with Wait, %d without", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d is %q with Wait, %q without", i, got[i], want[i])
			}
		}
		if a, b := waiting.Stats(), plainly.Stats(); a != b {
			t.Fatalf("counted %+v with Wait, %+v without", a, b)
		}
	})
}
