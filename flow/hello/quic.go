package hello

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// A QUIC finds the name in the first datagrams that a client of QUIC version 1 (RFC 9000) or 2 (RFC 9369) sends. The zero QUIC is
// ready to use, for one flow. It is not safe for concurrent use.
type QUIC struct {
	keys    *initialKeys
	version uint32
	crypto  []byte // the stream of the handshake from its beginning, with gaps
	have    []span // what of it is there, in order, with something missing between each two
	scratch []byte
	state   State
	name    string
}

// A span is the bytes from first up to end.
type span struct{ first, end int }

const (
	version1, version2 = 0x00000001, 0x6b3343cf

	maxConnID = 20
	// maxSpans is how many pieces of the handshake may lie apart. Clients shuffle a dozen on purpose.
	maxSpans = 64
	// maxCoalesced is how many packets of one datagram are looked at.
	maxCoalesced = 8

	framePadding, framePing, frameAck, frameAckECN, frameCrypto = 0x00, 0x01, 0x02, 0x03, 0x06
)

// The salts and labels by which the keys of a version differ (RFC 9001 section 5.2, RFC 9369 section 3.3).
var (
	salt1 = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}
	salt2 = []byte{0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9}
)

// Datagram takes the next datagram of the flow. The results are as for [TLS], and stay the same once they are not More. It
// leaves b as it is.
func (q *QUIC) Datagram(b []byte) (name string, s State) {
	if q.state != More {
		return q.name, q.state
	}
	understood := false
	for range maxCoalesced {
		if len(b) == 0 || b[0]&0x80 == 0 {
			break // padding, or a packet of which nothing can be known
		}
		rest, ok := q.packet(b)
		if !ok {
			break
		}
		understood, b = true, rest
	}
	// Later datagrams may be packets of other kinds; the first one has to be what it is all about.
	if !understood && q.keys == nil {
		q.state = Other
	}
	if q.state == More {
		q.look()
	}
	if q.state != More {
		q.crypto, q.have, q.scratch = nil, nil, nil
	}
	return q.name, q.state
}

// packet takes the packet with a long header at the front of b, and returns what comes after it. It reports false if that cannot
// be told.
func (q *QUIC) packet(b []byte) (rest []byte, ok bool) {
	if len(b) < 7 || b[0]&0x40 == 0 {
		return nil, false
	}
	version := binary.BigEndian.Uint32(b[1:])
	if version != version1 && version != version2 {
		return nil, false
	}
	kind := b[0] >> 4 & 3
	if version == version2 {
		kind = (kind + 3) & 3 // RFC 9369 section 3.2 has turned them round by one
	}
	const initial, retry = 0, 3
	if kind == retry {
		return nil, false
	}
	r := reader{b[5:]}
	dst := r.take(r.length(1))
	src := r.take(r.length(1))
	if r.b == nil || len(dst) > maxConnID || len(src) > maxConnID {
		return nil, false
	}
	if kind == initial {
		r.skip(r.varint())
	}
	length := r.varint()
	body := r.b
	if r.take(length); r.b == nil {
		return nil, false
	}
	rest = r.b
	if kind != initial {
		return rest, q.keys != nil
	}
	if q.keys == nil {
		k, err := newInitialKeys(version, dst)
		if err != nil {
			return nil, false
		}
		q.keys, q.version = k, version
	} else if version != q.version {
		return rest, true
	}
	header := len(b) - len(body)
	q.scratch = append(q.scratch[:0], b[:header+length]...)
	if frames, ok := q.keys.open(q.scratch, header); ok {
		q.frames(frames)
	}
	return rest, true
}

// frames takes the frames of one packet.
func (q *QUIC) frames(b []byte) {
	r := reader{b}
	for len(r.b) > 0 {
		switch kind := r.varint(); kind {
		case framePadding, framePing:
		case frameAck, frameAckECN:
			r.varint() // largest acknowledged
			r.varint() // delay
			for n := r.varint() + 1; n > 0 && r.b != nil; n-- {
				r.varint()
				if n > 1 {
					r.varint()
				}
			}
			if kind == frameAckECN {
				r.varint()
				r.varint()
				r.varint()
			}
		case frameCrypto:
			offset := r.varint()
			data := r.take(r.varint())
			if r.b == nil {
				return
			}
			q.insert(offset, data)
		default:
			return // the client gives up, or does what no client does
		}
	}
}

