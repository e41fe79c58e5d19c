//go:build linux

// Package ocserv starts the gateway ocserv on a host of package netns, for tests against a real peer and measurements beside it.
package ocserv

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"culvert.example/vpn/internal/netns"
)

// Inside is a host behind the gateway, and Inside6 its IPv6 address. They are on the loopback interface of the gateway.
var (
	Inside  = netip.MustParseAddr("172.31.0.1")
	Inside6 = netip.MustParseAddr("fd00:31::1")
)

// Port is where ocserv listens, TCP and UDP.
const Port = 4443

// A Config says what to start. The zero Config has one user, alice, whose password is pass.
type Config struct {
	// Address is what to listen on.
	Address netip.Addr
	// Users are password-file users with their passwords; Groups are theirs, by user, separated by commas.
	Users, Groups map[string]string
	// Auth replaces the line that says how to log in, in which %s is the directory of the configuration.
	Auth string
	// Lines are more lines of the configuration. They come last and replace those of the same key; a key alone takes its
	// lines away.
	Lines []string
}

// A Server is a running ocserv.
type Server struct {
	// URL is where to connect, Pin the key of its certificate as pin-sha256:BASE64.
	URL, Pin string
	// Dir holds its files: ca.pem and ca-key.pem sign client certificates.
	Dir string

	tb   netns.TB
	host *netns.Host
	conf string
	stop func()
}

// Start starts ocserv on host and waits until it takes connections. It ends with the test.
func Start(tb netns.TB, host *netns.Host, cfg Config) *Server {
	tb.Helper()
	if _, err := exec.LookPath("ocserv"); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			tb.Fatalf("CULVERT_INTEROP=1, but ocserv is not installed")
		}
		tb.Skipf("ocserv is not installed")
	}
	if !cfg.Address.IsValid() {
		tb.Fatalf("ocserv: no address")
	}
	// The path of its socket must be short.
	dir, err := os.MkdirTemp("", "ocserv")
	if err != nil {
		tb.Fatalf("ocserv: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{tb: tb, host: host, Dir: dir, URL: "https://" + netip.AddrPortFrom(cfg.Address, Port).String()}
	s.makeKeys(cfg.Address)
	s.makeUsers(cfg)
	s.makeConfig(cfg)
	for _, a := range []string{Inside.String() + "/32", Inside6.String() + "/128"} {
		host.IP("address", "replace", a, "dev", "lo")
	}
	s.stop = host.Start("ocserv", "-f", "-d", "1", "-c", s.conf)
	s.wait(cfg.Address)
	return s
}

// Restart stops ocserv and starts it again, with its sessions forgotten.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	time.Sleep(200 * time.Millisecond)
	s.stop = s.host.Start("ocserv", "-f", "-d", "1", "-c", s.conf)
	u, _ := strings.CutPrefix(s.URL, "https://")
	s.wait(netip.MustParseAddrPort(u).Addr())
}

// Stop stops ocserv.
func (s *Server) Stop() { s.stop() }

// KillWorkers kills the processes that serve connected users, as a crash would, and fails if there are none.
func (s *Server) KillWorkers() {
	s.tb.Helper()
	killed := 0
	for _, pid := range s.host.Processes() {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err != nil || !strings.HasPrefix(string(name), "ocserv-w") {
			continue
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		s.tb.Fatalf("ocserv has no workers")
	}
}

// Control runs occtl, the administration command of ocserv, and returns what it prints.
func (s *Server) Control(args ...string) string {
	s.tb.Helper()
	out, err := exec.Command("occtl", append([]string{"-s", filepath.Join(s.Dir, "occtl.sock")}, args...)...).CombinedOutput()
	if err != nil {
		s.tb.Fatalf("occtl: %v: %s", err, out)
	}
	return string(out)
}

func (s *Server) wait(addr netip.Addr) {
	s.tb.Helper()
	var last error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := s.host.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, Port).String())
		cancel()
		if err == nil {
			conn.Close()
			return
		}
		last = err
	}
	s.tb.Fatalf("ocserv does not take connections: %v", last)
}

