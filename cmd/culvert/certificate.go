package main

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"culvert.example/vpn/host/certificates"
)

// loadCertificate reads a certificate chain and its private key. The key may be in the file of the certificate, in PEM or
// PKCS#12, or in one of its own; passphrase is called only if the key is encrypted.
func loadCertificate(certFile, keyFile string, passphrase func() (string, error)) (tls.Certificate, error) {
	b, err := readSmall(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	if !bytes.Contains(b, []byte("-----BEGIN ")) {
		return loadPKCS12(certFile, b, passphrase)
	}
	var cert tls.Certificate
	for block := range blocks(b) {
		if block.Type == "CERTIFICATE" {
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	if len(cert.Certificate) == 0 {
		return tls.Certificate{}, fmt.Errorf("%s holds no certificate", certFile)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", certFile, err)
	}
	if keyFile == "" {
		keyFile = certFile
	} else if b, err = readSmall(keyFile); err != nil {
		return tls.Certificate{}, err
	}
	if cert.PrivateKey, err = parseKey(keyFile, b, passphrase); err != nil {
		return tls.Certificate{}, err
	}
	return cert, checkPair(&cert, certFile, keyFile)
}

// blocks yields the PEM blocks of b.
func blocks(b []byte) func(yield func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil || !yield(block) {
				return
			}
		}
	}
}

// parseKey finds the private key among PEM blocks.
func parseKey(file string, b []byte, passphrase func() (string, error)) (crypto.PrivateKey, error) {
	for block := range blocks(b) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY", "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, fmt.Errorf("%s is encrypted in the old way of OpenSSL, which protects it badly: convert it with openssl pkcs8 -topk8 -in %s", file, file)
			}
			if block.Type == "EC PRIVATE KEY" {
				key, err = x509.ParseECPrivateKey(block.Bytes)
			} else {
				key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
			}
		case "ENCRYPTED PRIVATE KEY":
			var pass string
			if pass, err = passphrase(); err != nil {
				return nil, err
			}
			if key, err = pkcs8.ParsePKCS8PrivateKey(block.Bytes, []byte(pass)); err != nil {
				// The library's own words are of ASN.1, and a wrong passphrase is by far the likeliest cause.
				return nil, fmt.Errorf("%s: the passphrase is wrong, or the encryption is not supported (%w)", file, err)
			}
		case "TSS2 PRIVATE KEY":
			return nil, fmt.Errorf("%s: keys in a TPM are not supported", file)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return key, nil
	}
	return nil, &noKeyError{file}
}

// A noKeyError is a file without the private key that belongs to a certificate.
type noKeyError struct{ file string }

// Error implements error.
func (e *noKeyError) Error() string { return e.file + " holds no private key" }

// orKey adds to an error about a missing key the flag by which it is given.
func orKey(err error, flag string) error {
	if missing := (*noKeyError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("%w; give it with %s", err, flag)
	}
	return err
}

// loadPKCS12 reads a PKCS#12 file. It is tried without a passphrase first.
func loadPKCS12(file string, b []byte, passphrase func() (string, error)) (tls.Certificate, error) {
	cert, err := decodePKCS12(b, "")
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		var pass string
		if pass, err = passphrase(); err != nil {
			return tls.Certificate{}, err
		}
		cert, err = decodePKCS12(b, pass)
	}
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return tls.Certificate{}, fmt.Errorf("%s: the passphrase is wrong", file)
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s is neither PEM nor PKCS#12 with one key: %w", file, err)
	}
	return cert, checkPair(&cert, file, file)
}

// checkPair reports a key that is not the one of the certificate. If it is the one of another certificate in the file, such as
// where the authority stands in front, the chain is put in order.
func checkPair(cert *tls.Certificate, certFile, keyFile string) error {
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s: a key of this kind cannot sign", keyFile)
	}
	pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if ok && pub.Equal(cert.Leaf.PublicKey) {
		return nil
	}
	var all []*x509.Certificate
	for _, der := range cert.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil {
			all = append(all, c)
		}
	}
	chain := certificates.Arrange(signer.Public(), all)
	if chain == nil {
		return fmt.Errorf("the key in %s does not belong to the certificate in %s", keyFile, certFile)
	}
	cert.Leaf, cert.Certificate = chain[0], nil
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return nil
}

// writePair writes a certificate and its key in PEM, the key readable to this user alone.
func writePair(cert tls.Certificate, certFile, keyFile string) error {
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	if err := writeNew(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, c := range cert.Certificate {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c})
	}
	return writeNew(certFile, b.Bytes(), 0o644)
}

// writeNew writes a file that must not be there yet.
func writeNew(file string, b []byte, perm os.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
