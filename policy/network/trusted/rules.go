package trusted

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds on Rules and on what is looked at of a network. What exceeds them in Rules is refused by [Rules.Validate]; of a network,
// which a stranger may run, only so much is looked at.
const (
	MaxPatterns = 256 // of each kind
	MaxHTTPS    = 16
	MaxLinks    = 64
	MaxPerLink  = 64 // suffixes, and servers
)

// ErrInvalid is what the errors of Validate match.
var ErrInvalid = errors.New("trusted: invalid rules")

// A Server is an HTTPS server that only the trusted network can reach.
type Server struct {
	// Address is its name or address.
	Address string
	// Port is its port; 0 means 443.
	Port uint16
	// Hash is the SHA-256, or the SHA-512, of its certificate as it is sent (DER). SHA-1 proves nothing any more and is not accepted.
	Hash []byte
}

// HostPort returns the address with the port, as a dialer takes it.
func (s Server) HostPort() string {
	port := s.Port
	if port == 0 {
		port = 443
	}
	return net.JoinHostPort(strings.Trim(s.Address, "[]"), strconv.Itoa(int(port)))
}

// Rules say what the trusted network is like. The zero Rules describe none.
type Rules struct {
	// Domains are patterns of DNS suffixes, see [MatchDomain].
	Domains []string
	// Servers are patterns of the addresses of DNS servers, see [MatchServer].
	Servers []string
	// HTTPS are servers that prove it.
	HTTPS []Server
}

// Empty reports whether there are no rules, so that no network is trusted.
func (r Rules) Empty() bool { return len(r.Domains)+len(r.Servers)+len(r.HTTPS) == 0 }

// Validate returns an error that matches [ErrInvalid] and names the setting if the rules are too many, or make no sense.
func (r Rules) Validate() error {
	if len(r.Domains) > MaxPatterns {
		return fmt.Errorf("%w: TrustedDNSDomains has %d domains, at most %d are allowed", ErrInvalid, len(r.Domains), MaxPatterns)
	}
	if len(r.Servers) > MaxPatterns {
		return fmt.Errorf("%w: TrustedDNSServers has %d addresses, at most %d are allowed", ErrInvalid, len(r.Servers), MaxPatterns)
	}
	if len(r.HTTPS) > MaxHTTPS {
		return fmt.Errorf("%w: TrustedHttpsServerList has %d servers, at most %d are allowed", ErrInvalid, len(r.HTTPS), MaxHTTPS)
	}
	for _, d := range r.Domains {
		if c := canonical(d); c == "" || len(c) > 253 {
			return fmt.Errorf("%w: TrustedDNSDomains: %q must have 1 to 253 characters", ErrInvalid, d)
		}
	}
	for _, s := range r.Servers {
		if len(s) > 64 {
			return fmt.Errorf("%w: TrustedDNSServers: an entry of %d characters is no address", ErrInvalid, len(s))
		}
		if _, err := netip.ParseAddr(strings.TrimSpace(s)); err != nil && !strings.Contains(s, "*") {
			return fmt.Errorf("%w: TrustedDNSServers: %q is neither an IP address nor one with a star", ErrInvalid, s)
		}
	}
	for _, s := range r.HTTPS {
		if s.Address == "" || len(s.Address) > 253 {
			return fmt.Errorf("%w: TrustedHttpsServerList: %q must be the name or address of a server", ErrInvalid, s.Address)
		}
		if len(s.Hash) != 32 && len(s.Hash) != 64 {
			return fmt.Errorf("%w: TrustedHttpsServerList: the CertificateHash of %s has %d bytes; write its SHA-256", ErrInvalid, s.Address, len(s.Hash))
		}
	}
	return nil
}

// A Link is what one network interface has been told about DNS, by DHCP, router advertisements or the administrator. A system
// that keeps one list for the whole machine, such as resolv.conf, is one Link.
type Link struct {
	// Name is the interface, for messages.
	Name string `json:"name,omitempty"`
	// Suffixes are its DNS suffixes or search domains.
	Suffixes []string `json:"suffixes,omitempty"`
	// Servers are its DNS servers. Loopback addresses are resolvers on this machine, which say nothing about the network; whoever
	// knows the servers behind them names those.
	Servers []netip.Addr `json:"servers,omitempty"`
}

// A Verdict says what is known about the network.
type Verdict uint8

const (
	// Unknown: it is not known yet, because servers have not answered so far.
	Unknown Verdict = iota
	// Trusted: it is a network of the organisation.
	Trusted
	// Untrusted: it is another one, or there is none.
	Untrusted
)

