package network

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

// A laptop is a machine in a namespace, with a firewall and sockets that are real, and a tunnel that is a TLS connection.
type laptop struct {
	t     *testing.T
	host  *netns.Host
	roots *x509.CertPool
	fw    firewall.Firewall
	names map[string]string

	mu     sync.Mutex
	config firewall.Config
	log    []string
	tunnel net.Conn
}

func (l *laptop) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, fmt.Sprintf(format, args...))
	l.t.Logf(format, args...)
}

func (l *laptop) seen(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.log, func(s string) bool { return strings.HasPrefix(s, what) })
}

// dial connects from the namespace; names are those of the test.
func (l *laptop) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if a := l.names[host]; a != "" {
		host = a
	}
	return l.host.DialContext(ctx, network, net.JoinHostPort(host, port))
}

func (l *laptop) tls() *tls.Config { return &tls.Config{RootCAs: l.roots} }

func (l *laptop) Connect(ctx context.Context, a Attempt) (Up, error) {
	l.note("connect %s", a.Server)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := l.dial(ctx, "tcp", net.JoinHostPort(a.Server, "443"))
	if err != nil {
		return Up{}, err
	}
	cfg := l.tls()
	cfg.ServerName = a.Server
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return Up{}, &Failure{Untrusted, err}
	}
	l.mu.Lock()
	l.tunnel = c
	l.mu.Unlock()
	l.note("up %s", a.Server)
	return Up{}, nil
}

func (l *laptop) Resume(ctx context.Context, a Attempt) (Up, error) { return l.Connect(ctx, a) }

func (l *laptop) Disconnect(_ context.Context, why Reason) error {
	l.note("disconnect %s", why)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tunnel != nil {
		_ = l.tunnel.Close()
		l.tunnel = nil
	}
	return nil
}

func (l *laptop) Pause(ctx context.Context) error { return l.Disconnect(ctx, ByPolicy) }

func (l *laptop) apply(ctx context.Context, edit func(*firewall.Config)) error {
	l.mu.Lock()
	edit(&l.config)
	cfg := l.config
	l.mu.Unlock()
	return l.fw.Apply(ctx, cfg, func([]byte) error { return nil })
}

func (l *laptop) SetFirewall(ctx context.Context, f Firewall) error {
	l.note("firewall %v", f.Mode)
	return l.apply(ctx, func(c *firewall.Config) {
		*c = firewall.Config{Portal: c.Portal}
		if f.Mode == Open {
			c.Hosts = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} // all that there is
		}
		for _, g := range f.Gateways {
			for _, port := range []uint16{443, 80} {
				c.Gateways = append(c.Gateways, firewall.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr(l.names[g]), port), Network: "tcp"})
			}
		}
		for _, p := range f.Probes {
			host, _, _ := net.SplitHostPort(p)
			c.Gateways = append(c.Gateways, firewall.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr(l.names[host]), 443), Network: "tcp"})
		}
	})
}

func (l *laptop) OpenPortal(ctx context.Context, d time.Duration) error {
	l.note("open portal")
	return l.apply(ctx, func(c *firewall.Config) {
		c.Portal = firewall.Portal{Until: time.Now().Add(d), Ports: []uint16{80, 443, 8080}}
	})
}

func (l *laptop) ClosePortal(ctx context.Context) error {
	l.note("close portal")
	return l.apply(ctx, func(c *firewall.Config) { c.Portal = firewall.Portal{} })
}

func (l *laptop) AskTrusted(ctx context.Context, r trusted.Rules) trusted.Answers {
	return (&trusted.Prober{Dial: l.dial, Timeout: time.Second}).Ask(ctx, r)
}

func (l *laptop) AskPortal(ctx context.Context, gateways []string) portal.Report {
	return (&portal.Prober{Dial: l.dial, TLS: l.tls(), Timeout: time.Second}).Ask(ctx, gateways)
}

func (l *laptop) RoundTrip(ctx context.Context, server string) (time.Duration, error) {
	return (&selection.Prober{Dial: l.dial, TLS: l.tls()}).RoundTrip(ctx, server)
}

func (l *laptop) Save(selection.Cache) {}
func (l *laptop) Notify(n Notice)      { l.note("notify %s %s", n.Kind, n.URL) }

