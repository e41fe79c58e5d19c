package document

import (
	"fmt"
	"strings"
)

// A Description is what the table says of one element, for people and for tools.
type Description struct {
	// Path leads to the element from the outermost one, whose name it leaves out.
	Path string `json:"path"`
	// Values says what the value may be. It is empty for an element without a value.
	Values string `json:"values,omitempty"`
	// Default is the value of an absent element.
	Default string `json:"default,omitempty"`
	// Without is the value when there is no document at all, where that differs.
	Without string `json:"without,omitempty"`
	// UserControllable is the meaning of an absent attribute UserControllable: true, false, or empty where there is none.
	UserControllable string `json:"userControllable,omitempty"`
	// Systems are those on which the element has an effect.
	Systems Systems `json:"systems"`
	// Occurs says how often the element may stand, such as 0..1.
	Occurs string `json:"occurs"`
	// Attributes are the attributes but UserControllable.
	Attributes []AttributeDescription `json:"attributes,omitempty"`
	// Effect says what the element does.
	Effect string `json:"effect"`
}

// An AttributeDescription is what the table says of one attribute.
type AttributeDescription struct {
	Name    string `json:"name"`
	Values  string `json:"values"`
	Default string `json:"default,omitempty"`
	Effect  string `json:"effect"`
}

// Describe returns the whole table, parents before their children.
func (s *Schema) Describe() []Description {
	var all []Description
	describe := func(path string, e *Element) {
		d := Description{Path: path, Default: e.Default, Without: e.Without, Systems: e.Systems, Effect: e.Effect}
		if e.Content == Value || e.Content == Mixed {
			d.Values = e.Type.Describe()
		}
		switch e.Control {
		case ControlOff:
			d.UserControllable = "false"
		case ControlOn:
			d.UserControllable = "true"
		}
		d.Occurs = fmt.Sprintf("%d..%d", e.Min, e.max())
		if e.Max < 0 {
			d.Occurs = fmt.Sprintf("%d..n", e.Min)
		}
		for _, a := range e.Attributes {
			d.Attributes = append(d.Attributes, AttributeDescription{a.Name, a.Type.Describe(), a.Default, a.Effect})
		}
		all = append(all, d)
	}
	s.Root.Walk(describe)
	return all
}

// Markdown returns the whole table as a page for people.
func (s *Schema) Markdown() []byte {
	var b strings.Builder
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + cell(s) + "`"
	}
	fmt.Fprintf(&b, "# %s\n\n%s\n\n", s.Title, s.About)
	fmt.Fprintf(&b, "The outermost element is `%s`", s.Root.Name)
	if s.Namespace != "" {
		fmt.Fprintf(&b, " in the namespace `%s`", s.Namespace)
	}
	b.WriteString(".\n")
	for _, a := range s.Root.Attributes {
		fmt.Fprintf(&b, "Its attribute `%s`: %s\n", a.Name, a.Effect)
	}
	b.WriteString("\n| Element | Occurs | Values | Default | User may change | Systems | Effect |\n|---|---|---|---|---|---|---|\n")
	for _, d := range s.Describe() {
		effect := d.Effect
		if d.Without != "" {
			effect += fmt.Sprintf(" Without any document: `%s`.", d.Without)
		}
		for _, a := range d.Attributes {
			effect += fmt.Sprintf(" Attribute `%s` (%s", a.Name, a.Values)
			if a.Default != "" {
				effect += ", default " + a.Default
			}
			effect += "): " + a.Effect
		}
		user := ""
		switch d.UserControllable {
		case "true":
			user = "yes, unless UserControllable is false"
		case "false":
			user = "if UserControllable is true"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", code(d.Path), d.Occurs, code(d.Values), code(d.Default), user, d.Systems, cell(effect))
	}
	return []byte(b.String())
}
