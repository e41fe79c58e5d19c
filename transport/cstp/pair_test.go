package cstp

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
)

// quiet is a Config without any timers.
var quiet = Config{MTU: 1400, Beat: liveness.Config{Load: -1}}

// configs returns TLS configurations of a gateway with the name gw.example and of a client that trusts it.
var configs = sync.OnceValues(func() (server, client *tls.Config) {
	c := issue.New(x509.Certificate{DNSNames: []string{"gw.example"}}, nil)
	return &tls.Config{Certificates: []tls.Certificate{c.TLS()}}, &tls.Config{RootCAs: c.Pool(), ServerName: "gw.example"}
})

// A tapped connection remembers what was written to it, one entry for each Write.
type tapped struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
	off    bool
}

func (c *tapped) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.off {
		c.writes = append(c.writes, bytes.Clone(p))
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *tapped) take() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writes
	c.writes = nil
	return w
}

// records returns the lengths of the TLS records in p, and fails if they do not fill it.
func records(t testing.TB, p []byte) (lengths []int) {
	t.Helper()
	for len(p) > 0 {
		if len(p) < 5 || len(p) < 5+int(p[3])<<8+int(p[4]) {
			t.Fatalf("%d bytes are no whole record", len(p))
		}
		n := int(p[3])<<8 + int(p[4])
		lengths = append(lengths, n)
		p = p[5+n:]
	}
	return lengths
}

// loopback returns the two ends of a TCP connection.
func loopback(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// links returns the two ends of a TLS connection over loopback after its handshake, with taps below them.
func links(t testing.TB, version uint16) (client, server *Link, clientTap, serverTap *tapped) {
	t.Helper()
	a, b := loopback(t)
	clientTap, serverTap = &tapped{Conn: a}, &tapped{Conn: b}
	scfg, ccfg := configs()
	ccfg = ccfg.Clone()
	ccfg.MaxVersion = version
	client, server = Client(clientTap, ccfg), Server(serverTap, scfg)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	clientTap.take()
	serverTap.take()
	return client, server, clientTap, serverTap
}

// conns is links with a Conn at both ends, each closed at the end of the test.
func conns(t testing.TB, ccfg, scfg Config) (client, server *Conn, clientTap, serverTap *tapped) {
	t.Helper()
	cl, sl, clientTap, serverTap := links(t, 0)
	scfg.Server = true
	client, server = NewConn(cl, nil, ccfg), NewConn(sl, nil, scfg)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server, clientTap, serverTap
}

// batch returns packets of the given sizes with recognisable content.
func batch(sizes ...int) packet.Batch {
	b := make(packet.Batch, len(sizes))
	for i, n := range sizes {
		b[i] = packet.NewBuf(n)
		b[i].SetLen(n)
		for j := range b[i].Bytes() {
			b[i].Bytes()[j] = byte(i + j*7)
		}
	}
	return b
}

// readN reads n packets.
func readN(t testing.TB, r packet.Reader, n int) [][]byte {
	t.Helper()
	var out [][]byte
	b := packet.NewBatch(16, 2000)
	for len(out) < n {
		k, err := r.ReadBatch(b[:min(len(b), n-len(out))])
		if err != nil {
			t.Fatalf("after %d packets: %v", len(out), err)
		}
		for i := range b[:k] {
			out = append(out, bytes.Clone(b[i].Bytes()))
		}
	}
	return out
}

func same(t testing.TB, got [][]byte, want packet.Batch) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i].Bytes()) {
			t.Errorf("packet %d: %d bytes, want %d, or other content", i, len(got[i]), want[i].Len())
		}
	}
}

// within fails if f takes longer than d.
func within(t testing.TB, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s took more than %v", what, d)
	}
}
