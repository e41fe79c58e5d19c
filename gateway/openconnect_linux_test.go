package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
)

// script configures the TUN device as the gateway says, as vpnc-script does, but touches nothing else.
const script = `#!/bin/sh
if [ "$reason" = connect ]; then
	ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
	ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
	ip -6 addr add "$INTERNAL_IP6_ADDRESS/128" dev "$TUNDEV" nodad
	for net in 10.20.0.0/24 172.31.0.0/16; do ip route add "$net" dev "$TUNDEV"; done
	for net in fd20::/64 fd31::/64; do ip -6 route add "$net" dev "$TUNDEV"; done
fi
echo "$reason $INTERNAL_IP4_ADDRESS $INTERNAL_IP6_ADDRESS mtu $INTERNAL_IP4_MTU" >>"$(dirname "$0")/script.log"
`

// An openconnectLab has a gateway on one host and the real client on another.
//
//	client 10.98.0.2, fd98::2 -- 10.98.0.1, fd98::1 gateway; behind it 172.31.0.1 and fd31::1
type openconnectLab struct {
	*Server
	t               *testing.T
	client, gateway *netns.Host
	dir             string
	pin             string
}

// lockedBuffer may be read while a command writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CULVERT_INTEROP") == "1" {
				t.Fatalf("%s is missing, and CULVERT_INTEROP is 1", p)
			}
			t.Skipf("%s is not installed", p)
		}
	}
}

func newOpenconnectLab(t *testing.T, change func(*Config)) *openconnectLab {
	t.Helper()
	return startOpenconnectLab(t, false, change)
}

func startOpenconnectLab(t *testing.T, withDevice bool, change func(*Config)) *openconnectLab {
	t.Helper()
	needs(t, "openconnect", "iperf3", "ping", "curl")
	net0 := netns.New(t)
	l := &openconnectLab{t: t, client: net0.Host("client"), gateway: net0.Host("gateway"), dir: t.TempDir()}
	net0.Join(l.client, "10.98.0.2/24 fd98::2/64", l.gateway, "10.98.0.1/24 fd98::1/64")
	l.gateway.IP("addr", "add", "172.31.0.1/32", "dev", "lo")
	l.gateway.IP("addr", "add", "fd31::1/128", "dev", "lo")
	if err := os.WriteFile(filepath.Join(l.dir, "script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cert, err := testCertificate()
	if err != nil {
		t.Fatal(err)
	}
	l.pin = Pin(cert.Leaf)
	cfg := Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth:  Passwords(testPasswords{}),
		Pools: prefixes("10.20.0.0/24", "fd20::/64"),
		Network: Network{
			Routes: prefixes("10.20.0.0/24", "172.31.0.0/16", "fd20::/64", "fd31::/64"),
			Banner: "Welcome.",
		},
		Dial: l.gateway.DialContext,
	}
	if change != nil {
		change(&cfg)
	}
	if withDevice {
		cfg.Device = l.device()
	}
	if l.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ln, err := l.gateway.Listen("tcp", ":4443")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := l.gateway.ListenPacket("udp", ":4443")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(ln, pc.(*net.UDPConn)) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Error(err)
		}
	})
	listen := l.Listen
	if cfg.Device != nil {
		listen = l.gateway.Listen
	}
	page, err := listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	go web.Serve(page)
	t.Cleanup(func() { web.Close() })
	return l
}

