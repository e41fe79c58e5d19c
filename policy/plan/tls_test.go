package plan

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/policy"
)

// TestFIPS: with FipsMode, handshakes come about with approved suites and groups alone (D1243).
func TestFIPS(t *testing.T) {
	cert := issue.New(x509.Certificate{DNSNames: []string{"gw.example"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}, nil)
	gateway := func(c *tls.Config) *tls.Config {
		c.Certificates = []tls.Certificate{cert.TLS()}
		return c
	}
	p, err := New("gw.example", Documents{Local: xmlPolicy(t, "<FipsMode>true</FipsMode>"), LocalPath: "policy.xml"}, Environment{System: "linux", FIPS: true})
	if err != nil {
		t.Fatal(err)
	}
	fips := p.TLS
	for _, tt := range []struct {
		name    string
		gateway *tls.Config
		works   bool
	}{
		{"anything", gateway(&tls.Config{}), true},
		{"P-256", gateway(&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP256}}), true},
		{"X25519 only", gateway(&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}), false},
		{"TLS 1.2 with AES-GCM", gateway(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}), true},
		{"TLS 1.2 with ChaCha20", gateway(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}}), false},
		{"TLS 1.2 with CBC", gateway(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}), false},
		{"TLS 1.1", gateway(&tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			base := &tls.Config{RootCAs: cert.Pool(), ServerName: "gw.example", MinVersion: tls.VersionTLS10,
				VerifyConnection: func(tls.ConnectionState) error { asked = true; return nil }}
			err := handshake(t, tt.gateway, fips.Config(base))
			if (err == nil) != tt.works || tt.works && !asked {
				t.Errorf("FipsMode: %v, the verification of the base was asked: %v", err, asked)
			}
			var refused *policy.RefusedError
			if err := fips.Explain(err); errors.As(err, &refused) == tt.works || refused != nil && (refused.Setting != "FipsMode" || refused.Line != 2) {
				t.Errorf("explained: %v", err)
			}
			if base.CipherSuites != nil || base.MinVersion != tls.VersionTLS10 {
				t.Error("the base was changed")
			}
		})
	}
	if base := (&tls.Config{}); (TLS{}).Config(base) != base {
		t.Error("without FipsMode the configuration is another one")
	}
	if (TLS{FIPS: true}).Config(nil) == nil {
		t.Error("there is no configuration")
	}
	for name, cs := range map[string]tls.ConnectionState{
		"ChaCha20 of TLS 1.3": {Version: tls.VersionTLS13, CipherSuite: tls.TLS_CHACHA20_POLY1305_SHA256, CurveID: tls.CurveP256},
		"X25519":              {Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, CurveID: tls.X25519},
		"TLS 1.1":             {Version: tls.VersionTLS11, CipherSuite: tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	} {
		var refused *policy.RefusedError
		if err := fips.approve(cs); !errors.As(err, &refused) || refused.Setting != "FipsMode" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range []error{nil, io.EOF, policy.ErrDenied} {
		if got := fips.Explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if err := errors.New("remote error: tls: handshake failure"); (TLS{}).Explain(err) != err {
		t.Error("without FipsMode an error is explained by it")
	}
}

// handshake makes a handshake over loopback and returns the client's error.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Server(a, server)
		c.Handshake()
		var one [1]byte
		c.Read(one[:])
		a.Close()
	}()
	err = tls.Client(b, client).Handshake()
	b.Close()
	<-done
	return err
}
