package vpn_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/transport/login"
)

// A bulk is a server that sends or takes a stream of bytes on each connection, at a rate that leaves the processor to others.
//
//	client: "d" or "u"
//	server: the stream, if it was "d", and the end of it
//	client: the stream, if it was "u", and the end of it
//	server: the SHA-256 of what came
type bulk struct {
	size int

	mu    sync.Mutex
	stall time.Duration // of what came, at the longest
}

const bulkRate = 4 << 20 // bytes a second

// serve serves until the listener is closed.
func (s *bulk) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			what := make([]byte, 1)
			if _, err := io.ReadFull(conn, what); err != nil {
				return
			}
			if what[0] == 'd' {
				_ = s.send(conn)
				return
			}
			sum, stall, err := receive(conn)
			s.mu.Lock()
			s.stall = max(s.stall, stall)
			s.mu.Unlock()
			if err == nil {
				conn.Write(sum[:])
			}
		}()
	}
}

// stream returns the bytes, the same each time.
func stream() io.Reader { return rand.NewChaCha8([32]byte{7}) }

func (s *bulk) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	io.CopyN(h, stream(), int64(s.size))
	return [sha256.Size]byte(h.Sum(nil))
}

func (s *bulk) send(w io.Writer) error {
	const step = 10 * time.Millisecond
	from := stream()
	tick := time.NewTicker(step)
	defer tick.Stop()
	for left := s.size; left > 0; <-tick.C {
		n := min(left, int(bulkRate*step/time.Second))
		if _, err := io.CopyN(w, from, int64(n)); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// receive reads to the end, and returns the hash and the longest time without data.
func receive(r io.Reader) (sum [sha256.Size]byte, stall time.Duration, err error) {
	h, b := sha256.New(), make([]byte, 64<<10)
	for last := time.Now(); ; {
		n, err := r.Read(b)
		if d := time.Since(last); d > 300*time.Millisecond { println("STALL", d.String(), "ending at", time.Since(stallStart).String()) }
		stall = max(stall, time.Since(last))
		last = time.Now()
		h.Write(b[:n])
		if err == io.EOF {
			return [sha256.Size]byte(h.Sum(nil)), stall, nil
		}
		if err != nil {
			return sum, stall, err
		}
	}
}

// A result is how a transfer went.
type result struct {
	stall time.Duration
	err   error
}

// down fetches the stream, and up brings it.
func (s *bulk) down(ctx context.Context, tun *vpn.Tunnel, to string) (r result) {
	conn, err := tun.DialContext(ctx, "tcp", to)
	if err != nil {
		return result{err: err}
	}
	defer conn.Close()
	if _, r.err = io.WriteString(conn, "d"); r.err != nil {
		return r
	}
	sum, stall, err := receive(conn)
	if err == nil && sum != s.sum() {
		err = errors.New("other bytes came than were sent")
	}
	return result{stall, err}
}

func (s *bulk) up(ctx context.Context, tun *vpn.Tunnel, to string) (r result) {
	conn, err := tun.DialContext(ctx, "tcp", to)
	if err != nil {
		return result{err: err}
	}
	defer conn.Close()
	if _, r.err = io.WriteString(conn, "u"); r.err != nil {
		return r
	}
	if r.err = s.send(conn); r.err != nil {
		return r
	}
	if r.err = conn.(interface{ CloseWrite() error }).CloseWrite(); r.err != nil {
		return r
	}
	var sum [sha256.Size]byte
	if _, r.err = io.ReadFull(conn, sum[:]); r.err == nil && sum != s.sum() {
		r.err = errors.New("other bytes came than were sent")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.stall = s.stall
	return r
}

// An uplink is one of several ways out of a host.
type uplink struct {
	host *netns.Host
	dev  string
}

// dial connects through the uplink only.
func (u uplink) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, u.dev) })
		return errors.Join(e, err)
	}}
	u.host.Do(func() { conn, err = d.DialContext(ctx, network, address) })
	return conn, err
}

