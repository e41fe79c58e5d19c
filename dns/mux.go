package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"

	wire "github.com/miekg/dns"
)

// ErrNoServer reports that nobody may be asked for a name.
var ErrNoServer = errors.New("no DNS server for this name")

// A Mux is an [Exchanger] that chooses another by the name that is asked for: split DNS. It does not change.
type Mux struct {
	fallback Exchanger
	routes   map[string]Exchanger
}

// NewMux returns a Mux that takes the questions for the names in routes, and for all names below them, to the Exchanger
// given there, and all others to fallback. The longest suffix wins; suffixes match whole labels, whatever the case of
// their letters, and a leading "*." or "." means nothing. Where the Exchanger is nil, the question fails with
// [ErrNoServer]. NewMux fails on a suffix that is no domain name.
func NewMux(fallback Exchanger, routes map[string]Exchanger) (*Mux, error) {
	m := &Mux{fallback: fallback, routes: make(map[string]Exchanger, len(routes))}
	for suffix, x := range routes {
		name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(suffix), "*"), ".")
		if !validName(name) {
			return nil, fmt.Errorf("dns: suffix %q is not a domain name", suffix)
		}
		m.routes[canonical(name)] = x
	}
	return m, nil
}

// Pick returns the Exchanger for name, and the suffix that chose it, which is "" for the fallback.
func (m *Mux) Pick(name string) (x Exchanger, suffix string) {
	name = canonical(name)
	// NextLabel knows that a dot behind a backslash is part of a label.
	for off, end := 0, name == ""; !end; off, end = wire.NextLabel(name, off) {
		if x, ok := m.routes[name[off:]]; ok {
			return x, name[off:]
		}
	}
	return m.fallback, ""
}

// Exchange implements [Exchanger].
func (m *Mux) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	x, _ := m.Pick(q.name)
	if x == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoServer, q.name)
	}
	return x.Exchange(ctx, query)
}