// device opens a TUN device on the host of the gateway, with the gateway's inner addresses.
func (l *openconnectLab) device() packet.Conn {
	l.t.Helper()
	var dev *tun.Device
	var err error
	l.gateway.Do(func() { dev, err = tun.Open(tun.Config{Name: "clients", MTU: 1500}) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.gateway.IP("addr", "add", "10.20.0.1/24", "dev", "clients")
	l.gateway.IP("addr", "add", "fd20::1/64", "dev", "clients", "nodad")
	l.gateway.IP("link", "set", "clients", "up")
	return dev
}

// An openconnect is the client while it runs.
type openconnect struct {
	l    *openconnectLab
	out  *lockedBuffer
	cmd  *exec.Cmd
	done chan struct{}
}

// connect starts the client. Its password comes from standard input.
func (l *openconnectLab) connect(password, url string, args ...string) *openconnect {
	l.t.Helper()
	args = append([]string{
		"-vv", "--passwd-on-stdin", "--servercert", l.pin, "--script", filepath.Join(l.dir, "script"), "--non-inter",
	}, args...)
	ctx, cancel := context.WithCancel(context.Background())
	o := &openconnect{l: l, out: new(lockedBuffer), done: make(chan struct{})}
	o.cmd = l.client.Command(ctx, "openconnect", append(args, url)...)
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = strings.NewReader(password+"\n"), o.out, o.out
	if err := o.cmd.Start(); err != nil {
		cancel()
		l.t.Fatal(err)
	}
	go func() {
		defer close(o.done)
		o.cmd.Wait()
	}()
	l.t.Cleanup(func() {
		cancel()
		<-o.done
		if l.t.Failed() {
			l.t.Logf("openconnect printed:\n%s", o.out)
		}
	})
	return o
}

// up waits until the tunnel is up and the client has configured its device.
func (o *openconnect) up(path string) SessionInfo {
	o.l.t.Helper()
	var s SessionInfo
	o.wait("the tunnel is up", func() bool {
		list := o.l.Sessions()
		if len(list) != 1 || !strings.Contains(o.script(), "\nconnect ") || !strings.Contains(o.out.String(), "Configured as") {
			return false
		}
		s = list[0]
		return s.Path == path
	})
	return s
}

func (o *openconnect) script() string {
	b, _ := os.ReadFile(filepath.Join(o.l.dir, "script.log"))
	return string(b)
}

func (o *openconnect) wait(what string, ok func() bool) {
	o.l.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	o.l.t.Fatalf("not within 20 s: %s; sessions %+v", what, o.l.Sessions())
}

// exited waits for the client to end and returns its exit code.
func (o *openconnect) exited() int {
	o.l.t.Helper()
	select {
	case <-o.done:
	case <-time.After(20 * time.Second):
		o.l.t.Fatal("the client does not end")
	}
	return o.cmd.ProcessState.ExitCode()
}

// iperf measures TCP through the tunnel, and returns Mbit/s.
func (l *openconnectLab) iperf(args ...string) float64 {
	l.t.Helper()
	out := l.client.Run("iperf3", append([]string{"-J", "-t", "1"}, args...)...)
	var r struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
				Bytes         float64
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		l.t.Fatal(err)
	}
	return r.End.Received.BitsPerSecond / 1e6
}

func TestOpenconnect(t *testing.T) {
	// Measuring takes the whole machine, so only one does it at a time.
	var measuring sync.Mutex
	for _, tt := range []struct {
		name   string
		change func(*Config)
		url    string
		args   []string
		path   string
		cipher string
		mtu    int
	}{
		{"PSK", nil, "https://10.98.0.1:4443", nil, "dtls", "PSK-", 1434},
		{"TLS 1.2", func(c *Config) { c.TLS.MaxVersion = tls.VersionTLS12 }, "https://10.98.0.1:4443", nil, "dtls", "PSK-", 1434},
		{"resumption", func(c *Config) { c.Quirks.NoPSK = true }, "https://10.98.0.1:4443", nil, "dtls", "ECDHE-RSA-AES256-GCM-SHA384", 1434},
		{"without DTLS", nil, "https://10.98.0.1:4443", []string{"--no-dtls"}, "tls", "", 1434},
		{"compressed", func(c *Config) { c.Compression = true }, "https://10.98.0.1:4443", []string{"--no-dtls"}, "tls", "", 1434},
		// The gateway announces 1414, and openconnect allows for an IPv6 header more than there is.
		{"over IPv6", nil, "https://[fd98::1]:4443", nil, "dtls", "PSK-", 1402},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newOpenconnectLab(t, tt.change)
			l.gateway.Start("iperf3", "-s")
			o := l.connect("alicepass", tt.url, append(tt.args, "--user", "alice")...)
			first := o.up(tt.path)
			if first.User != "alice" || !strings.HasPrefix(first.DTLSCipher, tt.cipher) || len(first.Addresses) != 2 {
				t.Errorf("session %+v", first)
			}
			if want := fmt.Sprintf("\nconnect %s %s mtu %d", first.Addresses[0], first.Addresses[1], tt.mtu); !strings.Contains(o.script(), want) {
				t.Errorf("the client configured %q, want %q", o.script(), want)
			}
			func() {
				measuring.Lock()
				defer measuring.Unlock()
				l.traffic(t, tt.name == "PSK")
			}()

			// The network fails, and the client comes back with the same cookie to the same addresses.
			if err := l.Drop(first.ID); err != nil {
				t.Fatal(err)
			}
			o.wait("the client is back", func() bool { s := l.Sessions()[0]; return s.Connects == 2 && s.Path == tt.path })
			second := l.Sessions()[0]
			if second.ID != first.ID || second.Addresses[0] != first.Addresses[0] || second.Addresses[1] != first.Addresses[1] {
				t.Errorf("session %+v, then %+v", first, second)
			}
			l.client.Run("ping", "-c", "2", "-i", "0.2", "-W", "3", "10.20.0.1")

			// It leaves in peace.
			o.cmd.Process.Signal(syscall.SIGINT)
			o.exited()
			s, err := l.table.get(first.ID)
			if err != nil {
				t.Fatal(err)
			}
			o.wait("the gateway notices", func() bool { return l.Sessions()[0].Path == "" })
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.goodbye {
				t.Error("the gateway did not take it for a goodbye")
			}
		})
	}
}

