package dns

import (
	"encoding/binary"

	wire "github.com/miekg/dns"
)

const (
	// maxQuery is the size of the largest query that the Server takes. A question and a few options fill a tenth of it.
	maxQuery = 4096

	maxWireName  = 255 // RFC 1035 section 3.1
	maxQueryTail = 4   // records behind the question of a query
)

// verdict is what becomes of a query before anybody looks at the name.
type verdict int

const (
	accepted  verdict = iota
	ignored           // answering would help nobody, or would go back and forth for ever
	formatErr         // the other verdicts are answers
	notImplemented
	refused
	badVersion
)

// A query is what a Server needs to know of a query, without memory of its own: it is used again for the next.
type query struct {
	id         uint16
	rd, ad, cd bool // header bits
	edns, do   bool
	qtype      uint16
	size       int // largest answer over UDP
	end        int // of the question
	keyLen     int

	// name in lower case, type, and the bits that change the answer: what the cache is searched for
	keyBuf [maxWireName + 3]byte
}

func (q *query) key() []byte { return q.keyBuf[:q.keyLen] }

// parse reads b, which is whatever somebody sent. If the question did not parse, q.end is the length of the header.
func (q *query) parse(b []byte) verdict {
	if len(b) < headerLen || b[2]&0x80 != 0 {
		return ignored
	}
	q.id = binary.BigEndian.Uint16(b)
	q.rd, q.ad, q.cd = b[2]&0x01 != 0, b[3]&0x20 != 0, b[3]&0x10 != 0
	q.edns, q.do, q.size, q.end = false, false, wire.MinMsgSize, headerLen
	if opcode := b[2] >> 3 & 0x0f; opcode != wire.OpcodeQuery {
		return notImplemented
	}
	// One question, no answers, no authority: an incremental zone transfer has the latter, but is refused anyway.
	if len(b) > maxQuery || b[4] != 0 || b[5] != 1 || b[6]|b[7]|b[8]|b[9] != 0 || b[10] != 0 || b[11] > maxQueryTail {
		return formatErr
	}
	end, ok := q.name(b)
	if !ok || end+4 > len(b) {
		return formatErr
	}
	q.qtype = binary.BigEndian.Uint16(b[end:])
	class := binary.BigEndian.Uint16(b[end+2:])
	q.end = end + 4

	off := q.end
	version := byte(0)
	for range b[11] {
		var kind uint16
		if off, kind, ok = q.tail(b, off, &version); !ok || kind == wire.TypeOPT && q.edns {
			return formatErr
		}
		q.edns = q.edns || kind == wire.TypeOPT
	}
	switch {
	case version != 0:
		return badVersion
	case class != wire.ClassINET, q.qtype == wire.TypeAXFR, q.qtype == wire.TypeIXFR:
		return refused
	case q.qtype == 0, q.qtype == wire.TypeOPT, q.qtype >= wire.TypeTKEY && q.qtype < wire.TypeANY:
		return notImplemented
	}
	var bits byte
	if q.do {
		bits |= 1
	}
	if q.cd {
		bits |= 2
	}
	binary.BigEndian.PutUint16(q.keyBuf[q.keyLen:], q.qtype)
	q.keyBuf[q.keyLen+2] = bits
	q.keyLen += 3
	return accepted
}

// name reads the name of the question into the key, and returns where it ends. It is not compressed, since nothing comes
// before it that it could point to.
func (q *query) name(b []byte) (end int, ok bool) {
	off := headerLen
	for {
		if off >= len(b) {
			return 0, false
		}
		n := int(b[off])
		if n == 0 {
			break
		}
		if off += 1 + n; n > maxLabel || off-headerLen >= maxWireName {
			return 0, false
		}
	}
	off++
	// The length of a label is less than any letter, so that it need not be told from the label.
	for i, c := range b[headerLen:off] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		q.keyBuf[i] = c
	}
	q.keyLen = off - headerLen
	return off, true
}

// tail reads a record behind the question, and returns where it ends and its type. Only OPT (RFC 6891) means anything.
func (q *query) tail(b []byte, off int, version *byte) (end int, kind uint16, ok bool) {
	start := off
	if off, ok = skipName(b, off); !ok || off+10 > len(b) {
		return 0, 0, false
	}
	kind = binary.BigEndian.Uint16(b[off:])
	end = off + 10 + int(binary.BigEndian.Uint16(b[off+8:]))
	if end > len(b) {
		return 0, 0, false
	}
	if kind != wire.TypeOPT {
		return end, kind, true
	}
	if off != start+1 {
		return 0, 0, false // its name is the root
	}
	q.size = max(wire.MinMsgSize, min(udpSize, int(binary.BigEndian.Uint16(b[off+2:]))))
	*version = b[off+5]
	q.do = b[off+6]&0x80 != 0
	for off += 10; off < end; {
		if off+4 > end {
			return 0, 0, false
		}
		off += 4 + int(binary.BigEndian.Uint16(b[off+2:]))
	}
	return end, kind, off == end
}

// skipName returns where the name at off ends. It does not follow a pointer, which ends a name.
func skipName(b []byte, off int) (end int, ok bool) {
	for off < len(b) {
		switch n := int(b[off]); {
		case n == 0:
			return off + 1, true
		case n >= 0xc0:
			return off + 2, off+2 <= len(b)
		case n > maxLabel:
			return 0, false
		default:
			off += 1 + n
		}
	}
	return 0, false
}

// appendVerdict appends the answer to the query b that q was parsed from, where the verdict is one.
func (q *query) appendVerdict(dst, b []byte, v verdict) []byte {
	var code, extended byte
	switch v {
	case formatErr:
		code = wire.RcodeFormatError
	case notImplemented:
		code = wire.RcodeNotImplemented
	case refused:
		code = wire.RcodeRefused
	case badVersion:
		extended = wire.RcodeBadVers >> 4
	}
	opcode := b[2] & 0x78
	dst = q.appendHeader(dst, b, code)
	dst[2] |= opcode
	if q.edns {
		dst = q.appendEDNS(dst, extended)
	}
	return dst
}

// appendHeader appends to dst, which is empty, the header and the question of an answer to b without records.
func (q *query) appendHeader(dst, b []byte, code byte) []byte {
	dst = append(dst, b[:q.end]...)
	dst[2] = 0x80 // an answer
	if q.rd {
		dst[2] |= 0x01
	}
	dst[3] = 0x80 | code // recursion is available
	if q.cd {
		dst[3] |= 0x10
	}
	clear(dst[4:headerLen])
	if q.end > headerLen {
		dst[5] = 1
	}
	return dst
}

// appendEDNS appends the OPT record of an answer (RFC 6891 section 6.1), which has no options: nothing of what a client
// wrote into its own concerns us, and nothing of the upstream's concerns the client.
func (q *query) appendEDNS(dst []byte, extendedCode byte) []byte {
	dst[11]++
	var do byte
	if q.do {
		do = 0x80
	}
	return append(dst, 0, 0, byte(wire.TypeOPT), udpSize>>8, udpSize&0xff, extendedCode, 0, do, 0, 0, 0)
}
