package flow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
)

// What the hosts of the outside world do, by port.
const (
	portEcho    = 7    // says what it hears
	portGreet   = 25   // speaks first, then says what it hears
	portTLS     = 443  // TLS or QUIC, says the name it was asked for
	portDiscard = 9    // says nothing, and counts
	portReset   = 1001 // resets the connection after the first byte
	portRefused = 1002
	portHost    = 1003 // the host does not answer, says a router
	portNet     = 1004 // there is no way to the network, says a router
	portSilent  = 1005
	portLate    = 1006 // says all when it has heard all
)

// A world is a machine whose flows are intercepted, and what is outside of it, once through the tunnel and once directly.
type world struct {
	tb             testing.TB
	programs       *stack.Stack // where the programs of the machine are
	in             *Interceptor
	tunnel, direct *outside

	mu     sync.Mutex
	failed []string
}

// An outside is everything that can be reached on one way.
type outside struct {
	name  string
	near  *stack.Stack // where the interceptor dials
	far   *stack.Stack // where the hosts are
	mu    sync.Mutex
	heard []string // what hosts were asked for
}

func prefixes(addrs ...string) (p []netip.Prefix) {
	for _, a := range addrs {
		a := netip.MustParseAddr(a)
		p = append(p, netip.PrefixFrom(a, a.BitLen()))
	}
	return p
}

func newStack(tb testing.TB, cfg stack.Config) *stack.Stack {
	tb.Helper()
	s, err := stack.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// join carries packets between a and b until both are closed.
func join(tb testing.TB, a, b packet.Conn) {
	var pumps sync.WaitGroup
	pumps.Go(func() { packet.Copy(b, a, 2048, 128) })
	pumps.Go(func() { packet.Copy(a, b, 2048, 128) })
	tb.Cleanup(func() {
		a.Close()
		b.Close()
		pumps.Wait()
	})
}

// newWorld returns a world with an interceptor of that configuration, to which device and dial functions are added.
func newWorld(tb testing.TB, cfg Config) *world {
	tb.Helper()
	w := openWorld(tb)
	a, b := packet.Pipe(1400, 256)
	join(tb, w.programs.Link(), a)
	w.intercept(cfg, b)
	return w
}

// openWorld returns a world without an interceptor.
func openWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb}
	w.tunnel, w.direct = newOutside(tb, "tunnel", "172.16.0.2", "fd16::2"), newOutside(tb, "direct", "192.0.2.2", "2001:db8:2::2")
	w.programs = newStack(tb, stack.Config{Addresses: prefixes("10.0.0.5", "fd00::5"), MTU: 1400})
	tb.Cleanup(func() { w.programs.Close() })
	return w
}

func (w *world) config(cfg Config) Config {
	cfg.Tunnel, cfg.Direct = w.tunnel.near.DialContext, w.direct.near.DialContext
	if cfg.Failed == nil {
		cfg.Failed = func(p health.Part, why health.Reason, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failed = append(w.failed, fmt.Sprintf("%v: %v: %v", p, why, err))
		}
	}
	return cfg
}

func (w *world) intercept(cfg Config, dev packet.Conn) {
	w.tb.Helper()
	cfg = w.config(cfg)
	cfg.Device = dev
	var err error
	if w.in, err = New(cfg); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { w.in.Close() })
}

// failures returns the failures that were reported.
func (w *world) failures() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.failed...)
}

func serverTLS() *tls.Config {
	cert := issue.New(x509.Certificate{DNSNames: []string{"example"}}, nil).TLS()
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"test"}}
}

func clientTLS(name string) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"test"}}
}

func newOutside(tb testing.TB, name string, addrs ...string) *outside {
	tb.Helper()
	o := &outside{name: name}
	cfg := serverTLS()
	o.far = newStack(tb, stack.Config{
		MTU: 1400, UDPIdle: time.Second,
		AcceptTCP: func(ctx context.Context, r *stack.TCPRequest) { o.tcp(ctx, r, cfg) },
		AcceptUDP: func(ctx context.Context, r *stack.UDPRequest) { o.udp(r) },
		AcceptPing: func(_ context.Context, r *stack.PingRequest) {
			if r.Destination.As16()[15] == 1 {
				r.Reply()
			}
		},
	})
	o.near = newStack(tb, stack.Config{Addresses: prefixes(addrs...), MTU: 1400})
	join(tb, o.near.Link(), o.far.Link())
	tb.Cleanup(func() { o.near.Close(); o.far.Close() })
	return o
}

