package profile

import (
	"fmt"
	"slices"
	"strings"

	"culvert.example/vpn/policy/document"
)

// A Change is one difference between two profiles.
type Change struct {
	// Path leads to the element or, behind @, the attribute. Gateways are told apart by their names, and other elements that
	// stand several times by their number.
	Path string `json:"path"`
	// Kind is added, removed, changed or moved.
	Kind string `json:"kind"`
	// Old and New are the values.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// OldPosition and NewPosition are the places; a Line of 0 means none.
	OldPosition document.Position `json:"oldPosition,omitzero"`
	NewPosition document.Position `json:"newPosition,omitzero"`
}

// String returns the change as a line for people.
func (c Change) String() string {
	switch c.Kind {
	case "added":
		return fmt.Sprintf("+ %s: %s", c.Path, orNothing(c.New))
	case "removed":
		return fmt.Sprintf("- %s: %s", c.Path, orNothing(c.Old))
	}
	return fmt.Sprintf("~ %s: %s -> %s", c.Path, orNothing(c.Old), orNothing(c.New))
}

// A leaf is a value somewhere in a document.
type leaf struct {
	path, value string
	at          document.Position
}

// Diff returns the differences in meaning between two profiles: white space, comments, the order of settings and the way in
// which a value is written make none, and elements that are not known do.
func Diff(old, new *Profile) []Change {
	before, after := old.leaves(), new.leaves()
	index := map[string]leaf{}
	for _, l := range after {
		index[l.path] = l
	}
	changes := []Change{}
	known := map[string]bool{}
	for _, l := range before {
		known[l.path] = true
		now, ok := index[l.path]
		switch {
		case !ok:
			changes = append(changes, Change{Path: l.path, Kind: "removed", Old: l.value, OldPosition: l.at})
		case now.value != l.value:
			changes = append(changes, Change{l.path, "changed", l.value, now.value, l.at, now.at})
		}
	}
	for _, l := range after {
		if !known[l.path] {
			changes = append(changes, Change{Path: l.path, Kind: "added", New: l.value, NewPosition: l.at})
		}
	}
	return append(changes, moved(old.Hosts(), new.Hosts())...)
}

// moved finds out whether the gateways that both profiles have stand in another order, which is that of the user's menu.
func moved(old, new []Host) []Change {
	names := func(hosts, others []Host) []string {
		var all []string
		there := map[string]bool{}
		for _, o := range others {
			there[o.Name] = true
		}
		for _, h := range hosts {
			if there[h.Name] {
				all = append(all, h.Name)
			}
		}
		return all
	}
	before, after := names(old, new), names(new, old)
	if slices.Equal(before, after) {
		return nil
	}
	return []Change{{Path: "ServerList", Kind: "moved", Old: strings.Join(before, ", "), New: strings.Join(after, ", ")}}
}

// leaves returns all values and attributes of the profile with paths that tell them apart.
func (p *Profile) leaves() []leaf {
	var all []leaf
	taken := map[string]int{}
	unique := func(path string) string {
		taken[path]++
		if n := taken[path]; n > 1 {
			return fmt.Sprintf("%s#%d", path, n)
		}
		return path
	}
	var below func(prefix string, n *document.Node, e *document.Element)
	below = func(prefix string, n *document.Node, e *document.Element) {
		counts := map[string]int{}
		for _, c := range n.Children {
			counts[c.Name]++
			spec := e.Child(c.Name)
			path := prefix + c.Name
			switch {
			case spec != nil && spec.Repeated() && e.Unique != "":
				path += "[" + c.Child(e.Unique).Value() + "]"
			case spec == nil || spec.Repeated():
				path += fmt.Sprintf("[%d]", counts[c.Name])
			}
			path = unique(path)
			if v := c.Value(); v != "" || len(c.Children) == 0 {
				if spec != nil {
					if meant, err := spec.Type.Validate(v); err == nil {
						v = meant
					}
				}
				all = append(all, leaf{path, v, c.Position()})
			}
			for _, a := range c.Attributes {
				if a.Space == "" {
					all = append(all, leaf{path + "@" + a.Name, a.Value, c.Position()})
				}
			}
			below(path+"/", c, spec)
		}
	}
	below("", p.doc.Root(), p.schema.Root)
	return all
}