// The kernel takes the place of the gateway's stack. Its device has a larger MTU than the tunnel, so that senders have to be told.
func TestOpenconnectDevice(t *testing.T) {
	for _, args := range [][]string{nil, {"--no-dtls"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			l := startOpenconnectLab(t, true, nil)
			l.gateway.Start("iperf3", "-s")
			path := "dtls"
			if args != nil {
				path = "tls"
			}
			o := l.connect("alicepass", "https://10.98.0.1:4443", append(args, "--user", "alice")...)
			s := o.up(path)
			l.traffic(t, false)
			// The gateway's host reaches the client, also with what is too large for the tunnel.
			for _, a := range s.Addresses {
				l.gateway.Run("ping", "-c", "2", "-i", "0.2", "-W", "3", "-s", "1440", "-M", "dont", a.String())
			}
		})
	}
}

// traffic sends all there is through the tunnel, and more of it on request.
func (l *openconnectLab) traffic(t *testing.T, more bool) {
	t.Helper()
	for _, host := range []string{"10.20.0.1", "fd20::1"} {
		l.client.Run("ping", "-c", "3", "-i", "0.2", "-W", "3", host)
		// The largest packet that fits, and one that has to be cut up.
		l.client.Run("ping", "-c", "1", "-W", "3", "-s", "1300", host)
	}
	for _, url := range []string{"http://10.20.0.1/", "http://[fd20::1]/"} {
		if got := l.client.Run("curl", "-sS", "-m", "5", url); got != "hello" {
			t.Errorf("%s answers %q", url, got)
		}
	}
	transfers := [][]string{{"-c", "172.31.0.1"}, {"-c", "172.31.0.1", "-R"}}
	if more {
		transfers = append(transfers, []string{"-c", "fd31::1"}, []string{"-c", "172.31.0.1", "-u", "-b", "20M"})
	}
	for _, args := range transfers {
		rate := l.iperf(args...)
		t.Logf("iperf3 %s: %.0f Mbit/s", strings.Join(args, " "), rate)
		if rate < 5 {
			t.Errorf("iperf3 %v: %.2f Mbit/s", args, rate)
		}
	}
	if s := l.Sessions()[0]; s.Received.Packets == 0 || s.Sent.Packets == 0 {
		t.Errorf("nothing was counted: %+v", s)
	}
}

