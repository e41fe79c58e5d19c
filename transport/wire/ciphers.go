package wire

// PSKNegotiate is the name, in X-DTLS-CipherSuite, of the mode in which DTLS negotiates a cipher suite by itself, with a
// pre-shared key from the TLS exporter.
const PSKNegotiate = "PSK-NEGOTIATE"

// PSKLabel is the label of that exporter, PSKLen the length in bytes of the key, and PSKIdentity the identity that goes with it.
const (
	PSKLabel    = "EXPORTER-openconnect-psk"
	PSKLen      = 32
	PSKIdentity = "psk"
)

// A Mode is how a DTLS channel gets its keys.
type Mode uint8

// The modes.
const (
	ModePSK    Mode = iota + 1 // a handshake with the pre-shared key of the TLS connection
	ModeResume                 // resumption, in DTLS 1.2, of a session made from the master secret of the request
	ModeBadVer                 // the same in Cisco's DTLS of before RFC 4347, with the version 0x0100
)

// String returns the name of the mode.
func (m Mode) String() string {
	switch m {
	case ModePSK:
		return "psk"
	case ModeResume:
		return "resume"
	case ModeBadVer:
		return "bad-ver"
	}
	return "none"
}

// A Cipher is what one name in X-DTLS-CipherSuite or X-DTLS12-CipherSuite means.
type Cipher struct {
	Name string
	// Suite is the number of the TLS cipher suite, zero with ModePSK. With the other modes there is no key exchange, so only
	// what the suite says about records and hashes has a meaning.
	Suite uint16
	Mode  Mode
}

// LookupCipher returns what a name means in X-DTLS12-CipherSuite if dtls12 is set, and in X-DTLS-CipherSuite otherwise: the same
// name stands for different protocols in the two.
func LookupCipher(name string, dtls12 bool) (Cipher, bool) {
	table := ciphers
	if dtls12 {
		table = ciphers12
	}
	for _, c := range table {
		if c.Name == name {
			return c, true
		}
	}
	return Cipher{}, false
}

var ciphers = []Cipher{
	{PSKNegotiate, 0, ModePSK},
	{"OC2-DTLS1_2-CHACHA20-POLY1305", 0xccab, ModeResume},
	{"OC-DTLS1_2-AES256-GCM", 0x009d, ModeResume},
	{"OC-DTLS1_2-AES128-GCM", 0x009c, ModeResume},
	{"DHE-RSA-AES256-SHA", 0x0039, ModeBadVer},
	{"DHE-RSA-AES128-SHA", 0x0033, ModeBadVer},
	{"AES256-SHA", 0x0035, ModeBadVer},
	{"AES128-SHA", 0x002f, ModeBadVer},
	{"DES-CBC3-SHA", 0x000a, ModeBadVer},
	{"DES-CBC-SHA", 0x0009, ModeBadVer},
}

var ciphers12 = []Cipher{
	{"ECDHE-RSA-AES256-GCM-SHA384", 0xc030, ModeResume},
	{"ECDHE-RSA-AES128-GCM-SHA256", 0xc02f, ModeResume},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", 0xc02c, ModeResume},
	{"ECDHE-ECDSA-AES128-GCM-SHA256", 0xc02b, ModeResume},
	{"DHE-RSA-AES256-GCM-SHA384", 0x009f, ModeResume},
	{"DHE-RSA-AES128-GCM-SHA256", 0x009e, ModeResume},
	{"AES256-GCM-SHA384", 0x009d, ModeResume},
	{"AES128-GCM-SHA256", 0x009c, ModeResume},
	{"DHE-RSA-AES256-SHA256", 0x006b, ModeResume},
	{"AES256-SHA256", 0x003d, ModeResume},
	{"DHE-RSA-AES256-SHA", 0x0039, ModeResume},
	{"DHE-RSA-AES128-SHA", 0x0033, ModeResume},
	{"AES256-SHA", 0x0035, ModeResume},
	{"AES128-SHA", 0x002f, ModeResume},
}
