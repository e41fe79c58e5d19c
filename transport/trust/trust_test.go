package trust_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/trust"
)

func certificate(notAfter time.Time, names ...string) tls.Certificate {
	return issue.New(x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway of corp"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: notAfter, DNSNames: names, IsCA: true,
	}, nil).TLS()
}

// handshake returns the client's error.
func handshake(t *testing.T, cert tls.Certificate, cfg *tls.Config) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer ln.Close()
		b, err := ln.Accept()
		if err != nil {
			return
		}
		defer b.Close()
		server := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}})
		_ = server.Handshake() // the client's error is the one that counts
	}()
	a, err := net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	err = tls.Client(a, cfg).Handshake()
	a.Close()
	<-done
	return err
}

func TestPins(t *testing.T) {
	cert := certificate(time.Now().Add(time.Hour), "vpn.example.com")
	other := certificate(time.Now().Add(time.Hour), "vpn.example.com")
	key256 := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
	key1 := sha1.Sum(cert.Leaf.RawSubjectPublicKeyInfo)
	der1 := sha1.Sum(cert.Leaf.Raw)
	der256 := sha256.Sum256(cert.Leaf.Raw)
	b64 := base64.StdEncoding.EncodeToString(key256[:])
	colons := ""
	for i, c := range der1 {
		if i > 0 {
			colons += ":"
		}
		colons += strings.ToUpper(hex.EncodeToString([]byte{c}))
	}
	for _, tt := range []struct {
		pin   string
		match bool
	}{
		{"pin-sha256:" + b64, true},
		{"PIN-SHA256:" + b64, true},
		{"pin-sha256:" + b64[:8], true},
		{"pin-sha256:" + strings.ToLower(b64), false},
		{"sha256:" + hex.EncodeToString(key256[:]), true},
		{"sha256:" + strings.ToUpper(hex.EncodeToString(key256[:4])), true},
		{"sha256:" + hex.EncodeToString(der256[:]), false},
		{"sha1:" + hex.EncodeToString(key1[:]), true},
		{"sha1:" + hex.EncodeToString(der1[:]), false},
		{hex.EncodeToString(der1[:]), true},
		{colons, true},
		{trust.PinOf(cert.Leaf), true},
		{trust.PinOf(other.Leaf), false},
	} {
		pins := trust.Pins{tt.pin}
		if err := pins.Check(); err != nil {
			t.Errorf("Check(%q): %v", tt.pin, err)
		}
		if got := pins.Match(cert.Leaf); got != tt.match {
			t.Errorf("Match(%q) = %t, want %t", tt.pin, got, tt.match)
		}
	}
	if !(trust.Pins{trust.PinOf(other.Leaf), trust.PinOf(cert.Leaf)}).Match(cert.Leaf) {
		t.Error("the second of two pins does not match")
	}
	for _, bad := range []string{"", "abc", "sha1:", "sha256:12", "sha256:xyzw", "pin-sha256:!!!!", "md5:0123456789", strings.Repeat("a", 41)} {
		if err := (trust.Pins{bad}).Check(); err == nil {
			t.Errorf("Check(%q) accepts it", bad)
		}
		if (trust.Pins{bad}).Match(cert.Leaf) {
			t.Errorf("Match(%q) is true", bad)
		}
	}
}

func TestConfig(t *testing.T) {
	good := certificate(time.Now().Add(time.Hour), "vpn.example.com")
	expired := certificate(time.Now().Add(-time.Hour), "vpn.example.com")
	roots := x509.NewCertPool()
	roots.AddCert(good.Leaf)
	roots.AddCert(expired.Leaf)
	base := &tls.Config{RootCAs: roots, ServerName: "vpn.example.com"}

	for _, tt := range []struct {
		name string
		cert tls.Certificate
		base *tls.Config
		pins trust.Pins
		want []string // parts of the error; none = trusted
	}{
		{"trusted root", good, base, nil, nil},
		{"pinned", good, &tls.Config{ServerName: "vpn.example.com"}, trust.Pins{trust.PinOf(good.Leaf)}, nil},
		{"pinned under another name", good, &tls.Config{ServerName: "10.0.0.1"}, trust.Pins{trust.PinOf(good.Leaf)}, nil},
		{"unknown authority", good, &tls.Config{ServerName: "vpn.example.com", RootCAs: x509.NewCertPool()}, nil,
			[]string{"vpn.example.com", "gateway of corp", "itself", "no trusted authority", trust.PinOf(good.Leaf)}},
		{"wrong name", good, &tls.Config{ServerName: "other.example.com", RootCAs: roots}, nil,
			[]string{"other.example.com shows", `it is for "vpn.example.com"`}},
		{"expired", expired, base, nil, []string{"valid only from"}},
		{"wrong pin in spite of a trusted root", good, base, trust.Pins{trust.PinOf(expired.Leaf)},
			[]string{"not the pinned one", trust.PinOf(good.Leaf)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := trust.Config(tt.base, tt.pins)
			if err != nil {
				t.Fatal(err)
			}
			err = handshake(t, tt.cert, cfg)
			if tt.want == nil {
				if err != nil {
					t.Fatalf("handshake: %v", err)
				}
				return
			}
			err = trust.Explain(err, tt.base.ServerName)
			if !errors.Is(err, transport.ErrUntrusted) {
				t.Fatalf("error %v does not match ErrUntrusted", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}

	if _, err := trust.Config(nil, trust.Pins{"nonsense"}); err == nil {
		t.Error("Config accepts a malformed pin")
	}
	if _, err := trust.Config(&tls.Config{InsecureSkipVerify: true}, nil); err == nil {
		t.Error("Config lets verification be switched off")
	}
	if _, err := trust.Config(&tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return nil }}, nil); err != nil {
		t.Errorf("Config does not let the caller verify: %v", err)
	}
	if _, err := trust.Config(&tls.Config{InsecureSkipVerify: true}, trust.Pins{trust.PinOf(good.Leaf)}); err != nil {
		t.Errorf("Config does not take pins instead: %v", err)
	}
	called := false
	cfg, err := trust.Config(&tls.Config{VerifyConnection: func(tls.ConnectionState) error {
		called = true
		return nil
	}}, trust.Pins{trust.PinOf(good.Leaf)})
	if err != nil {
		t.Fatal(err)
	}
	cfg.ServerName = "vpn.example.com"
	if err := handshake(t, good, cfg); err != nil || !called {
		t.Errorf("handshake: %v; the caller's VerifyConnection was called: %t", err, called)
	}
	if err := errors.New("plain"); trust.Explain(err, "x") != err {
		t.Error("Explain changes an error that is none of its business")
	}
}
