package certificates

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
)

// Bounds of what is read. The bundles of distributions have a few hundred kilobytes and 150 certificates.
const (
	maxFile         = 4 << 20  // bytes of a PEM file
	maxDatabase     = 64 << 20 // bytes of cert9.db or key4.db
	maxINI          = 1 << 20  // bytes of profiles.ini
	maxEntries      = 4096     // files of a directory
	maxCertificates = 8192     // in a store
	maxProblems     = 64       // that are kept
	maxProfiles     = 16       // of Firefox, in one directory
)

// Options say where and how stores are read. The zero value reads those of this machine and the environment of nobody, which has
// no HOME.
type Options struct {
	// System is the operating system, as Go calls it. Empty means this one.
	System string
	// Getenv returns a variable of the environment. Nil means that none is set.
	Getenv func(name string) string
	// Root comes in front of all paths, for tests and images of systems.
	Root string
	// ReadMachine reads a small file of the machine's store and refuses one that others than the administrator could have
	// written. Nil reads it whoever has written it, which is good enough for a program that acts for the user who started it,
	// and for no service.
	ReadMachine func(path string) ([]byte, error)
}

func (o *Options) system() string {
	if o.System == "" {
		return runtime.GOOS
	}
	return o.System
}

func (o *Options) getenv(name string) string {
	if o.Getenv == nil {
		return ""
	}
	return o.Getenv(name)
}

// A Store is what a store held when it was opened. It does not change, and may be used by several goroutines at once.
type Store struct {
	// Kind is what it is.
	Kind Kind
	// Directories are those that were read: of those that [Directories] returns, the ones that exist. For Firefox they are
	// those of profiles.
	Directories []string
	// Anchors are the authorities, and certificates of single servers, that it trusts. Those of System cannot be listed.
	Anchors []Anchor
	// Identities are the client certificates.
	Identities []*Identity
	// Problems are what could not be read, and private keys that others may read. Each names its file.
	Problems []error

	distrusts []func(*x509.Certificate) bool
	count     int
}

// An Anchor is a certificate that is trusted.
type Anchor struct {
	// Certificate is the certificate itself.
	Certificate *x509.Certificate
	// Label is the name that the store has for it, or "". Path is the file that it is in.
	Label, Path string
}

// Open reads a store. It does not fail: what cannot be read is among the Problems, and a store that is not there is empty.
func Open(kind Kind, o Options) *Store {
	s := &Store{Kind: kind}
	for _, dir := range Directories(o.system(), kind, o.getenv, o.Root) {
		switch kind {
		case PEMMachine:
			s.readPEM(dir, o.ReadMachine)
		case PEMUser:
			s.readPEM(dir, nil)
		case Firefox:
			s.readFirefox(dir)
		}
	}
	return s
}

// Distrusts reports whether the store says not to trust a certificate, wherever it comes from.
func (s *Store) Distrusts(c *x509.Certificate) bool {
	for _, distrusts := range s.distrusts {
		if distrusts(c) {
			return true
		}
	}
	return false
}

func (s *Store) problem(err error) {
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, err)
	}
}

// room reports whether the store may have one certificate more, and notes once if not.
func (s *Store) room(path string) bool {
	if s.count++; s.count == maxCertificates+1 {
		s.problem(fmt.Errorf("%s: no more than %d certificates are read, and the rest is left out", path, maxCertificates))
	}
	return s.count <= maxCertificates
}

// Pool returns the authorities of the stores. If one of them is [System], they include those of the system, which crypto/x509 knows
// how to find.
func Pool(stores ...*Store) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, s := range stores {
		if s.Kind == System {
			var err error
			if pool, err = x509.SystemCertPool(); err != nil {
				return nil, fmt.Errorf("certificates: the authorities of the system: %w", err)
			}
		}
	}
	for _, s := range stores {
		for _, a := range s.Anchors {
			pool.AddCert(a.Certificate)
		}
	}
	return pool, nil
}