// reaches reports whether somebody else on the laptop can connect to an address.
func (l *laptop) reaches(address string) bool {
	ctx, cancel := context.WithTimeout(l.t.Context(), 300*time.Millisecond)
	defer cancel()
	c, err := l.host.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func serve(t *testing.T, h *netns.Host, address string, secure bool, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	listener, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	_ = s.Listener.Close()
	s.Listener, s.Config.ErrorLog = listener, log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// TestHotel is a journey: a hotel with a captive portal and a profile whose first gateway is dead, with Always-On Closed all the
// while, and then the office. The portal is nftables in the hotel's router, and the firewall the real one (A.13, B.12).
func TestHotel(t *testing.T) {
	lab := netns.New(t)
	pc, hotel, world := lab.Host("pc"), lab.Host("hotel"), lab.Host("world")
	lab.Join(pc, "10.0.0.2/24", hotel, "10.0.0.1/24")
	lab.Join(hotel, "10.1.0.1/24", world, "10.1.0.2/24")
	pc.IP("route", "add", "default", "via", "10.0.0.1")
	world.IP("route", "add", "default", "via", "10.1.0.1")
	world.IP("address", "add", "10.1.0.3/24", "dev", "lo") // somebody else, and 10.1.0.9 is a dead gateway
	hotel.Sysctl("net.ipv4.ip_forward", "1")

	hello := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	gateway := serve(t, world, "10.1.0.2:443", true, hello)
	serve(t, world, "10.1.0.2:80", false, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+r.Host+"/", http.StatusMovedPermanently)
	})
	serve(t, world, "10.1.0.3:443", true, hello)
	serve(t, world, "10.1.0.3:22", false, hello)

	// The portal: HTTP is redirected to its page, everything else is dropped, until somebody has logged in.
	var loggedIn atomic.Bool
	serve(t, hotel, "10.0.0.1:8080", false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login" {
			hotel.Run("nft", "delete", "table", "ip", "hotel")
			loggedIn.Store(true)
			return
		}
		http.Redirect(w, r, "http://10.0.0.1:8080/page", http.StatusFound)
	})
	rules := filepath.Join(t.TempDir(), "hotel.nft")
	if err := os.WriteFile(rules, []byte(`table ip hotel {
	chain in { type nat hook prerouting priority -100; tcp dport 80 redirect to :8080; }
	chain through { type filter hook forward priority 0; policy drop; }
}`), 0o600); err != nil {
		t.Fatal(err)
	}
	hotel.Run("nft", "-f", rules)

	l := &laptop{t: t, host: pc, roots: x509.NewCertPool(), names: map[string]string{
		"dead.example.com": "10.1.0.9", "example.com": "10.1.0.2", "proof.example.com": "10.1.0.3"}}
	l.roots.AddCert(gateway.Certificate())
	ns, err := os.Open("/run/netns/" + pc.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	l.fw.NetNS = ns

	sum := sha256.Sum256(gateway.Certificate().Raw)
	m, err := New(Config{
		Document: "corp.xml", Automatic: true, TrustedPolicy: profile.Disconnect,
		Trusted:  trusted.Rules{Domains: []string{"*.example.com"}, HTTPS: []trusted.Server{{Address: "proof.example.com", Hash: sum[:]}}},
		AlwaysOn: AlwaysOn{On: true, Closed: true, AllowDisconnect: false, Remediation: true, Window: time.Minute},
		Hosts:    []Host{{Name: "Head office", Server: "dead.example.com", Backups: []string{"example.com"}}},
	}, selection.Cache{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.portal = portal.New(portal.Config{Window: time.Minute, PortalRecheck: 100 * time.Millisecond})
	r := NewRunner(m, l, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { _ = r.Run(ctx, []trusted.Link{{Name: "wlan0", Suffixes: []string{"hotel.example"}}}) })
	defer wait.Wait()
	defer cancel()

	until := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(8 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not come: %+v", what, r.Status())
			}
		}
	}
	until("the portal's window", func() bool { return l.seen("open portal") && !r.Status().PortalWindow.IsZero() })
	if !l.seen("notify portal http://10.0.0.1:8080/page") {
		t.Error("the person is not told where the portal is")
	}
	if s := r.Status(); s.AlwaysOn != "closed" || s.Portal == nil || s.Portal.Verdict != portal.Portal || s.PortalWindow.IsZero() {
		t.Errorf("%+v", s)
	}
	// The person logs in to the network with a browser, in the window; nothing else passes.
	browser := &http.Client{Transport: &http.Transport{DialContext: l.dial, DisableKeepAlives: true}, Timeout: 3 * time.Second}
	resp, err := browser.Get("http://10.0.0.1:8080/login")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if !loggedIn.Load() {
		t.Fatal("the portal was not satisfied")
	}
	if l.reaches("10.1.0.3:22") {
		t.Error("in the window more passes than web pages")
	}
	until("the tunnel", func() bool { return r.Status().Tunnel == "connected" })
	s := r.Status()
	if s.Server != "example.com" || s.AlwaysOn != "connected" || !s.PortalWindow.IsZero() || !l.seen("close portal") {
		t.Errorf("%+v", s)
	}
	if !l.reaches("10.1.0.3:443") { // it proves a trusted network, so it can be asked
		t.Error("the server that proves the trusted network cannot be asked")
	}
	if l.reaches("10.1.0.3:22") {
		t.Error("something passes beside the tunnel")
	}
	// The person may not end it, and going down does not open anything.
	if err := r.Do(ctx, Event{Kind: UserDisconnect}); err == nil || !strings.Contains(err.Error(), "AllowVPNDisconnect") {
		t.Error(err)
	}
	// The office: its DNS suffix, and a server that proves it.
	if err := r.Do(ctx, Event{Kind: NetworkChanged, Links: []trusted.Link{{Name: "eth0", Suffixes: []string{"office.example.com"}}}}); err != nil {
		t.Error(err)
	}
	until("the trusted network", func() bool { return r.Status().AlwaysOn == "trusted" })
	if s := r.Status(); s.Tunnel != "disconnected" || !s.Network.Proven {
		t.Errorf("%+v", s)
	}
	if !l.reaches("10.1.0.3:22") {
		t.Error("the firewall is not open in the trusted network")
	}
	// Back on the road: closed first, then connected.
	if err := r.Do(ctx, Event{Kind: NetworkChanged, Links: nil}); err != nil {
		t.Error(err)
	}
	if l.reaches("10.1.0.3:22") {
		t.Error("the firewall is open outside")
	}
	until("the tunnel again", func() bool { return r.Status().Tunnel == "connected" })
	cancel()
	wait.Wait()
	if err := r.Post(Event{}); err != ErrClosed {
		t.Error(err)
	}
}
