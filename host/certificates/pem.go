package certificates

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// readPEM reads a directory with ca, client and client/private.
func (s *Store) readPEM(dir string, read func(path string) ([]byte, error)) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.problem(err)
		}
		return
	}
	s.Directories = append(s.Directories, dir)
	if read == nil {
		read = func(path string) ([]byte, error) { return readFile(path, maxFile) }
	}
	seen := map[string]bool{}
	var authorities []*x509.Certificate
	s.eachPEM(filepath.Join(dir, "ca"), read, func(path string, certs []*x509.Certificate) {
		for _, c := range certs {
			// Bundles overlap, and directories hold each file again under the hash of its name.
			if seen[string(c.Raw)] || !s.room(path) {
				continue
			}
			seen[string(c.Raw)] = true
			authorities = append(authorities, c)
			s.Anchors = append(s.Anchors, Anchor{Certificate: c, Path: path})
		}
	})
	s.eachPEM(filepath.Join(dir, "client"), read, func(path string, certs []*x509.Certificate) {
		if s.room(path) {
			s.Identities = append(s.Identities, s.identity(path, certs, authorities, read))
		}
	})
}

// eachPEM reads the files with certificates in a directory.
func (s *Store) eachPEM(dir string, read func(path string) ([]byte, error), use func(path string, certs []*x509.Certificate)) {
	files, err := names(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.problem(err)
		}
		return
	}
	for _, name := range files {
		switch strings.ToLower(filepath.Ext(name)) {
		case ".pem", ".crt", ".cer":
		default:
			continue
		}
		path := filepath.Join(dir, name)
		data, err := read(path)
		if err != nil {
			s.problem(err)
			continue
		}
		certs, problems := ParsePEM(data)
		for _, err := range problems {
			s.problem(fmt.Errorf("%s: %w", path, err))
		}
		if len(certs) > 0 {
			use(path, certs)
		}
	}
}

// ParsePEM returns the certificates of a file, which is in PEM, or is one certificate in DER. What cannot be read is left out, and
// is among the problems; so is a file without any certificate.
func ParsePEM(data []byte) (certs []*x509.Certificate, problems []error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		c, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, []error{errors.New("it holds no certificate, neither in PEM nor in DER")}
		}
		return []*x509.Certificate{c}, nil
	}
	number := 0
	for block := range blocks(data) {
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			continue
		}
		if number++; number > maxCertificates {
			problems = append(problems, fmt.Errorf("no more than %d certificates are read", maxCertificates))
			break
		}
		if block.Type == "TRUSTED CERTIFICATE" {
			// OpenSSL's own form says what for the certificate is trusted, which would be lost.
			problems = append(problems, fmt.Errorf("certificate %d is in OpenSSL's form with trust settings; convert it with openssl x509", number))
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			problems = append(problems, fmt.Errorf("certificate %d: %w", number, err))
			continue
		}
		certs = append(certs, c)
	}
	if number == 0 {
		problems = append(problems, errors.New("it holds no certificate"))
	}
	if len(problems) > maxProblems {
		problems = problems[:maxProblems]
	}
	return certs, problems
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

// identity makes an identity of a file with a client certificate, which may hold its issuers and its private key too.
func (s *Store) identity(path string, certs, authorities []*x509.Certificate, read func(path string) ([]byte, error)) *Identity {
	// Usually the first one, but some put the authority in front.
	leaf := certs[0]
	for _, c := range certs {
		if !c.IsCA {
			leaf = c
			break
		}
	}
	all := append(certs[:len(certs):len(certs)], authorities...)
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	id := &Identity{Store: s.Kind, Label: name, Path: path, Chain: chain(leaf, all)}
	keyFile := s.keyFile(id, path, name)
	id.key = func(u Unlock) (crypto.Signer, error) {
		data, err := read(keyFile)
		if err != nil {
			return nil, err
		}
		signer, err := parseKey(keyFile, data, u)
		if err != nil {
			return nil, err
		}
		if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
			return nil, fmt.Errorf("%s: %w: it does not belong to the certificate in %s", keyFile, ErrKey, path)
		}
		return signer, nil
	}
	return id
}

// keyFile looks for the private key of a client certificate and says in the identity if there is none.
func (s *Store) keyFile(id *Identity, path, name string) string {
	private := filepath.Join(filepath.Dir(path), "private")
	for _, file := range []string{filepath.Join(private, name+".key"), filepath.Join(private, name+".pem"), path} {
		f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			id.NoKey = fmt.Errorf("its private key cannot be read: %w", err)
			return ""
		}
		info, err := f.Stat()
		f.Close()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if file == path {
			data, err := readFile(path, maxFile)
			if err != nil || !bytes.Contains(data, []byte("PRIVATE KEY-----")) {
				break
			}
		}
		if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			s.problem(fmt.Errorf("%s: others may read this private key; run chmod 600 %s", file, file))
		}
		return file
	}
	id.NoKey = fmt.Errorf("its private key is not there: %s does not exist", filepath.Join(private, name+".key"))
	return ""
}

// parseKey finds the private key among the PEM blocks of a file.
func parseKey(path string, data []byte, u Unlock) (crypto.Signer, error) {
	for block := range blocks(data) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY", "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, fmt.Errorf("%s: %w: it is encrypted in the old way of OpenSSL; convert it with openssl pkcs8 -topk8 -in %s", path, ErrKey, path)
			}
			if block.Type == "EC PRIVATE KEY" {
				key, err = x509.ParseECPrivateKey(block.Bytes)
			} else {
				key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
			}
		case "ENCRYPTED PRIVATE KEY":
			if u.PKCS8 == nil {
				return nil, fmt.Errorf("%s: %w: encrypted keys are not supported here", path, ErrKey)
			}
			password, err := u.password(path)
			if err != nil {
				return nil, err
			}
			// What is wrong cannot be told from the outside: a wrong password shows as nonsense.
			if key, err = u.PKCS8(block.Bytes, password); err != nil {
				return nil, fmt.Errorf("%s: %w, or its encryption is not supported (%w)", path, ErrPassword, err)
			}
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s: %w: a key of this kind cannot sign", path, ErrKey)
		}
		return signer, nil
	}
	return nil, fmt.Errorf("%s: %w: it holds no private key", path, ErrKey)
}
