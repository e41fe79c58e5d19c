package flow

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/stack"
)

// TestInward has hosts behind the tunnel reach programs of the machine.
func TestInward(t *testing.T) {
	checkLeaks(t)
	var mu sync.Mutex
	asked := make(map[uint16]Flow)
	w := newWorld(t, Config{
		Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[f.Destination.Port()] = *f
			return Verdict{Allow: f.Destination.Port() != 22, Way: Tunnel}, nil
		}),
		Owners: owners(func(f owner.Flow) owner.Owner { return owner.Owner{UID: int(f.Local.Port())} }),
	})
	near := newStack(t, stack.Config{MTU: 1400, AcceptTCP: w.in.InwardTCP, AcceptUDP: w.in.InwardUDP, UDPIdle: 300 * time.Millisecond})
	host := newStack(t, stack.Config{Addresses: prefixes("198.51.100.7", "2001:db8::7"), MTU: 1400})
	join(t, near.Link(), host.Link())
	t.Cleanup(func() { near.Close(); host.Close() })

	l, err := w.programs.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr().String()
			io.Copy(c, c)
			c.Close()
		}
	}()
	for _, to := range []string{"10.0.0.5:80", "[fd00::5]:80"} {
		c, err := host.DialContext(soon(t), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if got := w.ask(c, "hello"); got != "hello" {
			t.Errorf("%q", got)
		}
		if got := <-from; got != c.LocalAddr().String() {
			t.Errorf("the program sees %s instead of %s", got, c.LocalAddr())
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
		c.Close()
	}
	for _, to := range []string{"10.0.0.5:22", "10.0.0.5:81"} { // not allowed, and nobody there
		if _, err := host.DialContext(soon(t), "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", to, err)
		}
	}
	p, err := w.programs.ListenPacket("udp", "10.0.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	go func() {
		b := make([]byte, 2000)
		for {
			n, a, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			p.WriteTo(append(b[:n:n], a.String()...), a)
		}
	}()
	c, err := host.DialContext(soon(t), "udp", "10.0.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write([]byte("from "))
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "from "+c.LocalAddr().String() {
		t.Errorf("%q, %v", b[:n], err)
	}
	u, err := host.DialContext(soon(t), "udp", "10.0.0.5:81")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(5 * time.Second))
	u.Write([]byte("?"))
	if _, err := u.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a UDP port where nobody is: %v", err)
	}
	mu.Lock()
	f := asked[80]
	mu.Unlock()
	if !f.Inward || !f.Final || f.Owner.UID != 80 || f.Other().Addr() != netip.MustParseAddr("198.51.100.7") {
		t.Errorf("asked about %+v", f)
	}
	eventually(t, "all flows end", func() bool { return w.in.Stats().Flows == 0 })
}
