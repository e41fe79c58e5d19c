package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// maxHops is how often the rest of a chain of names is asked for anew, because it leads into another zone.
const maxHops = 8

// An ask is a question on its way through the Server.
type ask struct {
	name   string // absolute, in lower case
	qtype  uint16
	do, cd bool
}

// resolve finds the answer to a. The error says that it could not be found.
func (s *Server) resolve(ctx context.Context, st *ruling, a ask) (*finding, error) {
	host := canonical(a.name)
	if single(host) && len(st.search) > 0 {
		if _, known := st.known(a.name, a.qtype); !known {
			if _, suffix := st.zone(host); suffix != host && !slices.Contains(special, host) {
				r, err := s.search(ctx, st, a)
				if r != nil || err != nil {
					return r, err
				}
			}
		}
	}
	return s.chase(ctx, st, a)
}

// search looks for a name of a single label in the search domains. It returns nothing if they do not have it. The first
// that has the name is taken even if it has no record of this type, so that all types come from the same name; and one that
// cannot say ends the search, since the next could know another machine by that name.
func (s *Server) search(ctx context.Context, st *ruling, a ask) (*finding, error) {
	for _, domain := range st.search {
		full := a
		if full.name = a.name + domain + "."; !validName(full.name) {
			continue
		}
		r, err := s.chase(ctx, st, full)
		if err != nil {
			return nil, err
		}
		if r.rcode == wire.RcodeNameError {
			continue
		}
		alias := &wire.CNAME{Hdr: recordHeader(a.name, wire.TypeCNAME), Target: full.name}
		alias.Hdr.Ttl = uint32(r.ttl / time.Second)
		r.answer = append([]wire.RR{alias}, r.answer...)
		r.names = append([]string{canonical(a.name)}, r.names...)
		r.ad = false
		return r, nil
	}
	return nil, nil
}

// chase asks for a name, and for the names that it stands for as long as they lead into other zones. Each of them is
// judged as if it had been asked for itself.
func (s *Server) chase(ctx context.Context, st *ruling, a ask) (*finding, error) {
	r := &finding{names: []string{canonical(a.name)}, ad: true}
	ttl := time.Duration(maxTTL) * time.Second
	for range maxHops {
		end, ok := st.known(a.name, a.qtype)
		var z *realm
		var suffix string
		if !ok {
			end, z, suffix = st.barred(a.name, a.qtype)
		}
		if end != nil {
			// What is known here is told under the name that leads here.
			r.rcode, r.authority, r.ad = end.rcode, end.authority, false
			r.answer = append(r.answer, end.answer...)
			if r.way = Nowhere; z != nil {
				r.way = z.way
			}
			r.ttl = min(ttl, end.ttl, r.lifetime(false))
			return r, nil
		}
		p, err := s.inquire(ctx, st, z, suffix, a)
		if err != nil {
			return nil, err
		}
		if p.rcode != wire.RcodeSuccess && p.rcode != wire.RcodeNameError {
			return nil, fmt.Errorf("the servers of zone %s answered %s", z.name, rcodeText(p.rcode))
		}
		s.count.dropped.Add(uint64(p.dropped))
		r.answer = append(r.answer, p.answer...)
		for _, name := range p.names {
			if name = canonical(name); slices.Contains(r.names, name) {
				return nil, fmt.Errorf("%w: a chain of names through several zones that does not end", errLied)
			}
			r.names = append(r.names, name)
		}
		r.way, r.ad = p.way, r.ad && p.ad
		if p.next == "" {
			r.rcode, r.authority = p.rcode, p.authority
			r.ttl = r.lifetime(!p.final)
			return r, nil
		}
		a.name = p.next
	}
	return nil, fmt.Errorf("%w: a chain of names through more than %d zones", errLied, maxHops)
}

// inquire asks the upstreams of a zone.
func (s *Server) inquire(ctx context.Context, st *ruling, z *realm, suffix string, a ask) (*part, error) {
	id := randomID()
	b, err := a.pack(id, z.trustAD)
	if err != nil {
		return nil, err
	}
	sift := func(fallback bool) func([]byte) (*part, error) {
		return func(answer []byte) (*part, error) { return st.sift(answer, id, a.name, a.qtype, a.do, z, fallback) }
	}
	p, err := z.up.ask(ctx, &s.running, s.stagger, b, sift(false))
	if err != nil || z.fallback == nil || suffix != "" || p.rcode != wire.RcodeNameError || len(p.names) > 0 || st.private(canonical(a.name)) {
		return p, err
	}
	return z.fallback.ask(ctx, &s.running, s.stagger, b, sift(true))
}

