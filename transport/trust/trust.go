// Package trust decides whether a gateway is the right one.
//
// Its certificate is always checked: against the certificate authorities of the system or of the caller, or, if the caller
// pins a key, against that key alone. A pin replaces the authorities and the name, as with openconnect's --servercert,
// because who knows the key needs no one else's word for it.
//
// An error tells enough to decide about: whose certificate it was, who issued it, what is wrong with it, and the pin that
// would accept it.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"culvert.example/vpn/transport"
)

// Config returns a TLS configuration made from base that accepts the server by pins, or by normal verification if there are
// none. Base may be nil and is not changed. A VerifyConnection of base runs too, after the pins. An error means that a pin
// is malformed, or that base has InsecureSkipVerify and nothing in its place.
func Config(base *tls.Config, pins Pins) (*tls.Config, error) {
	if err := pins.Check(); err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		cfg = base.Clone()
	}
	if len(pins) == 0 {
		// VerifyPeerCertificate alone would not do, since a resumed session does not call it.
		if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil {
			return nil, errors.New("trust: the TLS configuration switches verification off; pin the key of the gateway instead")
		}
		return cfg, nil
	}
	pins = append(Pins(nil), pins...)
	next := cfg.VerifyConnection
	// The pins take the place of the verification that is switched off here. VerifyConnection runs on resumption too.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("%w: it showed no certificate", transport.ErrUntrusted)
		}
		leaf := cs.PeerCertificates[0]
		if !pins.Match(leaf) {
			return &Error{Host: cs.ServerName, Certificate: leaf, Reason: errPin}
		}
		if next != nil {
			return next(cs)
		}
		return nil
	}
	return cfg, nil
}

var errPin = errors.New("its key is not the pinned one")

// An Error says why a gateway is not trusted. It matches transport.ErrUntrusted.
type Error struct {
	// Host is the name that was asked for, or empty.
	Host string
	// Certificate is what the gateway showed.
	Certificate *x509.Certificate
	// Reason is what is wrong with it.
	Reason error
}

// Error implements error. The text names subject, issuer, reason and pin.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: ", transport.ErrUntrusted)
	if e.Host != "" {
		fmt.Fprintf(&b, "%s shows ", e.Host)
	}
	fmt.Fprintf(&b, "the certificate of %s, issued by ", name(e.Certificate.Subject.String(), e.Certificate.Raw))
	if string(e.Certificate.RawIssuer) == string(e.Certificate.RawSubject) {
		b.WriteString("itself")
	} else {
		b.WriteString(name(e.Certificate.Issuer.String(), e.Certificate.Raw))
	}
	fmt.Fprintf(&b, ": %s. If it is the right one, pin its key: %s", e.reason(), PinOf(e.Certificate))
	return b.String()
}

// Unwrap returns transport.ErrUntrusted and the reason.
func (e *Error) Unwrap() []error { return []error{transport.ErrUntrusted, e.Reason} }

func (e *Error) reason() string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	c := e.Certificate
	switch {
	case errors.As(e.Reason, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return fmt.Sprintf("%s is valid only from %s to %s", which(invalid.Cert, c), invalid.Cert.NotBefore.UTC().Format(time.DateTime),
			invalid.Cert.NotAfter.UTC().Format(time.DateTime))
	case errors.As(e.Reason, &unknown):
		return "no trusted authority signed it"
	case errors.As(e.Reason, &host):
		names := append([]string(nil), c.DNSNames...)
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) == 0 {
			return "it names no host at all"
		}
		const most = 8
		more := ""
		if len(names) > most {
			names, more = names[:most], " and others"
		}
		return fmt.Sprintf("it is for %.400q%s", strings.Join(names, ", "), more)
	}
	return fmt.Sprintf("%.400s", e.Reason.Error())
}

func which(bad, leaf *x509.Certificate) string {
	if bad.Equal(leaf) {
		return "it"
	}
	return fmt.Sprintf("the certificate of its issuer %s", name(bad.Subject.String(), bad.Raw))
}

// name quotes a distinguished name, which may hold anything.
func name(dn string, raw []byte) string {
	if dn == "" {
		return fmt.Sprintf("nobody (%d bytes)", len(raw))
	}
	return fmt.Sprintf("%.200q", dn)
}

// Explain turns an error of a TLS handshake that failed because of the server's certificate into an *Error, and returns any
// other error as it is. Host is the name that was asked for.
func Explain(err error, host string) error {
	var own *Error
	if errors.As(err, &own) {
		if own.Host == "" {
			return &Error{Host: host, Certificate: own.Certificate, Reason: own.Reason}
		}
		return own
	}
	var failed *tls.CertificateVerificationError
	if !errors.As(err, &failed) {
		return err
	}
	if len(failed.UnverifiedCertificates) == 0 {
		return fmt.Errorf("%w: %s: %w", transport.ErrUntrusted, host, err)
	}
	return &Error{Host: host, Certificate: failed.UnverifiedCertificates[0], Reason: failed.Err}
}
