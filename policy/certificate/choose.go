package certificate

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/policy/profile"
)

// Rules say which client certificate to use.
type Rules struct {
	// Match are the rules of the profile, nil if it has none.
	Match *profile.CertificateMatch
	// Automatic is the effective AutomaticCertSelection: with false, the user chooses among the certificates that may be used.
	Automatic bool
	// Preferred is what the user chose the last time, the ClientCertificateThumbprint of the preferences: the SHA-1 or SHA-256
	// of the certificate in hexadecimal, or "". It counts only if Automatic is false.
	Preferred string
	// Document is the name of the profile, for messages.
	Document string
}

// A Verdict is what the rules make of a candidate.
type Verdict struct {
	Candidate
	// Index is the place of the candidate among those that were given.
	Index int
	// Refusals are the reasons not to use it; none means that it may be used.
	Refusals []Refusal
}

// A Choice is the outcome of [Choose].
type Choice struct {
	// Accepted are the candidates that may be used, the one to be preferred first.
	Accepted []Verdict
	// Refused are the others, in the order in which they were given.
	Refused []Verdict
	// Chosen is the place in Accepted of the one to use, -1 if there is none or the user has to choose.
	Chosen int
	// Ask says that the user has to choose one of Accepted.
	Ask bool
	// Reason says why, in words.
	Reason string

	document string
}

// Choose judges the candidates and chooses one of those that may be used. The one that expires last is preferred, since it is
// most likely the one that was issued last; of those that expire together, the one that became valid last, and then the first.
// A certificate that is among the candidates several times is used from where its private key is.
func Choose(candidates []Candidate, rules Rules, now time.Time) Choice {
	c := Choice{Chosen: -1, document: rules.Document}
	seen := map[string]bool{}
	for i, candidate := range candidates {
		v := Verdict{candidate, i, Judge(candidate, rules.Match, now)}
		raw := string(candidate.Certificate.Raw)
		if len(v.Refusals) == 0 && seen[raw] {
			v.Refusals = []Refusal{{"", "it is already there, from another place"}}
		}
		if len(v.Refusals) > 0 {
			c.Refused = append(c.Refused, v)
			continue
		}
		seen[raw] = true
		c.Accepted = append(c.Accepted, v)
	}
	slices.SortStableFunc(c.Accepted, func(a, b Verdict) int {
		return cmp.Or(b.Certificate.NotAfter.Compare(a.Certificate.NotAfter), b.Certificate.NotBefore.Compare(a.Certificate.NotBefore))
	})
	switch {
	case len(c.Accepted) == 0:
		c.Reason = "no certificate may be used"
	case rules.Automatic:
		c.Chosen, c.Reason = 0, "AutomaticCertSelection is true, and it expires last"
		if len(c.Accepted) == 1 {
			c.Reason = "it is the only one that may be used"
		}
	default:
		c.Chosen = slices.IndexFunc(c.Accepted, func(v Verdict) bool { return named(v.Candidate, rules.Preferred) })
		if c.Ask = c.Chosen < 0; c.Ask {
			c.Reason = "AutomaticCertSelection is false, so the user chooses"
		} else {
			c.Reason = "AutomaticCertSelection is false, and the user chose it before"
		}
	}
	return c
}

// named reports whether a thumbprint is that of the candidate.
func named(c Candidate, thumbprint string) bool {
	thumbprint = strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(thumbprint))
	switch len(thumbprint) {
	case 2 * sha1.Size:
		sum := sha1.Sum(c.Certificate.Raw)
		return thumbprint == hex.EncodeToString(sum[:])
	case 2 * sha256.Size:
		sum := sha256.Sum256(c.Certificate.Raw)
		return thumbprint == hex.EncodeToString(sum[:])
	}
	return false
}

// Err returns a [*NoCertificateError] if there were candidates and all were refused, and nil otherwise: most gateways want no
// client certificate, and whoever has none need not hear of it.
func (c Choice) Err() error {
	if len(c.Accepted) > 0 || len(c.Refused) == 0 {
		return nil
	}
	return &NoCertificateError{c.document, c.Refused}
}

// A NoCertificateError says why none of the client certificates may be used.
type NoCertificateError struct {
	// Document is the name of the profile, "" if there is none.
	Document string
	// Refused are the certificates with the reasons.
	Refused []Verdict
}

// Error implements error. The text names each certificate, up to eight, with its first reason.
func (e *NoCertificateError) Error() string {
	const most = 8
	var b strings.Builder
	fmt.Fprintf(&b, "none of %d client certificates may be used", len(e.Refused))
	if e.Document != "" {
		fmt.Fprintf(&b, " by the CertificateMatch of %s", e.Document)
	}
	for i, v := range e.Refused {
		if i == most {
			b.WriteString("; and others")
			break
		}
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%.100q from %s: %s", sep, v.Certificate.Subject.String(), v.Place, v.Refusals[0])
	}
	return b.String()
}
