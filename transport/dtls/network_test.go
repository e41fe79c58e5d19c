package dtls

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	pion "github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/heartbeat"
	"culvert.example/vpn/transport/liveness"
)

func modes() map[string]func() *ServerSession {
	return map[string]func() *ServerSession{
		"psk":    func() *ServerSession { return &ServerSession{PSK: testPSK()} },
		"resume": func() *ServerSession { return &ServerSession{Resume: testResume("ECDHE-RSA-AES256-GCM-SHA384", true)} },
	}
}

// TestLostFinal loses the datagrams that end the handshake, each way, so that the peer has to ask for them again.
func TestLostFinal(t *testing.T) {
	for name, session := range modes() {
		for _, way := range []string{"up", "down"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, session())
				r := newRelay(t, g.addr())
				if way == "up" {
					r.set(dropFirst(1, hasFinished), nil)
				} else {
					r.set(nil, dropFirst(1, hasFinished))
				}
				client := mustDial(t, r.addr(), g.config())
				exchange(t, client, g.take(t))
			})
		}
	}
}

// TestEarlyData has data overtake the end of the handshake.
func TestEarlyData(t *testing.T) {
	for name, session := range modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, session())
			r := newRelay(t, g.addr())
			// The last flight of the handshake is overtaken by what comes after it.
			var mu sync.Mutex
			var held [][]byte
			late := func(d []byte) [][]byte {
				mu.Lock()
				defer mu.Unlock()
				if hasFinished(d) && held == nil {
					held = [][]byte{d}
					return nil
				}
				if isData(d) && len(held) == 1 {
					out := [][]byte{d, held[0]}
					held = append(held, nil)
					return out
				}
				return pass(d)
			}
			if name == "psk" {
				r.set(nil, late)
			} else {
				r.set(late, nil)
			}
			client := mustDial(t, r.addr(), g.config())
			exchange(t, client, g.take(t))
		})
	}
}

func TestRefusesFullHandshake(t *testing.T) {
	t.Parallel()
	cert, err := selfsign.GenerateSelfSigned()
	if err != nil {
		t.Fatal(err)
	}
	l, err := pion.ListenWithOptions("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, pion.WithCertificates(cert),
		pion.WithCipherSuites(pion.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), pion.WithInsecureSkipVerifyHello(true))
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				c.(*pion.Conn).HandshakeContext(ctx)
				c.Close()
			})
		}
	})
	defer work.Wait()
	defer l.Close()
	cfg := Config{MTU: testMTU, Resume: testResume("ECDHE-ECDSA-AES256-GCM-SHA384", true), HandshakeTimeout: 3 * time.Second}
	_, err = dialTo(t, l.Addr().(*net.UDPAddr).AddrPort(), cfg)
	if !errors.Is(err, ErrNotResumed) {
		t.Fatalf("Dial = %v, want ErrNotResumed", err)
	}
}

func TestWrongSecret(t *testing.T) {
	for name, session := range modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, session())
			cfg := g.config()
			cfg.HandshakeTimeout = time.Second
			if cfg.PSK != nil {
				cfg.PSK.Key = bytes.Repeat([]byte{1}, 32)
			} else {
				cfg.Resume.MasterSecret[0] ^= 1
			}
			if _, err := dialTo(t, g.addr(), cfg); err == nil {
				t.Fatal("Dial succeeded with a wrong secret")
			}
			select {
			case <-g.accepted:
				t.Fatal("the listener accepted a client with a wrong secret")
			default:
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	for _, r := range []*Resume{testResume("AES128-SHA", false), testResume("ECDHE-RSA-AES256-SHA", true), testResume("", true)} {
		a, b := net.Pipe()
		defer b.Close()
		if _, err := Dial(context.Background(), a, Config{MTU: testMTU, Resume: r}); !errors.Is(err, transport.ErrUnsupported) {
			t.Errorf("Dial with %q = %v, want ErrUnsupported", r.CipherSuite, err)
		}
		if _, err := a.Write(nil); err == nil {
			t.Error("Dial failed and left the socket open")
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	pc.Close()
	start := time.Now()
	psk := testPSK()
	psk.AppID = []byte{1}
	if _, err := dialTo(t, addr, Config{MTU: testMTU, PSK: psk}); err == nil {
		t.Fatal("Dial succeeded with nobody")
	}
	if d := time.Since(start); d > 8*time.Second { // the handshake gives up after twelve
		t.Fatalf("Dial took %v to notice that the port is closed", d)
	}
}

func TestReplayAndDuplicates(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	r.set(func(d []byte) [][]byte { return [][]byte{d, d, d} }, nil)
	b := numbered(0, 50, 300)
	send(t, client, b)
	sameBatch(t, server.pump.wait(t, 50), b)
	for end := time.Now().Add(20 * time.Second); server.Stats().Replayed < 100; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d replays counted, want 100", server.Stats().Replayed)
		}
	}
	sameBatch(t, server.pump.wait(t, 50), b)
}

