package tun

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
)

const (
	near4, far4 = "10.99.0.1", "10.99.0.2"
	near6, far6 = "fd99::1", "fd99::2"
)

// open opens a device on a host, and closes it with the test.
func open(tb testing.TB, h *netns.Host, cfg Config) (d *Device) {
	tb.Helper()
	var err error
	h.Do(func() { d, err = Open(cfg) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	return d
}

// up gives the device addresses and switches it on.
func up(h *netns.Host, d *Device, addrs ...string) {
	for _, a := range addrs {
		h.IP("address", "add", a, "dev", d.Name())
	}
	h.IP("link", "set", d.Name(), "up")
}

// A pair is two hosts, each with a device, joined by packet.Copy.
type pair struct {
	a, b       *netns.Host
	devA, devB *Device
}

func newPair(tb testing.TB, cfgA, cfgB Config, batch int, filters ...packet.Filter) *pair {
	tb.Helper()
	lab := netns.New(tb)
	p := &pair{a: lab.Host("a"), b: lab.Host("b")}
	p.devA, p.devB = open(tb, p.a, cfgA), open(tb, p.b, cfgB)
	up(p.a, p.devA, near4+"/24", near6+"/64")
	up(p.b, p.devB, far4+"/24", far6+"/64")
	var copies sync.WaitGroup
	copies.Go(func() { packet.Copy(p.devB, p.devA, packet.MaxSize, batch, filters...) })
	copies.Go(func() { packet.Copy(p.devA, p.devB, packet.MaxSize, batch, filters...) })
	tb.Cleanup(func() {
		p.devA.Close()
		p.devB.Close()
		copies.Wait()
	})
	return p
}

// transfer sends n bytes over TCP from a to b and back, and checks that they are the same.
func (p *pair) transfer(tb testing.TB, addr string, n int) {
	tb.Helper()
	l, err := p.b.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 7).String())
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	c, err := p.a.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var echo sync.WaitGroup
	defer echo.Wait()
	echo.Go(func() {
		s, err := l.Accept()
		if err != nil {
			tb.Error(err)
			return
		}
		defer s.Close()
		io.Copy(s, s)
	})
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	want := sha256.Sum256(data)
	echo.Go(func() {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
	})
	h := sha256.New()
	if k, err := io.Copy(h, c); err != nil || k != int64(n) || !bytes.Equal(h.Sum(nil), want[:]) {
		tb.Errorf("%s: %d bytes came back of %d, %v", addr, k, n, err)
	}
}

func TestTCP(t *testing.T) {
	for _, tt := range []struct {
		name       string
		cfgA, cfgB Config
		batch      int
	}{
		{"offload", Config{MTU: 1400}, Config{MTU: 1400}, 128},
		{"one at a time", Config{MTU: 1400}, Config{MTU: 1400}, 1},
		{"no offload", Config{MTU: 1400, NoOffload: true}, Config{MTU: 1400, NoOffload: true}, 128},
		{"no offload at one end", Config{MTU: 1300, NoOffload: true}, Config{MTU: 1300}, 16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, tt.cfgA, tt.cfgB, tt.batch)
			for _, addr := range []string{far4, far6} {
				p.transfer(t, addr, 8<<20)
			}
			t.Logf("%+v", p.devA.Stats())
		})
	}
}
