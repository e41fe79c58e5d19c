package upstream_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/proxy"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/upstream"
)

const (
	tinyproxyConf = `Port 8888
Listen 10.98.0.1
Timeout 600
MaxClients 20
LogLevel Warning
BasicAuth alice secret-1
ConnectPort 4443
ConnectPort 9
`
	squidConf = `http_port 10.98.0.1:3128
auth_param digest program /usr/lib/squid/digest_file_auth -c %[1]s/digest
auth_param digest realm culvert lab
auth_param digest children 1
auth_param digest nonce_max_count 50
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
cache deny all
access_log none
cache_log stdio:/dev/null
cache_store_log none
pid_filename none
coredump_dir %[1]s
visible_hostname proxy.example
dns_nameservers 127.0.0.1
shutdown_lifetime 0 seconds
`
)

// TestProxies opens a tunnel to ocserv from a host that reaches nothing but a proxy: tinyproxy with Basic, Squid with Digest, and
// SOCKS5.
//
//	client 10.98.0.2 -- 10.98.0.1 proxy 10.99.0.254, which forwards no packets -- 10.99.0.1 gateway
func TestProxies(t *testing.T) {
	for _, program := range []string{"tinyproxy", "squid"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CULVERT_INTEROP") == "1" {
				t.Fatalf("CULVERT_INTEROP=1, but %v", err)
			}
			t.Skip(err)
		}
	}
	leak.Check(t)
	l := netns.New(t)
	client, middle, gateway := l.Host("client"), l.Host("proxy"), l.Host("gateway")
	l.Join(client, "10.98.0.2/24", middle, "10.98.0.1/24")
	l.Join(middle, "10.99.0.254/24", gateway, "10.99.0.1/24")
	server := ocserv.Start(t, gateway, ocserv.Config{Address: netip.MustParseAddr("10.99.0.1")})
	inside := ocserv.Echo(t, gateway, ocserv.Inside)

	// Squid runs as another user.
	dir, err := os.MkdirTemp("", "proxies")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ha1 := md5.Sum([]byte("alice:culvert lab:secret@1:x"))
	write("digest", "alice:culvert lab:"+hex.EncodeToString(ha1[:])+"\n")
	middle.Start("tinyproxy", "-d", "-c", write("tinyproxy.conf", tinyproxyConf))
	middle.Start("squid", "-N", "-f", write("squid.conf", fmt.Sprintf(squidConf, dir)))
	socks := &proxy.Server{Auth: proxy.Password("alice", "secret-3"), Dial: middle.DialContext}
	sl, err := middle.Listen("tcp", "10.98.0.1:1080")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { socks.Serve(sl); close(done) }()
	t.Cleanup(func() { socks.Close(); <-done })
	for _, address := range []string{"10.98.0.1:8888", "10.98.0.1:3128"} {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			c, err := client.DialContext(t.Context(), "tcp", address)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no proxy listens: %v", err)
			}
		}
	}

	dialer := func(t *testing.T, url string) *upstream.Dialer {
		t.Helper()
		c, err := upstream.Choose(upstream.Sources{Gateway: "10.99.0.1:4443", Explicit: url})
		if err != nil {
			t.Fatal(err)
		}
		return &upstream.Dialer{Proxy: *c.Proxy, Dial: client.DialContext}
	}
	for name, url := range map[string]string{
		"tinyproxy, Basic": "http://alice:secret-1@10.98.0.1:8888",
		"squid, Digest":    "http://alice:secret%401%3Ax@10.98.0.1:3128",
		"SOCKS5":           "socks5://alice:secret-3@10.98.0.1",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			d := dialer(t, url)
			tun, err := vpn.Dial(ctx, server.URL, &vpn.Config{Login: login.Fixed{Username: "alice", Password: "pass"}, Pins: []string{server.Pin}, Dial: d.DialContext})
			if err != nil {
				t.Fatal(err)
			}
			defer tun.Close()
			c, err := tun.DialContext(ctx, "tcp", inside.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			want := make([]byte, 200<<10)
			go c.Write(want)
			if _, err := io.ReadFull(c, want); err != nil {
				t.Error(err)
			}
			// The echo ends before its way does.
			if w, ok := c.(interface{ CloseWrite() error }); !ok || w.CloseWrite() != nil {
				t.Error("no half-close")
			}
			io.Copy(io.Discard, c)
			s := tun.Status()
			for _, p := range s.Paths {
				if p.Name != "tls" && (p.Open || p.Opens+p.Failures > 0) || s.Path != "tls" {
					t.Errorf("the paths are %+v: through a proxy there is only TLS", s.Paths)
				}
			}
			t.Logf("interop: ocserv through %s, path %s", name, s.Path)
		})
	}
	for _, tt := range []struct {
		name, url, target string
		kind              error
	}{
		{"tinyproxy, wrong password", "http://alice:wrong@10.98.0.1:8888", "10.99.0.1:4443", upstream.ErrCredentials},
		{"tinyproxy, forbidden port", "http://alice:secret-1@10.98.0.1:8888", "10.99.0.1:22", upstream.ErrForbidden},
		{"tinyproxy, nobody there", "http://alice:secret-1@10.98.0.1:8888", "10.99.0.1:9", upstream.ErrUnreachable},
		{"squid, wrong password", "http://alice:wrong@10.98.0.1:3128", "10.99.0.1:4443", upstream.ErrCredentials},
		{"squid, no password", "http://10.98.0.1:3128", "10.99.0.1:4443", upstream.ErrCredentials},
		{"squid, nobody there", "http://alice:secret%401%3Ax@10.98.0.1:3128", "10.99.0.1:9", upstream.ErrUnreachable},
		{"SOCKS5, wrong password", "socks5://alice:wrong@10.98.0.1", "10.99.0.1:4443", upstream.ErrCredentials},
		{"SOCKS5, nobody there", "socks5://alice:secret-3@10.98.0.1", "10.99.0.1:9", upstream.ErrUnreachable},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := dialer(t, tt.url).DialContext(ctx, "tcp", tt.target)
		cancel()
		var op *net.OpError
		if !errors.Is(err, tt.kind) || !errors.As(err, &op) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// Squid counts the nonces: one Dialer connects again and again.
	d := dialer(t, "http://alice:secret%401%3Ax@10.98.0.1:3128")
	for range 5 {
		c, err := d.DialContext(t.Context(), "tcp", "10.99.0.1:4443")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
