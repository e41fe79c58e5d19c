// Package nss reads the certificates of Firefox and of other programs that use Network Security Services: which authorities
// they trust and distrust for TLS servers, and the client certificates with their keys.
//
// NSS keeps PKCS #11 objects in two SQLite files. In cert9.db, the table nssPublic has a row for each certificate and another
// one for the trust in it, with a column for each attribute, named by its number in hexadecimal. The trust belongs to an issuer
// and serial number, so that there can be some in a certificate that is not there: that is how an authority that comes with
// Firefox is distrusted. Those authorities themselves are in a library of code, and not in the database.
//
// In key4.db, the table nssPrivate has a row for each private key. What is secret in it is encrypted by the primary password,
// which is empty as long as the user has not set one: the file's permissions are all that protects the keys then.
//
// NSS also signs the trust in key4.db, so that with a primary password nobody who lacks it can add some. These signatures are
// not checked here: a client that must read the trust before the user has typed anything could not, and whoever can write into
// the profile of the browser can also replace the browser's programs in the user's search path.
package nss

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"culvert.example/vpn/host/certificates/sqlite"
)

// maxObjects bounds the rows of a table. Firefox has a few hundred.
const maxObjects = 20000

// A Trust says what NSS makes of a certificate when a TLS server shows it or one that it has issued.
type Trust uint8

const (
	// Unknown: the certificate is there, and neither good nor bad.
	Unknown Trust = iota
	// Anchor: what it has issued is trusted (CKT_NSS_TRUSTED_DELEGATOR; C of certutil).
	Anchor
	// Peer: it is trusted itself, and not what it has issued (CKT_NSS_TRUSTED; P of certutil).
	Peer
	// Distrusted: neither it nor what it has issued is trusted, whoever vouches for it (CKT_NSS_NOT_TRUSTED; p of certutil).
	Distrusted
)