// String returns unknown, trusted or untrusted.
func (v Verdict) String() string {
	switch v {
	case Trusted:
		return "trusted"
	case Untrusted:
		return "untrusted"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// A Finding is a Verdict with its grounds.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	// Link is the interface that decided, if one did.
	Link string `json:"link,omitempty"`
	// Rule is the setting that decided, such as TrustedDNSServers, or "" if none did.
	Rule string `json:"rule,omitempty"`
	// Why says it in words.
	Why string `json:"why"`
	// Proven says that an HTTPS server has proved it. Otherwise any network could have claimed to be this one.
	Proven bool `json:"proven,omitempty"`
}

// Links says what the links alone tell: Untrusted if none is as the rules say, Trusted if one is and nobody need be asked, and
// Unknown if the servers of [Rules.Asks] have to be asked before it is decided.
func (r Rules) Links(links []Link) Finding {
	if r.Empty() {
		return Finding{Verdict: Untrusted, Why: "no network is described as trusted"}
	}
	links = links[:min(len(links), MaxLinks)]
	if len(r.Domains)+len(r.Servers) == 0 {
		return Finding{Rule: "TrustedHttpsServerList", Why: "a trusted HTTPS server has to prove the network"}
	}
	untrusted := Finding{Verdict: Untrusted, Why: "no interface has a DNS suffix or server"}
	for _, l := range links {
		f := r.link(l)
		if f.Verdict != Untrusted {
			if len(r.HTTPS) > 0 {
				f.Verdict = Unknown
			}
			return f
		}
		if len(l.Suffixes)+len(l.Servers) > 0 {
			untrusted = f
		}
	}
	return untrusted
}

// link compares one link with the rules about DNS.
func (r Rules) link(l Link) Finding {
	f := Finding{Link: l.Name}
	if len(r.Domains) > 0 {
		f.Rule = "TrustedDNSDomains"
		suffixes := l.Suffixes[:min(len(l.Suffixes), MaxPerLink)]
		i := slices.IndexFunc(suffixes, func(s string) bool {
			return len(s) <= 254 && slices.ContainsFunc(r.Domains, func(p string) bool { return MatchDomain(p, s) })
		})
		if i < 0 {
			f.Verdict, f.Why = Untrusted, "no DNS suffix of the interface is in the list"
			return f
		}
		f.Why = fmt.Sprintf("the DNS suffix %q is in the list", suffixes[i])
	}
	if len(r.Servers) > 0 {
		f.Rule = "TrustedDNSServers"
		outside := 0
		for i, s := range l.Servers {
			if s.IsLoopback() {
				continue
			}
			if i >= MaxPerLink {
				f.Verdict, f.Why = Untrusted, fmt.Sprintf("the interface has more than %d DNS servers", MaxPerLink)
				return f
			}
			outside++
			if !slices.ContainsFunc(r.Servers, func(p string) bool { return MatchServer(p, s) }) {
				f.Verdict, f.Why = Untrusted, fmt.Sprintf("the DNS server %s is not in the list", s)
				return f
			}
		}
		if outside == 0 {
			f.Verdict, f.Why = Untrusted, "the interface has no DNS server"
			return f
		}
		if f.Why != "" {
			f.Why += ", and "
		}
		f.Why += "all DNS servers are in the list"
	}
	f.Verdict = Trusted
	return f
}

// Asks returns the DNS servers that have to answer: those of the list without a star.
func (r Rules) Asks() []netip.Addr {
	var all []netip.Addr
	for _, s := range r.Servers {
		if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// An Answer is what came of asking one server.
type Answer uint8

const (
	// Unreachable: it did not answer in time, or not in a way that makes sense.
	Unreachable Answer = iota
	// Genuine: it is the one that was meant.
	Genuine
	// Other: it has another certificate.
	Other
)

// Answers are what came of asking.
type Answers struct {
	// DNS are those of Asks, in that order. Nil means that they were not asked, which is right where the rule is to be
	// about the machine's settings alone.
	DNS []Answer
	// HTTPS are those of Rules.HTTPS, in that order. Behind the first one that is not Unreachable, nobody need have been asked.
	HTTPS []Answer
}

// Judge gives the verdict on a network for which Links said Unknown, or Trusted where DNS servers are asked as well.
func (r Rules) Judge(links []Link, a Answers) Finding {
	f := r.Links(links)
	if f.Verdict == Untrusted {
		return f
	}
	if a.DNS != nil {
		for i, addr := range r.Asks() {
			if i >= len(a.DNS) || a.DNS[i] != Genuine {
				return Finding{Verdict: Untrusted, Link: f.Link, Rule: "TrustedDNSServers", Why: fmt.Sprintf("the DNS server %s does not answer", addr)}
			}
		}
	}
	if len(r.HTTPS) == 0 {
		return f
	}
	f.Rule = "TrustedHttpsServerList"
	for i, s := range r.HTTPS {
		if i >= len(a.HTTPS) {
			break
		}
		switch a.HTTPS[i] {
		case Genuine:
			f.Verdict, f.Proven, f.Why = Trusted, true, fmt.Sprintf("%s has the certificate of the list", s.HostPort())
			return f
		case Other:
			f.Verdict, f.Why = Untrusted, fmt.Sprintf("%s has another certificate than the list says", s.HostPort())
			return f
		}
	}
	f.Verdict, f.Why = Untrusted, "none of the trusted HTTPS servers can be reached"
	return f
}