// newRoamingLab builds a lab whose client has two uplinks. The first is the one that its routes prefer.
func newRoamingLab(t *testing.T) (*lab, [2]uplink) {
	l := newLab(t)
	second, _ := l.Join(l.client, "10.97.0.2/24", l.router, "10.97.0.1/24")
	l.client.IP("route", "add", "default", "via", "10.97.0.1", "metric", "100")
	return l, [2]uplink{{l.client, l.clientIf}, {l.client, second}}
}

// TestRoaming moves a tunnel from one uplink to the other while a stream goes each way, then takes away the uplink that it came
// from, and has it find its way back.
func TestRoaming(t *testing.T) {
	leak.Check(t)
	type peer struct {
		url, to  string
		cfg      *vpn.Config
		sessions func() int
	}
	ofOcserv := func(t *testing.T, l *lab, s *bulk) peer {
		server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4})
		ln, err := l.gateway.Listen("tcp", netip.AddrPortFrom(ocserv.Inside, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go s.serve(ln)
		return peer{server.URL, ln.Addr().String(), l.config(server), func() int {
			return strings.Count(server.Control("-j", "show", "users"), `"Username":`)
		}}
	}
	ofOurs := func(t *testing.T, l *lab, s *bulk) peer {
		var gw *gatewaytest.Gateway
		l.gateway.Do(func() { gw = gatewaytest.New(t, gatewaytest.Options{Address: "10.99.0.1:4443", Direct: true}) })
		at := netip.AddrPortFrom(gw.Web.Addr(), 7777).String()
		ln, err := gw.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go s.serve(ln)
		cfg := &vpn.Config{Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
			Pins: []string{gw.Pin}, TLS: &tls.Config{}, Direct: l.client.DialContext}
		return peer{gw.URL, at, cfg, func() int { return len(gw.Sessions()) }}
	}
	for _, gw := range []struct {
		name string
		of   func(*testing.T, *lab, *bulk) peer
	}{{"ocserv", ofOcserv}, {"gateway", ofOurs}} {
		for _, dtls := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, DTLS %v", gw.name, dtls), func(t *testing.T) {
				l, links := newRoamingLab(t)
				s := &bulk{size: 5 * bulkRate}
				p := gw.of(t, l, s)
				p.cfg.NoDTLS = !dtls
				p.cfg.Dial, p.cfg.DialUDP = links[0].dial, links[0].dial
				tun := dial(t, p.url, p.cfg)
				best := "tls"
				if dtls {
					best = "dtls"
				}
				over(t, tun, best, 5*time.Second)

				ctx := timeout(t, 60*time.Second)
				downs, ups := make(chan result, 1), make(chan result, 1)
				go func() { downs <- s.down(ctx, tun, p.to) }()
				go func() { ups <- s.up(ctx, tun, p.to) }()
				time.Sleep(1500 * time.Millisecond)
				begin := time.Now()
				if err := tun.Roam(ctx, links[1].dial, links[1].dial); err != nil {
					t.Fatal(err)
				}
				took := time.Since(begin)
				over(t, tun, best, 5*time.Second)
				again := time.Since(begin)
				if n := p.sessions(); n != 1 {
					t.Errorf("%d sessions at the gateway, want the one", n)
				}
				time.Sleep(500 * time.Millisecond)
				l.client.IP("link", "set", links[0].dev, "down")
				down, up := <-downs, <-ups
				if down.err != nil || up.err != nil {
					t.Fatalf("down: %v, up: %v", down.err, up.err)
				}
				t.Logf("interop: moved in %v, over %s again after %v; data stood still for %v down, %v up", took.Round(time.Millisecond), best,
					again.Round(time.Millisecond), down.stall.Round(time.Millisecond), up.stall.Round(time.Millisecond))
				if worst := max(down.stall, up.stall); worst > time.Second {
					t.Errorf("data stood still for %v, want at most 1 s", worst)
				}
				st := tun.Status()
				if st.Roams != 1 || st.RoamError != "" || st.Reconnects != 0 || st.State != vpn.Connected {
					t.Errorf("status: %+v", st)
				}
				if n := p.sessions(); n != 1 {
					t.Errorf("%d sessions at the gateway, want the one", n)
				}
			})
		}
	}
}

var stallStart time.Time
