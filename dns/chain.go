package dns

import (
	"fmt"
	"slices"
	"strings"

	wire "github.com/miekg/dns"
)

// A part is what an upstream's answer says about the question, after all has been taken out that it was not asked
// about or has no business to know.
type part struct {
	rcode     int
	answer    []wire.RR
	authority []wire.RR
	names     []string // the targets of CNAMEs, in canonical form
	next      string   // the last of names, if it must be asked for anew
	final     bool     // the answer has records of the type that was asked for
	ad        bool
	way       Way // where the answer came from
	dropped   int // records that were about other names
}

// sift takes from the answer b to the question for name, which was asked under id in the zone z or of its fallback, what it
// says about name and the names that name stands for. What it says about others it may have invented. So may it have what
// it says about a name of a zone that is asked elsewhere: the chain is cut there.
func (st *ruling) sift(b []byte, id uint16, name string, qtype uint16, do bool, z *realm, fallback bool) (*part, error) {
	q := question{name: name, qtype: qtype, class: wire.ClassINET}
	if !answers(b, id, q) {
		return nil, fmt.Errorf("%w: an answer to something that was not asked", ErrMessage)
	}
	if truncated(b) {
		return nil, fmt.Errorf("%w: a truncated answer", ErrMessage)
	}
	m := new(wire.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	// Unpack is content with fewer records than the header promises.
	if len(m.Answer) != int(b[6])<<8|int(b[7]) || len(m.Ns) != int(b[8])<<8|int(b[9]) || len(m.Extra) != int(b[10])<<8|int(b[11]) {
		return nil, fmt.Errorf("%w: an answer that ends early", ErrMessage)
	}
	p := &part{rcode: m.Rcode, ad: m.AuthenticatedData && z.trustAD && !fallback, way: z.way}
	if fallback {
		p.way = Direct
	}
	if p.rcode != wire.RcodeSuccess && p.rcode != wire.RcodeNameError {
		return p, nil
	}
	last, err := st.follow(p, m.Answer, name, qtype, do, z, fallback)
	if err != nil {
		return nil, err
	}
	if p.next != "" {
		// The rest of the message is about the end of the chain, which somebody else knows.
		p.rcode, p.ad = wire.RcodeSuccess, false
		return p, nil
	}
	if p.final && p.rcode == wire.RcodeNameError {
		return nil, fmt.Errorf("%w: a name that does not exist, with records", errLied)
	}
	p.authority = supports(m, last, p.final, do)
	if !p.final && len(p.names) > 0 && p.rcode == wire.RcodeSuccess && !hasSOA(p.authority) && qtype != wire.TypeCNAME {
		p.next = last // the server stopped half way
	}
	if z.noIPv6 {
		p.answer = withoutIPv6(p.answer)
	}
	return p, nil
}

// follow moves the records of the chain that begins with name to p, and returns its end.
func (st *ruling) follow(p *part, records []wire.RR, name string, qtype uint16, do bool, z *realm, fallback bool) (last string, err error) {
	used := make([]bool, len(records))
	take := func(i int) {
		used[i] = true
		p.answer = append(p.answer, records[i])
	}
	takeOf := func(i int, owner string) {
		records[i].Header().Name = owner // so that it is compressed to the name in the question
		take(i)
	}
	for last = name; ; {
		target := ""
		for i, rr := range records {
			h := rr.Header()
			if used[i] || h.Class != wire.ClassINET || h.Rdlength == 0 {
				continue // a record without anything in it is one of an update (RFC 2136)
			}
			if h.Rrtype == wire.TypeDNAME && qtype != wire.TypeDNAME && below(last, h.Name) {
				take(i) // the CNAME that follows from it is here too (RFC 6672 section 3.1)
				continue
			}
			if !strings.EqualFold(h.Name, last) {
				continue
			}
			switch {
			case h.Rrtype == qtype, qtype == wire.TypeANY:
				p.final = true
				takeOf(i, last)
			case h.Rrtype == wire.TypeCNAME && target == "":
				takeOf(i, last)
				target = strings.ToLower(targetOf(rr))
			case h.Rrtype == wire.TypeRRSIG && do:
				takeOf(i, last)
			case h.Rrtype == wire.TypeRRSIG:
				used[i] = true
			}
		}
		if p.final || target == "" {
			break
		}
		if target == name || slices.Contains(p.names, target) || len(p.names) >= maxChain {
			return "", fmt.Errorf("%w: a chain of names that does not end", errLied)
		}
		p.names = append(p.names, target)
		last = target
		if st.foreign(z, fallback, canonical(target)) {
			p.next = target
			return last, nil
		}
	}
	for _, u := range used {
		if !u {
			p.dropped++
		}
	}
	return last, nil
}

func targetOf(rr wire.RR) string {
	if c, ok := rr.(*wire.CNAME); ok {
		return c.Target
	}
	return ""
}

// foreign reports whether the upstreams of z have no say about name. Those in the tunnel may also say where the names
// of their zone lead outside: they were chosen to be believed, and asking outside would tell where the inside leads. The
// fallback of z knows only the names that are in z for want of a better zone. About a name without a zone nobody else has a say.
func (st *ruling) foreign(z *realm, fallback bool, name string) bool {
	other, suffix := st.zone(name)
	if fallback {
		return other != z || suffix != ""
	}
	if other == z || other == nil {
		return false
	}
	return z.way != Tunnel || other.way != Direct
}

// supports returns the records of the authority section that a client can use: the SOA record that says how long there
// is nothing, and, for those who verify, the proofs of it. They belong to a zone above the end of the chain.
func supports(m *wire.Msg, last string, final, do bool) []wire.RR {
	var keep []wire.RR
	for _, rr := range m.Ns {
		h := rr.Header()
		if h.Class != wire.ClassINET || h.Rdlength == 0 {
			continue
		}
		switch rr := rr.(type) {
		case *wire.SOA:
			if !final && below(last, h.Name) && !hasSOA(keep) {
				keep = append(keep, rr)
			}
		case *wire.RRSIG:
			if do && below(last, rr.SignerName) && below(h.Name, rr.SignerName) {
				keep = append(keep, rr)
			}
		case *wire.NSEC, *wire.NSEC3:
			if do && signed(m.Ns, h.Name, last) {
				keep = append(keep, rr)
			}
		}
	}
	return keep
}

// signed reports whether a zone above last signs for name.
func signed(records []wire.RR, name, last string) bool {
	for i, rr := range records {
		if sig, ok := rr.(*wire.RRSIG); ok && strings.EqualFold(sig.Hdr.Name, name) && below(last, sig.SignerName) && below(name, sig.SignerName) {
			return true
		}
		if i >= 64 {
			break // no proof needs as many
		}
	}
	return false
}

func hasSOA(records []wire.RR) bool {
	return slices.ContainsFunc(records, func(rr wire.RR) bool { _, ok := rr.(*wire.SOA); return ok })
}

// below reports whether name is top or below it. Both are in presentation form with the final dot. Labels are compared,
// not bytes, since a label may have a dot in it.
func below(name, top string) bool {
	if top == "." {
		return true
	}
	for off, end := 0, false; !end; off, end = wire.NextLabel(name, off) {
		if len(name)-off == len(top) {
			return strings.EqualFold(name[off:], top)
		}
		if len(name)-off < len(top) {
			return false
		}
	}
	return false
}

// withoutIPv6 removes the IPv6 addresses from records, in their memory.
func withoutIPv6(records []wire.RR) []wire.RR {
	return slices.DeleteFunc(records, func(rr wire.RR) bool {
		switch rr := rr.(type) {
		case *wire.AAAA:
			return true
		case *wire.SVCB:
			return !dropHint(rr)
		case *wire.HTTPS:
			return !dropHint(&rr.SVCB)
		}
		return false
	})
}

// dropHint removes the IPv6 addresses from a service binding (RFC 9460 section 7.3). It reports false if the record
// would then lack what it calls mandatory.
func dropHint(rr *wire.SVCB) bool {
	mandatory := false
	for _, kv := range rr.Value {
		if m, ok := kv.(*wire.SVCBMandatory); ok {
			mandatory = mandatory || slices.Contains(m.Code, wire.SVCB_IPV6HINT)
		}
	}
	rr.Value = slices.DeleteFunc(rr.Value, func(kv wire.SVCBKeyValue) bool { return kv.Key() == wire.SVCB_IPV6HINT })
	return !mandatory
}