// TestWriteBatchLeavesPackets writes packets that are needed once more, up to one that is too large, and until the channel has ended.
func TestWriteBatchLeavesPackets(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	client := mustDial(t, g.addr(), g.config())
	server := g.take(t)
	b, want := numbered(0, 50, 300), numbered(0, 50, 300)
	b[40], want[40] = numbered(40, 1, testMTU+1)[0], numbered(40, 1, testMTU+1)[0]
	same := func(when string) {
		t.Helper()
		for i := range b {
			if !bytes.Equal(b[i].Bytes(), want[i].Bytes()) {
				t.Fatalf("packet %d has changed %s", i, when)
			}
		}
	}
	if n, err := client.WriteBatch(b); n != 40 || !errors.Is(err, packet.ErrTooBig) {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	same("when one was too large")
	server.pump.wait(t, 40)
	client.Close()
	if n, err := client.WriteBatch(b[:40]); n != 0 || err == nil {
		t.Fatalf("WriteBatch after Close = %d, %v", n, err)
	}
	same("after Close")
}

func TestReordered(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	var mu sync.Mutex
	var held [][]byte
	r.set(func(d []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if len(d) != 300+38 {
			return pass(d) // not one of the packets
		}
		if held = append(held, d); len(held) < 40 {
			return nil
		}
		out := held
		held = nil
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
		return out
	}, nil)
	b := numbered(0, 40, 300)
	send(t, client, b)
	got := server.pump.wait(t, 40)
	for i := range b {
		if !bytes.Equal(got[i], b[len(b)-1-i].Bytes()) {
			t.Fatalf("packet %d is not the one that was sent %d before the last", i, i)
		}
	}
}

func TestForged(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	// Before each genuine datagram go damaged ones, garbage, an alert in cleartext, and a Finished that is not.
	r.set(func(d []byte) [][]byte {
		var out [][]byte
		for _, at := range []int{0, 1, 3, 5, 10, 11, 12, 15, len(d) / 2, len(d) - 1} {
			bad := bytes.Clone(d)
			bad[at] ^= 0x40
			out = append(out, bad)
		}
		future := bytes.Clone(d)
		future[5], future[6] = 0x7f, 0xff // a number far ahead must not move the window
		junk := make([]byte, 200)
		rand.Read(junk)
		fatal := []byte{typeAlert, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 2, 40}
		finished := append([]byte{typeHandshake}, d[1:]...)
		return append(out, future, junk, fatal, finished, d[:len(d)-1], d[:13], nil, d)
	}, nil)
	b := numbered(0, 40, 300)
	send(t, client, b)
	sameBatch(t, server.pump.wait(t, 40), b)
	if s := server.Stats(); s.Forged == 0 || s.Malformed == 0 {
		t.Fatalf("Stats = %+v, want forged and malformed records", s)
	}
}

func TestMTUHole(t *testing.T) {
	const overhead = recordHeader + 8 + 16 + 1
	for name, session := range modes() {
		for _, limit := range []int{650, 1000, 1300, testMTU + overhead - 1} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, session())
				r := newRelay(t, g.addr())
				r.set(hole(limit), hole(limit))
				start := time.Now()
				client := mustDial(t, r.addr(), g.config())
				if got, want := client.MTU(), limit-overhead; got > want || got < want-nearEnough {
					t.Fatalf("MTU is %d, want %d", got, want)
				}
				if d := time.Since(start); d > 8*time.Second {
					t.Fatalf("the search took %v", d)
				}
				server := g.take(t)
				exchange(t, client, server)
				if _, err := client.WriteBatch(numbered(0, 1, client.MTU()+1)); !errors.Is(err, packet.ErrTooBig) {
					t.Fatalf("WriteBatch of more than the MTU = %v, want ErrTooBig", err)
				}
			})
		}
	}
}

