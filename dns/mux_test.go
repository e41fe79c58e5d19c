package dns

import (
	"context"
	"errors"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

// named is an Exchanger that only has a name.
type named string

func (n named) Exchange(context.Context, []byte) ([]byte, error) { return nil, errors.New(string(n)) }

func TestMux(t *testing.T) {
	m, err := NewMux(named("fallback"), map[string]Exchanger{
		"corp.example":        named("corp"),
		"*.Deep.corp.example": named("deep"),
		".lan.":               named("lan"),
		"secret.example":      nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"corp.example.":         "corp",
		"CORP.example":          "corp",
		"git.corp.example.":     "corp",
		"a.b.c.corp.example":    "corp",
		"deep.corp.example.":    "deep",
		"x.deep.corp.example.":  "deep",
		"notdeep.corp.example.": "corp",
		"evilcorp.example.":     "fallback",
		"corp.example.org.":     "fallback",
		"example.":              "fallback",
		".":                     "fallback",
		"":                      "fallback",
		"printer.lan.":          "lan",
		`foo\.corp.example.`:    "fallback", // one label that has a dot in it
		`foo\\.corp.example.`:   "corp",     // a label that ends in a backslash
	} {
		x, _ := m.Pick(name)
		if x != named(want) {
			t.Errorf("%s goes to %v, want %s", name, x, want)
		}
		if name == "" {
			continue
		}
		query, err := newQuery(wire.Fqdn(name), wire.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Exchange(t.Context(), query); err == nil || err.Error() != want {
			t.Errorf("the question for %s goes to %v, want %s", name, err, want)
		}
	}
	if x, suffix := m.Pick("a.SECRET.example."); x != nil || suffix != "secret.example" {
		t.Errorf("Pick returned %v, %q", x, suffix)
	}
	query, _ := newQuery("a.secret.example.", wire.TypeA)
	if _, err := m.Exchange(t.Context(), query); !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "a.secret.example") {
		t.Errorf("the question for nobody: %v", err)
	}
	if _, err := m.Exchange(t.Context(), query[:5]); !errors.Is(err, ErrMessage) {
		t.Errorf("half a question: %v", err)
	}
}

func TestMuxErrors(t *testing.T) {
	for _, s := range []string{"", ".", "*", "a..b", "a b", `a\.b`, strings.Repeat("a", 64)} {
		if _, err := NewMux(nil, map[string]Exchanger{s: nil}); err == nil {
			t.Errorf("suffix %q is no error", s)
		}
	}
}

func FuzzPick(f *testing.F) {
	f.Add("corp.example", "git.corp.example.")
	f.Add("corp.example", "evilcorp.example.")
	f.Add("b", `a\.b`)
	f.Fuzz(func(t *testing.T, suffix, name string) {
		m, err := NewMux(named("fallback"), map[string]Exchanger{suffix: named("route")})
		if err != nil {
			return
		}
		x, _ := m.Pick(name)
		if !validName(name) {
			return
		}
		want := named("fallback")
		if inDomain(canonical(name), canonical(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(suffix), "*"), "."))) {
			want = "route"
		}
		if x != want {
			t.Errorf("%q with the suffix %q goes to %v", name, suffix, x)
		}
	})
}
