package login_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata from a real ocserv")

// ocservCases are the logins that run against a real ocserv and, from the transcripts in testdata, everywhere.
var ocservCases = []struct {
	name   string
	config string // lines for ocserv.conf
	answer login.Fixed
	cert   bool   // show the certificate of alice
	direct bool   // the refusal is an alert of TLS, which no tap can pass on
	agent  string // the user agent, if it matters
	want   error
	group  string
}{
	{name: "password", answer: login.Fixed{Username: "alice", Password: "pass"}},
	{name: "wrong-password", answer: login.Fixed{Username: "alice", Password: "wrong"}, want: transport.ErrLogin},
	{name: "group", config: "select-group = eng[Engineering]\nselect-group = ops\n",
		answer: login.Fixed{Username: "alice", Password: "pass", Group: "engineering"}, group: "eng"},
	{name: "legacy", config: "select-group = eng\nselect-group = ops\n", agent: "Open AnyConnect VPN Agent v3.20",
		answer: login.Fixed{Username: "alice", Password: "pass", Group: "ops"}, group: "ops"},
	{name: "certificate", config: "auth = \"certificate\"\n", cert: true},
	{name: "no-certificate", config: "auth = \"certificate\"\n", direct: true, want: transport.ErrLogin},
	{name: "certificate-and-password", config: "auth = \"certificate\"\nauth = \"plain[passwd=DIR/passwd]\"\n", answer: login.Fixed{Username: "alice", Password: "pass"}, cert: true},
}

// TestOcserv logs in to a real ocserv on the loopback interface. With -update it records what was said.
func TestOcserv(t *testing.T) {
	if _, err := exec.LookPath("ocserv"); err != nil || os.Getuid() != 0 {
		if os.Getenv("CULVERT_INTEROP") != "" {
			t.Fatal("CULVERT_INTEROP is set, but ocserv is not installed or this is not root")
		}
		t.Skip("needs ocserv and root")
	}
	for _, tt := range ocservCases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // ocserv takes its time to start and to stop
			dir := t.TempDir()
			roots, client := authority(t, dir)
			addr := startOcserv(t, dir, tt.config)
			wire := &tap{roots: roots, addr: addr, dir: dir}
			if tt.cert {
				wire.client = client // the certificate cannot pass the tap, which therefore has it too
			}
			wire.start(t)
			host := wire.ln.Addr().String()
			if tt.direct {
				host = addr
			}
			cfg := &login.Config{
				URL:            &url.URL{Scheme: "https", Host: host},
				Prompter:       tt.answer,
				TLS:            &tls.Config{RootCAs: roots},
				UserAgent:      tt.agent,
				RequestTimeout: 20 * time.Second,
			}
			if tt.cert {
				cfg.TLS.Certificates = []tls.Certificate{*client}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			ticket, err := login.Login(ctx, cfg)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				log, _ := os.ReadFile(filepath.Join(dir, "ocserv.log"))
				t.Fatalf("Login: %v, want %v\n%s\n%s", err, tt.want, wire.text(), log)
			}
			if err == nil && (ticket.Cookie == "" || ticket.Group != tt.group) {
				t.Errorf("ticket has the group %q, want %q; cookie empty: %t", ticket.Group, tt.group, ticket.Cookie == "")
			}
			if *update && !tt.direct {
				if err := os.WriteFile(filepath.Join("testdata", "ocserv-"+tt.name+".txt"), []byte(wire.text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// authority makes a certificate authority with certificates for the gateway and for alice, and writes them to dir.
func authority(t *testing.T, dir string) (*x509.CertPool, *tls.Certificate) {
	t.Helper()
	sign := func(name string, template x509.Certificate, by *issue.Certificate) *issue.Certificate {
		template.Subject = pkix.Name{CommonName: name, ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: []int{0, 9, 2342, 19200300, 100, 1, 1}, Value: name},
		}}
		c := issue.New(template, by)
		for file, text := range map[string]string{name + ".pem": c.PEM(), name + ".key": c.KeyPEM()} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	ca := sign("ca", x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	sign("gw", x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
	alice := sign("alice", x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca).TLS()
	return ca.Pool(), &alice
}

// startOcserv starts ocserv on the loopback interface and returns its address.
func startOcserv(t *testing.T, dir, config string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	ln.Close()

	password := exec.Command("ocpasswd", "-c", filepath.Join(dir, "passwd"), "-g", "eng,ops", "alice")
	password.Stdin = strings.NewReader("pass\npass\n")
	if out, err := password.CombinedOutput(); err != nil {
		t.Fatalf("ocpasswd: %v\n%s", err, out)
	}
	if !strings.Contains("\n"+config, "\nauth =") {
		config += fmt.Sprintf("auth = \"plain[passwd=%s/passwd]\"\n", dir)
	}
	config = strings.ReplaceAll(config, "DIR", dir)
	conf := fmt.Sprintf(`%[2]slisten-host = 127.0.0.1
tcp-port = %[3]s
run-as-user = root
run-as-group = root
socket-file = %[1]s/sock
server-cert = %[1]s/gw.pem
server-key = %[1]s/gw.key
ca-cert = %[1]s/ca.pem
cert-user-oid = 0.9.2342.19200300.100.1.1
isolate-workers = false
device = vpnh4
ipv4-network = 192.168.78.0
ipv4-netmask = 255.255.255.0
max-ban-score = 0
`, dir, config, port)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "ocserv.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ocserv", "-f", "-d", "3", "-c", filepath.Join(dir, "conf"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		log.Close()
	})
	for range 100 {
		nc, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			nc.Close()
			return addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("ocserv does not listen on %s\n%s", addr, text)
	return ""
}

// A tap stands between the client and ocserv, ends TLS on both sides connection by connection, and records what passes.
type tap struct {
	ln     net.Listener
	roots  *x509.CertPool
	addr   string
	dir    string
	client *tls.Certificate

	mu    sync.Mutex
	parts []part
}

// A part is what one side said without the other saying anything.
type part struct {
	who  string
	conn int
	data []byte
}

func (p *tap) start(t *testing.T) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(p.dir, "gw.pem"), filepath.Join(p.dir, "gw.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.ln, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			near, err := p.ln.Accept()
			if err != nil {
				return
			}
			cfg := &tls.Config{RootCAs: p.roots}
			if p.client != nil {
				cfg.Certificates = []tls.Certificate{*p.client}
			}
			far, err := tls.Dial("tcp", p.addr, cfg)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range []struct {
				who      string
				from, to net.Conn
			}{{"client", near, far}, {"gateway", far, near}} {
				wg.Go(func() {
					defer way.from.Close()
					defer way.to.Close()
					_, _ = io.Copy(way.to, io.TeeReader(way.from, p.recorder(way.who, n))) // either side may go first
				})
			}
		}
	})
	t.Cleanup(func() {
		p.ln.Close()
		wg.Wait()
	})
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (p *tap) recorder(who string, conn int) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.parts); n > 0 && p.parts[n-1].who == who && p.parts[n-1].conn == conn {
			p.parts[n-1].data = append(p.parts[n-1].data, b...)
		} else {
			p.parts = append(p.parts, part{who, conn, bytes.Clone(b)})
		}
		return len(b), nil
	})
}

// text returns the transcript, with the address replaced by one that does not change.
func (p *tap) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, part := range p.parts {
		fmt.Fprintf(&b, "=== %s %d\n%s\n", part.who, part.conn, strings.ReplaceAll(string(part.data), "\r\n", "\n"))
	}
	return strings.ReplaceAll(b.String(), p.ln.Addr().String(), "127.0.0.1:4443")
}
