//go:build cgo

package main

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
)

// softHSM is the module, as Debian's package softhsm2 installs it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// TestRun logs in with keys that were made inside of SoftHSM, and cannot be taken out of it.
func TestRun(t *testing.T) {
	if _, err := os.Stat(softHSM); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatalf("CULVERT_INTEROP=1, but %v", err)
		}
		t.Skipf("%v: install softhsm2", err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)

	for _, c := range []struct {
		name     string
		generate func(token *crypto11.Context, id []byte) (crypto.Signer, error)
	}{
		{"RSA", func(token *crypto11.Context, id []byte) (crypto.Signer, error) {
			return token.GenerateRSAKeyPair(id, 2048)
		}},
		{"ECDSA", func(token *crypto11.Context, id []byte) (crypto.Signer, error) {
			return token.GenerateECDSAKeyPair(id, elliptic.P256())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", c.name, "--pin", "1234",
				"--so-pin", "5678").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			keys := &crypto11.Config{Path: softHSM, TokenLabel: c.name, Pin: "1234"}
			certificate := fill(t, keys, c.generate)
			gw := gatewaytest.New(t, gatewaytest.Options{Config: func(g *gateway.Config) {
				g.Auth = gateway.Certificates{}
				g.TLS.ClientAuth, g.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
				g.TLS.ClientCAs.AddCert(certificate)
			}})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var out strings.Builder
			if err := run(ctx, keys, gw.URL, "http://"+gatewaytest.WebName+"/", &vpn.Config{Pins: []string{gw.Pin}}, &out); err != nil {
				t.Fatal(err)
			}
			if out.String() != gatewaytest.Page {
				t.Errorf("printed %q", out.String())
			}
			keys.Pin = "4321"
			if err := run(ctx, keys, gw.URL, "http://"+gatewaytest.WebName+"/", &vpn.Config{Pins: []string{gw.Pin}}, &out); err == nil {
				t.Error("a wrong PIN does")
			}
		})
	}
}

// fill makes a key in a token, and a certificate for it.
func fill(t *testing.T, keys *crypto11.Config, generate func(*crypto11.Context, []byte) (crypto.Signer, error)) *x509.Certificate {
	t.Helper()
	token, err := crypto11.Configure(keys)
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	id := []byte("1")
	key, err := generate(token, id)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.ImportCertificate(id, certificate); err != nil {
		t.Fatal(err)
	}
	return certificate
}
