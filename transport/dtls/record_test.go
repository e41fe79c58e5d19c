package dtls

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	pion "github.com/pion/dtls/v3"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

// TestKeyBlock checks the key expansion against key blocks that OpenSSL made.
func TestKeyBlock(t *testing.T) {
	master := make([]byte, 48)
	for i := range master {
		master[i] = byte(i)
	}
	client, server := bytes.Repeat([]byte{0x11}, 32), bytes.Repeat([]byte{0x22}, 32)
	for _, test := range []struct{ name, block string }{
		{"AES128-GCM-SHA256", "777fce36a1935fafd1d581bf7cae5b31 6d887a941701fd4f91ee363690169efa 3a5b370c a7e99fa9"},
		{"AES256-GCM-SHA384", "7895bfd1a237ca0f7298d172fead167df616ce95f20d3bf2411b0e3cf6248f2b e213f0eaa7b372583184d7b289d254f3b60dae644bb5827509e2760d115c5c95 83b5498f 06b25782"},
	} {
		s, err := suiteByName(test.name, true)
		if err != nil {
			t.Fatal(err)
		}
		k, err := expand(s, master, client, server)
		if err != nil {
			t.Fatal(err)
		}
		got := hex.EncodeToString(bytes.Join([][]byte{k.clientKey, k.serverKey, k.clientIV, k.serverIV}, nil))
		if want := strings.ReplaceAll(test.block, " ", ""); got != want {
			t.Errorf("%s: key block %s, want %s", test.name, got, want)
		}
	}
	if _, err := expand(suiteByID(0x009d), master[:47], client, server); err == nil {
		t.Error("expand took a master secret of 47 bytes")
	}
}

// TestPionState pins the form in which pion hands out what a handshake left: a change of it must not go unnoticed.
func TestPionState(t *testing.T) {
	a, b := net.Pipe()
	ca := newGate(a.LocalAddr(), a.RemoteAddr(), func(d []byte) error { _, err := a.Write(d); return err })
	cb := newGate(b.LocalAddr(), b.RemoteAddr(), func(d []byte) error { _, err := b.Write(d); return err })
	for _, p := range []struct {
		c net.Conn
		g *gate
	}{{a, ca}, {b, cb}} {
		go func() {
			buf := make([]byte, 2000)
			for {
				n, err := p.c.Read(buf)
				if err != nil {
					return
				}
				p.g.deliver(buf[:n])
			}
		}()
	}
	defer a.Close()
	defer b.Close()
	psk := pion.WithPSK(func([]byte) ([]byte, error) { return testPSK().Key, nil })
	suites := pion.WithCipherSuites(pion.TLS_PSK_WITH_AES_128_GCM_SHA256)
	server, err := pion.ServerWithOptions(cb, cb.RemoteAddr(), psk, suites)
	if err != nil {
		t.Fatal(err)
	}
	client, err := pion.ClientWithOptions(ca, ca.RemoteAddr(), psk, suites, pion.WithPSKIdentityHint([]byte("psk")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var blocks []*secrets
	for _, c := range []*pion.Conn{client, server} {
		state, ok := c.ConnectionState()
		if !ok {
			t.Fatal("no state")
		}
		k, err := keysOf(&state)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, k)
		raw, err := state.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var st pionState
		if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&st); err != nil {
			t.Fatal(err)
		}
		if st.IsClient != (c == client) || len(st.MasterSecret) != 48 || st.CipherSuiteID != 0x00a8 ||
			st.LocalRandom == [32]byte{} || st.RemoteRandom == [32]byte{} || st.LocalRandom == st.RemoteRandom {
			t.Errorf("the state of pion is not in the form that is expected: %+v", st)
		}
	}
	if !bytes.Equal(blocks[0].clientKey, blocks[1].clientKey) || !bytes.Equal(blocks[0].serverIV, blocks[1].serverIV) {
		t.Error("client and server derive different keys")
	}
	client.Close()
	server.Close()
}

