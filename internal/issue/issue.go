// Package issue makes certificates for tests.
//
//	ca := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "Corp"}, IsCA: true}, nil)
//	server := issue.New(x509.Certificate{DNSNames: []string{"vpn.example.com"}}, ca)
//	l := tls.NewListener(tcp, &tls.Config{Certificates: []tls.Certificate{server.TLS()}})
//	client := &tls.Config{RootCAs: ca.Pool()}
package issue

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"time"
)

// A Certificate is a certificate with its key.
type Certificate struct {
	*x509.Certificate
	Key crypto.Signer
}

// New issues a certificate with a new key on P-256. By is who issues it, or nil for a certificate that issues itself. Without
// a serial number it gets a random one, and without an end it is good from an hour ago for two hours. New panics if the
// template makes no certificate.
func New(template x509.Certificate, by *Certificate) *Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return For(key, template, by)
}

// For is New for a key that there is.
func For(key crypto.Signer, template x509.Certificate, by *Certificate) *Certificate {
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
		if err != nil {
			panic(err)
		}
		template.SerialNumber = serial
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	template.BasicConstraintsValid = true
	if by == nil {
		by = &Certificate{&template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.Certificate, key.Public(), by.Key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &Certificate{c, key}
}

// TLS returns the certificate as whoever shows it wants it.
func (c *Certificate) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key, Leaf: c.Certificate}
}

// Pool returns a pool with nothing but the certificate.
func (c *Certificate) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Certificate)
	return pool
}

// PEM returns the certificate in PEM.
func (c *Certificate) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// KeyPEM returns the key in PEM, as PKCS #8.
func (c *Certificate) KeyPEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
