package dtls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"github.com/pion/dtls/v3/pkg/crypto/ccm"
	"golang.org/x/crypto/chacha20poly1305"

	"culvert.example/vpn/transport"
)

// A suite is what a cipher suite means for the protection of records. How keys are agreed on does not matter here.
type suite struct {
	id       uint16
	name     string // as OpenSSL and the headers of CONNECT write it
	key      int    // length of a key, bytes
	iv       int    // length of the implicit part of the nonce, bytes
	explicit int    // length of the part of the nonce that is in each record, bytes
	tag      int
	hash     func() hash.Hash
	aead     func(key []byte) (cipher.AEAD, error)
	psk      bool // for the mode PSK, else for the mode Resume
	custom   bool // not among those that pion has
}

// overhead is what protection adds to the plaintext of a record, header and all, in bytes.
func (s *suite) overhead() int { return recordHeader + s.explicit + s.tag }

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func ccmWith(tag int) func(key []byte) (cipher.AEAD, error) {
	return func(key []byte) (cipher.AEAD, error) {
		b, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return ccm.NewCCM(b, tag, 12)
	}
}

// suites returns all that are implemented, those that are preferred first.
func suites() []suite {
	aes256 := suite{key: 32, iv: 4, explicit: 8, tag: 16, hash: sha512.New384, aead: gcm}
	aes128 := suite{key: 16, iv: 4, explicit: 8, tag: 16, hash: sha256.New, aead: gcm}
	as := func(s suite, id uint16, name string, psk, custom bool) suite {
		s.id, s.name, s.psk, s.custom = id, name, psk, custom
		return s
	}
	return []suite{
		as(aes256, 0x00a9, "PSK-AES256-GCM-SHA384", true, true),
		as(aes128, 0x00a8, "PSK-AES128-GCM-SHA256", true, false),
		{id: 0xccab, name: "PSK-CHACHA20-POLY1305", key: 32, iv: 12, tag: 16, hash: sha256.New, aead: chacha20poly1305.New, psk: true},
		{id: 0xc0a4, name: "PSK-AES128-CCM", key: 16, iv: 4, explicit: 8, tag: 16, hash: sha256.New, aead: ccmWith(16), psk: true},
		{id: 0xc0a9, name: "PSK-AES256-CCM8", key: 32, iv: 4, explicit: 8, tag: 8, hash: sha256.New, aead: ccmWith(8), psk: true},
		{id: 0xc0a8, name: "PSK-AES128-CCM8", key: 16, iv: 4, explicit: 8, tag: 8, hash: sha256.New, aead: ccmWith(8), psk: true},

		as(aes256, 0xc030, "ECDHE-RSA-AES256-GCM-SHA384", false, false),
		as(aes128, 0xc02f, "ECDHE-RSA-AES128-GCM-SHA256", false, false),
		as(aes256, 0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384", false, false),
		as(aes128, 0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256", false, false),
		as(aes256, 0x009d, "AES256-GCM-SHA384", false, true),
		as(aes128, 0x009c, "AES128-GCM-SHA256", false, true),
		as(aes256, 0x009f, "DHE-RSA-AES256-GCM-SHA384", false, true),
		as(aes128, 0x009e, "DHE-RSA-AES128-GCM-SHA256", false, true),
	}
}

func suiteByID(id uint16) *suite {
	for _, s := range suites() {
		if s.id == id {
			return &s
		}
	}
	return nil
}

// suiteByName returns the suite of the mode Resume that a gateway calls name in X-DTLS12-CipherSuite, or in
// X-DTLS-CipherSuite.
func suiteByName(name string, dtls12 bool) (*suite, error) {
	if !dtls12 {
		switch name {
		case "OC-DTLS1_2-AES256-GCM":
			return suiteByID(0x009d), nil
		case "OC-DTLS1_2-AES128-GCM":
			return suiteByID(0x009c), nil
		case "AES128-SHA", "AES256-SHA", "DHE-RSA-AES128-SHA", "DHE-RSA-AES256-SHA", "DES-CBC3-SHA", "DES-CBC-SHA":
			return nil, fmt.Errorf("%w: the gateway speaks only the DTLS from before the standard (version 0x0100, cipher %s); update it, or do without DTLS",
				transport.ErrUnsupported, name)
		}
		return nil, fmt.Errorf("%w: the gateway chose the DTLS cipher %q, which was not offered", transport.ErrUnsupported, name)
	}
	for _, s := range suites() {
		if !s.psk && s.name == name {
			return &s, nil
		}
	}
	return nil, fmt.Errorf("%w: the gateway chose the DTLS 1.2 cipher %q, which was not offered", transport.ErrUnsupported, name)
}
