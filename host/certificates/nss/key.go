package nss

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"

	"culvert.example/vpn/host/certificates/sqlite"
)

// A key is a private key as it is in the database: what is secret is encrypted.
type key struct {
	id     []byte
	kind   uint32 // CKK_RSA or CKK_EC
	params []byte // the curve, in DER
	value  []byte // of an elliptic curve
	// Of RSA. Modulus and public exponent are in the clear.
	modulus, public, private, prime1, prime2 []byte
}

const (
	keyRSA = 0
	keyEC  = 3
)

// readKeys reads the keys, still encrypted.
func (d *Database) readKeys(data []byte) error {
	file, err := sqlite.Parse(data)
	if err != nil {
		return err
	}
	meta, err := file.Table("metaData")
	if err != nil {
		return err
	}
	rows := 0
	for row, err := range meta.Rows() {
		if err != nil {
			return err
		}
		if rows++; rows > 64*maxObjects {
			return fmt.Errorf("%w: it has more than %d signatures", sqlite.ErrUnsupported, 64*maxObjects)
		}
		if string(row.Blob(meta.Column("id"))) == "password" {
			d.global, d.check = row.Blob(meta.Column("item1")), row.Blob(meta.Column("item2"))
		}
	}
	table, err := file.Table("nssPrivate")
	if err != nil {
		return err
	}
	for row, err := range table.Rows() {
		if err != nil {
			return err
		}
		if class, _ := number(table, row, attrClass); class != classPrivateKey {
			continue
		}
		if len(d.keys) == maxObjects {
			return fmt.Errorf("%w: it has more than %d keys", sqlite.ErrUnsupported, maxObjects)
		}
		kind, _ := number(table, row, attrKeyType)
		get := func(name string) []byte { return attribute(table, row, name) }
		d.keys = append(d.keys, key{
			id: get(attrID), kind: kind, params: get(attrECParams), value: get(attrValue),
			modulus: get(attrModulus), public: get(attrPublic), private: get(attrPrivate), prime1: get(attrPrime1), prime2: get(attrPrime2),
		})
	}
	return nil
}

// Key decrypts the private key of a certificate of this Database with the primary password, which is "" if the user has not set
// one. The error matches [ErrPassword], [ErrNoKey] or [ErrKey].
func (d *Database) Key(c *Certificate, password string) (crypto.Signer, error) {
	for _, k := range d.keys {
		if len(c.id) == 0 || !bytes.Equal(k.id, c.id) {
			continue
		}
		secret := derive(d.global, password)
		known, err := decrypt(d.check, secret)
		if err != nil {
			return nil, err
		}
		if string(known) != "password-check" {
			return nil, ErrPassword
		}
		signer, err := k.open(secret)
		if err != nil {
			return nil, err
		}
		if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(c.Certificate.PublicKey) {
			return nil, fmt.Errorf("%w: it does not belong to the certificate", ErrKey)
		}
		return signer, nil
	}
	return nil, ErrNoKey
}

// open decrypts a key.
func (k *key) open(secret []byte) (crypto.Signer, error) {
	switch k.kind {
	case keyRSA:
		var numbers [3]*big.Int
		for i, sealed := range [][]byte{k.private, k.prime1, k.prime2} {
			b, err := decrypt(sealed, secret)
			if err != nil {
				return nil, err
			}
			numbers[i] = new(big.Int).SetBytes(b)
		}
		e := new(big.Int).SetBytes(k.public)
		if len(k.modulus) > 2048 || !e.IsInt64() || e.Int64() > 1<<31-1 {
			return nil, fmt.Errorf("%w: its numbers are too large", ErrKey)
		}
		r := &rsa.PrivateKey{
			PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(k.modulus), E: int(e.Int64())},
			D:         numbers[0], Primes: []*big.Int{numbers[1], numbers[2]},
		}
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		r.Precompute()
		return r, nil
	case keyEC:
		curve, err := curveOf(k.params)
		if err != nil {
			return nil, err
		}
		b, err := decrypt(k.value, secret)
		if err != nil {
			return nil, err
		}
		// The number may lack leading zeros, or have one too many.
		size := (curve.Params().BitSize + 7) / 8
		if b = bytes.TrimLeft(b, "\x00"); len(b) > size {
			return nil, fmt.Errorf("%w: it is too long for its curve", ErrKey)
		}
		e, err := ecdsa.ParseRawPrivateKey(curve, append(make([]byte, size-len(b)), b...))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		return e, nil
	}
	return nil, fmt.Errorf("%w: it is of kind %d of PKCS #11, and neither RSA nor of an elliptic curve", ErrKey, k.kind)
}