// pair returns two ends of every suite, without a handshake.
func pair(t testing.TB, s *suite) (seal, open *protection) {
	t.Helper()
	k, err := expand(s, make([]byte, 48), make([]byte, 32), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if seal, err = k.protection(true); err != nil {
		t.Fatal(err)
	}
	if open, err = k.protection(true); err != nil {
		t.Fatal(err)
	}
	return seal, open
}

func TestSealOpen(t *testing.T) {
	for _, s := range suites() {
		seal, open := pair(t, &s)
		for _, n := range []int{0, 1, 2, 100, 1401, maxPlain} {
			plain := make([]byte, n)
			for i := range plain {
				plain[i] = byte(i)
			}
			dst := make([]byte, seal.size(n))
			if got := seal.seal(dst, typeData, 0x123456789abc, plain); got != n+s.overhead() || got != len(dst) {
				t.Fatalf("%s: a record of %d bytes, want %d", s.name, got, n+s.overhead())
			}
			r, rest, ok := parseRecord(append(dst, 1, 2, 3))
			if !ok || len(rest) != 3 || r.sequence != 0x123456789abc || r.epoch != 1 || r.typ != typeData {
				t.Fatalf("%s: parseRecord = %+v, %x, %v", s.name, r, rest, ok)
			}
			got, ok := open.open(make([]byte, 0, n), r)
			if !ok || !bytes.Equal(got, plain) {
				t.Fatalf("%s: %d bytes do not come back", s.name, n)
			}
			for range 20 {
				bad := r
				bad.raw = bytes.Clone(r.raw)
				bit := rand.IntN(8 * len(bad.raw))
				if bit/8 == 1 || bit/8 == 11 || bit/8 == 12 {
					continue // not covered by open: parseRecord looks at it
				}
				bad.raw[bit/8] ^= 1 << (bit % 8)
				p, _, ok := parseRecord(bad.raw)
				if !ok {
					continue
				}
				if _, ok := open.open(make([]byte, 0, n+100), p); ok {
					t.Fatalf("%s: a record opens with bit %d changed", s.name, bit)
				}
			}
		}
	}
}

func TestWindow(t *testing.T) {
	var w window
	golden := map[uint64]bool{}
	top := uint64(0)
	r := rand.New(rand.NewPCG(1, 2))
	at := uint64(0)
	for range 200000 {
		switch r.IntN(20) {
		case 0:
			at += r.Uint64N(5000)
		case 1:
			at += 64 * r.Uint64N(40)
		default:
			at += r.Uint64N(3)
		}
		n := at - min(at, r.Uint64N(2*windowSize))
		want := !golden[n] && (top == 0 || n+windowSize > top-1)
		if got := w.fresh(n); got != want {
			t.Fatalf("fresh(%d) = %v, want %v; the highest is %d", n, got, want, top-1)
		}
		if want && r.IntN(4) > 0 {
			w.mark(n)
			golden[n] = true
			top = max(top, n+1)
		}
	}
	if windowSize < 1024 {
		t.Errorf("the window is %d records wide, want at least 1024", windowSize)
	}
}

// A sink is a channel that goes nowhere. It notes what goes there.
type sink struct {
	inbox
	note func(d []byte)
}

func (s sink) send(b *burst, _ bool) (int, error) {
	if s.note != nil {
		for i := range b.count {
			s.note(b.record(i))
		}
	}
	return b.count, nil
}
func (sink) pathMTU() int   { return 0 }
func (sink) segments() bool { return false }
func (sink) interrupt()     {}
func (sink) close() error   { return nil }
func (sink) release()       {}
func (sink) next() []byte   { return nil }
func (sink) wait() error    { return io.EOF }

func sinkConn(t testing.TB, s *suite, note func([]byte)) *Conn {
	t.Helper()
	k, err := expand(s, make([]byte, 48), make([]byte, 32), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newConn(connParams{
		client: true, out: &outcome{keys: k, next: 1}, channel: sink{note: note}, pool: newBurstPool(), mtu: testMTU,
		log: (&Config{}).logger(), beat: liveness.Config{Load: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNonces has packets and control frames sent from many goroutines at once: no number may be used twice.
func TestNonces(t *testing.T) {
	var mu sync.Mutex
	seen := map[uint64]bool{0: true} // the Finished message
	c := sinkConn(t, suiteByID(0xccab), func(d []byte) {
		r, _, ok := parseRecord(d)
		mu.Lock()
		defer mu.Unlock()
		if !ok || r.epoch != epochData || seen[r.sequence] {
			t.Errorf("record %d was sent twice, or is none", r.sequence)
		}
		seen[r.sequence] = true
	})
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			b := numbered(0, 7, 60)
			for range 50 {
				if i%2 == 0 {
					c.WriteBatch(b)
				} else {
					c.control(wire.Keepalive, nil)
					c.sendProbe(500)
				}
			}
		})
	}
	work.Wait()
	if want := 4*50*7 + 4*50*2 + 1; len(seen) != want {
		t.Errorf("%d numbers were used, want %d", len(seen), want)
	}
}

func TestWriteAllocs(t *testing.T) {
	for _, id := range []uint16{0x00a9, 0x00a8, 0xccab} {
		c := sinkConn(t, suiteByID(id), nil)
		b := numbered(0, 64, testMTU)
		if n := testing.AllocsPerRun(100, func() { c.WriteBatch(b) }); n > 0 && !raceDetector {
			t.Errorf("%s: %v allocations for a batch", c.CipherSuite(), n)
		}
	}
}

func TestAcceptAllocs(t *testing.T) {
	for _, id := range []uint16{0x00a9, 0x00a8, 0xccab} {
		c := sinkConn(t, suiteByID(id), nil)
		seal, open := pair(t, suiteByID(id))
		c.rx = open
		b := packet.NewBatch(1, testMTU)
		plain, rec := make([]byte, testMTU+1), make([]byte, 2000)
		seq := uint64(0)
		n := testing.AllocsPerRun(100, func() {
			r, _, _ := parseRecord(rec[:seal.seal(rec, typeData, seq, plain)])
			seq++
			if !c.accept(r, &b[0]) {
				t.Fatal("not accepted")
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations for a packet", c.CipherSuite(), n)
		}
	}
}

// TestSocketAllocs counts over real sockets, both ways.
func TestSocketAllocs(t *testing.T) {
	accepted := make(chan *Conn, 1)
	g := newGateway(t, &ServerSession{PSK: testPSK(), Accept: func(c *Conn) { accepted <- c }})
	client := mustDialQuiet(t, g, accepted)
	server := <-accepted
	defer server.Close()
	out, in := numbered(0, 32, testMTU), packet.NewBatch(64, testMTU)
	for _, way := range []struct {
		name     string
		from, to *Conn
	}{{"up", client, server}, {"down", server, client}} {
		n := testing.AllocsPerRun(50, func() {
			if _, err := way.from.WriteBatch(out); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < len(out); {
				n, err := way.to.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		})
		if n > 0 && !raceDetector {
			t.Errorf("%s: %v allocations for a batch", way.name, n)
		}
	}
}

// mustDialQuiet dials while nobody but this function reads the end of the gateway, which goes back to accepted.
func mustDialQuiet(t testing.TB, g *gateway, accepted chan *Conn) *Conn {
	t.Helper()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		c := <-accepted
		defer func() { accepted <- c }()
		b := packet.NewBatch(8, testMTU)
		c.beat.Stop()
		for {
			if _, err := c.ReadBatch(b); err != nil {
				return
			}
			if b[0].Len() == 1 {
				return
			}
		}
	}()
	cfg := g.config()
	cfg.Beat = liveness.Config{Load: -1}
	client := mustDial(t, g.addr(), cfg)
	client.beat.Stop()
	mark := packet.NewBatch(1, 1)
	mark[0].SetLen(1)
	send(t, client, mark)
	<-stop
	return client
}
