package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	wire "github.com/miekg/dns"
)

const (
	maxSuffixes  = 1 << 17 // of all zones together, reverse zones included
	maxUpstreams = 16      // of one zone
)

// A Zone is a part of all names, and who is asked about it.
type Zone struct {
	// Name is what logs, errors and [Stats] call the zone.
	Name string

	// Suffixes are the names at whose top the zone begins; the names below belong to it too. They match whole labels,
	// whatever the case of their letters. A leading "*." or "." means nothing, and "." alone is all names. Of two zones
	// the one with the longer suffix has the name, and of two with the same suffix the one that comes first in [Rules].
	Suffixes []string

	// Exact leaves the names below the suffixes to other zones.
	Exact bool

	// Prefixes are networks whose reverse names (RFC 1035 section 3.5, RFC 3596 section 2.5) belong to the zone.
	Prefixes []netip.Prefix

	// Way says where the upstreams are. The Server does not dial: that their connections go that way is the promise
	// of whoever made them. Upstreams of a zone that goes Nowhere are not used.
	Way Way

	// Upstreams are asked in their order: the next one where the one before failed, or did not answer within
	// [ServerConfig.Stagger]. At most 16. Without any, questions for the zone fail. The Server does not close them.
	Upstreams []Exchanger

	// Fallback is asked for names of which Upstreams say that they do not exist, and which are in the zone only because
	// it is that of all names (the suffix "."). It tells such names to somebody else, so it belongs where there is no split
	// DNS and the tunnel does not have all DNS. An upstream that fails is not a reason to ask the fallback.
	Fallback []Exchanger

	// NoIPv6 removes IPv6 addresses from the answers, for a tunnel that cannot carry them: a question for an AAAA record is
	// answered at once, that there is none.
	NoIPv6 bool

	// TrustAD passes on the statement of the upstreams that they have verified an answer with DNSSEC (the AD bit of
	// RFC 4035 section 3.2.3). It belongs where nobody on the way to them can change it.
	TrustAD bool
}

// Rules say what a [Server] does with a name. The first of these that knows the name decides:
//
//  1. Hosts, for addresses and the names of addresses.
//  2. Names that are special wherever they are asked for: localhost (RFC 6761), and, unless a zone is made for them, local
//     (RFC 6762), onion (RFC 7686), invalid (RFC 6761) and resolver.arpa (RFC 9462), which go nowhere, as does
//     use-application-dns.net, which tells browsers not to go around the machine's resolver.
//  3. The zone with the longest suffix. A name without a zone does not exist.
type Rules struct {
	// Zones are the parts of all names.
	Zones []Zone

	// TunnelAll leaves out all zones whose Way is Direct, as a gateway demands that has all questions come to it.
	TunnelAll bool

	// Hosts is asked before anybody. It may be nil.
	Hosts *Hosts

	// Search are the domains in which the Server looks for a name of a single label, in this order, for programs that
	// were not told of them. The answer calls the full name an alias of the short one. At most 16 are used.
	Search []string

	// LocalSearch are search domains that other programs may put behind names, such as those of the local network. A name
	// of a zone that does not go Direct, with one of them behind it, does not exist and is not asked for outside.
	LocalSearch []string

	// SingleLabels lets names of a single label out Direct, if the search domains do not have them. Otherwise they do not
	// exist, since whoever types one means a machine of the network that he is used to.
	SingleLabels bool
}

// A realm is what the Server keeps of a Zone.
type realm struct {
	name     string
	way      Way
	up       *group
	fallback *group // may be nil
	noIPv6   bool
	trustAD  bool
	exact    bool
}

// A ruling is Rules in the form in which they are used, together with all that was learned under them. New rules
// begin with an empty cache, and an answer to a question that was asked under old ones cannot get into it.
type ruling struct {
	zones        map[string]*realm // by their suffixes, "" for all names
	groups       []*group
	hosts        *Hosts
	search       []string
	behind       map[string]bool // all domains that may be found behind a name that is complete without
	singleLabels bool

	cache   *cache
	mu      sync.Mutex
	flights map[string]*flight // by the keys of their questions
}

