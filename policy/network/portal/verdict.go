package portal

import (
	"net/url"
	"strings"
)

// A Verdict says what lies between the machine and the gateway.
type Verdict uint8

const (
	// Unknown: nothing that was seen decides it.
	Unknown Verdict = iota
	// None: the gateway itself has answered.
	None
	// Portal: somebody else has answered in its place.
	Portal
	// Offline: there is no way out of the machine.
	Offline
)

// String returns unknown, none, portal or offline.
func (v Verdict) String() string {
	switch v {
	case None:
		return "none"
	case Portal:
		return "portal"
	case Offline:
		return "offline"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// An Outcome is how far an attempt to reach a server came.
type Outcome uint8

const (
	// Untried: nobody tried.
	Untried Outcome = iota
	// NoWay: the machine has no route or no name server.
	NoWay
	// NoName: the name does not exist.
	NoName
	// Refused: the connection was refused or reset.
	Refused
	// Silent: nothing came in time.
	Silent
	// Garbled: something came that is not the protocol.
	Garbled
	// WrongCertificate: TLS works, with a certificate that is not the gateway's.
	WrongCertificate
	// Answered: the protocol works, over TLS with the gateway's certificate.
	Answered
)

// String returns the outcome in words.
func (o Outcome) String() string {
	return [...]string{"not tried", "no way out of the machine", "no such name", "refused", "silence", "something else than the protocol", "a wrong certificate", "answered"}[min(o, Answered)]
}

// Evidence is what asking one gateway brought.
type Evidence struct {
	// TLS is how the gateway's own port behaved.
	TLS Outcome
	// HTTP is how port 80 behaved.
	HTTP Outcome
	// Status and Location are those of the answer over HTTP.
	Status   int
	Location string
	// Body is the beginning of its body.
	Body string
}

// A Report is a Verdict with its grounds.
type Report struct {
	Verdict Verdict `json:"verdict"`
	// Why says it in words.
	Why string `json:"why"`
	// URL is the portal's page if it has named one, http or https, cleaned, and never longer than [MaxURL].
	URL string `json:"url,omitempty"`
}

// MaxURL bounds the address of a portal's page.
const MaxURL = 2048

// Judge gives the verdict on the evidence of one gateway, which host names, without its port.
func Judge(host string, e Evidence) Report {
	if e.TLS == Answered {
		return Report{Verdict: None, Why: "the gateway has answered with its certificate"}
	}
	if e.HTTP == Answered {
		if r, ok := answer(host, e); ok {
			return r
		}
	}
	switch {
	case e.TLS == WrongCertificate:
		return Report{Why: "the certificate is not the gateway's, and nothing else points to a captive portal"}
	case e.HTTP == Answered:
		return Report{Why: "the gateway answers over HTTP, but not over TLS: " + e.TLS.String()}
	case e.TLS == NoWay && (e.HTTP == NoWay || e.HTTP == Untried):
		return Report{Verdict: Offline, Why: e.TLS.String()}
	}
	return Report{Why: "the gateway does not answer: " + e.TLS.String()}
}

// answer judges an answer over HTTP.
func answer(host string, e Evidence) (Report, bool) {
	r := Report{Verdict: Portal}
	switch {
	case e.Status == 511:
		r.Why, r.URL = "HTTP is answered with status 511, network authentication required", cleanURL(host, e.Location)
	case e.Status >= 300 && e.Status < 400 && e.Location != "":
		u, err := url.Parse(e.Location)
		if err != nil {
			r.Why = "HTTP is redirected to something that is no address"
			return r, true
		}
		if (u.Host == "" || strings.EqualFold(u.Hostname(), host)) && (u.Scheme == "https" || u.Scheme == "") {
			return Report{}, false
		}
		r.Why, r.URL = "HTTP is redirected elsewhere", cleanURL(host, e.Location)
	case e.Status >= 300 && e.Status < 400 || e.Status >= 400:
		// Gateways answer plain HTTP with errors of all kinds.
		return Report{}, false
	case e.Status == 204 || strings.TrimSpace(e.Body) == "":
		return Report{}, false
	default:
		r.Why, r.URL = "HTTP is answered with a page that is not the gateway's", refresh(host, e.Body)
	}
	return r, true
}

// cleanURL returns the absolute address that the portal at host has named, or "" if it is none that a person should be sent to.
func cleanURL(host, s string) string {
	if s == "" || len(s) > MaxURL || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return ""
	}
	base := url.URL{Scheme: "http", Host: bracket(host), Path: "/"}
	u, err := base.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return ""
	}
	if s = u.String(); len(s) > MaxURL {
		return ""
	}
	return s
}

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// refresh returns where a page leads that moves on by itself, <meta http-equiv="refresh" content="0; url=…">, or the page's own
// address, where the portal answers for every host.
func refresh(host, body string) string {
	lower := strings.ToLower(body)
	if len(lower) != len(body) { // a letter whose small form has another length
		lower = body
	}
	if i := strings.Index(lower, "refresh"); i >= 0 {
		if j := strings.Index(lower[i:], "url="); j >= 0 && j < 100 {
			to := strings.TrimLeft(body[i+j+len("url="):], `'" `)
			if k := strings.IndexAny(to, `'" >;`); k > 0 {
				if u := cleanURL(host, to[:k]); u != "" {
					return u
				}
			}
		}
	}
	return cleanURL(host, "/")
}

// Merge gives one verdict on several gateways: None if one of them was reached, else Portal, else Unknown, else Offline. Without
// any report it is Unknown.
func Merge(reports []Report) Report {
	best := Report{Why: "no gateway was asked"}
	rank := map[Verdict]int{None: 4, Portal: 3, Unknown: 2, Offline: 1}
	for i, r := range reports {
		if i == 0 || rank[r.Verdict] > rank[best.Verdict] {
			best = r
		}
	}
	return best
}
