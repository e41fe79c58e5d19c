package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds on what a proxy may offer.
const (
	maxOffers = 16
	maxParams = 32
	maxOffer  = 16 << 10 // bytes of all Proxy-Authenticate together
)

// An offer is one way to authenticate that a server offers (RFC 9110, section 11.3).
type offer struct {
	scheme  string // in lower case
	token68 string
	params  map[string]string // names in lower case
}

func offered(offers []offer, scheme string) bool {
	return slices.ContainsFunc(offers, func(o offer) bool { return o.scheme == scheme })
}

// schemes returns the names of what is offered, for errors.
func schemes(offers []offer) string {
	if len(offers) == 0 {
		return "nothing that it names"
	}
	var names []string
	for _, o := range offers {
		if n := printable(o.scheme, 16); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// parseChallenges parses the values of Proxy-Authenticate. A comma separates challenges as well as parameters, and
// one that is missing between parameters is forgiven.
func parseChallenges(values []string) ([]offer, error) {
	var offers []offer
	size := 0
	for _, v := range values {
		if size += len(v); size > maxOffer {
			return nil, fmt.Errorf("more than %d bytes", maxOffer)
		}
		p := scanner{v}
		open := false // whether the last offer may have more parameters; they do not go from one line to the next
		for p.skip(" \t,"); p.s != ""; p.skip(" \t,") {
			word := p.token()
			if word == "" {
				return nil, fmt.Errorf("%q where a name should be", rune(p.s[0]))
			}
			spaces := p.skip(" \t")
			if open && strings.HasPrefix(p.s, "=") {
				o := &offers[len(offers)-1]
				p.s = p.s[1:]
				p.skip(" \t")
				value, err := p.value()
				if err != nil {
					return nil, err
				}
				word = strings.ToLower(word)
				if _, twice := o.params[word]; twice {
					return nil, fmt.Errorf("the parameter %s comes twice", printable(word, 32))
				}
				if len(o.params) == maxParams {
					return nil, fmt.Errorf("more than %d parameters", maxParams)
				}
				o.params[word] = value
				continue
			}
			if len(offers) == maxOffers {
				return nil, fmt.Errorf("more than %d challenges", maxOffers)
			}
			o := offer{scheme: strings.ToLower(word), params: make(map[string]string)}
			open = true
			if spaces > 0 {
				if t := p.token68(); t != "" {
					o.token68, open = t, false
				}
			}
			offers = append(offers, o)
		}
	}
	return offers, nil
}

// parseParams parses a list of parameters alone, such as Proxy-Authentication-Info has.
func parseParams(s string) (map[string]string, error) {
	offers, err := parseChallenges([]string{"x " + s})
	if err != nil {
		return nil, err
	}
	if len(offers) != 1 || offers[0].token68 != "" {
		return nil, errors.New("not a list of parameters")
	}
	return offers[0].params, nil
}

// A scanner takes a header field apart from its front.
type scanner struct{ s string }

// skip skips characters and returns how many.
func (p *scanner) skip(set string) int {
	rest := strings.TrimLeft(p.s, set)
	n := len(p.s) - len(rest)
	p.s = rest
	return n
}

// token returns a token (RFC 9110, section 5.6.2), or "".
func (p *scanner) token() string {
	i := 0
	for i < len(p.s) && isToken(p.s[i]) {
		i++
	}
	t := p.s[:i]
	p.s = p.s[i:]
	return t
}

func isToken(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// token68 returns a token68 (RFC 9110, section 11.2) if one stands alone there, or "".
func (p *scanner) token68() string {
	i := 0
	for i < len(p.s) && ('0' <= p.s[i] && p.s[i] <= '9' || 'a' <= p.s[i] && p.s[i] <= 'z' || 'A' <= p.s[i] && p.s[i] <= 'Z' || strings.IndexByte("-._~+/", p.s[i]) >= 0) {
		i++
	}
	if i == 0 {
		return ""
	}
	for i < len(p.s) && p.s[i] == '=' {
		i++
	}
	if rest := strings.TrimLeft(p.s[i:], " \t"); rest != "" && rest[0] != ',' {
		return ""
	}
	t := p.s[:i]
	p.s = p.s[i:]
	return t
}

// value returns the value of a parameter: a token or a quoted string without its quotes.
func (p *scanner) value() (string, error) {
	if !strings.HasPrefix(p.s, `"`) {
		return p.token(), nil
	}
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		c := p.s[i]
		switch {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), nil
		case c == '\\' && i+1 < len(p.s):
			i++
			c = p.s[i]
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", errors.New("a control character in a quoted string")
		}
		b.WriteByte(c)
	}
	return "", errors.New("a quoted string without an end")
}