func TestMTUHoleAppears(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK(), Beat: liveness.Config{DPD: time.Minute}})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	cp := exchange(t, client, server)
	if client.MTU() != testMTU {
		t.Fatalf("MTU is %d, want %d", client.MTU(), testMTU)
	}
	r.set(hole(900), hole(900))
	// Data that is not answered makes the Conn look. Packets of the old size are lost until it has found out.
	deadline := time.Now().Add(20 * time.Second)
	for client.MTU() > 900 {
		if time.Now().After(deadline) {
			t.Fatalf("MTU is still %d", client.MTU())
		}
		client.WriteBatch(numbered(1000, 1, min(testMTU, client.MTU())))
		time.Sleep(20 * time.Millisecond)
	}
	if client.Err() != nil {
		t.Fatalf("the Conn ended: %v", client.Err())
	}
	have := len(cp.wait(t, 0))
	send(t, server.Conn, numbered(0, 1, 100))
	cp.wait(t, have+1)
}

// TestMTUHoleUnderTraffic has each end send large packets while small ones come from the other one all the time, as when a
// download goes on beside: the peer is never silent, so nothing but the size of what is lost tells that there is a hole.
func TestMTUHoleUnderTraffic(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK(), Beat: liveness.Config{DPD: time.Minute, Load: -1}})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	exchange(t, client, server)
	for _, c := range []*Conn{client, server.Conn} {
		if c.MTU() != testMTU {
			t.Fatalf("MTU is %d, want %d", c.MTU(), testMTU)
		}
	}
	r.set(hole(900), hole(900))
	start := time.Now()
	for client.MTU() > 900 || server.MTU() > 900 {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the MTU is still %d at the client, %d at the gateway", client.MTU(), server.MTU())
		}
		for _, c := range []*Conn{client, server.Conn} {
			c.WriteBatch(numbered(0, 1, 100))
			c.WriteBatch(numbered(1, 1, c.MTU()))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if client.MTU() < 850 || server.MTU() < 850 {
		t.Errorf("the MTU is %d at the client, %d at the gateway", client.MTU(), server.MTU())
	}
}

func TestPathTooNarrow(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	r.set(hole(1200), hole(1200))
	cfg := g.config()
	cfg.IPv6 = true
	if _, err := dialTo(t, r.addr(), cfg); !errors.Is(err, ErrPathTooNarrow) {
		t.Fatalf("Dial = %v, want ErrPathTooNarrow", err)
	}
}

// TestBriefAnswers has a peer that answers each request with one byte, as openconnect and others do.
func TestBriefAnswers(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{maxDatagram, 1000} {
		l := briefPeer(t)
		r := newRelay(t, l)
		r.set(hole(limit), nil)
		psk := testPSK()
		psk.AppID = []byte{7}
		psk.CipherSuites = []string{"PSK-AES128-GCM-SHA256"}
		client := mustDial(t, r.addr(), Config{MTU: testMTU, PSK: psk})
		want := min(testMTU, limit-38)
		if got := client.MTU(); got > want || got < want-nearEnough || limit == maxDatagram && got != testMTU {
			t.Fatalf("MTU is %d, want %d", got, want)
		}
	}
}

