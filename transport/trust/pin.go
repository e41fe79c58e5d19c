package trust

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// Pins are the keys or certificates that a gateway may show, in the forms that openconnect's --servercert takes:
//
//	pin-sha256:BASE64   SHA-256 of the public key (SubjectPublicKeyInfo in DER)
//	sha256:HEX          the same in hex
//	sha1:HEX            SHA-1 of the public key
//	HEX                 SHA-1 of the certificate in DER; colons between the bytes are ignored
//
// A pin may be cut short, down to four characters of the hash, as with openconnect. A short pin protects against mistakes,
// not against an attacker: cut nothing off where it matters. One pin that matches is enough.
type Pins []string

// PinOf returns the pin of the public key of cert, whole: pin-sha256:BASE64.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return pinSHA256 + base64.StdEncoding.EncodeToString(sum[:])
}

const (
	pinSHA256 = "pin-sha256:"
	keySHA256 = "sha256:"
	keySHA1   = "sha1:"

	shortest = 4 // characters of a hash
)

// Check returns an error that names the first pin that is none.
func (p Pins) Check() error {
	for _, pin := range p {
		if _, _, err := parse(pin); err != nil {
			return err
		}
	}
	return nil
}

// Match reports whether one of the pins matches cert. A malformed pin matches nothing.
func (p Pins) Match(cert *x509.Certificate) bool {
	matched := false
	for _, pin := range p {
		kind, want, err := parse(pin)
		if err != nil {
			continue
		}
		var have string
		switch kind {
		case pinSHA256:
			have = strings.TrimPrefix(PinOf(cert), pinSHA256)
		case keySHA256:
			sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
			have = hex.EncodeToString(sum[:])
		case keySHA1:
			sum := sha1.Sum(cert.RawSubjectPublicKeyInfo)
			have = hex.EncodeToString(sum[:])
		default:
			sum := sha1.Sum(cert.Raw)
			have = hex.EncodeToString(sum[:])
		}
		if len(want) <= len(have) && subtle.ConstantTimeCompare([]byte(have[:len(want)]), []byte(want)) == 1 {
			matched = true
		}
	}
	return matched
}

// parse splits a pin into its kind, which is its prefix, and the start of the hash in the form of that kind.
func parse(pin string) (kind, hash string, err error) {
	s := strings.TrimSpace(pin)
	size := 2 * sha1.Size
	lower := strings.ToLower(s)
	for prefix, n := range map[string]int{
		pinSHA256: base64.StdEncoding.EncodedLen(sha256.Size), keySHA256: 2 * sha256.Size, keySHA1: 2 * sha1.Size,
	} {
		if strings.HasPrefix(lower, prefix) {
			kind, s, size = prefix, s[len(prefix):], n
			break
		}
	}
	if kind != pinSHA256 {
		s = strings.ToLower(strings.ReplaceAll(s, ":", ""))
	}
	switch {
	case len(s) < shortest || len(s) > size:
		return "", "", fmt.Errorf("trust: the pin %.80q has %d characters of a hash, want %d to %d", pin, len(s), shortest, size)
	case kind == pinSHA256 && strings.Trim(s, base64Chars) != "":
		return "", "", fmt.Errorf("trust: the pin %.80q is not base64", pin)
	case kind != pinSHA256 && strings.Trim(s, "0123456789abcdef") != "":
		return "", "", fmt.Errorf("trust: the pin %.80q is not hexadecimal and has no known prefix (pin-sha256:, sha256:, sha1:)", pin)
	}
	return kind, s, nil
}

const base64Chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
