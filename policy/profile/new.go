package profile

import (
	"fmt"

	"culvert.example/vpn/policy/document"
)

// NewOptions says what a new profile holds.
type NewOptions struct {
	// Name is the name for messages.
	Name string
	// Hosts are the gateways.
	Hosts []Host
	// Settings are settings that differ from their defaults, by their paths, such as AutomaticVPNPolicy/AlwaysOn.
	Settings map[string]string
	// Full writes every setting of the desktop with its default and a comment that says what it does.
	Full bool
}

// New returns a new profile. It fails if a host or a setting is refused, as AddHost and Set do.
func New(o NewOptions) (*Profile, error) {
	schema := Schema()
	var parts []document.Part
	if o.Full {
		parts = append(parts, document.Part{Name: settings, Children: defaults(schema.Root.Child(settings))})
	}
	doc, err := document.New(schema, o.Name, nil, parts...)
	if err != nil {
		return nil, err
	}
	p := &Profile{doc: doc, schema: schema}
	p.check()
	var failed error
	// The order of the table, so that the same options always make the same profile.
	left := len(o.Settings)
	p.walk(func(path string, e *document.Element) {
		if v, ok := o.Settings[path]; ok && failed == nil {
			failed = p.Set(path, v)
			left--
		}
	})
	if failed != nil {
		return nil, failed
	}
	if left > 0 {
		for path := range o.Settings {
			if e := schema.Root.Find(settings + "/" + path); e == nil || e.Repeated() {
				var paths []string
				walkSettings(schema, func(path string, _ *document.Element) { paths = append(paths, path) })
				return nil, fmt.Errorf("there is no setting %q%s", path, meant(path, paths))
			}
		}
	}
	for _, h := range o.Hosts {
		if err := p.AddHost(h); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// defaults returns the children of e that have a default, with it.
func defaults(e *document.Element) []document.Part {
	var parts []document.Part
	for _, c := range e.Children {
		if c.Default == "" || c.Systems&document.Desktop == 0 {
			continue
		}
		part := document.Part{Name: c.Name, Value: c.Default, Comment: fmt.Sprintf("%s: %s (%s)", c.Type.Describe(), c.Effect, c.Systems)}
		switch c.Control {
		case document.ControlOn:
			part.Attributes = [][2]string{{"UserControllable", "true"}}
		case document.ControlOff:
			part.Attributes = [][2]string{{"UserControllable", "false"}}
		}
		part.Children = defaults(c)
		parts = append(parts, part)
	}
	return parts
}
