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
	size     int
	down, up meter // of what came to the client and to the server
}

const bulkRate = 4 << 20 // bytes a second

// A meter tells how much came, and the longest time for which nothing did.
type meter struct {
	mu    sync.Mutex
	bytes int
	last  time.Time
	stall time.Duration
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.last.IsZero() {
		m.last = now
	} else {
		m.stall, m.last = max(m.stall, now.Sub(m.last)), now
	}
	m.bytes += n
}

func (m *meter) received() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// stalled returns the longest time without data, and begins to measure anew.
func (m *meter) stalled() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.stall
	m.stall = 0
	return d
}

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
			} else if sum, err := receive(conn, &s.up); err == nil {
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

// receive reads to the end, and returns the hash.
func receive(r io.Reader, m *meter) (sum [sha256.Size]byte, err error) {
	h, b := sha256.New(), make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		m.add(n)
		h.Write(b[:n])
		if err == io.EOF {
			return [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// fetch gets the stream, and bring brings it.
func (s *bulk) fetch(ctx context.Context, tun *vpn.Tunnel, to string) error {
	conn, err := tun.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "d"); err != nil {
		return err
	}
	sum, err := receive(conn, &s.down)
	if err == nil && sum != s.sum() {
		err = errors.New("other bytes came than were sent")
	}
	return err
}

func (s *bulk) bring(ctx context.Context, tun *vpn.Tunnel, to string) error {
	conn, err := tun.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "u"); err != nil {
		return err
	}
	if err := s.send(conn); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(conn, sum[:]); err != nil {
		return err
	}
	if sum != s.sum() {
		return errors.New("other bytes came than were sent")
	}
	return nil
}

// An uplink is one of several ways out of a host.
type uplink struct {
	host *netns.Host
	dev  string
}

// dial connects through the uplink only.
func (u uplink) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, u.dev)
		})
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
				fetched, brought := make(chan error, 1), make(chan error, 1)
				go func() { fetched <- s.fetch(ctx, tun, p.to) }()
				go func() { brought <- s.bring(ctx, tun, p.to) }()
				eventually(t, 10*time.Second, "the streams begin", func() bool { return min(s.down.received(), s.up.received()) > 4<<20 })
				t.Logf("before, data stood still for %v down, %v up", s.down.stalled().Round(time.Millisecond), s.up.stalled().Round(time.Millisecond))
				begin := time.Now()
				if err := tun.Roam(ctx, links[1].dial, links[1].dial); err != nil {
					t.Fatal(err)
				}
				took := time.Since(begin)
				over(t, tun, best, 5*time.Second)
				again := time.Since(begin)
				// The process of the old connection has to come to its end.
				eventually(t, 5*time.Second, "there is one session at the gateway", func() bool { return p.sessions() == 1 })
				time.Sleep(500 * time.Millisecond)
				l.client.IP("link", "set", links[0].dev, "down")
				if err := errors.Join(<-fetched, <-brought); err != nil {
					t.Fatal(err)
				}
				down, up := s.down.stalled(), s.up.stalled()
				t.Logf("interop: moved in %v, over %s again after %v; data stood still for %v down, %v up", took.Round(time.Millisecond), best,
					again.Round(time.Millisecond), down.Round(time.Millisecond), up.Round(time.Millisecond))
				if worst := max(down, up); worst > time.Second {
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
