package profile

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"culvert.example/vpn/policy/document"
)

// A Profile is a VPN profile. It is not for use by several goroutines at once when one of them edits it.
type Profile struct {
	doc      *document.Document
	schema   *document.Schema
	findings []document.Finding
}

// Parse reads a profile. The name, such as the path of the file, is for messages only.
//
// It fails with a [*document.InvalidError] if the data is no well-formed XML, is larger or deeper than is read, or is another
// kind of document. Everything else that is wrong is in the profile's Findings; whether the profile may be acted upon, Err says.
func Parse(name string, data []byte) (*Profile, error) {
	doc, err := document.Parse(name, data)
	if err != nil {
		return nil, err
	}
	p := &Profile{doc: doc, schema: Schema()}
	p.check()
	for _, f := range p.findings {
		if f.Rule == document.RuleRoot {
			return nil, &document.InvalidError{Findings: []document.Finding{f}}
		}
	}
	return p, nil
}

// Open reads a profile from a file as Parse does, for tools that look at profiles. The errors are those of Parse and of
// [document.ReadFile], whose argument trusted is.
func Open(path string, trusted bool) (*Profile, error) {
	data, err := document.ReadFile(path, trusted)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return Parse(path, data)
}

// Load reads a profile from a file in order to act upon it: it also fails if Err of the profile does. Whoever runs by another
// profile already should stay with that one then.
func Load(path string, trusted bool) (*Profile, error) {
	p, err := Open(path, trusted)
	if err != nil {
		return nil, err
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

// Lint returns everything there is to say about a profile, in the order of the document: where it is not well-formed, what is
// against the table, and where its settings contradict each other.
func Lint(name string, data []byte) []document.Finding {
	doc, err := document.Parse(name, data)
	var findings []document.Finding
	var invalid *document.InvalidError
	if errors.As(err, &invalid) {
		findings = invalid.Findings
	}
	if doc == nil {
		return findings
	}
	p := &Profile{doc: doc, schema: Schema()}
	p.check()
	return document.Merge(findings, p.findings)
}

// tolerated are the rules that a profile may break and still be acted upon, since what breaks them is read past and has no
// effect, or is read as what was meant without a doubt.
func tolerated() []document.Rule {
	return []document.Rule{
		document.RuleNamespace, document.RuleUnknownElement, document.RuleMisspelledElement, document.RuleMisplacedElement,
		document.RuleUnknownAttribute, document.RuleWrongOrder, document.RuleValueCase, document.RuleStrayText, RuleLocalPolicyElement,
	}
}

// Findings returns what there is to say about the profile, in the order of the document.
func (p *Profile) Findings() []document.Finding { return p.findings }

// Err returns why the profile must not be acted upon, as a [*document.InvalidError], or nil. Errors that leave no doubt about
// what the profile means do not count, such as elements that do not exist.
func (p *Profile) Err() error {
	findings := slices.DeleteFunc(slices.Clone(p.findings), func(f document.Finding) bool {
		// A list of servers without a server is read as none.
		return f.Rule == document.RuleMissingElement && strings.HasSuffix(f.Path, "ServerList")
	})
	return document.Errors(findings, tolerated()...)
}

func (p *Profile) check() {
	c := document.NewCollector(p.doc)
	if p.schema.Check(c) {
		p.checkMeaning(c)
	}
	p.findings = c.Findings()
}

// Name returns the name that the profile was parsed under.
func (p *Profile) Name() string { return p.doc.Name() }

// Document returns the XML document, which must be changed through the methods of the profile only.
func (p *Profile) Document() *document.Document { return p.doc }

// Bytes returns the profile as it is written: the very bytes that were parsed if nothing has been changed.
func (p *Profile) Bytes() []byte { return p.doc.Bytes() }

// settings is the path in front of that of each setting.
const settings = "ClientInitialization"

// node returns the element of a setting, or nil.
func (p *Profile) node(path string) *document.Node {
	if p == nil {
		return nil
	}
	return p.doc.Root().Find(settings + "/" + path)
}

// Get returns the value that the profile gives a setting, such as AutomaticVPNPolicy/AlwaysOn, without regard to defaults and
// preferences, and whether it gives it one that is allowed. A value in wrong capital or small letters is returned in the right
// ones.
func (p *Profile) Get(path string) (string, bool) {
	n := p.node(path)
	if n == nil {
		return "", false
	}
	e := p.schema.Root.Find(settings + "/" + path)
	if e == nil || e.Content == document.Group || e.Content == document.Empty {
		return "", false
	}
	v := n.Value()
	if v == "" && e.Type.Kind != document.KindText {
		return "", false
	}
	v, err := e.Type.Validate(v)
	return v, err == nil
}

// Set gives a setting a value. Only the bytes of the value change, or those of the element are added where it is missing.
// Values that the table does not allow are refused.
func (p *Profile) Set(path, value string) error {
	return p.edit(func() error { return p.doc.Put(p.schema, nil, settings+"/"+path, value) })
}

// SetUserControllable says whether the user may choose another value for a setting. A setting that is missing is written with
// its default.
func (p *Profile) SetUserControllable(path string, controllable bool) error {
	e := p.schema.Root.Find(settings + "/" + path)
	if e == nil || e.Control == document.Fixed {
		return fmt.Errorf("%s: the user cannot be let choose %q", p.Name(), path)
	}
	return p.edit(func() error {
		if p.node(path) == nil {
			if err := p.doc.Put(p.schema, nil, settings+"/"+path, e.Default); err != nil {
				return err
			}
		}
		return p.doc.SetAttribute(p.node(path), "UserControllable", fmt.Sprint(controllable))
	})
}

// Unset takes a setting out of the profile, with the settings inside of it. It is no error if it is not there.
func (p *Profile) Unset(path string) error {
	n := p.node(path)
	if n == nil {
		return nil
	}
	return p.edit(func() error { return p.doc.Remove(n) })
}

func (p *Profile) edit(f func() error) error {
	if err := f(); err != nil {
		return err
	}
	p.check()
	return nil
}

// userControllable reports whether the profile leaves a setting to the user, and false without a profile or for a setting that
// is never left to the user.
func (p *Profile) userControllable(path string, e *document.Element) bool {
	if e.Control == document.Fixed || p == nil {
		return false
	}
	if v, ok := p.node(path).Attribute("UserControllable"); ok {
		b, err := document.Boolean().Validate(strings.TrimSpace(v))
		// What the administrator meant is not known, so the user must not choose.
		return err == nil && b == "true"
	}
	return e.Control == document.ControlOn
}

// Hashes identify a profile by its very bytes.
type Hashes struct {
	// SHA1 is in capital hexadecimal, as gateways announce their profiles.
	SHA1 string `json:"sha1"`
	// SHA256 is in small hexadecimal.
	SHA256 string `json:"sha256"`
	// Size is the number of bytes.
	Size int `json:"size"`
}

// Hash returns the hashes of the bytes of a profile, which need not be well-formed.
func Hash(data []byte) Hashes {
	one, two := sha1.Sum(data), sha256.Sum256(data)
	return Hashes{SHA1: strings.ToUpper(hex.EncodeToString(one[:])), SHA256: hex.EncodeToString(two[:]), Size: len(data)}
}

// A View is a profile as it stands, for people and for tools.
type View struct {
	// File is the name that it was parsed under.
	File string `json:"file"`
	// Encoding is how it is written.
	Encoding document.Encoding `json:"encoding"`
	Hashes
	// Settings are those that the profile gives a value, in the order of the table.
	Settings []Setting `json:"settings"`
	// CertificateMatch are the rules for client certificates, nil for none.
	CertificateMatch *CertificateMatch `json:"certificateMatch,omitempty"`
	// Hosts are the gateways.
	Hosts []Host `json:"hosts"`
	// Findings are what there is to say about it.
	Findings []document.Finding `json:"findings"`
}

// A Setting is a value that a profile gives.
type Setting struct {
	Path             string `json:"path"`
	Value            string `json:"value"`
	UserControllable bool   `json:"userControllable"`
	document.Position
}

// View returns the profile as it stands.
func (p *Profile) View() View {
	data := p.Bytes()
	v := View{File: p.Name(), Encoding: p.doc.Encoding(), Hashes: Hash(data), Settings: []Setting{}, CertificateMatch: p.CertificateMatch(),
		Hosts: p.Hosts(), Findings: p.findings}
	p.walk(func(path string, e *document.Element) {
		if n := p.node(path); n != nil {
			v.Settings = append(v.Settings, Setting{path, n.Value(), p.userControllable(path, e), n.Position()})
		}
	})
	return v
}

// walk calls f for the settings with a value that stand at most once, in the order of the table.
func (p *Profile) walk(f func(path string, e *document.Element)) { walkSettings(p.schema, f) }

func walkSettings(s *document.Schema, f func(path string, e *document.Element)) {
	var below func(prefix string, e *document.Element)
	below = func(prefix string, e *document.Element) {
		for _, c := range e.Children {
			switch {
			case c.Repeated():
			case c.Content == document.Value || c.Content == document.Mixed:
				f(prefix+c.Name, c)
				below(prefix+c.Name+"/", c)
			case c.Content == document.Group:
				below(prefix+c.Name+"/", c)
			}
		}
	}
	below("", s.Root.Child(settings))
}
