package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/asn1"
	"errors"
	"strings"
	"unicode/utf16"

	"software.sslmate.com/src/go-pkcs12"
)

// maxNesting is how deep elements may be inside of others. PKCS#12 has ten levels, of which the inner ones are encrypted.
const maxNesting = 32

// decodePKCS12 reads a PKCS#12 file with one key. NSS, and so Firefox, writes it in BER, with lengths that are not said in
// advance, and the package takes only DER.
func decodePKCS12(b []byte, password string) (tls.Certificate, error) {
	cert, err := decodeDER(b, password)
	if !indefinite(err) {
		return cert, err
	}
	if b, err = toDER(b); err != nil {
		return cert, err
	}
	cert, err = decodeDER(b, password)
	if !indefinite(err) {
		return cert, err
	}
	// What surrounds the contents is DER now, so it is they that are not; they are looked at only after their MAC was found to be
	// right. What is made of them needs another one.
	var pfx struct {
		Version int
		Safe    struct {
			Type    asn1.ObjectIdentifier
			Content []byte `asn1:"tag:0,explicit"`
		}
		MAC asn1.RawValue `asn1:"optional"`
	}
	if _, err = asn1.Unmarshal(b, &pfx); err != nil {
		return cert, err
	}
	if pfx.Safe.Content, err = toDER(pfx.Safe.Content); err != nil {
		return cert, err
	}
	if pfx.MAC.FullBytes, err = macPKCS12(pfx.Safe.Content, password); err != nil {
		return cert, err
	}
	if b, err = asn1.Marshal(pfx); err != nil {
		return cert, err
	}
	return decodeDER(b, password)
}

func decodeDER(b []byte, password string) (tls.Certificate, error) {
	key, leaf, chain, err := pkcs12.DecodeChain(b, password)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

// indefinite reports whether an error is that of encoding/asn1 about BER, which has no type of its own.
func indefinite(err error) bool {
	return err != nil && strings.Contains(err.Error(), "indefinite length")
}

// macPKCS12 returns the MacData (RFC 7292, section 4) of contents: an HMAC with SHA-256 whose key is made of the password by a
// single iteration of appendix B.2, which is a single hash.
func macPKCS12(contents []byte, password string) ([]byte, error) {
	const block = sha256.BlockSize
	var units []byte
	for _, u := range append(utf16.Encode([]rune(password)), 0) {
		units = append(units, byte(u>>8), byte(u))
	}
	whole := (len(units) + block - 1) / block * block
	salt := make([]byte, block)
	key := sha256.New()
	key.Write(bytes.Repeat([]byte{3}, block)) // for a MAC
	key.Write(salt)
	key.Write(bytes.Repeat(units, whole/len(units)+1)[:whole])
	mac := hmac.New(sha256.New, key.Sum(nil))
	mac.Write(contents)
	var data struct {
		Digest struct {
			Algorithm struct{ OID asn1.ObjectIdentifier }
			Sum       []byte
		}
		Salt []byte
	}
	data.Digest.Algorithm.OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1} // SHA-256
	data.Digest.Sum, data.Salt = mac.Sum(nil), salt
	return asn1.Marshal(data)
}

// An element is one of ASN.1: the byte that says what it is, and its content in DER.
type element struct {
	tag     byte
	content []byte
	inside  []element // of what is constructed
}

// The tags that matter here.
const (
	constructed    = 0x20
	octets         = 0x04
	octetsInPieces = octets | constructed
	identifier     = 0x06
	sequence       = 0x30
	context0       = 0x80
)

// toDER rewrites a file of PKCS#12 in BER, or a part of it, with definite lengths and strings of octets in one piece. That is DER as
// far as encoding/asn1 cares. It is bounded by the size of the file and maxNesting.
func toDER(b []byte) ([]byte, error) {
	e, rest, err := parseBER(b, 0)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("ASN.1: something stands behind the end")
	}
	return e.append(nil), nil
}

// parseBER takes an element from the front of b.
func parseBER(b []byte, depth int) (e element, rest []byte, err error) {
	if depth > maxNesting {
		return e, nil, errors.New("ASN.1: too many elements inside of each other")
	}
	if len(b) < 2 {
		return e, nil, errors.New("ASN.1: cut off")
	}
	e.tag = b[0]
	if e.tag == 0 || e.tag&0x1f == 0x1f {
		return e, nil, errors.New("ASN.1: a tag that PKCS#12 does not have")
	}
	length, b := int(b[1]), b[2:]
	open := length == 0x80
	if open && e.tag&constructed == 0 {
		return e, nil, errors.New("ASN.1: a string without a length")
	}
	if length > 0x80 {
		n := length & 0x7f
		if n > 3 || n > len(b) {
			return e, nil, errors.New("ASN.1: a length beyond the end")
		}
		length = 0
		for _, digit := range b[:n] {
			length = length<<8 | int(digit)
		}
		b = b[n:]
	}
	if !open {
		if length > len(b) {
			return e, nil, errors.New("ASN.1: a length beyond the end")
		}
		b, rest = b[:length], b[length:]
	}
	if e.tag&constructed == 0 {
		e.content = b
		return e, rest, nil
	}
	for open || len(b) > 0 {
		if open && bytes.HasPrefix(b, []byte{0, 0}) {
			rest = b[2:]
			break
		}
		var one element
		if one, b, err = parseBER(b, depth+1); err != nil {
			return e, nil, err
		}
		e.inside = append(e.inside, one)
	}
	if e.tag == octetsInPieces {
		if !e.pieces() {
			return e, nil, errors.New("ASN.1: a string of octets with something else in it")
		}
		e.join(octets)
		return e, rest, nil
	}
	// EncryptedContentInfo (RFC 2315, section 10.1) is an identifier, an algorithm, and a string whose tag does not say that it is one.
	if in := e.inside; e.tag == sequence && len(in) == 3 && in[0].tag == identifier && in[1].tag == sequence && in[2].tag == context0|constructed &&
		in[2].pieces() {
		in[2].join(context0)
	}
	for _, one := range e.inside {
		e.content = one.append(e.content)
	}
	return e, rest, nil
}

// pieces reports whether there is nothing but strings of octets in e.
func (e *element) pieces() bool {
	for _, one := range e.inside {
		if one.tag != octets {
			return false
		}
	}
	return true
}

// join makes e a string of the pieces in it.
func (e *element) join(tag byte) {
	e.tag, e.content = tag, nil
	for _, one := range e.inside {
		e.content = append(e.content, one.content...)
	}
	e.inside = nil
}

// append appends e in DER.
func (e *element) append(b []byte) []byte {
	b = append(b, e.tag)
	switch n := len(e.content); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 1<<8:
		b = append(b, 0x81, byte(n))
	case n < 1<<16:
		b = append(b, 0x82, byte(n>>8), byte(n))
	default:
		b = append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, e.content...)
}
