package certificate

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/policy/profile"
)

// A Candidate is a client certificate that comes into question.
type Candidate struct {
	// Certificate is the certificate itself, as x509.ParseCertificate made it.
	Certificate *x509.Certificate
	// Store is where it is from, and Place says more exactly where, for people.
	Store Kind
	Place string
	// NoKey says why its private key cannot be used, "" if it can, as far as is known.
	NoKey string
	// Excluded is why its store may not be used for client certificates; the zero value says that it may. See [Use.Refusal].
	Excluded Refusal
}

// A Refusal is one reason not to use a certificate.
type Refusal struct {
	// Setting is the element of the profile that refuses it, "" if it is of no use whatever the profile says.
	Setting string `json:"setting,omitempty"`
	// Reason says what is wrong, in words.
	Reason string `json:"reason"`
}

// String returns the reason and the setting.
func (r Refusal) String() string {
	if r.Setting == "" {
		return r.Reason
	}
	return r.Setting + ": " + r.Reason
}

const (
	anyUsage   = "2.5.29.37.0"
	clientAuth = "1.3.6.1.5.5.7.3.2"
)

// Judge returns all reasons not to use a certificate, none if it may be used. The rules may be nil.
//
// A certificate without a key usage satisfies KeyUsage, unless MatchOnlyCertsWithKU is true, because RFC 5280 section 4.2.1.3
// lets such a key be used for everything; the same is true of ExtendedKeyUsage (section 4.2.1.12). A usage that is listed must
// stand in the certificate: anyExtendedKeyUsage does not stand for it. Where the profile lists none, a certificate whose extended
// key usages do not include that of a TLS client is refused, as every gateway would.
func Judge(c Candidate, rules *profile.CertificateMatch, now time.Time) []Refusal {
	var all []Refusal
	add := func(setting, format string, args ...any) {
		all = append(all, Refusal{setting, fmt.Sprintf(format, args...)})
	}
	cert := c.Certificate
	if c.Excluded.Reason != "" {
		all = append(all, c.Excluded)
	}
	if c.NoKey != "" {
		add("", "%s", c.NoKey)
	}
	if now.After(cert.NotAfter) {
		add("", "it expired on %s", cert.NotAfter.UTC().Format(time.DateTime))
	}
	if now.Before(cert.NotBefore) {
		add("", "it is valid only from %s on", cert.NotBefore.UTC().Format(time.DateTime))
	}
	if rules == nil {
		rules = &profile.CertificateMatch{}
	}
	switch {
	case !has(cert, oidKeyUsage):
		if rules.OnlyWithKU {
			add("MatchOnlyCertsWithKU", "it has no key usage")
		}
	case len(rules.KeyUsage) > 0 && !slices.ContainsFunc(rules.KeyUsage, func(name string) bool { return cert.KeyUsage&keyUsage(name) != 0 }):
		add("KeyUsage", "it has none of %s, but %s", strings.Join(rules.KeyUsage, ", "), orNone(keyUsages(cert)))
	}
	usages, present := extendedUsages(cert)
	switch {
	case !present:
		if rules.OnlyWithEKU {
			add("MatchOnlyCertsWithEKU", "it has no extended key usage")
		}
	case len(rules.ExtendedKeyUsage) > 0:
		for _, want := range rules.ExtendedKeyUsage {
			if !slices.Contains(usages, want) {
				add("ExtendedKeyUsage", "it lacks %s and has %s", usageName(want), orNone(usageNames(usages)))
			}
		}
	case !slices.Contains(usages, clientAuth) && !slices.Contains(usages, anyUsage):
		add("", "it is not for TLS clients but for %s", orNone(usageNames(usages)))
	}
	for _, rule := range rules.Names {
		if reason := judgeName(cert, rule); reason != "" {
			add("DistinguishedName", "%s", reason)
		}
	}
	return all
}

// The extensions that say what a key is for.
const (
	oidKeyUsage         = "2.5.29.15"
	oidExtendedKeyUsage = "2.5.29.37"
)

func has(c *x509.Certificate, oid string) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return true
		}
	}
	return false
}

// usageOrder are the names of the profile for the bits of a key usage, from the first bit on (RFC 5280 section 4.2.1.3).
const usageOrder = "Digital_Signature Non_Repudiation Key_Encipherment Data_Encipherment Key_Agreement Key_Cert_Sign CRL_Sign Encipher_Only Decipher_Only"