// briefPeer serves DTLS with pion, and answers requests with one byte.
func briefPeer(t *testing.T) netip.AddrPort {
	l, err := pion.ListenWithOptions("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
		pion.WithPSK(func([]byte) ([]byte, error) { return testPSK().Key, nil }),
		pion.WithCipherSuites(pion.TLS_PSK_WITH_AES_128_GCM_SHA256))
	if err != nil {
		t.Fatal(err)
	}
	var accepting, work sync.WaitGroup
	var conns []net.Conn
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			work.Go(func() {
				b := make([]byte, 4000)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if n > 0 && b[0] == 3 {
						c.Write([]byte{4})
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		for _, c := range conns {
			c.Close()
		}
		work.Wait()
	})
	return l.Addr().(*net.UDPAddr).AddrPort()
}

func TestRoaming(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	cp := exchange(t, client, server)
	if at := client.RemoteAddr(); at.String() != r.addr().String() {
		t.Errorf("the client's RemoteAddr() = %v, want %v", at, r.addr())
	}
	var mu sync.Mutex
	var last []byte
	r.set(func(d []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		last = d
		return pass(d)
	}, nil)
	for round := range 3 {
		up, down := len(server.pump.wait(t, 0)), len(cp.wait(t, 0))
		r.rebind()
		send(t, client, numbered(round, 1, 500))
		server.pump.wait(t, up+1)
		send(t, server.Conn, numbered(round, 5, 500))
		cp.wait(t, down+5)
		r.mu.Lock()
		for _, back := range r.backs {
			if at := server.RemoteAddr(); at.String() != back.LocalAddr().String() {
				t.Errorf("RemoteAddr() = %v, want %v", at, back.LocalAddr())
			}
		}
		r.mu.Unlock()
		time.Sleep(movePace)
	}
	// A copy of a datagram from yet another address is genuine but not new: answers go where they went.
	mu.Lock()
	copied := last
	mu.Unlock()
	thief, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(g.addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	for range 5 {
		thief.Write(copied)
	}
	time.Sleep(50 * time.Millisecond)
	down := len(cp.wait(t, 0))
	send(t, server.Conn, numbered(0, 1, 500))
	cp.wait(t, down+1)
	thief.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := thief.Read(make([]byte, 2000)); err == nil {
		t.Fatalf("the gateway sent %d bytes to who copied a datagram", n)
	}
}

// TestRedial opens a second channel of the same session, which takes the place of the first.
func TestRedial(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	first := mustDial(t, g.addr(), g.config())
	s1 := g.take(t)
	exchange(t, first, s1)
	second := mustDial(t, g.addr(), g.config())
	s2 := g.take(t)
	s1.pump.wantEnd(t, ErrReplaced)
	s1.Close()
	exchange(t, second, s2)
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	hello := recordedHello(t, g)
	s, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(g.addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	unknown := bytes.Clone(hello)
	copy(unknown[60:], "nobody knows this identifier....")
	zero := bytes.Clone(hello)
	clear(zero[27:59])
	short := hello[:80]
	junk := make([]byte, 100)
	rand.Read(junk)
	data := append([]byte{typeData, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 87}, junk[:87]...)
	for range 100 {
		for _, d := range [][]byte{unknown, zero, short, junk, data, {}} {
			s.Write(d)
		}
	}
	s.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := s.Read(make([]byte, 2000)); err == nil {
		t.Fatalf("the listener answered a stranger with %d bytes", n)
	}
	g.mu.Lock()
	if len(g.flows) > 0 || len(g.clients) > 0 || len(g.ports) > 0 {
		t.Errorf("the listener remembers strangers: %d flows, %d clients, %d ports", len(g.flows), len(g.clients), len(g.ports))
	}
	g.mu.Unlock()
	exchange(t, mustDial(t, g.addr(), g.config()), g.take(t))
}

// TestHelloFlood sends the ClientHello of a session over and over from everywhere. The session comes up all the same.
func TestHelloFlood(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	hello := recordedHello(t, g)
	for range 50 {
		s, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(g.addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.Write(hello)
	}
	time.Sleep(50 * time.Millisecond)
	g.mu.Lock()
	n := g.attempts
	g.mu.Unlock()
	if n > sessionAttempts {
		t.Fatalf("%d handshakes of one session under way, want at most %d", n, sessionAttempts)
	}
	exchange(t, mustDial(t, g.addr(), g.config()), g.take(t))
}

// recordedHello returns the ClientHello of a client of g.
func recordedHello(t testing.TB, g *gateway) []byte {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	sock, err := OpenSocket(ctx, nil, pc.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	work.Go(func() { Dial(ctx, sock, g.config()) })
	b := make([]byte, 2000)
	pc.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := pc.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func TestDead(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	r := newRelay(t, g.addr())
	client := mustDial(t, r.addr(), g.config())
	server := g.take(t)
	cp := exchange(t, client, server)
	nothing := func([]byte) [][]byte { return nil }
	r.set(nothing, nothing)
	start := time.Now()
	client.Check()
	cp.wantEnd(t, heartbeat.ErrDead)
	if d := time.Since(start); d > 10*time.Second {
		t.Fatalf("it took %v to notice", d)
	}
	if _, err := client.WriteBatch(numbered(0, 1, 100)); !errors.Is(err, heartbeat.ErrDead) {
		t.Fatalf("WriteBatch = %v, want ErrDead", err)
	}
}

func TestRekey(t *testing.T) {
	t.Parallel()
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	cfg := g.config()
	cfg.Beat.Rekey = time.Second
	client := mustDial(t, g.addr(), cfg)
	server := g.take(t)
	cp := pumpFrom(client)
	cp.wantEnd(t, ErrRekey)
	client.Close()
	server.pump.wantEnd(t, ErrPeerClosed)
}

func TestRekeyByCount(t *testing.T) {
	for _, way := range []string{"sent", "received"} {
		g := newGateway(t, &ServerSession{PSK: testPSK()})
		client := mustDial(t, g.addr(), g.config())
		server := g.take(t)
		cp := exchange(t, client, server)
		if way == "sent" {
			client.seq.Store(rekeySequence)
			client.WriteBatch(numbered(0, 1, 100))
		} else {
			server.seq.Store(rekeySequence)
			send(t, server.Conn, numbered(0, 1, 100))
		}
		cp.wantEnd(t, ErrRekey)
	}
}

func TestDialCanceled(t *testing.T) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	psk := testPSK()
	psk.AppID = []byte{1}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	sock, err := OpenSocket(ctx, nil, pc.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := Dial(ctx, sock, Config{MTU: testMTU, PSK: psk}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Dial = %v, want the deadline", err)
	}
	if d := time.Since(start); d > 8*time.Second { // the handshake gives up after twelve
		t.Fatalf("Dial went on for %v after its context had ended", d)
	}
}

// TestStreamless runs a channel over a net.Conn that is no UDP socket.
func TestStreamless(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	sock, err := OpenSocket(t.Context(), nil, g.addr())
	if err != nil {
		t.Fatal(err)
	}
	client, err := Dial(t.Context(), struct{ net.Conn }{sock}, g.config())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	exchange(t, client, g.take(t))
}

// TestIPv6 serves IPv4 and IPv6 from one socket that is bound to no address, as gateways do.
func TestIPv6(t *testing.T) {
	pc, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	g := serve(t, pc, &ServerSession{PSK: testPSK()})
	for _, addr := range []string{"127.0.0.2", "::1"} {
		sock, err := OpenSocket(t.Context(), nil, netip.AddrPortFrom(netip.MustParseAddr(addr), port))
		if addr == "::1" && err != nil {
			t.Skip("this machine has no IPv6:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		client, err := Dial(t.Context(), sock, g.config())
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		exchange(t, client, g.take(t))
		client.Close()
	}
}
