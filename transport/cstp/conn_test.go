package cstp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/heartbeat"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

var _ packet.Conn = (*Conn)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOneWrite pins what peers depend on: one frame in each record, and what makes it fast: one write for a batch.
func TestOneWrite(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cl, sl, tap, _ := links(t, version)
		client, server := NewConn(cl, nil, Config{Beat: quiet.Beat}), NewConn(sl, nil, quiet)
		overhead := 16 + 1 // tag and content type
		if version == tls.VersionTLS12 {
			overhead = 16 + 8 // tag and nonce
		}
		for _, sizes := range [][]int{{1}, {1400, 1400, 20, 1400, 40, 576, 1399}, {wire.MaxPayload}} {
			b := batch(sizes...)
			if n, err := client.WriteBatch(b); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			writes := tap.take()
			if len(writes) != 1 {
				t.Fatalf("%d writes for a batch of %d, want 1", len(writes), len(b))
			}
			lengths := records(t, writes[0])
			if len(lengths) != len(b) {
				t.Fatalf("%d records for %d packets", len(lengths), len(b))
			}
			for i, n := range lengths {
				if want := wire.HeaderLen + sizes[i] + overhead; n != want && version == tls.VersionTLS13 || n != want && n != want-8 {
					t.Errorf("record %d: %d bytes, want %d", i, n, want)
				}
			}
			out := packet.NewBatch(8, wire.MaxPayload)
			for got := 0; got < len(b); {
				n, err := server.ReadBatch(out[:len(b)-got])
				if err != nil {
					t.Fatal(err)
				}
				for i := range out[:n] {
					if !bytes.Equal(out[i].Bytes(), b[got+i].Bytes()) {
						t.Errorf("packet %d differs", got+i)
					}
				}
				got += n
			}
		}
		client.Close()
		server.Close()
	}
}

