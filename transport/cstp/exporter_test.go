package cstp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// TestExportByHand compares our exporter with that of crypto/tls where both work: in TLS 1.2 with extended master secret. The
// formula is the same without.
func TestExportByHand(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		a, b := loopback(t)
		scfg, ccfg := configs()
		ccfg = ccfg.Clone()
		ccfg.MaxVersion, ccfg.CipherSuites = tls.VersionTLS12, []uint16{suite}
		var chained bytes.Buffer
		ccfg.KeyLogWriter = &chained
		client, server := Client(a, ccfg), Server(b, scfg)
		go server.Handshake()
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(chained.String(), "CLIENT_RANDOM ") {
			t.Errorf("the caller's KeyLogWriter got %q", chained.String())
		}
		if err := server.Handshake(); err != nil {
			t.Fatal(err)
		}
		for name, l := range map[string]*Link{"client": client, "server": server} {
			st := l.ConnectionState()
			for _, n := range []int{1, 32, 100} {
				want, err := st.ExportKeyingMaterial(wire.PSKLabel, nil, n)
				if err != nil {
					t.Fatal(err)
				}
				got, err := l.exportByHand(&st, wire.PSKLabel, n)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %s, %d bytes: %x, %v, want %x", name, tls.CipherSuiteName(suite), n, got, err, want)
				}
			}
			if _, _, ok := l.keys.get(); !ok {
				t.Errorf("%s: the master secret is gone too early", name)
			}
			if _, err := l.ExportKey(wire.PSKLabel, 32); err != nil {
				t.Error(err)
			}
			if _, _, ok := l.keys.get(); ok {
				t.Errorf("%s: a master secret that is not needed stays in memory", name)
			}
		}
	}
}

func TestExportKey(t *testing.T) {
	client, server, _, _ := links(t, 0)
	a, err1 := client.ExportKey(wire.PSKLabel, 32)
	b, err2 := server.ExportKey(wire.PSKLabel, 32)
	if err1 != nil || err2 != nil || len(a) != 32 || !bytes.Equal(a, b) {
		t.Errorf("%x, %v and %x, %v", a, err1, b, err2)
	}
	nc, _ := loopback(t)
	if _, err := Client(nc, &tls.Config{ServerName: "gw.example"}).ExportKey(wire.PSKLabel, 32); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("before the handshake: %v", err)
	}
}

// TestExportKeyWithoutEMS asks a server of OpenSSL that has no extended master secret, as many gateways have none, what its key is.
func TestExportKeyWithoutEMS(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conf := filepath.Join(dir, "openssl.cnf")
	if err := os.WriteFile(conf, []byte("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nOptions = -ExtendedMasterSecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	newKey := exec.CommandContext(ctx, openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
		"-subj", "/CN=gw.example", "-addext", "subjectAltName=DNS:gw.example")
	newKey.Dir = dir
	if out, err := newKey.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := exec.CommandContext(ctx, openssl, "s_server", "-accept", addr, "-cert", "cert.pem", "-key", "key.pem", "-tls1_2", "-naccept", "1",
		"-keymatexport", wire.PSKLabel, "-keymatexportlen", "32")
	s.Dir = dir
	s.Env = append(os.Environ(), "OPENSSL_CONF="+conf)
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); s.Process.Kill(); s.Wait() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "ACCEPT") {
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	_, cfg := configs()
	cfg = cfg.Clone()
	cfg.RootCAs = cfg.RootCAs.Clone()
	cfg.RootCAs.AppendCertsFromPEM(pem)
	client := Client(nc, cfg)
	defer client.Close()
	if err := client.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	st := client.ConnectionState()
	if _, err := st.ExportKeyingMaterial(wire.PSKLabel, nil, 32); err == nil {
		t.Fatal("this connection has an extended master secret, so it tests nothing")
	}
	key, err := client.ExportKey(wire.PSKLabel, 32)
	if err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		if hexKey, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "Keying material: "); ok {
			if !strings.EqualFold(hexKey, hex.EncodeToString(key)) {
				t.Errorf("key %x, the server has %s", key, hexKey)
			}
			client.Close()
			if _, _, ok := client.keys.get(); ok {
				t.Error("Close leaves the master secret in memory")
			}
			return
		}
	}
	t.Error("the server does not print its key")
}

func TestServerRandom(t *testing.T) {
	random := bytes.Repeat([]byte{7}, 32)
	record := append([]byte{22, 3, 3, 0, 80, 2, 0, 0, 76, 3, 3}, random...)
	warning := []byte{21, 3, 3, 0, 2, 1, 112}
	for _, test := range []struct {
		in []byte
		ok bool
	}{
		{record, true},
		{append(bytes.Clone(warning), record...), true},
		{record[:42], false},
		{warning, false},
		{warning[:4], false},
		{[]byte("HTTP/1.1 400 Bad Request\r\nServer: something or other\r\n"), false},
		{nil, false},
	} {
		s := new(socket)
		for i := range test.in {
			s.hello.see(test.in[i : i+1])
		}
		got, ok := s.serverRandom()
		if ok != test.ok || ok && !bytes.Equal(got, random) {
			t.Errorf("% x: % x, %v", test.in, got, ok)
		}
	}
}