func (o *outside) note(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = append(o.heard, what)
}

// said returns what hosts were asked for.
func (o *outside) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprint(o.heard)
}

func (o *outside) tcp(ctx context.Context, r *stack.TCPRequest, cfg *tls.Config) {
	port := r.Destination.Port()
	switch port {
	case portRefused:
		r.Reject()
		return
	case portHost:
		r.Unreachable(stack.HostUnreachable)
		return
	case portNet:
		r.Unreachable(stack.NetUnreachable)
		return
	case portSilent:
		r.Ignore()
		return
	}
	c, err := r.Accept(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	switch port {
	case portEcho:
		io.Copy(c, c)
	case portGreet:
		io.WriteString(c, "220 "+o.name+"\r\n")
		io.Copy(c, c)
	case portDiscard:
		n, err := io.Copy(io.Discard, c)
		if errors.Is(err, syscall.ECONNRESET) {
			o.note(fmt.Sprint(n, " bytes, reset"))
		} else {
			o.note(fmt.Sprint(n, " bytes, ", err))
		}
	case portReset:
		c.Read(make([]byte, 1))
		reset(c)
	case portLate:
		all, _ := io.ReadAll(c)
		c.Write(append([]byte(o.name+":"), all...))
	case portTLS:
		s := tls.Server(c, cfg)
		if err := s.HandshakeContext(ctx); err != nil {
			return
		}
		o.note(s.ConnectionState().ServerName)
		fmt.Fprintf(s, "%s: %s", o.name, strings.ToLower(s.ConnectionState().ServerName))
		s.Close()
	}
}

func (o *outside) udp(r *stack.UDPRequest) {
	switch r.Destination.Port() {
	case portRefused:
		return
	case portHost:
		r.Unreachable(stack.HostUnreachable)
		return
	}
	c, err := r.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	b := make([]byte, 65536)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if r.Destination.Port() == portEcho {
			c.Write(b[:n])
		} else {
			o.note(fmt.Sprint(n, " bytes"))
		}
	}
}

// always is a Decider with one answer.
func always(v Verdict) Decider {
	return DeciderFunc(func(context.Context, *Flow) (Verdict, error) { return v, nil })
}

var viaTunnel = always(Verdict{Allow: true, Way: Tunnel})

func soon(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// dial has a program connect.
func (w *world) dial(network, to string) (net.Conn, error) {
	w.tb.Helper()
	c, err := w.programs.DialContext(soon(w.tb), network, to)
	if err == nil {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		w.tb.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (w *world) mustDial(network, to string) net.Conn {
	w.tb.Helper()
	c, err := w.dial(network, to)
	if err != nil {
		w.tb.Fatal(err)
	}
	return c
}

// ask writes text and returns as many bytes.
func (w *world) ask(c net.Conn, text string) string {
	w.tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		w.tb.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		w.tb.Fatal(err)
	}
	return string(b)
}

// eventually waits until ok returns true.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("it does not come about that %s", what)
		}
	}
}

func checkLeaks(t *testing.T) { leak.Check(t) }

// pipe joins the programs of w to a pipe, whose other end is for the interceptor. Icmp counts the ICMP packets to the programs; it may
// be nil.
func pipe(tb testing.TB, w *world, icmp *atomic.Int32) (near, far packet.Conn) {
	near, far = packet.Pipe(1400, 256)
	var pumps sync.WaitGroup
	pumps.Go(func() { packet.Copy(near, w.programs.Link(), 2048, 128) })
	pumps.Go(func() {
		packet.Copy(w.programs.Link(), near, 2048, 128, tap(func(p []byte) {
			if icmp != nil && (p[0]>>4 == 4 && p[9] == 1 || p[0]>>4 == 6 && p[6] == 58) {
				icmp.Add(1)
			}
		}))
	})
	tb.Cleanup(func() {
		near.Close()
		w.programs.Close()
		pumps.Wait()
	})
	return near, far
}

// A tap sees packets.
type tap func([]byte)

func (f tap) Filter(b packet.Batch) packet.Batch {
	for i := range b {
		f(b[i].Bytes())
	}
	return b
}

// readTLS returns what a TLS server says to a client that asks for a name.
func readTLS(c net.Conn, name string) (string, error) {
	b, err := io.ReadAll(tls.Client(c, clientTLS(name)))
	return string(b), err
}