// TestLargeBatch has a batch of more than is held back arrive whole.
func TestLargeBatch(t *testing.T) {
	client, server, tap, _ := conns(t, quiet, quiet)
	sizes := make([]int, 400)
	for i := range sizes {
		sizes[i] = 1000 + i
	}
	b := batch(sizes...)
	go client.WriteBatch(b)
	same(t, readN(t, server, len(b)), b)
	if n := len(tap.take()); n != 2 {
		t.Errorf("%d writes for half a megabyte, want 2", n)
	}
	if s := server.Stats(); s.In != 400 || s.InBytes == 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// TestReadBatchWhole has one ReadBatch return everything that one write brought.
func TestReadBatchWhole(t *testing.T) {
	client, server, _, _ := conns(t, quiet, quiet)
	b := batch(1400, 100, 1400, 1, 1400)
	if _, err := client.WriteBatch(b); err != nil {
		t.Fatal(err)
	}
	got := packet.NewBatch(64, 2000)
	n, err := server.ReadBatch(got)
	if n != len(b) || err != nil {
		t.Fatalf("%d packets at once, %v, want %d", n, err, len(b))
	}
	for i := range b {
		if !bytes.Equal(got[i].Bytes(), b[i].Bytes()) {
			t.Errorf("packet %d differs", i)
		}
	}
}

func TestWriteBatchTooBig(t *testing.T) {
	client, server, _, _ := conns(t, quiet, quiet)
	b := batch(100, 1400, 1401, 50)
	want := batch(100, 1400, 1401, 50)
	n, err := client.WriteBatch(b)
	if n != 2 || !errors.Is(err, packet.ErrTooBig) {
		t.Fatal(n, err)
	}
	if n, err = client.WriteBatch(b[3:]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	same(t, readN(t, server, 3), packet.Batch{want[0], want[1], want[3]})
	for i := range b {
		if !bytes.Equal(b[i].Bytes(), want[i].Bytes()) {
			t.Errorf("packet %d was changed", i)
		}
	}
	if n, err := client.WriteBatch(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	if _, err := server.ReadBatch(nil); err == nil {
		t.Error("an empty batch reads no packets without an error")
	}
}

// raw is a Conn whose peer is a bare TLS connection.
func raw(t *testing.T, cfg Config) (c *Conn, peer *Link) {
	t.Helper()
	cl, sl, _, _ := links(t, 0)
	if cfg.Server {
		cl, sl = sl, cl
	}
	c = NewConn(cl, nil, cfg)
	t.Cleanup(func() { c.Close(); sl.Close() })
	return c, sl
}

func frame(t wire.Type, payload string) string {
	b := append(make([]byte, wire.HeaderLen), payload...)
	wire.PutHeader(b, t, len(payload))
	return string(b)
}

// TestStream sends records that do not keep to frames.
func TestStream(t *testing.T) {
	one, two, three := frame(wire.Data, "one"), frame(wire.Data, "two"), frame(wire.Data, strings.Repeat("three", 300))
	for name, writes := range map[string][]string{
		"one frame in each record":             {one, two, three},
		"all in one record":                    {one + two + three},
		"two and a bit":                        {one + two + three[:5], three[5:]},
		"split in the header":                  {one[:3], one[3:] + two, three},
		"split in the payload":                 {one, two, three[:700], three[700:1000], three[1000:]},
		"byte by byte":                         strings.Split(one+two+three, ""),
		"with keepalives and unknown in front": {frame(wire.Keepalive, ""), frame(77, "???") + one, frame(wire.DPDResponse, ""), two + frame(1, "") + three},
		"with an empty packet":                 {one, frame(wire.Data, ""), two + frame(wire.Data, "") + three},
		"with a packet that does not fit":      {one, frame(wire.Data, strings.Repeat("x", 5000)), two, frame(wire.Data, strings.Repeat("x", 2001)), three},
		"with the largest frame":               {one, frame(wire.Data, strings.Repeat("x", 65535)) + two, three},
		"with compression nobody agreed on":    {one, frame(wire.Compressed, "\x20\xe0\x5c\x00"), two, three},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := raw(t, quiet)
			go func() {
				for _, w := range writes {
					io.WriteString(peer, w)
				}
			}()
			got := readN(t, c, 3)
			if string(got[0]) != "one" || string(got[1]) != "two" || string(got[2]) != strings.Repeat("three", 300) {
				t.Errorf("%.20q", got)
			}
		})
	}
}

func TestStatsOfOddFrames(t *testing.T) {
	c, peer := raw(t, quiet)
	go io.WriteString(peer, frame(99, "?")+frame(wire.Compressed, "x")+frame(wire.Data, "")+frame(wire.Data, strings.Repeat("x", 3000))+frame(wire.Data, "end"))
	readN(t, c, 1)
	if s := c.Stats(); s.Unknown != 2 || s.Dropped != 2 || s.In != 1 || s.InBytes != 3 {
		t.Errorf("%+v", s)
	}
}

// TestEnd goes through the ways in which a peer ends a connection.
func TestEnd(t *testing.T) {
	for _, test := range []struct {
		name, write string
		server      bool
		want        error
		reason      wire.Reason
		text        string
		terminated  bool
	}{
		{"disconnect without payload", frame(wire.Disconnect, ""), false, transport.ErrDisconnected, wire.NoReason, "", false},
		{"disconnect with a reason only", frame(wire.Disconnect, "\xb0"), true, transport.ErrDisconnected, wire.ReasonUser, "", false},
		{"disconnect with a text", frame(wire.Disconnect, "\x91Idle\x1b Timeout"), false, transport.ErrDisconnected, wire.ReasonReplaced, "Idle Timeout", false},
		{"terminate", frame(wire.Terminate, ""), false, transport.ErrDisconnected, 0, "", true},
		{"bad magic", "HTTP/1.1 400 Bad Request", false, transport.ErrProtocol, 0, "", false},
		{"bad magic later", frame(wire.Keepalive, "") + "XXXXXXXX", false, transport.ErrProtocol, 0, "", false},
		{"bad last byte", "STF\x01\x00\x00\x00\x01", true, transport.ErrProtocol, 0, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := quiet
			cfg.Server = test.server
			c, peer := raw(t, cfg)
			// A packet in front is delivered first.
			go io.WriteString(peer, frame(wire.Data, "last")+test.write)
			b := packet.NewBatch(4, 2000)
			if n, err := c.ReadBatch(b); n != 1 || err != nil || string(b[0].Bytes()) != "last" {
				t.Fatal(n, err)
			}
			_, err := c.ReadBatch(b)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			var de *DisconnectError
			if errors.As(err, &de) != (test.want == transport.ErrDisconnected) ||
				de != nil && (de.Reason != test.reason || de.Text != test.text || de.Terminated != test.terminated) {
				t.Errorf("%#v", de)
			}
			if _, again := c.WriteBatch(batch(10)); again != err || c.Err() != err {
				t.Errorf("WriteBatch: %v, Err: %v, want %v", again, c.Err(), err)
			}
			<-c.Done()
			c.Close()
			if _, err := c.ReadBatch(b); !errors.Is(err, net.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
	t.Run("terminate to a gateway", func(t *testing.T) {
		cfg := quiet
		cfg.Server = true
		c, peer := raw(t, cfg)
		go io.WriteString(peer, frame(wire.Terminate, "")+frame(wire.Data, "on"))
		readN(t, c, 1)
	})
	t.Run("close_notify", func(t *testing.T) {
		c, peer := raw(t, quiet)
		peer.Close()
		if _, err := c.ReadBatch(packet.NewBatch(1, 100)); !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "the peer closed") {
			t.Error(err)
		}
	})
	t.Run("connection cut", func(t *testing.T) {
		c, peer := raw(t, quiet)
		io.WriteString(peer, frame(wire.Data, "half")[:10])
		peer.sock.Conn.Close()
		if _, err := c.ReadBatch(packet.NewBatch(1, 100)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
	t.Run("records that are no records", func(t *testing.T) {
		c, peer := raw(t, quiet)
		peer.sock.Conn.Write([]byte(strings.Repeat("garbage ", 20)))
		if _, err := c.ReadBatch(packet.NewBatch(1, 100)); err == nil {
			t.Error("no error")
		}
	})
}

// TestDPD has probes answered with their payload, at once, also while nobody but the reader is there.
func TestDPD(t *testing.T) {
	c, peer := raw(t, quiet)
	go c.ReadBatch(packet.NewBatch(1, 2000))
	for _, payload := range []string{"", "abc", strings.Repeat("p", 1500), strings.Repeat("q", wire.MaxPayload)} {
		io.WriteString(peer, frame(wire.DPDRequest, payload))
		want := frame(wire.DPDResponse, payload)
		// One record, so one Read.
		got := make([]byte, len(want)+10)
		peer.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := peer.Read(got); err != nil || string(got[:n]) != want {
			t.Fatalf("%d bytes of payload: %.40q, %v", len(payload), got[:n], err)
		}
	}
	if s := c.Stats(); s.Probed != 4 {
		t.Errorf("%+v", s)
	}
	if err := c.Probe(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	if n, err := peer.Read(got); err != nil || string(got[:n]) != frame(wire.DPDRequest, "") {
		t.Errorf("%q, %v", got[:n], err)
	}
	if s := c.Stats(); s.Probes != 1 {
		t.Errorf("%+v", s)
	}
}

// TestHeartbeat has both ends keep each other alive, and one find the other dead.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	cfg := Config{MTU: 1400, Beat: liveness.Config{DPD: 300 * time.Millisecond, Keepalive: 100 * time.Millisecond, Load: -1}}
	client, server, _, _ := conns(t, cfg, quiet)
	go server.ReadBatch(packet.NewBatch(1, 2000))
	ended := make(chan error, 1)
	go func() {
		_, err := client.ReadBatch(packet.NewBatch(1, 2000))
		ended <- err
	}()
	time.Sleep(time.Second)
	if err := client.Err(); err != nil {
		t.Fatal(err)
	}
	if s := client.Stats(); s.Probes < 2 || s.RTT == 0 || s.RTT > time.Second {
		t.Errorf("%+v", s)
	}

	c, _ := raw(t, cfg) // nobody answers
	within(t, 5*time.Second, "ReadBatch", func() {
		if _, err := c.ReadBatch(packet.NewBatch(1, 2000)); !errors.Is(err, heartbeat.ErrDead) {
			t.Error(err)
		}
	})
	client.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestRekey(t *testing.T) {
	beat := liveness.Config{Rekey: 30 * time.Millisecond, Load: -1}
	c, _ := raw(t, Config{Beat: beat})
	within(t, 5*time.Second, "ReadBatch", func() {
		if _, err := c.ReadBatch(packet.NewBatch(1, 2000)); !errors.Is(err, ErrRekey) {
			t.Error(err)
		}
	})
	due := make(chan struct{}, 10)
	c, _ = raw(t, Config{Beat: beat, Rekey: func() { due <- struct{}{} }})
	<-due
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

// stall writes until the peer, who does not read, makes it block.
func stall(t *testing.T, c *Conn) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := c.WriteBatch(batch(1400, 1400, 1400, 1400, 1400, 1400, 1400, 1400)); err != nil {
				ended <- err
				return
			}
		}
	}()
	for before := uint64(0); ; {
		time.Sleep(50 * time.Millisecond)
		if n := c.Stats().Out; n == before && n > 0 {
			return ended
		} else {
			before = n
		}
	}
}

// TestStalled has a peer that stops to read. Neither Close, nor Disconnect, nor the dead timer waits for it, and the reader
// goes on.
func TestStalled(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  Config
		do   func(*Conn)
		want error
	}{
		"Close":      {quiet, func(c *Conn) { c.Close() }, net.ErrClosed},
		"Disconnect": {quiet, func(c *Conn) { c.Disconnect(wire.ReasonUser, "bye") }, nil},
		"dead":       {Config{MTU: 1400, Beat: liveness.Config{Load: 500 * time.Millisecond}}, func(c *Conn) { <-c.Done() }, heartbeat.ErrDead},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := raw(t, test.cfg)
			ended := stall(t, c)
			if test.want != heartbeat.ErrDead {
				// Probes in the other direction cannot be answered, but do not stop the reader.
				for range 20 {
					io.WriteString(peer, frame(wire.DPDRequest, "?"))
				}
				go io.WriteString(peer, frame(wire.Data, "through"))
				if got := readN(t, c, 1); string(got[0]) != "through" {
					t.Errorf("%q", got)
				}
			}
			within(t, 6*time.Second, name, func() { test.do(c) })
			if err := <-ended; err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("WriteBatch: %v, want %v", err, test.want)
			}
		})
	}
}

func TestDisconnect(t *testing.T) {
	client, server, _, _ := conns(t, quiet, quiet)
	if err := client.Disconnect(wire.ReasonUser, "done for today"); err != nil {
		t.Fatal(err)
	}
	_, err := server.ReadBatch(packet.NewBatch(1, 100))
	var de *DisconnectError
	if !errors.As(err, &de) || de.Reason != wire.ReasonUser || de.Text != "done for today" {
		t.Error(err)
	}
	if _, err := client.WriteBatch(batch(1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := client.Disconnect(wire.ReasonUser, ""); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}

	client, server, _, _ = conns(t, quiet, quiet)
	if err := server.Terminate(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ReadBatch(packet.NewBatch(1, 100)); !errors.As(err, &de) || !de.Terminated {
		t.Error(err)
	}
}

// TestClose has Close unblock a reader, say goodbye, and be possible twice and from many goroutines.
func TestClose(t *testing.T) {
	client, server, _, _ := conns(t, quiet, quiet)
	ended := make(chan error, 1)
	go func() {
		_, err := client.ReadBatch(packet.NewBatch(1, 100))
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := client.Probe(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := server.ReadBatch(packet.NewBatch(1, 100)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer sees %v, want a close_notify", err)
	}
}

// TestCompression has both algorithms carry packets both ways, those that cannot be compressed among them.
func TestCompression(t *testing.T) {
	for _, name := range []string{wire.LZ4, wire.LZS} {
		t.Run(name, func(t *testing.T) {
			cfg := quiet
			cfg.Compression = name
			client, server, tap, _ := conns(t, cfg, cfg)
			b := batch(1400, 39, 1400, 40, 1)
			copy(b[0].Bytes(), bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 100))
			x := uint32(1)
			for i := range b[2].Bytes() {
				x = x*1664525 + 1013904223
				b[2].Bytes()[i] = byte(x >> 24)
			}
			clear(b[3].Bytes())
			if n, err := client.WriteBatch(b); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			lengths := records(t, bytes.Join(tap.take(), nil))
			if lengths[0] > 200 || lengths[2] < 1400 || lengths[3] > 60 {
				t.Errorf("records of %v bytes", lengths)
			}
			same(t, readN(t, server, len(b)), b)
			if n, err := server.WriteBatch(b); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			same(t, readN(t, client, len(b)), b)
			if s := server.Stats(); s.InBytes != 1400+39+1400+40+1 || s.OutBytes != s.InBytes {
				t.Errorf("%+v", s)
			}

			// What cannot be decompressed, or not into the room there is, is dropped.
			bomb := wire.LZSCompress(nil, make([]byte, 16000))
			if name == wire.LZ4 {
				bomb = make([]byte, 1000)
				z := newCodec(wire.LZ4)
				bomb = bomb[:z.compress(bomb[:1000:1000], append(make([]byte, 900), 1))]
				bomb = append(bomb[:1], bytes.Repeat([]byte{255}, 500)...)
			}
			frames := []string{frame(wire.Compressed, string(bomb)), frame(wire.Compressed, ""), frame(wire.Compressed, "\xff\xff\xff\xff"), frame(wire.Data, "end")}
			for _, f := range frames {
				if _, err := server.w.Write([]byte(f)); err != nil {
					t.Fatal(err)
				}
			}
			if got := readN(t, client, 1); string(got[0]) != "end" {
				t.Errorf("%.20q", got)
			}
			if s := client.Stats(); s.Dropped != 3 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestBothWays carries a lot in both directions at once, with probes and keepalives in between.
func TestBothWays(t *testing.T) {
	cfg := Config{MTU: 1400, Beat: liveness.Config{Keepalive: 11 * time.Millisecond, Load: -1}}
	client, server, _, _ := conns(t, cfg, cfg)
	const rounds = 300
	sizes := make([]int, 64)
	for i := range sizes {
		sizes[i] = 1 + (i*211)%1400
	}
	var wg sync.WaitGroup
	probing := make(chan struct{})
	go func() {
		defer close(probing)
		for client.Probe() == nil && server.Probe() == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	for _, c := range [][2]*Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			b := batch(sizes...)
			for range rounds {
				if n, err := c[0].WriteBatch(b); n != len(b) || err != nil {
					t.Errorf("%d, %v", n, err)
					return
				}
			}
		})
		wg.Go(func() {
			want := batch(sizes...)
			b := packet.NewBatch(32, 1400)
			for got := 0; got < rounds*len(sizes); {
				n, err := c[1].ReadBatch(b)
				if err != nil {
					t.Errorf("after %d packets: %v", got, err)
					return
				}
				for i := range b[:n] {
					if !bytes.Equal(b[i].Bytes(), want[got%len(sizes)].Bytes()) {
						t.Errorf("packet %d differs", got)
						return
					}
					got++
				}
			}
		})
	}
	wg.Wait()
	if s := client.Stats(); s.Probed == 0 || s.Probes == 0 {
		t.Errorf("%+v", s)
	}
	client.Close()
	<-probing
}
