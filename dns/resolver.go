package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	wire "github.com/miekg/dns"
)

const (
	maxChain     = 16  // CNAMEs that are followed for one name
	maxAddresses = 128 // addresses that are returned for one name and family
	maxSearch    = 16  // search domains that are tried
)

// A Resolver turns names into addresses by asking an [Exchanger]. It must not be changed once it is used.
type Resolver struct {
	// Exchanger answers the questions.
	Exchanger Exchanger

	// Search are the suffixes that are tried on a name with fewer than Ndots dots before the name itself, and on other
	// names after it. A name with a final dot is left as it is. At most 16 are used.
	Search []string

	// Ndots is 1 if it is 0. A negative value means that no name is too short to be asked for as it is first.
	Ndots int
}

// LookupNetIP returns the addresses of host: IPv4 before IPv6, each in the order of the answer. Network is ip, ip4 or
// ip6. An address is its own answer. The error is a [*net.DNSError], in which IsNotFound says that the name has no such
// address, and IsTimeout and IsTemporary that it may have one.
//
// A server that fails ends the search: the next name could be that of another host, known to another server.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, _, err := r.Find(ctx, network, host)
	return addrs, err
}

// Find is LookupNetIP, and also returns the absolute name that has the addresses: host itself, or host in one of the search
// domains. It is empty where nobody had to be asked.
func (r *Resolver) Find(ctx context.Context, network, host string) (addrs []netip.Addr, name string, err error) {
	var types []uint16
	switch network {
	case "ip":
		types = []uint16{wire.TypeA, wire.TypeAAAA}
	case "ip4":
		types = []uint16{wire.TypeA}
	case "ip6":
		types = []uint16{wire.TypeAAAA}
	default:
		return nil, "", &net.DNSError{Err: fmt.Sprintf("network %q is not ip, ip4 or ip6", network), Name: host}
	}
	if addrs, ok := known(host); ok {
		if addrs = only(addrs, types...); len(addrs) == 0 {
			return nil, "", notFound(host)
		}
		return addrs, "", nil
	}
	if !validName(host) {
		return nil, "", notFound(host)
	}
	for _, name := range r.candidates(host) {
		addrs, err := r.lookup(ctx, name, types...)
		if len(addrs) > 0 {
			return addrs, name, nil
		}
		if err != nil {
			return nil, "", dnsError(host, err)
		}
	}
	return nil, "", notFound(host)
}

// only returns the addresses of the given types, in the memory of addrs.
func only(addrs []netip.Addr, types ...uint16) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !slices.Contains(types, typeOf(a)) })
}

// known returns the addresses of what needs no asking: an address, or localhost (RFC 6761 section 6.3).
func known(host string) ([]netip.Addr, bool) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, true
	}
	if inDomain(canonical(host), "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, true
	}
	return nil, false
}

func typeOf(a netip.Addr) uint16 {
	if a.Is4() {
		return wire.TypeA
	}
	return wire.TypeAAAA
}

// candidates returns the absolute names to ask for, in order.
func (r *Resolver) candidates(host string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	var names []string
	for i, s := range r.Search {
		s = strings.TrimPrefix(s, ".")
		name := host + "." + strings.TrimSuffix(s, ".") + "."
		if i < maxSearch && validName(s) && validName(name) {
			names = append(names, name)
		}
	}
	if r.short(host) {
		return append(names, host+".")
	}
	return append([]string{host + "."}, names...)
}

// short reports whether the search domains come before the name itself.
func (r *Resolver) short(host string) bool {
	ndots := r.Ndots
	if ndots == 0 {
		ndots = 1
	}
	return strings.Count(host, ".") < ndots
}

// lookup asks for all types of an absolute name at once. No addresses and no error means that there are none.
func (r *Resolver) lookup(ctx context.Context, name string, types ...uint16) ([]netip.Addr, error) {
	addrs := make([][]netip.Addr, len(types))
	errs := make([]error, len(types))
	var wg sync.WaitGroup
	for i, t := range types {
		wg.Go(func() { addrs[i], errs[i] = r.follow(ctx, name, t) })
	}
	wg.Wait()
	return slices.Concat(addrs...), errors.Join(errs...)
}

// follow asks for one type of an absolute name, and for the names that it stands for. A server that answers for others
// follows the chain of CNAMEs itself; where it stops, perhaps because another server knows the rest, the last name is asked
// for anew.
func (r *Resolver) follow(ctx context.Context, name string, qtype uint16) ([]netip.Addr, error) {
	seen := 0
	for {
		m, err := r.ask(ctx, name, qtype)
		if err != nil {
			return nil, err
		}
		addrs, last, n := chase(m, name, qtype, maxChain-seen)
		if len(addrs) > 0 {
			return addrs, nil
		}
		if n == 0 {
			return nil, nil
		}
		if seen += n; seen >= maxChain || !validName(last) {
			return nil, fmt.Errorf("%w: a chain of names that does not end", ErrMessage)
		}
		name = last
	}
}

// ask asks for one type of an absolute name. An answer that says that the name does not exist is an answer.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) (*wire.Msg, error) {
	query, err := newQuery(name, qtype)
	if err != nil {
		return nil, err
	}
	if r.Exchanger == nil {
		return nil, ErrNoServer
	}
	answer, err := r.Exchanger.Exchange(ctx, query)
	if err != nil {
		return nil, err
	}
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	return parseAnswer(answer, uint16(query[0])<<8|uint16(query[1]), q)
}

func parseAnswer(answer []byte, id uint16, q question) (*wire.Msg, error) {
	if !answers(answer, id, q) {
		return nil, fmt.Errorf("%w: an answer to something that was not asked", ErrMessage)
	}
	m := new(wire.Msg)
	if err := m.Unpack(answer); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	switch m.Rcode {
	case wire.RcodeSuccess, wire.RcodeNameError:
		return m, nil
	}
	code, ok := wire.RcodeToString[m.Rcode]
	if !ok {
		code = fmt.Sprint("code ", m.Rcode)
	}
	return nil, fmt.Errorf("the server answered %s", code)
}

// chase returns the addresses that the answers in m give for name, following CNAMEs, of which it takes at most limit. It
// returns the name that it came to and how many CNAMEs led there. Records may stand in any order.
func chase(m *wire.Msg, name string, qtype uint16, limit int) (addrs []netip.Addr, last string, n int) {
	for last = name; ; n++ {
		var next string
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != wire.ClassINET || !strings.EqualFold(h.Name, last) {
				continue
			}
			switch rr := rr.(type) {
			case *wire.A:
				addrs = appendAddr(addrs, qtype, wire.TypeA, rr.A)
			case *wire.AAAA:
				addrs = appendAddr(addrs, qtype, wire.TypeAAAA, rr.AAAA)
			case *wire.CNAME:
				next = rr.Target
			}
		}
		if len(addrs) > 0 || next == "" || n >= limit {
			return addrs, last, n
		}
		last = next
	}
}

func appendAddr(addrs []netip.Addr, want, got uint16, ip net.IP) []netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || want != got || len(addrs) >= maxAddresses {
		return addrs
	}
	// An AAAA record may hold an IPv4 address (RFC 4291 section 2.5.5.2), which no IPv6 packet can be sent to.
	if a = a.Unmap(); typeOf(a) != want || slices.Contains(addrs, a) {
		return addrs
	}
	return append(addrs, a)
}

func notFound(host string) error {
	return &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func dnsError(host string, err error) error {
	return &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: host, IsTimeout: isTimeout(err), IsTemporary: true}
}

// isTimeout reports whether err says that time ran out, of a context or of any kind of connection.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
