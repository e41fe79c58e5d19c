package certificate

import (
	"cmp"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport"
)

// Pins are the keys of which one must be in the chain of certificates of a gateway, on top of its being trusted otherwise.
type Pins struct {
	// Hashes are the SHA-512 of the keys (SubjectPublicKeyInfo in DER). Without any, no gateway is accepted.
	Hashes [][]byte
	// Document is the name of the profile, and Gateway that of its entry, for messages.
	Document, Gateway string
}

// PinsOf returns the pins of a profile for one of its gateways, nil if CertificatePinning is not true.
func PinsOf(p *profile.Profile, h profile.Host) *Pins {
	list, on := p.Pins(h)
	if !on {
		return nil
	}
	pins := &Pins{Document: p.Name(), Gateway: h.Name}
	for _, pin := range list {
		pins.Hashes = append(pins.Hashes, pin.Hash)
	}
	return pins
}

// Join returns pins of which any will do, for questions to one of several gateways that tell it nothing. It returns nil if any of them
// is nil.
func Join(all ...*Pins) *Pins {
	joined := &Pins{}
	for _, p := range all {
		if p == nil {
			return nil
		}
		joined.Hashes, joined.Document = append(joined.Hashes, p.Hashes...), p.Document
	}
	return joined
}

// PinOf returns the pin of a certificate as a profile has it: the SHA-512 of its public key in hexadecimal.
func PinOf(c *x509.Certificate) string {
	sum := sha512.Sum512(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// match reports whether a key of the chain is pinned.
func (p *Pins) match(chain []*x509.Certificate) bool {
	for _, c := range chain {
		sum := sha512.Sum512(c.RawSubjectPublicKeyInfo)
		for _, hash := range p.Hashes {
			if subtle.ConstantTimeCompare(sum[:], hash) == 1 {
				return true
			}
		}
	}
	return false
}

// Verify is for the VerifyConnection of a [tls.Config], where it runs after the verification and also when a session is resumed.
// Nil pins accept everything.
//
// The pinned key must be in a chain that was verified: what else the gateway sent proves nothing, since anybody can send the
// certificates of others. Where the user has accepted the gateway's own key instead of having the chain verified, that key must
// be pinned. The error is a [*PinError].
func (p *Pins) Verify(cs tls.ConnectionState) error {
	if p == nil {
		return nil
	}
	chains := cs.VerifiedChains
	if len(chains) == 0 && len(cs.PeerCertificates) > 0 {
		chains = [][]*x509.Certificate{cs.PeerCertificates[:1]}
	}
	e := &PinError{Host: cmp.Or(cs.ServerName, p.Gateway), Document: p.Document, Pins: len(p.Hashes)}
	for _, chain := range chains {
		if p.match(chain) {
			return nil
		}
		if e.Chain == nil {
			e.Chain = chain
		}
	}
	return e
}

// A PinError says that no key in the chain of a gateway is pinned. It matches transport.ErrUntrusted.
type PinError struct {
	// Host is the name that was asked for, or that of the gateway's entry if it was asked for by its address.
	Host string
	// Document is the name of the profile.
	Document string
	// Chain is the first of the chains, beginning with the gateway's own certificate.
	Chain []*x509.Certificate
	// Pins is how many pins there are.
	Pins int
}

// Setting returns the name of the element that refused the gateway.
func (*PinError) Setting() string { return "CertificatePinning" }

// Error implements error. The text has the pins of the chain, for an administrator to compare or to add.
func (e *PinError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: CertificatePinning of %s: none of its %d pins is that of a key of %s", transport.ErrUntrusted, e.Document, e.Pins, e.Host)
	for _, c := range e.Chain {
		fmt.Fprintf(&b, "; %.100q has %s", c.Subject.String(), PinOf(c))
	}
	return b.String()
}

// Unwrap returns transport.ErrUntrusted.
func (*PinError) Unwrap() error { return transport.ErrUntrusted }
