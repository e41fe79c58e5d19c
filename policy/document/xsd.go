package document

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// XSD returns the schema as an XML Schema 1.0. It accepts what [Schema.Lint] has no error with Schema set for, and refuses what
// it has one for.
func (s *Schema) XSD() []byte {
	w := &xsdWriter{schema: s, types: map[string]Type{}}
	if s.Namespace != "" {
		w.prefix = "p:"
	}
	w.line(`<?xml version="1.0" encoding="UTF-8"?>`)
	if s.Namespace == "" {
		w.line(`<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">`)
	} else {
		w.line(`<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:p=%s targetNamespace=%s elementFormDefault="qualified">`,
			quoteXML(s.Namespace), quoteXML(s.Namespace))
	}
	w.depth++
	w.note(s.Title + ". " + s.About)
	w.element(s.Root, true)
	for _, name := range w.order {
		w.simpleType(w.types[name])
	}
	w.depth--
	w.line(`</xs:schema>`)
	return []byte(w.b.String())
}

type xsdWriter struct {
	b      strings.Builder
	schema *Schema
	prefix string
	depth  int
	types  map[string]Type
	order  []string
}

func (w *xsdWriter) line(format string, args ...any) {
	w.b.WriteString(strings.Repeat("  ", w.depth))
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

// quoteXML returns s as the value of an attribute, with its quotation marks.
func quoteXML(s string) string {
	var b strings.Builder
	// Writing to a strings.Builder cannot fail.
	_ = xml.EscapeText(&b, []byte(s))
	return `"` + b.String() + `"`
}

func (w *xsdWriter) note(text string) {
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	w.line(`<xs:annotation>`)
	w.depth++
	q := quoteXML(text)
	w.line(`<xs:documentation>%s</xs:documentation>`, q[1:len(q)-1])
	w.depth--
	w.line(`</xs:annotation>`)
}

// typeName returns the reference to a type, which is written at the end. A check that no schema can express does not make a
// type of a text.
func (w *xsdWriter) typeName(t Type) string {
	if t.Kind == KindText && t.Min == 0 && t.Max == 0 {
		return "xs:token"
	}
	if !slices.Contains(w.order, t.Name) {
		w.order = append(w.order, t.Name)
		w.types[t.Name] = t
	}
	return w.prefix + t.Name
}

func (w *xsdWriter) simpleType(t Type) {
	w.line(`<xs:simpleType name=%s>`, quoteXML(t.Name))
	w.depth++
	base := "xs:token"
	if t.Kind == KindInteger {
		base = "xs:integer"
	}
	w.line(`<xs:restriction base=%s>`, quoteXML(base))
	w.depth++
	switch t.Kind {
	case KindBoolean, KindEnumeration:
		for _, v := range t.Values {
			w.line(`<xs:enumeration value=%s/>`, quoteXML(v))
		}
	case KindInteger:
		w.line(`<xs:minInclusive value="%d"/>`, t.Min)
		w.line(`<xs:maxInclusive value="%d"/>`, t.Max)
	default:
		w.line(`<xs:minLength value="%d"/>`, t.Min)
		if t.Max > 0 {
			w.line(`<xs:maxLength value="%d"/>`, t.Max)
		}
	}
	w.depth--
	w.line(`</xs:restriction>`)
	w.depth--
	w.line(`</xs:simpleType>`)
}

// element writes the declaration of an element, a global one for the root. In an unordered group the XML Schema 1.0 has no
// element twice, which the tests of the tables hold them to.
func (w *xsdWriter) element(e *Element, root bool) {
	attributes := e.attributes()
	open := fmt.Sprintf(`<xs:element name=%s`, quoteXML(e.Name))
	simple := e.Content == Value && len(attributes) == 0
	if simple {
		open += ` type=` + quoteXML(w.typeName(e.Type))
	}
	if !root {
		if e.Min == 0 {
			open += ` minOccurs="0"`
		}
		if e.Max < 0 {
			open += ` maxOccurs="unbounded"`
		} else if e.Max > 1 {
			open += fmt.Sprintf(` maxOccurs="%d"`, e.Max)
		}
	}
	if e.Default != "" && (e.Content == Value || e.Content == Mixed) {
		open += ` default=` + quoteXML(e.Default)
	}
	w.line("%s>", open)
	w.depth++
	w.note(e.Effect)
	switch {
	case simple:
	case e.Content == Value:
		w.line(`<xs:complexType>`)
		w.depth++
		w.line(`<xs:simpleContent>`)
		w.depth++
		w.line(`<xs:extension base=%s>`, quoteXML(w.typeName(e.Type)))
		w.depth++
		w.attributes(attributes)
		w.depth--
		w.line(`</xs:extension>`)
		w.depth--
		w.line(`</xs:simpleContent>`)
		w.depth--
		w.line(`</xs:complexType>`)
	default:
		if e.Content == Mixed {
			w.line(`<xs:complexType mixed="true">`)
		} else {
			w.line(`<xs:complexType>`)
		}
		w.depth++
		w.group(e)
		w.attributes(attributes)
		w.depth--
		w.line(`</xs:complexType>`)
	}
	if e.Unique != "" {
		w.line(`<xs:unique name=%s>`, quoteXML(e.Name+"-"+e.Unique))
		w.depth++
		for _, c := range e.Children {
			w.line(`<xs:selector xpath=%s/>`, quoteXML(w.prefix+c.Name))
		}
		w.line(`<xs:field xpath=%s/>`, quoteXML(w.prefix+e.Unique))
		w.depth--
		w.line(`</xs:unique>`)
	}
	w.depth--
	w.line(`</xs:element>`)
}

func (w *xsdWriter) group(e *Element) {
	name := "xs:all"
	switch {
	case e.Content == Open:
		w.line(`<xs:sequence>`)
		w.depth++
		w.line(`<xs:any namespace="##any" processContents="skip" minOccurs="0" maxOccurs="unbounded"/>`)
		w.depth--
		w.line(`</xs:sequence>`)
		return
	case len(e.Children) == 0:
		return
	case e.Order == Sequence:
		name = "xs:sequence"
	}
	w.line(`<%s>`, name)
	w.depth++
	for _, c := range e.Children {
		w.element(c, false)
	}
	w.depth--
	w.line(`</%s>`, name)
}

func (w *xsdWriter) attributes(all []*AttributeSpec) {
	for _, a := range all {
		value := ""
		if a.Default != "" {
			value = ` default=` + quoteXML(a.Default)
		}
		w.line(`<xs:attribute name=%s type=%s%s>`, quoteXML(a.Name), quoteXML(w.typeName(a.Type)), value)
		w.depth++
		w.note(a.Effect)
		w.depth--
		w.line(`</xs:attribute>`)
	}
}