func (s *Server) run(input string, name string, args ...string) {
	s.tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.Dir
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (s *Server) makeKeys(addr netip.Addr) {
	s.tb.Helper()
	s.run("", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "30",
		"-subj", "/CN=gateway", "-addext", "subjectAltName=IP:"+addr.String())
	s.run("", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "30",
		"-subj", "/CN=users")
	pin, err := pinOf(filepath.Join(s.Dir, "cert.pem"))
	if err != nil {
		s.tb.Fatalf("ocserv: %v", err)
	}
	s.Pin = pin
}

// ClientCertificate makes a certificate for a user and returns the files of it and of its key.
func (s *Server) ClientCertificate(user string) (cert, key string) {
	s.tb.Helper()
	cert, key = filepath.Join(s.Dir, user+".pem"), filepath.Join(s.Dir, user+"-key.pem")
	s.run("", "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", user+".csr",
		"-subj", "/UID="+user+"/CN="+user)
	s.run("", "openssl", "x509", "-req", "-in", user+".csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
		"-out", cert, "-days", "30")
	return cert, key
}

func (s *Server) makeUsers(cfg Config) {
	s.tb.Helper()
	users := cfg.Users
	if users == nil {
		users = map[string]string{"alice": "pass"}
	}
	for user, password := range users {
		args := []string{"-c", "passwd"}
		if g := cfg.Groups[user]; g != "" {
			args = append(args, "-g", g)
		}
		s.run(password+"\n"+password+"\n", "ocpasswd", append(args, user)...)
	}
}

func (s *Server) makeConfig(cfg Config) {
	s.tb.Helper()
	auth := `auth = "plain[passwd=%s/passwd]"`
	if cfg.Auth != "" {
		auth = cfg.Auth
	}
	base := `listen-host = ` + cfg.Address.String() + `
tcp-port = 4443
udp-port = 4443
run-as-user = root
run-as-group = root
socket-file = %s/ocserv.sock
occtl-socket-file = %s/occtl.sock
use-occtl = true
server-cert = %s/cert.pem
server-key = %s/key.pem
ca-cert = %s/ca.pem
cert-user-oid = 0.9.2342.19200300.100.1.1
isolate-workers = false
max-clients = 64
max-same-clients = 64
keepalive = 32400
dpd = 90
mobile-dpd = 1800
cookie-timeout = 300
rekey-time = 172800
rekey-method = ssl
device = vpns
predictable-ips = true
default-domain = corp.example
ipv4-network = 192.168.77.0
ipv4-netmask = 255.255.255.0
ipv6-network = fd00:77::/64
dns = 172.31.0.1
route = 172.31.0.0/16
route = fd00:31::/64
no-route = 172.31.99.0/24
cisco-client-compat = true
dtls-legacy = true
max-ban-score = 0`
	replaced := map[string]bool{}
	key := func(line string) string { k, _, _ := strings.Cut(line, "="); return strings.TrimSpace(k) }
	for _, line := range cfg.Lines {
		replaced[key(line)] = true
	}
	lines := []string{auth}
	for line := range strings.Lines(base) {
		if line = strings.TrimSpace(line); !replaced[key(line)] {
			lines = append(lines, line)
		}
	}
	for _, line := range cfg.Lines {
		if strings.Contains(line, "=") {
			lines = append(lines, line)
		}
	}
	s.conf = filepath.Join(s.Dir, "ocserv.conf")
	text := strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "%s", s.Dir)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		s.tb.Fatalf("ocserv: %v", err)
	}
}

// pinOf returns the pin of the key of a certificate file.
func pinOf(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", errors.New("no PEM in " + file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "pin-sha256:" + base64.StdEncoding.EncodeToString(sum[:]), nil
}

// Echo answers whatever comes over TCP on host at addr with the same, until the test ends, and returns its address.
func Echo(tb netns.TB, host *netns.Host, addr netip.Addr) netip.AddrPort {
	tb.Helper()
	l, err := host.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		tb.Fatalf("ocserv: %v", err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.(*net.TCPConn).ReadFrom(conn)
			}()
		}
	}()
	port, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		panic(fmt.Sprint("the address of a listener: ", err))
	}
	return port
}
