package dns

import (
	"net/netip"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// nowhereTTL is how long, in seconds, the absence of a name may be kept that is a decision of ours.
const nowhereTTL = 60

// special are names that nobody is asked about, unless a zone is made for them.
var special = []string{"local", "onion", "invalid", "resolver.arpa", "use-application-dns.net"}

// known returns the answer to what is known without asking: hosts, and localhost with the names of its addresses. Name is
// absolute and in lower case.
func (st *ruling) known(name string, qtype uint16) (*finding, bool) {
	host := canonical(name)
	if addrs, ok := st.hosts.lookup(host); ok && (qtype == wire.TypeA || qtype == wire.TypeAAAA) {
		return addresses(name, addrs, qtype), true
	}
	if inDomain(host, "localhost") {
		return addresses(name, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, qtype), true
	}
	if qtype != wire.TypePTR || !strings.HasSuffix(host, ".arpa") {
		return nil, false
	}
	addr, ok := reverseAddr(host)
	if !ok {
		return nil, false
	}
	target, ok := st.hosts.reverse(addr)
	if !ok && addr.IsLoopback() {
		target, ok = "localhost", true
	}
	if !ok {
		return nil, false
	}
	r := absent(name, wire.RcodeSuccess)
	r.authority = nil
	r.answer = []wire.RR{&wire.PTR{Hdr: recordHeader(name, wire.TypePTR), Ptr: target + "."}}
	r.ttl = localTTL * time.Second
	return r, true
}

// addresses is the answer that name has these, if they are of the type that is asked for.
func addresses(name string, addrs []netip.Addr, qtype uint16) *finding {
	var records []wire.RR
	for _, a := range addrs {
		if typeOf(a) == qtype {
			records = append(records, addressRecord(name, a))
		}
	}
	r := absent(name, wire.RcodeSuccess)
	if len(records) > 0 {
		r.answer, r.authority, r.ttl = records, nil, localTTL*time.Second
	}
	return r
}

// absent is the answer that there is nothing, with the SOA record without which nobody would keep it (RFC 2308 section 5).
func absent(name string, rcode int) *finding {
	h := recordHeader(name, wire.TypeSOA)
	h.Ttl = nowhereTTL
	soa := &wire.SOA{Hdr: h, Ns: "localhost.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: nowhereTTL}
	return &finding{rcode: rcode, authority: []wire.RR{soa}, ttl: nowhereTTL * time.Second}
}

// barred returns the answer to what must not be asked of anybody: names that go nowhere, and addresses that could not be
// used. Otherwise it returns the zone of the name and the suffix that gave it the name.
func (st *ruling) barred(name string, qtype uint16) (r *finding, z *realm, suffix string) {
	host := canonical(name)
	z, suffix = st.zone(host)
	for _, s := range special {
		if inDomain(host, s) && !inDomain(suffix, s) {
			code := wire.RcodeNameError
			if s == "resolver.arpa" {
				code = wire.RcodeSuccess // RFC 9462 section 6.4
			}
			return absent(name, code), z, suffix
		}
	}
	switch {
	case z == nil, z.way == Nowhere, z.way == Direct && st.private(host):
		return absent(name, wire.RcodeNameError), z, suffix
	case z.noIPv6 && qtype == wire.TypeAAAA:
		return absent(name, wire.RcodeSuccess), z, suffix
	}
	return nil, z, suffix
}

// private reports whether a canonical name tells about the inside, although its suffix does not say so: a single label, or a
// name of the inside that a search domain was put behind.
func (st *ruling) private(host string) bool {
	if single(host) {
		_, suffix := st.zone(host)
		return !st.singleLabels && suffix == ""
	}
	for off, end := wire.NextLabel(host, 0); !end; off, end = wire.NextLabel(host, off) {
		if !st.behind[host[off:]] {
			continue
		}
		if z, suffix := st.zone(host[:off-1]); suffix != "" && z.way != Direct {
			return true
		}
	}
	return false
}

// single reports whether a canonical name has one label.
func single(host string) bool {
	if host == "" {
		return false
	}
	_, end := wire.NextLabel(host, 0)
	return end
}
