package preferences

import (
	"errors"
	"fmt"
	"io/fs"

	"culvert.example/vpn/policy/document"
)

// controls is the element around what the user has chosen.
const controls = "ControllablePreferences"

// BlockUntrustedServers is the name of the choice that no profile has a setting for: whether gateways whose certificate is not
// trusted are refused without asking.
const BlockUntrustedServers = "BlockUntrustedServers"

// Preferences are those of one file. They are not for use by several goroutines at once when one of them changes them.
type Preferences struct {
	doc      *document.Document
	schema   *document.Schema
	findings []document.Finding
	changed  bool
}

// Last is what was used last. Empty fields are not known.
type Last struct {
	User                         string `json:"user,omitempty"`
	SecondUser                   string `json:"secondUser,omitempty"`
	ClientCertificateThumbprint  string `json:"clientCertificateThumbprint,omitempty"`
	ClientCertificateThumbprints string `json:"clientCertificateThumbprints,omitempty"`
	ServerCertificateThumbprint  string `json:"serverCertificateThumbprint,omitempty"`
	HostName                     string `json:"hostName,omitempty"`
	HostAddress                  string `json:"hostAddress,omitempty"`
	Group                        string `json:"group,omitempty"`
	ProxyHost                    string `json:"proxyHost,omitempty"`
	ProxyPort                    string `json:"proxyPort,omitempty"`
	TokenType                    string `json:"tokenType,omitempty"`
}

// fields are the elements of a Last, with its fields.
func (l *Last) fields() []struct {
	name  string
	value *string
} {
	return []struct {
		name  string
		value *string
	}{
		{"DefaultUser", &l.User},
		{"DefaultSecondUser", &l.SecondUser},
		{"ClientCertificateThumbprint", &l.ClientCertificateThumbprint},
		{"MultipleClientCertificateThumbprints", &l.ClientCertificateThumbprints},
		{"ServerCertificateThumbprint", &l.ServerCertificateThumbprint},
		{"DefaultHostName", &l.HostName},
		{"DefaultHostAddress", &l.HostAddress},
		{"DefaultGroup", &l.Group},
		{"ProxyHost", &l.ProxyHost},
		{"ProxyPort", &l.ProxyPort},
		{"SDITokenType", &l.TokenType},
	}
}

// New returns empty preferences.
func New() *Preferences {
	p := &Preferences{schema: Schema()}
	doc, err := document.New(p.schema, "", nil)
	if err != nil {
		panic(err) // the document is the same each time, and a test writes it
	}
	p.doc = doc
	return p
}

// Parse reads preferences. The name is for messages only. It fails with a [*document.InvalidError] if the data is no well-formed
// XML or another kind of document; everything else that is wrong is in the Findings and read past.
func Parse(name string, data []byte) (*Preferences, error) {
	doc, err := document.Parse(name, data)
	if err != nil {
		return nil, err
	}
	p := &Preferences{doc: doc, schema: Schema()}
	p.findings = p.schema.Lint(doc)
	for _, f := range p.findings {
		if f.Rule == document.RuleRoot {
			return nil, &document.InvalidError{Findings: []document.Finding{f}}
		}
	}
	return p, nil
}

