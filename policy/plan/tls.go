package plan

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"culvert.example/vpn/policy"
)

// A TLS says what connections to gateways must be like.
type TLS struct {
	// FIPS allows only what FIPS 140-3 approves.
	FIPS bool
	// Strict leaves the user no way to connect to a gateway that is not trusted: neither a question nor a pin.
	Strict bool

	by policy.RefusedError // what FIPS is demanded by, without a reason
}

// approvedSuites returns the suites of TLS 1.2 that FIPS 140-3 approves, in the order of preference.
func approvedSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
}

// approvedCurves returns the groups that it approves.
func approvedCurves() []tls.CurveID {
	return []tls.CurveID{tls.X25519MLKEM768, tls.CurveP256, tls.CurveP384, tls.CurveP521}
}

// approvedSuite reports whether a suite is approved. Those of TLS 1.3 cannot be configured, only looked at: crypto/tls chooses among
// them by itself, and in FIPS 140-3 mode leaves out the one that is not approved.
func approvedSuite(suite uint16) bool {
	return suite == tls.TLS_AES_256_GCM_SHA384 || suite == tls.TLS_AES_128_GCM_SHA256 || slices.Contains(approvedSuites(), suite)
}

// Config returns a configuration made from base, which may be nil and is not changed, that refuses what is not approved, if FIPS is
// set. A VerifyConnection of base runs first. The error of a handshake that is refused matches [policy.ErrDenied].
func (t TLS) Config(base *tls.Config) *tls.Config {
	if !t.FIPS {
		return base
	}
	cfg := &tls.Config{}
	if base != nil {
		cfg = base.Clone()
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	cfg.CipherSuites, cfg.CurvePreferences = approvedSuites(), approvedCurves()
	next := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if next != nil {
			if err := next(cs); err != nil {
				return err
			}
		}
		return t.approve(cs)
	}
	return cfg
}

// Refuse returns the refusal of FipsMode.
func (t TLS) Refuse(format string, args ...any) *policy.RefusedError {
	r := t.by
	r.Reason = fmt.Sprintf(format, args...)
	return &r
}

// Explain returns the error of a connection to a gateway as the refusal that it is, if FIPS is set and the two could not agree on
// anything that is approved. Any other error it returns as it is. The text of an alert has to do, since its type is nobody's.
func (t TLS) Explain(err error) error {
	if !t.FIPS || err == nil || errors.Is(err, policy.ErrDenied) {
		return err
	}
	for _, alert := range []string{"tls: handshake failure", "tls: protocol version not supported", "tls: insufficient security level", "tls: server selected unsupported",
		"tls: server chose an unconfigured cipher suite"} {
		if strings.Contains(err.Error(), alert) {
			r := t.Refuse("the gateway offers no version, cipher suite and group of TLS that is approved: %v", err)
			r.Err = err
			return r
		}
	}
	return err
}

// approve refuses a connection that uses what FIPS 140-3 does not approve.
func (t TLS) approve(cs tls.ConnectionState) error {
	switch {
	case cs.Version < tls.VersionTLS12:
		return t.Refuse("the gateway speaks %s, and TLS 1.2 is the least that is approved", tls.VersionName(cs.Version))
	case !approvedSuite(cs.CipherSuite):
		return t.Refuse("the gateway chose the cipher suite %s, which is not approved", tls.CipherSuiteName(cs.CipherSuite))
	case cs.CurveID != 0 && !slices.Contains(approvedCurves(), cs.CurveID):
		return t.Refuse("the gateway chose the group %s, which is not approved", cs.CurveID)
	}
	return nil
}

// CheckTrust refuses what a user says of gateways by himself where the local policy, or his own preference, does not let him: keys
// that he trusts whatever authorities say, and authorities of his own. The error is a *[policy.RefusedError] or nil.
func (p *Plan) CheckTrust(pins, authorities bool) error {
	l := p.Documents.Local
	switch {
	case pins && l.StrictCertificateTrust:
		return p.forbids("StrictCertificateTrust", "true", "a gateway must be trusted by a certificate authority; a key of your own choice is not accepted in the place of that")
	case pins && p.TLS.Strict:
		return &policy.RefusedError{Document: "preferences", Setting: "BlockUntrustedServers", Value: "true",
			Reason: "gateways that are not trusted are blocked by your own choice; take it back to accept a key"}
	case authorities && l.RestrictServerCertStore:
		return p.forbids("RestrictServerCertStore", "true", "only the authorities of the system may vouch for gateways, and none of a user")
	}
	return nil
}
