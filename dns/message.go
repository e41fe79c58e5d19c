package dns

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	wire "github.com/miekg/dns"
)

const (
	headerLen  = 12    // RFC 1035 section 4.1.1
	maxMessage = 65535 // the largest that TCP can carry

	// udpSize is the size of UDP answer that a Resolver says it takes. It fits an IPv6 packet of 1280 bytes, so that no
	// answer is fragmented.
	udpSize = 1232
)

// ErrMessage reports a query or an answer that is not a DNS message, or an answer to something else.
var ErrMessage = errors.New("malformed DNS message")

// A question is what a query asks: the part that an answer repeats.
type question struct {
	name  string // in the presentation form, with the final dot, as it was written
	qtype uint16
	class uint16
}

// parseQuery reads the header and the question of a query, of which there must be exactly one.
func parseQuery(b []byte) (question, error) {
	var q question
	if len(b) < headerLen || len(b) > maxMessage {
		return q, fmt.Errorf("%w: a query of %d bytes", ErrMessage, len(b))
	}
	if b[2]&0x80 != 0 {
		return q, fmt.Errorf("%w: an answer where a query should be", ErrMessage)
	}
	return parseQuestion(b)
}

func parseQuestion(b []byte) (question, error) {
	var q question
	if n := binary.BigEndian.Uint16(b[4:]); n != 1 {
		return q, fmt.Errorf("%w: %d questions", ErrMessage, n)
	}
	name, off, err := wire.UnpackDomainName(b, headerLen)
	if err != nil || off+4 > len(b) {
		return q, fmt.Errorf("%w: a question that does not parse", ErrMessage)
	}
	return question{name, binary.BigEndian.Uint16(b[off:]), binary.BigEndian.Uint16(b[off+2:])}, nil
}

// answers reports whether the message b is an answer to q with this id. Whoever cannot see the query cannot know
// both. The case of letters is not compared, since some servers do not keep it.
func answers(b []byte, id uint16, q question) bool {
	if len(b) < headerLen || len(b) > maxMessage || b[2]&0x80 == 0 || binary.BigEndian.Uint16(b) != id {
		return false
	}
	// A server that does not even understand the question may leave it out (RFC 1035 section 4.1.1, FORMERR, NOTIMP), but
	// then its answer is worth nothing to anybody.
	got, err := parseQuestion(b)
	return err == nil && got.qtype == q.qtype && got.class == q.class && strings.EqualFold(got.name, q.name)
}

func rcode(b []byte) int      { return int(b[3] & 0x0f) }
func truncated(b []byte) bool { return b[2]&0x02 != 0 }

// randomID returns an unpredictable message id. crypto/rand does not fail.
func randomID() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:])
}

// withID returns a copy of the message b with another id.
func withID(b []byte, id uint16) []byte {
	c := append([]byte(nil), b...)
	binary.BigEndian.PutUint16(c, id)
	return c
}

// failure returns the answer to query that says only that it failed.
func failure(query []byte, code int) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	m := new(wire.Msg)
	m.Id = binary.BigEndian.Uint16(query)
	m.Response = true
	m.Opcode = int(query[2]>>3) & 0xf
	m.RecursionDesired = query[2]&1 != 0
	m.RecursionAvailable = true
	m.Rcode = code
	m.Question = []wire.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.class}}
	return m.Pack()
}

// newQuery returns a query for the addresses, or whatever qtype asks for, of an absolute name.
func newQuery(name string, qtype uint16) ([]byte, error) {
	m := new(wire.Msg)
	m.SetQuestion(name, qtype)
	m.Id = randomID()
	m.SetEdns0(udpSize, false)
	return m.Pack()
}