func TestOpenconnectLogin(t *testing.T) {
	groups := func(c *Config) { c.Groups = []Group{{Name: "staff", Label: "The Staff"}, {Name: "guests"}} }
	for _, tt := range []struct {
		name     string
		change   func(*Config)
		password string
		path     string
		args     []string
		group    string // "-": refused
	}{
		{"group by name", groups, "alicepass", "", []string{"--user", "alice", "--authgroup", "guests"}, "guests"},
		{"group by label", groups, "alicepass", "", []string{"--user", "alice", "--authgroup", "The Staff"}, "staff"},
		{"group by URL", groups, "alicepass", "/guests", []string{"--user", "alice"}, "guests"},
		{"user group", groups, "gracepass", "", []string{"--user", "grace", "--usergroup", "staff"}, "staff"},
		{"not a member", groups, "gracepass", "/guests", []string{"--user", "grace"}, "-"},
		{"wrong password", nil, "wrong", "", []string{"--user", "alice"}, "-"},
		{"two pages", func(c *Config) { c.Quirks.Server = "ocserv" }, "alicepass", "", []string{"--user", "alice"}, ""},
		{"like an ASA", func(c *Config) { c.Quirks.Server = "asa" }, "alicepass", "", []string{"--user", "alice"}, ""},
		{"like AnyLink", func(c *Config) { c.Quirks.Server = "anylink" }, "alicepass", "", []string{"--user", "alice"}, ""},
		{"no XML", nil, "alicepass", "", []string{"--user", "alice", "--no-xmlpost"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newOpenconnectLab(t, tt.change)
			o := l.connect(tt.password, "https://10.98.0.1:4443"+tt.path, tt.args...)
			if tt.group == "-" {
				if code := o.exited(); code == 0 || len(l.Sessions()) != 0 {
					t.Errorf("exit code %d, %d sessions", code, len(l.Sessions()))
				}
				return
			}
			o.wait("the tunnel is up", func() bool { s := l.Sessions(); return len(s) == 1 && s[0].Path != "" })
			if s := l.Sessions()[0]; s.Group != tt.group {
				t.Errorf("group %q, want %q", s.Group, tt.group)
			}
			// An administrator ends it, and the client hears why.
			if err := l.Disconnect(l.Sessions()[0].ID, "maintenance tonight"); err != nil {
				t.Fatal(err)
			}
			o.exited()
			if !strings.Contains(o.out.String(), "maintenance tonight") {
				t.Error("the client was not told the reason")
			}
		})
	}
}

func TestOpenconnectCertificate(t *testing.T) {
	dir := t.TempDir()
	ca := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	save(t, dir, "carol", issue.New(x509.Certificate{
		Subject: pkix.Name{CommonName: "carol", ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: []int{0, 9, 2342, 19200300, 100, 1, 1}, Value: "carol-uid"},
		}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca))
	certificate := []string{"-c", filepath.Join(dir, "carol.pem"), "-k", filepath.Join(dir, "carol.key")}
	for _, tt := range []struct {
		name     string
		auth     Authenticator
		password string
		args     []string
		user     string // empty: refused
	}{
		{"alone", Certificates{}, "", certificate, "carol"},
		{"by user ID", Certificates{Name: UserID}, "", certificate, "carol-uid"},
		{"missing", Certificates{}, "", []string{"--user", "carol"}, ""},
		{"and a password", Certificates{And: Passwords(testPasswords{})}, "carolpass", append([]string{"--user", "carol"}, certificate...), "carol"},
		{"and the password of another", Certificates{And: Passwords(testPasswords{})}, "alicepass", append([]string{"--user", "alice"}, certificate...), ""},
		{"or a password", Certificates{Or: Passwords(testPasswords{})}, "alicepass", []string{"--user", "alice"}, "alice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newOpenconnectLab(t, func(c *Config) {
				c.Auth = tt.auth
				c.TLS.ClientCAs, c.TLS.ClientAuth = ca.Pool(), tls.VerifyClientCertIfGiven
			})
			o := l.connect(tt.password, "https://10.98.0.1:4443", tt.args...)
			if tt.user == "" {
				if code := o.exited(); code == 0 || len(l.Sessions()) != 0 {
					t.Errorf("exit code %d, %d sessions", code, len(l.Sessions()))
				}
				return
			}
			if s := o.up("dtls"); s.User != tt.user {
				t.Errorf("user %q, want %q", s.User, tt.user)
			}
		})
	}
}

// save writes a certificate and its key as files that openconnect reads.
func save(t *testing.T, dir, name string, c *issue.Certificate) {
	t.Helper()
	for file, text := range map[string]string{name + ".pem": c.PEM(), name + ".key": c.KeyPEM()} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
