package dns

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

const (
	maxTTL     = 7 * 24 * 3600 // seconds that any record is kept (RFC 8767 section 4)
	maxNoTTL   = 3600          // seconds that the absence of a record is kept (RFC 2308 section 5)
	failureTTL = time.Second   // how long a question that failed is not asked again (RFC 9520 section 3.2)
	staleTTL   = 30            // seconds that an answer may be kept that is too old already (RFC 8767 section 4)

	// packetLimit, as the limit of an answer, says that it may be as large as its query allows over UDP.
	packetLimit = 0

	// maxBody leaves room for the question and the OPT record in a message.
	maxBody = maxMessage - headerLen - maxWireName - 4 - 11
)

// A stamp is a point in time by two clocks. The one that never jumps may stand still while the machine sleeps, and the other
// may be set back: the age of an answer is what the faster one says.
type stamp struct{ wall, mono time.Duration }

func stampOf(t, epoch time.Time) stamp {
	return stamp{wall: time.Duration(t.UnixNano()), mono: t.Sub(epoch)}
}

func (s stamp) since(then stamp) time.Duration { return max(s.wall-then.wall, s.mono-then.mono, 0) }

// An entry is an answer without what depends on who asked: the records in wire format, as they stand behind the
// question. Pointers in them lead to the question or to one another, so that they are right behind any question for
// the same name, in whatever case. It does not change, but for what the cache keeps in it.
type entry struct {
	key             string
	body            []byte
	ttls            []uint16 // where in body the lifetimes are
	answers, others byte2    // how many records there are in the answer and authority sections
	rcode           byte
	ad              bool
	stored          stamp
	life            time.Duration // after which it is not used
	told            *Answer       // what a hook is told when it is used again, nil for nothing

	visited      atomic.Bool
	newer, older *entry
}

// byte2 is a number as it stands in a header.
type byte2 [2]byte

// fresh reports whether e may be used without a word about its age.
func (e *entry) fresh(now stamp) bool { return now.since(e.stored) < e.life }

// A finding is an answer as it is put together, before it is an entry.
type finding struct {
	rcode     int
	names     []string // the chain of names in canonical form, the one that was asked for first
	answer    []wire.RR
	authority []wire.RR
	ad        bool
	way       Way
	ttl       time.Duration // how long it may be kept
}

// lifetime limits the lifetimes of the records, and returns how long all of them hold. Whoever keeps an answer that there
// is nothing keeps it no longer than the SOA record beside it says (RFC 2308 section 5), and not at all if there is none.
func (r *finding) lifetime(negative bool) time.Duration {
	ttl := uint32(maxTTL)
	for _, rr := range r.answer {
		ttl = min(ttl, limitTTL(rr))
	}
	found := false
	for _, rr := range r.authority {
		ttl = min(ttl, limitTTL(rr))
		if soa, ok := rr.(*wire.SOA); ok && negative {
			found = true
			soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl, maxNoTTL)
			ttl = min(ttl, soa.Hdr.Ttl)
		}
	}
	if negative && !found {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// limitTTL limits the lifetime of rr, and returns it. One with the highest bit set is zero (RFC 2181 section 8).
func limitTTL(rr wire.RR) uint32 {
	h := rr.Header()
	if h.Ttl > 1<<31-1 {
		h.Ttl = 0
	}
	h.Ttl = min(h.Ttl, maxTTL)
	return h.Ttl
}

// newEntry makes an entry of r, the answer to the question in q.
func newEntry(q *query, r *finding, now stamp) (*entry, error) {
	name, _, err := wire.UnpackDomainName(q.keyBuf[:q.keyLen], 0)
	if err != nil {
		return nil, fmt.Errorf("%w: name of the question", ErrMessage)
	}
	m := &wire.Msg{
		MsgHdr:   wire.MsgHdr{Response: true, Rcode: r.rcode},
		Compress: true,
		Question: []wire.Question{{Name: name, Qtype: q.qtype, Qclass: wire.ClassINET}},
		Answer:   r.answer,
		Ns:       r.authority,
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	body := b[headerLen+q.keyLen-3+4:]
	if len(body) > maxBody || len(r.answer)+len(r.authority) > maxBody {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrMessage, len(b))
	}
	e := &entry{
		key: string(q.key()), body: append([]byte(nil), body...), rcode: byte(r.rcode), ad: r.ad, stored: now, life: r.ttl,
		answers: byte2{b[6], b[7]}, others: byte2{b[8], b[9]},
	}
	if e.ttls, err = lifetimes(e.body, len(r.answer)+len(r.authority)); err != nil {
		return nil, err
	}
	return e, nil
}

// failed is the answer that the question failed.
func failed(q *query, now stamp) *entry {
	return &entry{key: string(q.key()), rcode: wire.RcodeServerFailure, stored: now, life: failureTTL}
}

// lifetimes returns where in body, which holds so many records, their lifetimes are.
func lifetimes(body []byte, records int) ([]uint16, error) {
	ttls := make([]uint16, 0, records)
	off := 0
	for i := range records {
		end, ok := skipName(body, off)
		if !ok || end+10 > len(body) {
			return nil, fmt.Errorf("%w: record %d does not parse", ErrMessage, i)
		}
		ttls = append(ttls, uint16(end+4))
		if off = end + 10 + int(binary.BigEndian.Uint16(body[end+8:])); off > len(body) {
			return nil, fmt.Errorf("%w: record %d is longer than the message", ErrMessage, i)
		}
	}
	if off != len(body) {
		return nil, fmt.Errorf("%w: %d bytes behind the records", ErrMessage, len(body)-off)
	}
	return ttls, nil
}

// appendTo appends to dst, which is empty, the answer to the query b that q was parsed from, of at most
// limit bytes. It allocates nothing where dst has room.
func (e *entry) appendTo(dst, b []byte, q *query, now stamp, limit int) []byte {
	if limit == packetLimit {
		limit = q.size
	}
	size := q.end + len(e.body)
	if q.edns {
		size += 11
	}
	dst = q.appendHeader(dst, b, e.rcode)
	if size > limit {
		dst[2] |= 0x02 // truncated: ask again over TCP (RFC 2181 section 9)
	} else {
		dst[6], dst[7], dst[8], dst[9] = e.answers[0], e.answers[1], e.others[0], e.others[1]
		if e.ad && (q.ad || q.do) { // RFC 6840 section 5.8
			dst[3] |= 0x20
		}
		dst = append(dst, e.body...)
		e.patch(dst[q.end:], now)
	}
	if q.edns {
		dst = q.appendEDNS(dst, 0)
	}
	return dst
}

// patch reduces the lifetimes in body, a copy of that of e, by the age of e.
func (e *entry) patch(body []byte, now stamp) {
	age := now.since(e.stored)
	stale := age >= e.life && e.life > 0
	seconds := uint32(min(age/time.Second, maxTTL))
	for _, off := range e.ttls {
		field := body[off : off+4 : off+4]
		ttl := binary.BigEndian.Uint32(field)
		if stale {
			ttl = staleTTL
		} else {
			ttl -= min(ttl, seconds)
		}
		binary.BigEndian.PutUint32(field, ttl)
	}
}