func curveOf(params []byte) (elliptic.Curve, error) {
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: its curve has no name", ErrKey)
	}
	switch oid.String() {
	case "1.2.840.10045.3.1.7":
		return elliptic.P256(), nil
	case "1.3.132.0.34":
		return elliptic.P384(), nil
	case "1.3.132.0.35":
		return elliptic.P521(), nil
	}
	return nil, fmt.Errorf("%w: the curve %v is not supported", ErrKey, oid)
}

// derive returns what NSS uses as the password of all keys.
func derive(salt []byte, password string) []byte {
	sum := sha1.Sum(append(bytes.Clone(salt), password...))
	return sum[:]
}

// A sealed value is encrypted by PBES2 (RFC 8018 section 6.2).
type sealed struct {
	Algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue
	}
	Data []byte
}

type pbes2 struct {
	KDF struct {
		OID    asn1.ObjectIdentifier
		Params struct {
			Salt       []byte
			Iterations int
			KeyLength  int `asn1:"optional"`
			PRF        struct {
				OID asn1.ObjectIdentifier
			} `asn1:"optional"`
		}
	}
	Cipher struct {
		OID asn1.ObjectIdentifier
		IV  asn1.RawValue
	}
}

// maxIterations bounds the work that a file can ask for, to about a second. NSS does 10000 at most.
const maxIterations = 1 << 21

// decrypt opens a sealed value. A wrong secret shows in the result, or as ErrPassword if the padding is wrong.
func decrypt(b, secret []byte) ([]byte, error) {
	var s sealed
	if rest, err := asn1.Unmarshal(b, &s); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: it is not encrypted as NSS does", ErrKey)
	}
	switch s.Algorithm.OID.String() {
	case "1.2.840.113549.1.5.13":
	case "1.2.840.113549.1.12.5.1.3":
		return nil, fmt.Errorf("%w: it is encrypted by triple DES, as before 2019; set the primary password in Firefox once more", ErrKey)
	default:
		return nil, fmt.Errorf("%w: it is encrypted by %v, and not by PBES2", ErrKey, s.Algorithm.OID)
	}
	var p pbes2
	if rest, err := asn1.Unmarshal(s.Algorithm.Params.FullBytes, &p); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: the parameters of its encryption are broken", ErrKey)
	}
	kdf := p.KDF.Params
	if p.KDF.OID.String() != "1.2.840.113549.1.5.12" || kdf.PRF.OID.String() != "1.2.840.113549.2.9" || p.Cipher.OID.String() != "2.16.840.1.101.3.4.1.42" {
		return nil, fmt.Errorf("%w: it is encrypted by something else than PBKDF2 with SHA-256 and AES-256 in CBC", ErrKey)
	}
	if kdf.Iterations < 1 || kdf.Iterations > maxIterations {
		return nil, fmt.Errorf("%w: its password is to be hashed %d times", ErrKey, kdf.Iterations)
	}
	// NSS made its initialization vectors of 14 bytes and took the header of the string for the rest.
	iv := p.Cipher.IV.Bytes
	if len(iv) == aes.BlockSize-2 {
		iv = p.Cipher.IV.FullBytes
	}
	if len(iv) != aes.BlockSize || len(s.Data) == 0 || len(s.Data)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: its length is no multiple of a block", ErrKey)
	}
	aesKey, err := pbkdf2.Key(sha256.New, string(secret), kdf.Salt, kdf.Iterations, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	plain := make([]byte, len(s.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, s.Data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, ErrPassword
	}
	return plain[:len(plain)-pad], nil
}