// pack makes the query for an upstream anew, so that nothing of the client's gets into it: not the subnet that some add
// (RFC 7871), no cookie, no option that nobody knows.
func (a ask) pack(id uint16, ad bool) ([]byte, error) {
	m := new(wire.Msg)
	m.SetQuestion(a.name, a.qtype)
	m.Id = id
	m.CheckingDisabled, m.AuthenticatedData = a.cd, ad
	m.SetEdns0(udpSize, a.do)
	return m.Pack()
}

func rcodeText(code int) string {
	if s, ok := wire.RcodeToString[code]; ok {
		return s
	}
	return fmt.Sprint("code ", code)
}

// An Answer is what a [Server] learned about a name.
type Answer struct {
	// Names are the name that was asked for and those that it stands for, in the order of the chain: in lower case, without
	// the final dot, at most 129.
	Names []string

	// Addrs are the addresses of the last name. There is at least one.
	Addrs []netip.Addr

	// TTL is how long the answer holds. It is 0 for an answer that holds only for who asked.
	TTL time.Duration

	// Way is that of the upstream that knew the addresses. It is Nowhere for addresses that nobody was asked for.
	Way Way
}

// tell passes the addresses in r on to the hook, and returns what is to be told when the answer comes from the cache.
func (s *Server) tell(r *finding) (again *Answer) {
	if s.onAnswer == nil && s.onCached == nil {
		return nil
	}
	var addrs []netip.Addr
	add := func(ip []byte) {
		if a, ok := netip.AddrFromSlice(ip); ok && len(addrs) < maxAddresses {
			if a = a.Unmap(); !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	for _, rr := range r.answer {
		switch rr := rr.(type) {
		case *wire.A:
			add(rr.A)
		case *wire.AAAA:
			add(rr.AAAA)
		case *wire.SVCB:
			hints(rr, add)
		case *wire.HTTPS:
			hints(&rr.SVCB, add)
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	a := Answer{Names: r.names, Addrs: addrs, TTL: r.ttl, Way: r.way}
	if s.onAnswer != nil {
		s.onAnswer(a)
	}
	if s.onCached == nil {
		return nil
	}
	return &a
}

// tellAgain tells the hook that e was taken from the cache.
func (s *Server) tellAgain(e *entry) {
	if e.told != nil {
		s.onCached(*e.told)
	}
}

// hints adds the addresses that a service binding suggests (RFC 9460 section 7.3), to which browsers connect at once.
func hints(rr *wire.SVCB, add func([]byte)) {
	for _, kv := range rr.Value {
		switch kv := kv.(type) {
		case *wire.SVCBIPv4Hint:
			for _, ip := range kv.Hint {
				add(ip)
			}
		case *wire.SVCBIPv6Hint:
			for _, ip := range kv.Hint {
				add(ip)
			}
		}
	}
}

// answer finds the entry for q, and keeps it for those who ask next.
func (s *Server) answer(st *ruling, q *query) (e *entry) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
			e = failed(q, s.now())
		}
	}()
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	name, _, err := wire.UnpackDomainName(q.key(), 0)
	if err != nil {
		return failed(q, s.now())
	}
	a := ask{name: strings.ToLower(name), qtype: q.qtype, do: q.do, cd: q.cd}
	r, err := s.resolve(ctx, st, a)
	now := s.now()
	if err == nil {
		if e, err = newEntry(q, r, now); err == nil {
			e.told = s.tell(r) // before anybody can use it
			if e.life > 0 {
				st.cache.put(e)
			}
			return e
		}
	}
	s.count.failures.Add(1)
	s.log.Debug("a question failed", "name", a.name, "type", typeText(a.qtype), "err", err)
	if old := st.cache.get(q.key()); s.stale > 0 && old != nil && old.rcode != wire.RcodeServerFailure && now.since(old.stored) < old.life+s.stale {
		s.count.stale.Add(1)
		s.tellAgain(old)
		return old
	}
	e = failed(q, now)
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		st.cache.put(e)
	}
	return e
}

func typeText(t uint16) string { return wire.Type(t).String() }
