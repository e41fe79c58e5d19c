package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/dtls"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/wire"
)

// A lab is a gateway with what it takes to be its client.
type lab struct {
	*Server
	t    testing.TB
	addr netip.AddrPort
	url  *url.URL
	tls  *tls.Config // of the client
}

var (
	testPool4 = netip.MustParsePrefix("10.20.0.0/24")
	testPool6 = netip.MustParsePrefix("fd20::/64")
)

// testPasswords knows users by the rule that the password is the name with "pass" behind it. Grace is in the group staff.
type testPasswords struct{}

func (testPasswords) Verify(_ context.Context, user, password string) error {
	if password != user+"pass" {
		return errWrong
	}
	return nil
}

func (testPasswords) Groups(user string) []string {
	if user == "grace" {
		return []string{"staff"}
	}
	return nil
}

var testCertificate = sync.OnceValues(func() (tls.Certificate, error) {
	cert, _, err := SelfSigned("localhost", "127.0.0.1")
	return cert, err
})

// newLab starts a gateway with and without UDP.
func newLab(t testing.TB, change func(*Config)) *lab { return startLab(t, true, change) }

func startLab(t testing.TB, withUDP bool, change func(*Config)) *lab {
	t.Helper()
	leak.Check(t)
	cert, err := testCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth:  Passwords(testPasswords{}),
		Pools: []netip.Prefix{testPool4, testPool6},
		Network: Network{
			Routes: prefixes("10.20.0.0/24", "127.0.0.0/8", "192.0.2.0/24", "fd20::/64"),
			DNS:    []netip.Addr{netip.MustParseAddr("10.20.0.1")},
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			// 192.0.2.1 stands for the loopback interface, which no packet of a client can be for.
			return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, "192.0.2.1:", "127.0.0.1:", 1))
		},
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var udp *net.UDPConn
	if withUDP {
		if udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, udp) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	return &lab{
		Server: srv, t: t, addr: ln.Addr().(*net.TCPAddr).AddrPort(),
		url: &url.URL{Scheme: "https", Host: ln.Addr().String()},
		tls: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// login logs a user in with our own client.
func (l *lab) login(p login.Prompter, path string) (*login.Ticket, error) {
	u := *l.url
	u.Path = path
	return login.Login(testContext(l.t), &login.Config{URL: &u, Prompter: p, TLS: l.tls})
}

// cookie logs alice in.
func (l *lab) cookie(user string) string {
	l.t.Helper()
	ticket, err := l.login(login.Fixed{Username: user, Password: transport.Secret(user + "pass")}, "/")
	if err != nil {
		l.t.Fatalf("login of %s: %v", user, err)
	}
	return ticket.Cookie.Reveal()
}

// web returns a client for the portal that follows no redirects and keeps no cookies.
func (l *lab) web() *http.Client {
	tr := &http.Transport{TLSClientConfig: l.tls, DisableCompression: true}
	l.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A client is a tunnel with a stack at its inner end.
type client struct {
	t     testing.TB
	link  *cstp.Link
	conn  *cstp.Conn
	reply *wire.ConnectReply
	lease *transport.Lease
	stack *stack.Stack
	pumps sync.WaitGroup
}

func request(cookie string) *wire.ConnectRequest {
	return &wire.ConnectRequest{
		Host: "gateway", UserAgent: "AnyConnect-compatible OpenConnect VPN Agent v9.12", Cookie: cookie, Hostname: "box",
		BaseMTU: 1500, MTU: 1400, IPv4: true, IPv6: true, FullIPv6: true,
	}
}

// request asks for a tunnel.
func (l *lab) request(req *wire.ConnectRequest) (*client, error) {
	l.t.Helper()
	ctx := testContext(l.t)
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", l.addr.String())
	if err != nil {
		return nil, err
	}
	link := cstp.Client(nc, l.tls)
	reply, br, err := cstp.Connect(ctx, link, req)
	if err != nil {
		link.Close()
		return nil, err
	}
	lease, err := cstp.LeaseOf(reply, l.addr, time.Now())
	if err != nil {
		link.Close()
		return nil, err
	}
	c := &client{t: l.t, link: link, reply: reply, lease: lease}
	c.conn = cstp.NewConn(link, br, cstp.Config{MTU: lease.MTU, Beat: liveness.Config{DPD: lease.DPD}})
	l.t.Cleanup(c.close)
	return c, nil
}

// tunnel opens a tunnel and puts a stack at its end.
func (l *lab) tunnel(cookie string) *client {
	l.t.Helper()
	c, err := l.request(request(cookie))
	if err != nil {
		l.t.Fatal(err)
	}
	c.host(c.conn)
	return c
}

// host puts a stack at the end of a way to the gateway.
func (c *client) host(way packet.Conn) {
	c.t.Helper()
	if c.stack == nil {
		st, err := stack.New(stack.Config{Addresses: c.lease.Addresses, MTU: c.lease.MTU})
		if err != nil {
			c.t.Fatal(err)
		}
		c.stack = st
		c.pumps.Go(func() { packet.Copy(way, st.Link(), packet.MaxSize, 64) })
	}
	st := c.stack
	c.pumps.Go(func() { packet.Copy(st.Link(), way, packet.MaxSize, 64) })
}

func (c *client) close() {
	c.conn.Close()
	if c.stack != nil {
		c.stack.Close()
	}
	c.pumps.Wait()
}

// psk returns what opens the DTLS channel of the tunnel.
func (c *client) dtls(master [48]byte) dtls.Config {
	c.t.Helper()
	cfg := dtls.Config{MTU: c.lease.MTU, BaseMTU: c.lease.BaseMTU, IPv6: true, Linger: -1}
	if c.reply.DTLSCipherSuite == wire.PSKNegotiate {
		key, err := c.link.ExportKey(wire.PSKLabel, wire.PSKLen)
		if err != nil {
			c.t.Fatal(err)
		}
		cfg.PSK = &dtls.PSK{Key: key, AppID: c.reply.DTLSAppID}
		return cfg
	}
	cfg.Resume = &dtls.Resume{MasterSecret: master, SessionID: c.reply.DTLSSessionID}
	if cfg.Resume.CipherSuite = c.reply.DTLS12CipherSuite; cfg.Resume.CipherSuite != "" {
		cfg.Resume.DTLS12 = true
	} else {
		cfg.Resume.CipherSuite = c.reply.DTLSCipherSuite
	}
	return cfg
}

// datagrams opens the DTLS channel of the tunnel.
func (l *lab) datagrams(c *client, master [48]byte) *dtls.Conn {
	l.t.Helper()
	ctx := testContext(l.t)
	sock, err := dtls.OpenSocket(ctx, nil, netip.AddrPortFrom(l.addr.Addr(), uint16(c.reply.DTLSPort)))
	if err != nil {
		l.t.Fatal(err)
	}
	conn, err := dtls.Dial(ctx, sock, c.dtls(master))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

func randomMaster() (m [48]byte) {
	rand.Read(m[:])
	return m
}

// exchange sends text to an echo server through the tunnel and reads it back.
func (c *client) exchange(network, address, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	nc, err := c.stack.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(nc, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(nc, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("another text came back")
	}
	return nil
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within 20 s: %s", what)
}

// only returns the one session there is.
func (l *lab) only() SessionInfo {
	l.t.Helper()
	list := l.Sessions()
	if len(list) != 1 {
		l.t.Fatalf("%d sessions, want 1", len(list))
	}
	return list[0]
}

// echo serves TCP and UDP echo on loopback, and returns the address for clients.
func echo(t testing.TB) string {
	t.Helper()
	var ln net.Listener
	var pc net.PacketConn
	for try := 1; ; try++ {
		var err error
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if pc, err = net.ListenPacket("udp", ln.Addr().String()); err == nil {
			break
		}
		ln.Close()
		if try == 8 { // a port that is free for TCP may be taken for UDP
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		pc.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				// Not by splice, whose pipes outlive the test.
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				c.Close()
			})
		}
	})
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	})
	return strings.Replace(ln.Addr().String(), "127.0.0.1", "192.0.2.1", 1)
}

// nullLink is a connection on which nothing has happened.
func nullLink() *cstp.Link {
	a, b := net.Pipe()
	b.Close()
	return cstp.Server(a, &tls.Config{})
}