// Load reads preferences from a file. A file that does not exist holds none, which is no error. For trusted see
// [document.ReadFile]; the global file must be trusted, and that of a user cannot be.
func Load(path string, trusted bool) (*Preferences, error) {
	data, err := document.ReadFile(path, trusted)
	if errors.Is(err, fs.ErrNotExist) {
		return New(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("preferences: %w", err)
	}
	return Parse(path, data)
}

// Lint returns everything there is to say about a file of preferences.
func Lint(name string, data []byte) []document.Finding {
	schema := Schema()
	doc, err := document.Parse(name, data)
	var findings []document.Finding
	var invalid *document.InvalidError
	if errors.As(err, &invalid) {
		findings = invalid.Findings
	}
	if doc == nil {
		return findings
	}
	return document.Merge(findings, schema.Lint(doc))
}

// Findings returns what is wrong with the file, in its order.
func (p *Preferences) Findings() []document.Finding { return p.findings }

// Bytes returns the file: the very bytes that were read if nothing has changed.
func (p *Preferences) Bytes() []byte { return p.doc.Bytes() }

// Changed reports whether anything has been changed since the preferences were read.
func (p *Preferences) Changed() bool { return p.changed }

// Last returns what was used last.
func (p *Preferences) Last() Last {
	var l Last
	for _, f := range l.fields() {
		*f.value = p.doc.Root().Child(f.name).Value()
	}
	return l
}

// SetLast writes down what was used last. An empty field takes away what was there.
func (p *Preferences) SetLast(l Last) error {
	for _, f := range l.fields() {
		if err := p.set(f.name, *f.value); err != nil {
			return err
		}
	}
	return nil
}

func (p *Preferences) set(name, value string) error {
	n := p.doc.Root().Child(name)
	switch {
	case n == nil && value == "" || n != nil && n.Value() == value:
		return nil
	case n == nil:
		return p.edit(p.doc.Put(p.schema, nil, name, value))
	}
	return p.edit(p.doc.SetValue(n, value))
}

// edit takes note of a change.
func (p *Preferences) edit(err error) error {
	if err == nil {
		p.changed, p.findings = true, p.schema.Lint(p.doc)
	}
	return err
}

// Control returns what the user has chosen for the setting with the name, such as LocalLanAccess, and whether he has chosen. It
// is what package profile calls a Lookup.
func (p *Preferences) Control(name string) (string, bool) {
	n := p.doc.Root().Child(controls).Child(name)
	if n == nil || n.Value() == "" {
		return "", false
	}
	return n.Value(), true
}

// Controls returns everything that the user has chosen.
func (p *Preferences) Controls() map[string]string {
	all := map[string]string{}
	if n := p.doc.Root().Child(controls); n != nil {
		for _, c := range n.Children {
			if v, ok := p.Control(c.Name); ok {
				all[c.Name] = v
			}
		}
	}
	return all
}

// SetControl writes down what the user has chosen for the setting with the name, or that he has not with the value "".
// Whether there is such a setting and whether it is his to choose is for the caller to know.
func (p *Preferences) SetControl(name, value string) error {
	outer := p.doc.Root().Child(controls)
	n := outer.Child(name)
	switch {
	case n == nil && value == "" || n != nil && n.Value() == value:
		return nil
	case value == "":
		return p.edit(p.doc.Remove(n))
	case n != nil:
		return p.edit(p.doc.SetValue(n, value))
	}
	part := document.Part{Name: name, Value: value}
	if outer == nil {
		return p.edit(p.doc.Insert(p.schema, p.doc.Root(), document.Part{Name: controls, Children: []document.Part{part}}))
	}
	return p.edit(p.doc.Insert(p.schema, outer, part))
}

// Keep says what of the preferences may be kept; see the local policy's RestrictPreferenceCaching.
type Keep struct {
	// Credentials are the names of users.
	Credentials bool
	// Thumbprints are those of certificates.
	Thumbprints bool
	// Anything is everything that the user has not chosen himself.
	Anything bool
}

// Forget takes out what must not be kept. What the user has chosen himself stays.
func (p *Preferences) Forget(keep Keep) error {
	l := p.Last()
	if !keep.Credentials {
		l.User, l.SecondUser = "", ""
	}
	if !keep.Thumbprints {
		l.ClientCertificateThumbprint, l.ClientCertificateThumbprints, l.ServerCertificateThumbprint = "", "", ""
	}
	if !keep.Anything {
		l = Last{}
	}
	return p.SetLast(l)
}

// Edit has change change the preferences in the file, which are empty if there is none. They are written as a whole or not at all, and
// not at all if nothing has changed. What other processes change at the same time by Edit stays. The permissions are for a new file,
// see [UserMode] and [GlobalMode]; for trusted see [Load]. Change may be called twice, each time with what the file says.
func Edit(path string, mode fs.FileMode, trusted bool, change func(*Preferences) error) error {
	err := document.EditFile(path, mode, trusted, func(old []byte) ([]byte, error) {
		p := New()
		if old != nil {
			var err error
			if p, err = Parse(path, old); err != nil {
				return nil, err
			}
		}
		if err := change(p); err != nil || !p.changed {
			return nil, err
		}
		return p.doc.Bytes(), nil
	})
	if err != nil {
		return fmt.Errorf("preferences: %w", err)
	}
	return nil
}

const (
	// UserMode are the permissions of the file of a user.
	UserMode fs.FileMode = 0o600
	// GlobalMode are the permissions of the global file.
	GlobalMode fs.FileMode = 0o644
)

// Global reports whether a choice belongs into the global file, since it matters before anybody has logged on.
func Global(name string) bool { return name == "UseStartBeforeLogon" || name == "AutoConnectOnStart" }

// A Pair is the preferences of a user and those of the machine. Either may be nil.
type Pair struct {
	User, Global *Preferences
}

// Control returns what has been chosen for the setting with the name: in the user's file, or else in the global one, and the
// other way round for what matters before the logon. It is what package profile calls a Lookup.
func (p Pair) Control(name string) (string, bool) {
	first, second := p.User, p.Global
	if Global(name) {
		first, second = second, first
	}
	for _, one := range []*Preferences{first, second} {
		if one == nil {
			continue
		}
		if v, ok := one.Control(name); ok {
			return v, true
		}
	}
	return "", false
}
