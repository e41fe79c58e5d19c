package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"culvert.example/vpn/transport"
)

// A Verifier accepts gateways.
type Verifier struct {
	// Roots are the authorities, nil for those of the system.
	Roots *x509.CertPool
	// Distrusts reports a certificate that must not be trusted, whoever vouches for it. Nil distrusts none.
	Distrusts func(*x509.Certificate) bool
	// Pins are keys of which the gateway must have one too, nil if there are none.
	Pins *Pins
}

// Config returns a TLS configuration made from base, which may be nil and is not changed, that accepts a gateway only if crypto/tls
// has verified it by the authorities, without anything that is distrusted, and a key is pinned, if there are pins. A
// VerifyConnection of base runs afterwards, and sees only those of the verified chains that nothing distrusted is in.
//
// A base that switches verification off and puts nothing in its place is an error. If a wrapper of the result switches it off and
// puts something in its place, as the user's own pins do, distrust and pins hold for the certificate of the gateway alone.
func (v *Verifier) Config(base *tls.Config) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil {
		return nil, errors.New("certificate: the TLS configuration switches verification off")
	}
	if v.Roots != nil {
		cfg.RootCAs = v.Roots
	}
	next := cfg.VerifyConnection
	verifier := *v
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		cs, err := verifier.filter(cs)
		if err != nil {
			return err
		}
		if err := verifier.Pins.Verify(cs); err != nil {
			return err
		}
		if next != nil {
			return next(cs)
		}
		return nil
	}
	return cfg, nil
}

// filter takes out the chains that something distrusted is in.
func (v *Verifier) filter(cs tls.ConnectionState) (tls.ConnectionState, error) {
	if v.Distrusts == nil {
		return cs, nil
	}
	if len(cs.VerifiedChains) == 0 {
		if len(cs.PeerCertificates) > 0 && v.Distrusts(cs.PeerCertificates[0]) {
			return cs, &DistrustError{cs.ServerName, cs.PeerCertificates[0]}
		}
		return cs, nil
	}
	var good [][]*x509.Certificate
	var culprit *x509.Certificate
next:
	for _, chain := range cs.VerifiedChains {
		for _, c := range chain {
			if v.Distrusts(c) {
				culprit = c
				continue next
			}
		}
		good = append(good, chain)
	}
	if len(good) == 0 {
		return cs, &DistrustError{cs.ServerName, culprit}
	}
	cs.VerifiedChains = good
	return cs, nil
}

// A DistrustError says that every chain of a gateway has a certificate that is distrusted. It matches transport.ErrUntrusted.
type DistrustError struct {
	// Host is the name that was asked for.
	Host string
	// Certificate is the one that is distrusted.
	Certificate *x509.Certificate
}

// Error implements error.
func (e *DistrustError) Error() string {
	return fmt.Sprintf("%v: %s depends on the certificate of %.200q, which a certificate store of this user says not to trust",
		transport.ErrUntrusted, e.Host, e.Certificate.Subject.String())
}

// Unwrap returns transport.ErrUntrusted.
func (*DistrustError) Unwrap() error { return transport.ErrUntrusted }
