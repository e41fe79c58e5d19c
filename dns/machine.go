package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	wire "github.com/miekg/dns"
)

// localTTL is how long, in seconds, an answer may be kept that came from where lifetimes are not told.
const localTTL = 5

// FromResolver returns an [Exchanger] that answers from r, such as the machine's own [net.DefaultResolver], with all
// that it takes into account: the hosts file, the servers of each interface, a local cache. It answers for the
// addresses of names (A and AAAA) and for the names of addresses (PTR); the answer to other types is that they are not
// implemented.
func FromResolver(r *net.Resolver) Exchanger { return &machine{r} }

type machine struct{ resolver *net.Resolver }

func (x *machine) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	id := binary.BigEndian.Uint16(query)
	switch {
	case q.class != wire.ClassINET:
	case q.qtype == wire.TypeA, q.qtype == wire.TypeAAAA:
		return x.addresses(ctx, id, q)
	case q.qtype == wire.TypePTR:
		return x.names(ctx, id, q)
	}
	return failure(query, wire.RcodeNotImplemented)
}

// addresses asks for both families, since only so can it tell a name without an address of one family from a name that does
// not exist.
func (x *machine) addresses(ctx context.Context, id uint16, q question) ([]byte, error) {
	if !validName(q.name) {
		return reply(id, q, wire.RcodeNameError, nil)
	}
	all, err := x.resolver.LookupNetIP(ctx, "ip", q.name)
	if err != nil {
		return missing(id, q, err)
	}
	var records []wire.RR
	for _, a := range all {
		if rr := addressRecord(q.name, a.Unmap()); rr.Header().Rrtype == q.qtype && len(records) < maxAddresses {
			records = append(records, rr)
		}
	}
	return reply(id, q, wire.RcodeSuccess, records)
}

func (x *machine) names(ctx context.Context, id uint16, q question) ([]byte, error) {
	addr, ok := reverseAddr(q.name)
	if !ok {
		return reply(id, q, wire.RcodeNameError, nil)
	}
	names, err := x.resolver.LookupAddr(ctx, addr.String())
	if err != nil {
		return missing(id, q, err)
	}
	var records []wire.RR
	for _, n := range names {
		if validName(n) && len(records) < maxAddresses {
			records = append(records, &wire.PTR{Hdr: recordHeader(q.name, wire.TypePTR), Ptr: wire.Fqdn(n)})
		}
	}
	return reply(id, q, wire.RcodeSuccess, records)
}

// missing is the answer where the resolver found nothing, or the error where it failed.
func missing(id uint16, q question, err error) ([]byte, error) {
	var e *net.DNSError
	if errors.As(err, &e) && e.IsNotFound {
		return reply(id, q, wire.RcodeNameError, nil)
	}
	return nil, err
}

// aliasAnswer answers the question q, which was asked with this id, with the addresses of name.
func aliasAnswer(id uint16, q question, name string, addrs []netip.Addr) ([]byte, error) {
	records := []wire.RR{&wire.CNAME{Hdr: recordHeader(q.name, wire.TypeCNAME), Target: name}}
	for _, a := range addrs {
		records = append(records, addressRecord(name, a))
	}
	return reply(id, q, wire.RcodeSuccess, records)
}

func reply(id uint16, q question, code int, records []wire.RR) ([]byte, error) {
	m := &wire.Msg{
		MsgHdr:   wire.MsgHdr{Id: id, Response: true, RecursionDesired: true, RecursionAvailable: true, Rcode: code},
		Compress: true,
		Question: []wire.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.class}},
		Answer:   records,
	}
	return m.Pack()
}

func recordHeader(name string, t uint16) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: t, Class: wire.ClassINET, Ttl: localTTL}
}

func addressRecord(name string, a netip.Addr) wire.RR {
	if a.Is4() {
		return &wire.A{Hdr: recordHeader(name, wire.TypeA), A: a.AsSlice()}
	}
	return &wire.AAAA{Hdr: recordHeader(name, wire.TypeAAAA), AAAA: a.AsSlice()}
}
