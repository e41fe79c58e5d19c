package vpn_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
)

// A keeper stands for a key that nobody can read: in a smart card, a TPM, an agent or a service. It can sign, and say what its
// public key is.
type keeper struct {
	key        crypto.Signer
	signs, pss atomic.Int32 // how often it has signed, and of these by RSA-PSS
}

func (k *keeper) Public() crypto.PublicKey { return k.key.Public() }

func (k *keeper) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.signs.Add(1)
	if _, ok := opts.(*rsa.PSSOptions); ok {
		k.pss.Add(1)
	}
	return k.key.Sign(random, digest, opts)
}

// newKeeper makes a key, and what an authority says about it.
func newKeeper(key crypto.Signer, user string) (k *keeper, certificate *x509.Certificate, err error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: user}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	certificate, err = x509.ParseCertificate(der)
	return &keeper{key: key}, certificate, err
}

// forCertificates makes a gateway take the bearers of certificates, and nobody else.
func forCertificates(all ...*x509.Certificate) gatewaytest.Options {
	return gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Auth = gateway.Certificates{}
		c.TLS.ClientAuth, c.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		for _, one := range all {
			c.TLS.ClientCAs.AddCert(one)
		}
	}}
}

// A client certificate whose private key is elsewhere: whatever is a crypto.Signer will do. The directory examples/pkcs11 has
// such a program for the tokens that have a PKCS #11 module.
func ExampleConfig_signer() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	signer, certificate, err := newKeeper(key, "alice")
	if err != nil {
		log.Fatal(err)
	}
	gw, err := gatewaytest.Start(forCertificates(certificate))
	if err != nil {
		log.Fatal(err)
	}
	defer gw.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, gw.URL, &vpn.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{{
			Certificate: [][]byte{certificate.Raw}, // and behind it those that lead to its authority
			PrivateKey:  signer,
		}}},
		Pins: []string{gw.Pin},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()
	fmt.Println("the gateway knows", gw.Sessions()[0].User)
	// Output: the gateway knows alice
}

// TestSigner logs in with keys of all kinds that can do nothing but sign.
func TestSigner(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		key     crypto.Signer
		highest uint16
		schemes []tls.SignatureScheme // of those that the key is capable of; nil means all
		pss     bool
	}{
		{"RSA-PSS", key, tls.VersionTLS13, nil, true},
		{"RSA-PSS in TLS 1.2", key, tls.VersionTLS12, nil, true},
		{"RSA without PSS", key, tls.VersionTLS12, []tls.SignatureScheme{tls.PKCS1WithSHA256}, false},
		{"ECDSA", curve, tls.VersionTLS13, nil, false},
		{"ECDSA in TLS 1.2", curve, tls.VersionTLS12, nil, false},
		{"Ed25519", edwards, tls.VersionTLS13, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			signer, certificate, err := newKeeper(c.key, "alice")
			if err != nil {
				t.Fatal(err)
			}
			gw := gatewaytest.New(t, forCertificates(certificate))
			cfg := &vpn.Config{Pins: []string{gw.Pin}, TLS: &tls.Config{MaxVersion: c.highest}}
			if tunnel, err := vpn.Dial(timeout(t, 10*time.Second), gw.URL, cfg); err == nil {
				tunnel.Close()
				t.Error("a tunnel without a certificate")
			}
			cfg.TLS.Certificates = []tls.Certificate{{
				Certificate: [][]byte{certificate.Raw}, PrivateKey: signer, SupportedSignatureAlgorithms: c.schemes,
			}}
			dial(t, gw.URL, cfg)
			if user := only(t, gw).User; user != "alice" {
				t.Errorf("the user is %q", user)
			}
			if n, pss := signer.signs.Load(), signer.pss.Load(); n == 0 || (pss > 0) != c.pss {
				t.Errorf("signed %d times, of these %d by PSS", n, pss)
			}
		})
	}
}