// String returns the name of the constant in small letters.
func (t Trust) String() string {
	switch t {
	case Anchor:
		return "anchor"
	case Peer:
		return "peer"
	case Distrusted:
		return "distrusted"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (t Trust) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// A Certificate is one that is in a Database.
type Certificate struct {
	// Label is the name that people see.
	Label string
	// Certificate is the certificate itself.
	Certificate *x509.Certificate
	// Trust is that for TLS servers.
	Trust Trust
	// HasKey says that its private key is there too.
	HasKey bool

	id []byte // CKA_ID, which a key has too
}

// A Database is the content of cert9.db and key4.db. It may be used by several goroutines at once.
type Database struct {
	certificates []Certificate
	distrusted   map[string]bool // by identity
	notes        []string

	keys   []key
	global []byte // the salt of all keys
	check  []byte // something known, encrypted
}

// Parse reads the content of cert9.db, and that of key4.db unless it is nil. The data must not change as long as the Database is
// in use. A certificate that cannot be read is left out, and [Database.Notes] says so; anything else that is wrong is an error,
// which matches one of package sqlite's.
func Parse(cert9, key4 []byte) (*Database, error) {
	d := &Database{distrusted: map[string]bool{}}
	if key4 != nil {
		if err := d.readKeys(key4); err != nil {
			return nil, fmt.Errorf("key4.db: %w", err)
		}
	}
	if err := d.readCertificates(cert9); err != nil {
		return nil, fmt.Errorf("cert9.db: %w", err)
	}
	return d, nil
}

// Attributes of PKCS #11, as names of columns, and their values.
const (
	attrClass        = "a0"
	attrLabel        = "a3"
	attrValue        = "a11"
	attrIssuer       = "a81"
	attrSerial       = "a82"
	attrKeyType      = "a100"
	attrID           = "a102"
	attrModulus      = "a120"
	attrPublic       = "a122"
	attrPrivate      = "a123"
	attrPrime1       = "a124"
	attrPrime2       = "a125"
	attrECParams     = "a180"
	attrPKCSServer   = "a62c"      // CKA_TRUST_SERVER_AUTH of PKCS #11 3.2
	attrNSSServer    = "ace536358" // that of NSS
	classCertificate = 0x00000001
	classPrivateKey  = 0x00000003
	classPKCSTrust   = 0x0000000b
	classNSSTrust    = 0xce534353
)

// null is what NSS writes for an attribute that is there and empty.
const null = "\xa5\x00\x5a"

// attribute returns the value of an attribute, nil if the object lacks it.
func attribute(t *sqlite.Table, row sqlite.Row, name string) []byte {
	b := row.Blob(t.Column(name))
	if string(b) == null {
		return nil
	}
	return b
}

// number returns an attribute that is a CK_ULONG, which NSS writes in 4 bytes on all machines.
func number(t *sqlite.Table, row sqlite.Row, name string) (uint32, bool) {
	b := attribute(t, row, name)
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// trustOf reads the trust of a row: that of NSS, or that of PKCS #11 3.2, which newer versions of NSS write.
func trustOf(t *sqlite.Table, row sqlite.Row) Trust {
	if v, ok := number(t, row, attrNSSServer); ok {
		switch v {
		case 0xce534351: // CKT_NSS_TRUSTED
			return Peer
		case 0xce534352: // CKT_NSS_TRUSTED_DELEGATOR
			return Anchor
		case 0xce53435a: // CKT_NSS_NOT_TRUSTED
			return Distrusted
		}
		return Unknown
	}
	switch v, _ := number(t, row, attrPKCSServer); v {
	case 1: // CKT_TRUSTED
		return Peer
	case 2: // CKT_TRUST_ANCHOR
		return Anchor
	case 3: // CKT_NOT_TRUSTED
		return Distrusted
	}
	return Unknown
}

// identity is what a certificate and the trust in it have in common: the issuer and the serial number, in DER.
func identity(issuer, serial []byte) string {
	return fmt.Sprintf("%d %s%s", len(issuer), issuer, serial)
}

func identityOf(c *x509.Certificate) string {
	serial := c.SerialNumber
	if serial == nil {
		serial = new(big.Int)
	}
	der, err := asn1.Marshal(serial)
	if err != nil {
		return ""
	}
	return identity(c.RawIssuer, der)
}

// readCertificates reads certificates and trust.
func (d *Database) readCertificates(data []byte) error {
	file, err := sqlite.Parse(data)
	if err != nil {
		return err
	}
	table, err := file.Table("nssPublic")
	if err != nil {
		return err
	}
	owned := map[string]bool{}
	for _, k := range d.keys {
		owned[string(k.id)] = true
	}
	trust := map[string]Trust{}
	rows := 0
	for row, err := range table.Rows() {
		if err != nil {
			return err
		}
		if rows++; rows > maxObjects {
			return fmt.Errorf("%w: it has more than %d objects", sqlite.ErrUnsupported, maxObjects)
		}
		switch class, _ := number(table, row, attrClass); class {
		case classCertificate:
			label := string(attribute(table, row, attrLabel))
			c, err := x509.ParseCertificate(attribute(table, row, attrValue))
			if err != nil {
				d.notes = append(d.notes, fmt.Sprintf("the certificate %.100q cannot be read: %.200s", label, err))
				continue
			}
			id := attribute(table, row, attrID)
			d.certificates = append(d.certificates, Certificate{Label: label, Certificate: c, HasKey: len(id) > 0 && owned[string(id)], id: id})
		case classNSSTrust, classPKCSTrust:
			of := identity(attribute(table, row, attrIssuer), attribute(table, row, attrSerial))
			// Newer versions of NSS keep both forms. If they differ, distrust wins.
			t := trustOf(table, row)
			if old, ok := trust[of]; !ok || t == Distrusted || old == Unknown {
				trust[of] = t
			}
			if t == Distrusted {
				d.distrusted[of] = true
			}
		}
	}
	for i := range d.certificates {
		c := &d.certificates[i]
		c.Trust = trust[identityOf(c.Certificate)]
	}
	return nil
}

// Certificates returns the certificates in the order of the database. The result belongs to the Database.
func (d *Database) Certificates() []Certificate { return d.certificates }

// Notes returns what had to be left out, in words.
func (d *Database) Notes() []string { return d.notes }

// Distrusts reports whether the database says not to trust a certificate, which need not be in it.
func (d *Database) Distrusts(c *x509.Certificate) bool { return d.distrusted[identityOf(c)] }

// DistrustsAny reports whether the database distrusts anything at all.
func (d *Database) DistrustsAny() bool { return len(d.distrusted) > 0 }

var (
	// ErrPassword reports a primary password that is not the right one.
	ErrPassword = errors.New("the primary password is wrong")
	// ErrNoKey reports a certificate whose private key is not there.
	ErrNoKey = errors.New("there is no private key for this certificate")
	// ErrKey reports a private key that is broken or of a kind that is not supported.
	ErrKey = errors.New("the private key cannot be used")
)