// Distrusts returns a function that reports whether one of the stores says not to trust a certificate, or nil if none of them
// distrusts anything.
func Distrusts(stores ...*Store) func(*x509.Certificate) bool {
	var all []func(*x509.Certificate) bool
	for _, s := range stores {
		all = append(all, s.distrusts...)
	}
	if len(all) == 0 {
		return nil
	}
	return func(c *x509.Certificate) bool {
		for _, distrusts := range all {
			if distrusts(c) {
				return true
			}
		}
		return false
	}
}

var (
	// ErrEncrypted reports a private key for which there is no password.
	ErrEncrypted = errors.New("the private key is encrypted, and there is no password for it")
	// ErrPassword reports a password that is not the right one.
	ErrPassword = errors.New("the password of the private key is wrong")
	// ErrKey reports a private key that is broken, of a kind that is not supported, or of another certificate.
	ErrKey = errors.New("the private key cannot be used")
)

// An Unlock opens private keys that are protected. The zero value opens those that are not.
type Unlock struct {
	// Password returns the password of what is named, such as a file. It is asked only if one is needed, and may ask a
	// person. Nil means that there is none.
	Password func(of string) (string, error)
	// PKCS8 decrypts an EncryptedPrivateKeyInfo (RFC 5958), such as ParsePKCS8PrivateKey of package youmark/pkcs8 does. Nil means
	// that such keys are not supported.
	PKCS8 func(der []byte, password string) (crypto.PrivateKey, error)
}

func (u Unlock) password(of string) (string, error) {
	if u.Password == nil {
		return "", fmt.Errorf("%s: %w", of, ErrEncrypted)
	}
	return u.Password(of)
}

// An Identity is a client certificate.
type Identity struct {
	// Chain is the certificate and behind it those that lead to an authority, as far as the store has them.
	Chain []*x509.Certificate
	// Store is where it is from.
	Store Kind
	// Label is the name that the store has for it, and Path the file that it is in.
	Label, Path string
	// NoKey says why its private key cannot be used, as far as is known without opening it; nil if it can.
	NoKey error

	key func(Unlock) (crypto.Signer, error)
}

// Key opens the private key. The error matches [ErrEncrypted], [ErrPassword] or [ErrKey], or is that of a file or of u.
func (id *Identity) Key(u Unlock) (crypto.Signer, error) {
	if id.NoKey != nil {
		return nil, id.NoKey
	}
	return id.key(u)
}

// Certificate opens the private key and returns what package tls takes. The errors are those of Key.
func (id *Identity) Certificate(u Unlock) (tls.Certificate, error) {
	signer, err := id.Key(u)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := tls.Certificate{PrivateKey: signer, Leaf: id.Chain[0]}
	for _, cert := range id.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c, nil
}

// Arrange returns the certificate of the public key and behind it those that lead from it to an authority, in the order that TLS
// wants, whatever the order in which they are given. It returns nil if none is of the key. A certificate that issued itself is
// left out behind another one: the gateway has it, or does not trust it.
func Arrange(key crypto.PublicKey, certs []*x509.Certificate) []*x509.Certificate {
	for _, c := range certs {
		if public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(key) {
			return chain(c, certs)
		}
	}
	return nil
}

// chain returns the certificate and those of the others that lead to its authority.
func chain(leaf *x509.Certificate, others []*x509.Certificate) []*x509.Certificate {
	const longest = 10
	all := []*x509.Certificate{leaf}
next:
	for at := leaf; len(all) < longest && string(at.RawIssuer) != string(at.RawSubject); {
		for _, c := range others {
			if string(c.RawSubject) == string(at.RawIssuer) && at.CheckSignatureFrom(c) == nil {
				if string(c.RawIssuer) == string(c.RawSubject) {
					return all
				}
				all = append(all, c)
				at = c
				continue next
			}
		}
		return all
	}
	return all
}
