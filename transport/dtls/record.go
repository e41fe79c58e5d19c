package dtls

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/pion/dtls/v3/pkg/crypto/prf"
)

const (
	recordHeader = 13
	maxID        = 32

	typeChangeCipherSpec = 20
	typeAlert            = 21
	typeHandshake        = 22
	typeData             = 23

	version12 = 0xfefd

	// epochData is the only epoch with keys: a second handshake on the same keys never happens here.
	epochData = 1

	// maxSequence is the last number of a record that may be sent. RFC 6347 section 4.1 allows 2^48-1; the channel is renewed
	// long before.
	maxSequence = 1<<48 - 1

	// rekeySequence is how many records may go one way before the channel is renewed by itself, whatever the gateway says.
	// With 2^28 records of 1400 bytes an attacker's advantage against AES-GCM stays near 2^-60, as with the limit of RFC 8446
	// section 5.5.
	rekeySequence = 1 << 28

	// maxForged is how many records may fail to open before the keys are given up. RFC 9147 section 4.5.3 bounds
	// failures to 2^36 for AES-GCM and ChaCha20-Poly1305, and much less for CCM with short tags.
	maxForged = 1 << 30
)

// secrets are the keys for both directions.
type secrets struct {
	suite                *suite
	clientKey, serverKey []byte
	clientIV, serverIV   []byte
}

// expand derives the keys from the master secret (RFC 5246 section 6.3).
func expand(s *suite, master, clientRandom, serverRandom []byte) (*secrets, error) {
	if len(master) != 48 {
		return nil, errors.New("dtls: the master secret has not 48 bytes")
	}
	k, err := prf.GenerateEncryptionKeys(master, clientRandom, serverRandom, 0, s.key, s.iv, s.hash)
	if err != nil {
		return nil, err
	}
	return &secrets{suite: s, clientKey: k.ClientWriteKey, serverKey: k.ServerWriteKey, clientIV: k.ClientWriteIV, serverIV: k.ServerWriteIV}, nil
}

// protection is one direction of the keys. It may be copied; the copies share the key and not the scratch memory, so each
// is good for one goroutine at a time.
type protection struct {
	aead     cipher.AEAD
	explicit int
	tag      int
	iv       [12]byte
	nonce    [12]byte
	aad      [13]byte
}

func (k *secrets) protection(client bool) (*protection, error) {
	key, iv := k.serverKey, k.serverIV
	if client {
		key, iv = k.clientKey, k.clientIV
	}
	a, err := k.suite.aead(key)
	if err != nil {
		return nil, err
	}
	p := &protection{aead: a, explicit: k.suite.explicit, tag: k.suite.tag}
	copy(p.iv[:], iv)
	return p, nil
}

func (p *protection) clone() *protection { c := *p; return &c }

// setNonce makes the nonce for a record with the given epoch and number in one, and its explicit part, if it has one.
// GCM and CCM send half of the nonce (RFC 5288 section 3), ChaCha20-Poly1305 mixes the number in (RFC 7905 section 2).
func (p *protection) setNonce(number uint64, explicit []byte) {
	p.nonce = p.iv
	if p.explicit > 0 {
		copy(p.nonce[4:], explicit)
		return
	}
	binary.BigEndian.PutUint64(p.nonce[4:], binary.BigEndian.Uint64(p.nonce[4:])^number)
}

func (p *protection) setAAD(header []byte, plain int) {
	copy(p.aad[:8], header[3:11])
	copy(p.aad[8:11], header[:3])
	binary.BigEndian.PutUint16(p.aad[11:], uint16(plain))
}

// size returns how long the record of a plaintext of n bytes is.
func (p *protection) size(n int) int { return recordHeader + p.explicit + n + p.tag }

// seal writes the record that holds plain to dst, which must have room for size(len(plain)) bytes and must not overlap
// plain, and returns its length. Each sequence number may be given once in the life of the keys.
func (p *protection) seal(dst []byte, typ byte, sequence uint64, plain []byte) int {
	n := p.size(len(plain))
	dst = dst[:n]
	number := uint64(epochData)<<48 | sequence
	dst[0] = typ
	binary.BigEndian.PutUint16(dst[1:], version12)
	binary.BigEndian.PutUint64(dst[3:], number)
	binary.BigEndian.PutUint16(dst[11:], uint16(n-recordHeader))
	body := dst[recordHeader:]
	if p.explicit > 0 {
		binary.BigEndian.PutUint64(body, number)
	}
	p.setNonce(number, body[:p.explicit])
	p.setAAD(dst, len(plain))
	body = body[p.explicit:]
	p.aead.Seal(body[:0], p.nonce[:], plain, p.aad[:])
	return n
}

// A record is one record as it came, in cleartext as far as it is.
type record struct {
	typ      byte
	epoch    uint16
	sequence uint64
	raw      []byte // all of it
}

// parseRecord returns the record that a datagram begins with and what comes after it. It reports false for what is no
// record: the datagram is dropped then (RFC 6347 section 4.1.2.7).
func parseRecord(b []byte) (r record, rest []byte, ok bool) {
	if len(b) < recordHeader || b[1] != 0xfe || b[2] != 0xfd && b[2] != 0xff {
		return record{}, nil, false
	}
	n := recordHeader + int(binary.BigEndian.Uint16(b[11:]))
	if n > len(b) {
		return record{}, nil, false
	}
	r.typ = b[0]
	r.epoch = binary.BigEndian.Uint16(b[3:])
	r.sequence = binary.BigEndian.Uint64(b[3:]) & maxSequence
	r.raw = b[:n:n]
	return r, b[n:], true
}

// plainLen returns how long the plaintext of a record is, negative if it is too short to be one.
func (p *protection) plainLen(r record) int { return len(r.raw) - p.size(0) }

// open appends the plaintext of r to dst, which must have room for it. It reports false for a record that is not from the peer.
func (p *protection) open(dst []byte, r record) ([]byte, bool) {
	n := p.plainLen(r)
	if n < 0 || r.epoch != epochData || r.raw[2] != 0xfd {
		return nil, false
	}
	body := r.raw[recordHeader:]
	p.setNonce(uint64(epochData)<<48|r.sequence, body[:p.explicit])
	p.setAAD(r.raw, n)
	out, err := p.aead.Open(dst, p.nonce[:], body[p.explicit:], p.aad[:])
	return out, err == nil
}

const (
	windowWords = 32
	windowSize  = (windowWords - 1) * 64 // 1984 records
)

// A window tells which records have been seen (RFC 6347 section 4.1.2.6). It is a ring of bits, in the manner of RFC 6479, so
// that moving it never shifts them.
type window struct {
	top  atomic.Uint64 // one more than the highest number marked; read by others as well
	bits [windowWords]uint64
}

// fresh reports whether the number may be accepted.
func (w *window) fresh(n uint64) bool {
	top := w.top.Load()
	if n >= top {
		return true
	}
	if top-1-n >= windowSize {
		return false
	}
	return w.bits[n/64%windowWords]&(1<<(n%64)) == 0
}

// mark notes the number of a record that was opened.
func (w *window) mark(n uint64) {
	if top := w.top.Load(); n >= top {
		var last uint64
		if top > 0 {
			last = (top - 1) / 64
		}
		for i := min(n/64-last, windowWords); i > 0; i-- {
			w.bits[(n/64+1-i)%windowWords] = 0
		}
		w.top.Store(n + 1)
	}
	w.bits[n/64%windowWords] |= 1 << (n % 64)
}