// keyUsage returns the bit of a name, 0 for a name that there is not.
func keyUsage(name string) x509.KeyUsage {
	for i, n := range strings.Fields(usageOrder) {
		if n == name {
			return 1 << i
		}
	}
	return 0
}

func keyUsages(c *x509.Certificate) []string {
	var all []string
	for i, n := range strings.Fields(usageOrder) {
		if c.KeyUsage&(1<<i) != 0 {
			all = append(all, n)
		}
	}
	return all
}

// extendedUsages returns the extended key usages of a certificate, and whether it restricts them at all.
func extendedUsages(c *x509.Certificate) (usages []string, present bool) {
	for _, e := range c.Extensions {
		if e.Id.String() != oidExtendedKeyUsage {
			continue
		}
		var oids []asn1.ObjectIdentifier
		// x509.ParseCertificate has refused what is not such a list.
		if _, err := asn1.Unmarshal(e.Value, &oids); err != nil {
			return nil, true
		}
		for _, oid := range oids {
			usages = append(usages, oid.String())
		}
		return usages, true
	}
	return nil, false
}

// usageName returns the name that profiles have for an extended key usage, behind it the identifier.
func usageName(oid string) string {
	const base = "1.3.6.1.5.5.7.3."
	names := strings.Fields("ServerAuth ClientAuth CodeSign EmailProtect IPSecEndSystem IPSecTunnel IPSecUser TimeStamp OCSPSign DVCS")
	for i, name := range names {
		if oid == base+fmt.Sprint(i+1) {
			return name
		}
	}
	switch oid {
	case "1.3.6.1.5.5.8.2.2":
		return "IKEIntermediate"
	case anyUsage:
		return "AnyExtendedKeyUsage"
	}
	return oid
}

func usageNames(oids []string) []string {
	var all []string
	for _, oid := range oids {
		all = append(all, usageName(oid))
	}
	return all
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// judgeName returns how a certificate breaks a rule about its names, "" if it does not. Of several values, such as two
// organisational units, one is enough for Equal, and none may agree with NotEqual.
func judgeName(c *x509.Certificate, rule profile.NameRule) string {
	name, of := c.Subject, "subject"
	part, issuer := strings.CutPrefix(rule.Name, "ISSUER-")
	if issuer {
		name, of = c.Issuer, "issuer"
	}
	oid := attribute(part)
	var values []string
	agrees := false
	for _, a := range name.Names {
		v, ok := a.Value.(string)
		if !ok || a.Type.String() != oid {
			continue
		}
		values = append(values, fmt.Sprintf("%.100q", v))
		pattern := rule.Pattern
		if rule.IgnoreCase {
			v, pattern = strings.ToLower(v), strings.ToLower(pattern)
		}
		agrees = agrees || v == pattern || rule.Substring && strings.Contains(v, pattern)
	}
	if agrees != rule.NotEqual {
		return ""
	}
	verb := "be"
	if rule.Substring {
		verb = "contain"
	}
	if rule.NotEqual {
		verb = "not " + verb
	}
	have := "there is none"
	if len(values) > 0 {
		have = "it is " + strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s of its %s must %s %q, and %s", part, of, verb, rule.Pattern, have)
}

// attribute returns the object identifier of a part of a name: those of X.520 and RFC 4519, and unstructuredName and
// emailAddress of PKCS #9.
func attribute(part string) string {
	switch part {
	case "CN":
		return "2.5.4.3"
	case "SN":
		return "2.5.4.4"
	case "C":
		return "2.5.4.6"
	case "L":
		return "2.5.4.7"
	case "SP", "ST":
		return "2.5.4.8"
	case "O":
		return "2.5.4.10"
	case "OU":
		return "2.5.4.11"
	case "T":
		return "2.5.4.12"
	case "GN":
		return "2.5.4.42"
	case "I":
		return "2.5.4.43"
	case "GENQ":
		return "2.5.4.44"
	case "DNQ":
		return "2.5.4.46"
	case "DC":
		return "0.9.2342.19200300.100.1.25"
	case "EA":
		return "1.2.840.113549.1.9.1"
	case "N":
		return "1.2.840.113549.1.9.2"
	}
	return ""
}
