package dtls

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
)

// A gateway is a Listener with one session, and what came of it.
type gateway struct {
	*Listener
	session  *ServerSession
	id       []byte
	accepted chan served
}

// served is a Conn of the gateway that is being read, as it must be from the beginning.
type served struct {
	*Conn
	pump *pump
}

const testMTU = 1400

func newGateway(t testing.TB, s *ServerSession) *gateway {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, pc, s)
}

func serve(t testing.TB, pc *net.UDPConn, s *ServerSession) *gateway {
	t.Helper()
	g := &gateway{session: s, id: bytes.Repeat([]byte{7}, 32), accepted: make(chan served, 16)}
	if s.MTU == 0 {
		s.MTU = testMTU
	}
	if s.Accept == nil {
		s.Accept = func(c *Conn) { g.accepted <- served{c, pumpFrom(c)} }
	}
	var err error
	g.Listener, err = Listen(pc, ListenerConfig{Lookup: func(id []byte) *ServerSession {
		if !bytes.Equal(id, g.id) {
			return nil
		}
		return s
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		for {
			select {
			case c := <-g.accepted:
				c.Close()
				continue
			default:
			}
			return
		}
	})
	return g
}

// take returns the Conn of the next handshake.
func (g *gateway) take(t testing.TB) served {
	t.Helper()
	select {
	case c := <-g.accepted:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("the listener accepted nothing")
		return served{}
	}
}

func (g *gateway) addr() netip.AddrPort { return g.Addr().(*net.UDPAddr).AddrPort() }

func (g *gateway) config() Config {
	cfg := Config{MTU: testMTU, Beat: liveness.Config{DPD: 30 * time.Second}}
	if g.session.PSK != nil {
		psk := *g.session.PSK
		psk.AppID = g.id
		cfg.PSK = &psk
	} else {
		r := *g.session.Resume
		cfg.Resume = &r
	}
	return cfg
}

func dialTo(t testing.TB, addr netip.AddrPort, cfg Config) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	sock, err := OpenSocket(ctx, nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(ctx, sock, cfg)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func mustDial(t testing.TB, addr netip.AddrPort, cfg Config) *Conn {
	t.Helper()
	c, err := dialTo(t, addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testPSK() *PSK { return &PSK{Key: bytes.Repeat([]byte{0x5a}, 32)} }

func testResume(name string, dtls12 bool) *Resume {
	r := &Resume{SessionID: bytes.Repeat([]byte{7}, 32), CipherSuite: name, DTLS12: dtls12}
	for i := range r.MasterSecret {
		r.MasterSecret[i] = byte(i)
	}
	return r
}

// A pump reads a Conn all the time, as its owner must, and keeps what it reads.
type pump struct {
	mu   sync.Mutex
	got  [][]byte
	err  error
	more chan struct{}
	end  chan struct{}
}

func pumpFrom(c *Conn) *pump {
	p := &pump{more: make(chan struct{}, 1), end: make(chan struct{})}
	go func() {
		defer close(p.end)
		b := packet.NewBatch(32, 2000)
		for {
			n, err := c.ReadBatch(b)
			p.mu.Lock()
			for i := range b[:n] {
				p.got = append(p.got, bytes.Clone(b[i].Bytes()))
			}
			p.err = err
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

// wait returns the packets when there are n of them.
func (p *pump) wait(t testing.TB, n int) [][]byte {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		if len(p.got) >= n {
			defer p.mu.Unlock()
			return p.got
		}
		have, err := len(p.got), p.err
		p.mu.Unlock()
		if err != nil {
			t.Fatalf("reading: %v after %d of %d packets", err, have, n)
		}
		select {
		case <-p.more:
		case <-deadline:
			t.Fatalf("only %d of %d packets came", have, n)
		}
	}
}

// wantEnd waits for the end of reading, with an error that matches want.
func (p *pump) wantEnd(t testing.TB, want error) {
	t.Helper()
	select {
	case <-p.end:
	case <-time.After(20 * time.Second):
		t.Fatalf("reading goes on, want %v", want)
	}
	if !errors.Is(p.err, want) {
		t.Fatalf("reading ended with %v, want %v", p.err, want)
	}
}

// numbered returns n packets of size bytes that begin with their number.
func numbered(first, n, size int) packet.Batch {
	b := packet.NewBatch(n, size)
	for i := range b {
		b[i].SetLen(size)
		binary.BigEndian.PutUint32(b[i].Bytes(), uint32(first+i))
		for j := 4; j < size; j++ {
			b[i].Bytes()[j] = byte(j + i)
		}
	}
	return b
}

func send(t testing.TB, c *Conn, b packet.Batch) {
	t.Helper()
	if n, err := c.WriteBatch(b); n != len(b) || err != nil {
		t.Fatalf("WriteBatch = %d, %v, want %d", n, err, len(b))
	}
}

func sameBatch(t testing.TB, got [][]byte, want packet.Batch) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets came, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i].Bytes()) {
			t.Fatalf("packet %d came changed or in another order", i)
		}
	}
}

// exchange sends packets of several sizes both ways.
func exchange(t *testing.T, client *Conn, server served) (cp *pump) {
	t.Helper()
	cp = pumpFrom(client)
	var mixed packet.Batch
	mixed = append(mixed, numbered(0, 20, client.MTU())...)
	mixed = append(mixed, numbered(20, 3, 40)...)
	mixed = append(mixed, numbered(23, 5, min(1200, client.MTU()))...)
	mixed = append(mixed, numbered(28, 1, 41)...)
	before := make([][]byte, len(mixed))
	for i := range mixed {
		before[i] = bytes.Clone(mixed[i].Bytes())
	}
	send(t, client, mixed)
	for i := range mixed {
		if !bytes.Equal(before[i], mixed[i].Bytes()) {
			t.Fatalf("WriteBatch changed packet %d", i)
		}
	}
	sameBatch(t, server.pump.wait(t, len(mixed)), mixed)
	send(t, server.Conn, mixed)
	sameBatch(t, cp.wait(t, len(mixed)), mixed)
	return cp
}

func TestPSK(t *testing.T) {
	for _, s := range suites() {
		if !s.psk {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			psk := testPSK()
			g := newGateway(t, &ServerSession{PSK: psk})
			cfg := g.config()
			cfg.PSK.CipherSuites = []string{s.name}
			client := mustDial(t, g.addr(), cfg)
			server := g.take(t)
			if client.CipherSuite() != s.name || server.CipherSuite() != s.name {
				t.Fatalf("cipher suites %s and %s, want %s", client.CipherSuite(), server.CipherSuite(), s.name)
			}
			if client.MTU() != testMTU {
				t.Fatalf("MTU is %d, want %d", client.MTU(), testMTU)
			}
			cp := exchange(t, client, server)
			client.Close()
			cp.wantEnd(t, net.ErrClosed)
			server.pump.wantEnd(t, ErrPeerClosed)
		})
	}
}

func TestPSKPrefersAES256(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	if got, want := mustDial(t, g.addr(), g.config()).CipherSuite(), "PSK-AES256-GCM-SHA384"; got != want {
		t.Fatalf("cipher suite %s, want %s", got, want)
	}
}

func TestResume(t *testing.T) {
	for _, s := range suites() {
		if s.psk {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, &ServerSession{Resume: testResume(s.name, true)})
			client := mustDial(t, g.addr(), g.config())
			server := g.take(t)
			cp := exchange(t, client, server)
			server.Close()
			server.pump.wantEnd(t, net.ErrClosed)
			cp.wantEnd(t, ErrPeerClosed)
		})
	}
	for _, name := range []string{"OC-DTLS1_2-AES256-GCM", "OC-DTLS1_2-AES128-GCM"} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, &ServerSession{Resume: testResume(name, false)})
			client := mustDial(t, g.addr(), g.config())
			exchange(t, client, g.take(t))
		})
	}
}
