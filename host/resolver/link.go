package resolver

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// linkSettings are what systemd-resolved keeps for a link.
type linkSettings struct {
	// Servers are addresses with ports.
	Servers []string `json:"servers,omitempty"`
	// Domains are search domains, and routing domains with ~ before them.
	Domains []string `json:"domains,omitempty"`
	Default bool     `json:"default,omitempty"`
	// The rest is "yes", "no" or another word of resolved.conf(5), or "" if this version does not know it.
	LLMNR        string `json:"llmnr,omitempty"`
	MulticastDNS string `json:"mdns,omitempty"`
	DNSOverTLS   string `json:"dnsOverTLS,omitempty"`
	DNSSEC       string `json:"dnssec,omitempty"`
}

// settingsOf says what a link is to have for cfg. Names on it are only asked of the servers given, in the form that these know:
// the tunnel protects the questions already, and the zones inside are not signed.
func settingsOf(cfg Config) linkSettings {
	s := linkSettings{Default: cfg.Default, LLMNR: "no", MulticastDNS: "no", DNSOverTLS: "no", DNSSEC: "no"}
	for _, a := range cfg.Servers {
		s.Servers = append(s.Servers, a.String())
	}
	s.Domains = append(s.Domains, cfg.Search...)
	for _, d := range cfg.Routes {
		s.Domains = append(s.Domains, "~"+d)
	}
	if cfg.TunnelAll {
		s.Domains = append(s.Domains, "~.")
	}
	return s
}

// claimed returns those of the domains of others that are among ours or below them: systemd-resolved asks whoever claims the longest
// suffix of a name, and all of them where several do.
func (s linkSettings) claimed(theirs []Claim) (claims []Claim) {
	bare := func(d string) string { return strings.ToLower(strings.Trim(strings.TrimPrefix(d, "~"), ".")) }
	for _, c := range theirs {
		c.Domain = bare(c.Domain)
		if !slices.ContainsFunc(s.Domains, func(d string) bool {
			d = bare(d)
			return d == "" || c.Domain == d || strings.HasSuffix(c.Domain, "."+d)
		}) {
			continue
		}
		if c.Domain == "" {
			c.Domain = "."
		}
		claims = append(claims, c)
	}
	slices.SortFunc(claims, func(a, b Claim) int {
		return cmp.Or(strings.Compare(a.Link, b.Link), strings.Compare(a.Domain, b.Domain))
	})
	return slices.Compact(claims)
}

// untouched reports whether nobody has set servers or domains.
func (s linkSettings) untouched() bool { return len(s.Servers) == 0 && len(s.Domains) == 0 }

// equal compares everything, domains in any order.
func (s linkSettings) equal(o linkSettings) bool {
	return s.serverKey() == o.serverKey() && s.domainKey() == o.domainKey() && s.Default == o.Default && s.LLMNR == o.LLMNR &&
		s.MulticastDNS == o.MulticastDNS && s.DNSOverTLS == o.DNSOverTLS && s.DNSSEC == o.DNSSEC
}

// agrees compares what Apply sets that matters: what some version may not know is left out.
func (s linkSettings) agrees(o linkSettings) bool {
	return s.serverKey() == o.serverKey() && s.domainKey() == o.domainKey() && s.Default == o.Default
}

func (s linkSettings) serverKey() string { return key(s.Servers) }

func (s linkSettings) domainKey() string { return key(slices.Sorted(slices.Values(s.Domains))) }

func key(words []string) string {
	h := sha256.Sum256([]byte(strings.Join(words, "\n")))
	return hex.EncodeToString(h[:12])
}

// A linkState is what is in force.
type linkState struct {
	linkUndo
	config   Config
	want     linkSettings
	reported string // the keys of what was found instead, and told of
	pace     pacer
}

func (s *linkState) undo() linkUndo { return s.linkUndo }

// remember adds checksums of settings to those that count as ours. The oldest ones are forgotten.
func (u *linkUndo) remember(s linkSettings) {
	const most = 16
	add := func(list []string, k string) []string {
		list = append(slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o == k }), k)
		return list[max(0, len(list)-most):]
	}
	u.Servers, u.Domains = add(u.Servers, s.serverKey()), add(u.Domains, s.domainKey())
}

// ours reports whether all that a link has is what it had before or what we have set.
func (u *linkUndo) ours(now linkSettings) bool {
	servers := now.serverKey() == u.Before.serverKey() || slices.Contains(u.Servers, now.serverKey())
	domains := now.domainKey() == u.Before.domainKey() || slices.Contains(u.Domains, now.domainKey())
	return servers && domains
}

// describe says for a person what a link has.
func (s linkSettings) describe() string {
	return fmt.Sprintf("servers %s, %d domains, default %v", strings.Join(s.Servers, " "), len(s.Domains), s.Default)
}