// insert puts data into the stream at offset.
func (q *QUIC) insert(offset int, data []byte) {
	if offset >= MaxSize || len(data) == 0 {
		return
	}
	data = data[:min(len(data), MaxSize-offset)]
	if end := offset + len(data); end > len(q.crypto) {
		q.crypto = append(q.crypto, make([]byte, end-len(q.crypto))...)
	}
	n := span{offset, offset + len(data)}
	// Those that touch it become one with it.
	i := 0
	for i < len(q.have) && q.have[i].end < n.first {
		i++
	}
	j := i
	for j < len(q.have) && q.have[j].first <= n.end {
		n.first, n.end = min(n.first, q.have[j].first), max(n.end, q.have[j].end)
		j++
	}
	if i == j && len(q.have) == maxSpans {
		return
	}
	copy(q.crypto[offset:], data)
	q.have = slices.Replace(q.have, i, j, n)
}

// look looks for the name in what is there.
func (q *QUIC) look() {
	if len(q.have) == 0 || q.have[0].first > 0 {
		return
	}
	m := q.crypto[:q.have[0].end]
	size, ok := messageSize(m)
	if !ok {
		q.state = Other
		return
	}
	whole := size >= 0 && len(m) >= size
	if whole {
		m = m[:size]
	}
	q.name, q.state = read(m, whole)
}

// initialKeys are the keys of the packets of a client at the beginning of a connection.
type initialKeys struct {
	aead cipher.AEAD
	mask cipher.Block
	iv   [12]byte
}

func newInitialKeys(version uint32, connID []byte) (*initialKeys, error) {
	key, iv, hp, err := deriveInitial(version, connID)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	k := new(initialKeys)
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	copy(k.iv[:], iv)
	k.mask, err = aes.NewCipher(hp)
	return k, err
}

// deriveInitial derives what protects the packets of a client: key, initialization vector and the key of the headers.
func deriveInitial(version uint32, connID []byte) (key, iv, hp []byte, err error) {
	salt, prefix := salt1, "quic "
	if version == version2 {
		salt, prefix = salt2, "quicv2 "
	}
	initial, err := hkdf.Extract(sha256.New, connID, salt)
	if err != nil {
		return nil, nil, nil, err
	}
	secret, err := expandLabel(initial, "client in", 32)
	if err != nil {
		return nil, nil, nil, err
	}
	if key, err = expandLabel(secret, prefix+"key", 16); err != nil {
		return nil, nil, nil, err
	}
	if iv, err = expandLabel(secret, prefix+"iv", 12); err != nil {
		return nil, nil, nil, err
	}
	hp, err = expandLabel(secret, prefix+"hp", 16)
	return key, iv, hp, err
}

// expandLabel is HKDF-Expand-Label of RFC 8446 section 7.1, without a context.
func expandLabel(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := string([]byte{byte(n >> 8), byte(n), byte(len(label))}) + label + "\x00"
	return hkdf.Expand(sha256.New, secret, info, n)
}

// open takes the protection off the packet p, whose header ends with its packet number, which begins at the given index. It returns
// the frames, which lie in p.
func (k *initialKeys) open(p []byte, header int) (frames []byte, ok bool) {
	const sample = 4
	if len(p) < header+sample+aes.BlockSize {
		return nil, false
	}
	var mask [aes.BlockSize]byte
	k.mask.Encrypt(mask[:], p[header+sample:header+sample+aes.BlockSize])
	p[0] ^= mask[0] & 0x0f
	n := int(p[0]&3) + 1
	nonce := k.iv
	for i := range n {
		p[header+i] ^= mask[1+i]
		// The first numbers of a connection are small enough to be there in full.
		nonce[len(nonce)-n+i] ^= p[header+i]
	}
	body := p[header+n:]
	frames, err := k.aead.Open(body[:0], nonce[:], body, p[:header+n])
	return frames, err == nil
}

// varint takes a number of variable length (RFC 9000 section 16). One that is too large for anything here makes the reader fail.
func (r *reader) varint() int {
	if len(r.b) == 0 {
		r.b = nil
		return -1
	}
	size := 1 << (r.b[0] >> 6)
	f := r.take(size)
	if r.b == nil {
		return -1
	}
	v := uint64(f[0] & 0x3f)
	for _, c := range f[1:] {
		v = v<<8 | uint64(c)
	}
	if v > 1<<30 {
		r.b = nil
		return -1
	}
	return int(v)
}