// newRuling checks r and prepares it.
func newRuling(r Rules, cacheBytes int) (*ruling, error) {
	st := &ruling{
		zones:        make(map[string]*realm),
		hosts:        r.Hosts,
		behind:       make(map[string]bool),
		singleLabels: r.SingleLabels,
		cache:        newCache(cacheBytes),
		flights:      make(map[string]*flight),
	}
	for i, z := range r.Zones {
		if z.Way > Tunnel {
			return nil, fmt.Errorf("dns: zone %d (%s): way %d is none", i, z.Name, z.Way)
		}
		if n := max(len(z.Upstreams), len(z.Fallback)); n > maxUpstreams {
			return nil, fmt.Errorf("dns: zone %d (%s): %d upstreams, at most %d are allowed", i, z.Name, n, maxUpstreams)
		}
		if r.TunnelAll && z.Way == Direct {
			continue
		}
		kept := &realm{name: z.Name, way: z.Way, up: newGroup(z.Name, z.Way, z.Upstreams), noIPv6: z.NoIPv6, trustAD: z.TrustAD, exact: z.Exact}
		st.groups = append(st.groups, kept.up)
		if len(z.Fallback) > 0 && !r.TunnelAll && z.Way != Nowhere {
			kept.fallback = newGroup(z.Name+" fallback", Direct, z.Fallback)
			st.groups = append(st.groups, kept.fallback)
		}
		if err := st.claim(kept, z); err != nil {
			return nil, fmt.Errorf("dns: zone %d (%s): %w", i, z.Name, err)
		}
	}
	for _, list := range [][]string{r.Search, r.LocalSearch} {
		for _, s := range list {
			name, err := suffix(s)
			if err != nil {
				return nil, fmt.Errorf("dns: search domain: %w", err)
			}
			if st.behind[name] = true; len(st.behind) > maxSuffixes {
				return nil, fmt.Errorf("dns: more than %d search domains", maxSuffixes)
			}
		}
	}
	for _, s := range r.Search[:min(len(r.Search), maxSearch)] {
		name, _ := suffix(s)
		st.search = append(st.search, name)
	}
	return st, nil
}

// claim gives the names of z to kept, but those that a zone before has.
func (st *ruling) claim(kept *realm, z Zone) error {
	add := func(suffix string) error {
		if _, taken := st.zones[suffix]; !taken {
			st.zones[suffix] = kept
		}
		if len(st.zones) > maxSuffixes {
			return fmt.Errorf("more than %d suffixes in all zones together", maxSuffixes)
		}
		return nil
	}
	for _, s := range z.Suffixes {
		name := ""
		if s != "." {
			var err error
			if name, err = suffix(s); err != nil {
				return err
			}
		}
		if err := add(name); err != nil {
			return err
		}
	}
	for _, p := range z.Prefixes {
		if !p.IsValid() {
			return fmt.Errorf("prefix %v is not valid", p)
		}
		for _, s := range ReverseZones(p) {
			if err := add(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// renewed returns the same rules with nothing learned.
func (st *ruling) renewed(cacheBytes int) *ruling {
	for _, g := range st.groups {
		g.forgive()
	}
	return &ruling{
		zones: st.zones, groups: st.groups, hosts: st.hosts, search: st.search, behind: st.behind,
		singleLabels: st.singleLabels, cache: newCache(cacheBytes), flights: make(map[string]*flight),
	}
}

// zone returns the zone of a canonical name, and the suffix that gave it the name. There may be none.
func (st *ruling) zone(name string) (*realm, string) {
	for off, end := 0, name == ""; !end; off, end = wire.NextLabel(name, off) {
		if z, ok := st.zones[name[off:]]; ok && (off == 0 || !z.exact) {
			return z, name[off:]
		}
	}
	return st.zones[""], ""
}

// suffix returns the canonical form of a suffix.
func suffix(s string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "*"), ".")
	if !validName(name) {
		return "", fmt.Errorf("suffix %q is not a domain name", s)
	}
	return canonical(name), nil
}
