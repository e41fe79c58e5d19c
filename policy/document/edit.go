package document

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Part is an element to be written into a document.
type Part struct {
	// Name is the name.
	Name string
	// Attributes are names and values.
	Attributes [][2]string
	// Value is the text in front of the children.
	Value string
	// Children are the elements inside.
	Children []Part
	// Comment is written into a comment in front of the element, unless it is empty. It must not contain two hyphens in a row.
	Comment string
}

// New returns a new document in UTF-8 with the root element that the schema has, and the children given.
func New(s *Schema, name string, attributes [][2]string, children ...Part) (*Document, error) {
	var all [][2]string
	if s.Namespace != "" {
		all = append(all, [2]string{"xmlns", s.Namespace}, [2]string{"xmlns:xsi", xsiSpace},
			[2]string{"xsi:schemaLocation", s.Namespace + " " + s.Root.Name + ".xsd"})
	}
	root := Part{Name: s.Root.Name, Attributes: append(all, attributes...), Children: children}
	if err := root.check(); err != nil {
		return nil, err
	}
	w := &writer{newline: "\n", unit: "  ", encoding: Encoding{Name: "UTF-8"}}
	w.b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	w.part(root, "", "")
	w.b.WriteByte('\n')
	return Parse(name, w.b.Bytes())
}

// check refuses what cannot be written as XML.
func (p Part) check() error {
	if nameLength([]byte(p.Name)) != len(p.Name) || p.Name == "" {
		return fmt.Errorf("%q is no name of an element", clip(p.Name))
	}
	all := []string{p.Value, p.Comment}
	for _, a := range p.Attributes {
		all = append(all, a[1])
	}
	for _, s := range all {
		if err := checkCharacters(s); err != nil {
			return fmt.Errorf("<%s>: %w", clip(p.Name), err)
		}
	}
	for _, c := range p.Children {
		if err := c.check(); err != nil {
			return err
		}
	}
	return nil
}

// A writer writes parts in the manner of the document around them.
type writer struct {
	b             bytes.Buffer
	newline, unit string // newline is empty where everything stands in one line
	encoding      Encoding
}

func (w *writer) part(p Part, prefix, indent string) {
	if p.Comment != "" {
		w.b.WriteString("<!-- " + w.encoding.escape(p.Comment, false) + " -->" + w.newline)
		if w.newline != "" {
			w.b.WriteString(indent)
		}
	}
	w.b.WriteString("<" + prefix + p.Name)
	for _, a := range p.Attributes {
		fmt.Fprintf(&w.b, ` %s="%s"`, a[0], w.encoding.escape(a[1], true))
	}
	if p.Value == "" && len(p.Children) == 0 {
		w.b.WriteString("/>")
		return
	}
	w.b.WriteString(">" + w.encoding.escape(p.Value, false))
	for _, c := range p.Children {
		if w.newline != "" {
			w.b.WriteString(w.newline + indent + w.unit)
		}
		w.part(c, prefix, indent+w.unit)
	}
	if len(p.Children) > 0 && w.newline != "" {
		w.b.WriteString(w.newline + indent)
	}
	w.b.WriteString("</" + prefix + p.Name + ">")
}

// escape writes s for a document in the encoding, with references for what the encoding lacks.
func (e Encoding) escape(s string, attribute bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"' && attribute:
			b.WriteString("&quot;")
		case attribute && (r == '\t' || r == '\n'), r == '\r', !e.has(r):
			fmt.Fprintf(&b, "&#x%X;", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// checkCharacters refuses what no XML document can hold.
func checkCharacters(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("it is not UTF-8")
	}
	for _, r := range s {
		if !isChar(r) {
			return fmt.Errorf("XML does not allow the character U+%04X", r)
		}
	}
	return nil
}

// Put gives the element that path leads to from the element at (nil for the outermost) the value, and makes it and the elements
// on the way where they are missing. Nothing else in the document changes, and nothing at all if the element has the value
// already. Put refuses values that the table does not allow, and paths through elements that may stand several times.
func (d *Document) Put(s *Schema, at *Node, path, value string) error {
	if at == nil {
		at = d.root
	}
	spec := s.spec(at)
	if spec == nil {
		return fmt.Errorf("%s: %s is not in the table", d.name, at.Path())
	}
	names := strings.Split(path, "/")
	specs := make([]*Element, len(names))
	for i, name := range names {
		c := spec.Child(name)
		switch {
		case c == nil:
			err := fmt.Errorf("%s: <%s> has no place in <%s>", d.name, clip(name), spec.Name)
			var all []string
			for _, c := range spec.Children {
				all = append(all, c.Name)
			}
			if n := Nearest(name, all); n != "" {
				err = fmt.Errorf("%w; did you mean %s?", err, n)
			}
			return err
		case c.Repeated():
			return fmt.Errorf("%s: <%s> may stand several times in <%s>", d.name, name, spec.Name)
		}
		spec, specs[i] = c, c
	}
	if spec.Content != Value && spec.Content != Mixed {
		return fmt.Errorf("%s: <%s> has no value", d.name, spec.Name)
	}
	if value = collapse(value); !utf8.ValidString(value) {
		return fmt.Errorf("%s: <%s>: it is not UTF-8", d.name, spec.Name)
	}
	if _, err := spec.Type.validate(value); err != nil {
		return fmt.Errorf("%s: <%s>: %w", d.name, spec.Name, err)
	}
	n, i := at, 0
	for ; i < len(names); i++ {
		c := n.Child(names[i])
		if c == nil {
			break
		}
		n = c
	}
	if i == len(names) {
		return d.setText(n, value)
	}
	// A new element around a new one gets its default in writing, since people take an element without a text for a fault.
	part := Part{Name: names[len(names)-1], Value: value}
	for j := len(names) - 2; j >= i; j-- {
		outer := Part{Name: names[j], Children: []Part{part}}
		if specs[j].Content == Mixed {
			outer.Value = specs[j].Default
		}
		part = outer
	}
	return d.Insert(s, n, part)
}

// Insert writes a new element into parent, in the place where the table wants it, behind those of the same name.
func (d *Document) Insert(s *Schema, parent *Node, part Part) error {
	if err := part.check(); err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	spec := s.spec(parent)
	if spec == nil || spec.Child(part.Name) == nil && spec.Content != Open {
		return fmt.Errorf("%s: <%s> has no place in <%s>", d.name, clip(part.Name), clip(parent.Name))
	}
	w := &writer{newline: d.newline(), unit: d.unit(), encoding: d.encoding}
	prefix := ""
	if parent.prefix != "" {
		prefix = parent.prefix + ":"
	}
	if len(parent.Children) == 0 {
		return d.insertFirst(w, parent, prefix, part)
	}
	after := parent.Children[len(parent.Children)-1]
	if spec.Content != Open && spec.Order == Sequence {
		index := func(name string) int {
			return slices.IndexFunc(spec.Children, func(e *Element) bool { return e.Name == name })
		}
		after = nil
		for _, c := range parent.Children {
			if i := index(c.Name); i >= 0 && i <= index(part.Name) {
				after = c
			}
		}
	}
	if after == nil {
		first := parent.Children[0]
		indent, own := d.indent(first.start)
		if !own {
			w.newline = ""
		}
		w.part(part, prefix, indent)
		if own {
			w.b.WriteString(w.newline + indent)
		}
		return d.splice(first.start, first.start, w.b.String())
	}
	indent, own := d.indent(after.start)
	if !own {
		w.newline = ""
	}
	end := d.pastComment(after.end)
	if own {
		w.b.WriteString(w.newline + indent)
	}
	w.part(part, prefix, indent)
	return d.splice(end, end, w.b.String())
}

// insertFirst writes the first child of parent.
func (d *Document) insertFirst(w *writer, parent *Node, prefix string, part Part) error {
	indent, own := d.indent(parent.start)
	if !own {
		w.newline = ""
	}
	start, end := parent.open, parent.close
	// Behind the text, if there is any; white space up to the end tag makes way.
	for i := len(parent.runs) - 1; i >= 0; i-- {
		if s := bytes.TrimRight(d.text[parent.runs[i].start:parent.runs[i].end], " \t\r\n"); len(s) > 0 {
			start = parent.runs[i].start + len(s)
			break
		}
	}
	if len(bytes.TrimLeft(d.text[start:end], " \t\r\n")) > 0 { // a comment
		start = end
	}
	var tail string
	if parent.selfClosing() {
		w.b.WriteByte('>')
		start, tail = parent.tagEnd(), "</"+parent.qualified()+">"
	}
	if own {
		w.b.WriteString(w.newline + indent + w.unit)
	}
	w.part(part, prefix, indent+w.unit)
	if own {
		w.b.WriteString(w.newline + indent)
	}
	return d.splice(start, end, w.b.String()+tail)
}

// selfClosing reports whether the element is written as an empty-element tag.
func (n *Node) selfClosing() bool {
	return n.open == n.end && bytes.HasSuffix(n.doc.text[n.start:n.open], []byte("/>"))
}

// tagEnd is where an empty-element tag ends but for the slash and the white space in front of it.
func (n *Node) tagEnd() int {
	return n.start + len(bytes.TrimRight(n.doc.text[n.start:n.open-len("/>")], " \t\r\n"))
}

// SetValue gives the element the value, without the white space around it; the rest of the document does not change. Put is
// the one that checks values.
func (d *Document) SetValue(n *Node, value string) error { return d.setText(n, value) }

func (d *Document) setText(n *Node, value string) error {
	if err := checkCharacters(value); err != nil {
		return fmt.Errorf("%s: <%s>: %w", d.name, n.Name, err)
	}
	value = collapse(value)
	if n.Value() == value {
		return nil
	}
	written := d.encoding.escape(value, false)
	if n.selfClosing() {
		return d.splice(n.tagEnd(), n.end, ">"+written+"</"+n.qualified()+">")
	}
	// The first text makes way, and any further text goes, but white space, comments and children stay as they are.
	var b bytes.Buffer
	at, done := n.open, false
	for _, r := range n.runs {
		s := d.text[r.start:r.end]
		left := len(s) - len(bytes.TrimLeft(s, " \t\r\n"))
		body := bytes.TrimSpace(s)
		if len(body) == 0 {
			continue
		}
		b.Write(d.text[at : r.start+left])
		if !done {
			b.WriteString(written)
			done = true
		}
		at = r.start + left + len(body)
	}
	if !done {
		b.WriteString(written)
	}
	b.Write(d.text[at:n.close])
	return d.splice(n.open, n.close, b.String())
}

// SetAttribute gives the element an attribute without a prefix. Nothing else changes.
func (d *Document) SetAttribute(n *Node, name, value string) error {
	if err := checkCharacters(value); err != nil {
		return fmt.Errorf("%s: <%s %s>: %w", d.name, n.Name, clip(name), err)
	}
	if nameLength([]byte(name)) != len(name) || name == "" || strings.Contains(name, ":") {
		return fmt.Errorf("%s: %q is no name of an attribute", d.name, clip(name))
	}
	for _, a := range n.Attributes {
		if a.Name == name && a.prefix == "" {
			if a.Value == value {
				return nil
			}
			written := d.encoding.escape(value, true)
			return d.splice(a.value, a.end, strings.ReplaceAll(written, "'", "&apos;"))
		}
	}
	at := n.start + 1 + len(n.qualified())
	return d.splice(at, at, fmt.Sprintf(` %s="%s"`, name, d.encoding.escape(value, true)))
}

// Remove takes an element out of the document, with the line that it stands in if it stands there alone.
func (d *Document) Remove(n *Node) error {
	if n.Parent == nil {
		return errors.New("the outermost element cannot be removed")
	}
	start, end := n.start, n.end
	indent, own := d.indent(start)
	rest := d.text[end:]
	if alone := len(bytes.TrimLeft(rest, " \t")); own && (alone == 0 || bytes.TrimLeft(rest, " \t")[0] == '\n' || bytes.TrimLeft(rest, " \t")[0] == '\r') {
		start -= len(indent)
		start -= len(d.text[:start]) - len(bytes.TrimSuffix(bytes.TrimSuffix(d.text[:start], []byte("\n")), []byte("\r")))
		end += len(rest) - alone
	}
	return d.splice(start, end, "")
}

// splice replaces text[start:end]. If the document could not be read any more after that, it stays as it is.
func (d *Document) splice(start, end int, with string) error {
	if d.faulty {
		return fmt.Errorf("%s: a document that is not well-formed cannot be edited", d.name)
	}
	if string(d.text[start:end]) == with {
		return nil
	}
	if size := len(d.text) - (end - start) + len(with); size > MaxSize {
		return fmt.Errorf("%s: the document would have %d bytes, and no more than %d are read", d.name, size, MaxSize)
	}
	text := slices.Concat(d.text[:start], []byte(with), d.text[end:])
	before := *d
	findings, err := d.parse(text)
	if err == nil && len(findings) > 0 {
		err = &InvalidError{Findings: findings}
	}
	if err != nil {
		*d = before
		return fmt.Errorf("the edit would break the document: %w", err)
	}
	d.raw = nil
	return nil
}

// newline is how lines end in the document, or "" if it is all one line.
func (d *Document) newline() string {
	switch {
	case bytes.Contains(d.text, []byte("\r\n")):
		return "\r\n"
	case bytes.Contains(d.text, []byte("\n")):
		return "\n"
	}
	return ""
}

// indent returns the white space at the beginning of the line of an offset, and whether there is nothing else in front of it.
func (d *Document) indent(offset int) (string, bool) {
	i := offset
	for i > 0 && (d.text[i-1] == ' ' || d.text[i-1] == '\t') {
		i--
	}
	if i > 0 && d.text[i-1] != '\n' || !bytes.Contains(d.text, []byte("\n")) {
		return "", false
	}
	return string(d.text[i:offset]), true
}

// unit is by how much the document indents a child.
func (d *Document) unit() string {
	for n := d.root; n != nil && len(n.Children) > 0; n = n.Children[0] {
		outer, ok := d.indent(n.start)
		inner, own := d.indent(n.Children[0].start)
		if ok && own && len(inner) > len(outer) && strings.HasPrefix(inner, outer) {
			return inner[len(outer):]
		}
	}
	return "  "
}

// pastComment returns the offset behind a comment that follows in the same line, since it belongs to what stands there.
func (d *Document) pastComment(offset int) int {
	rest := bytes.TrimLeft(d.text[offset:], " \t")
	if !bytes.HasPrefix(rest, []byte("<!--")) {
		return offset
	}
	end := bytes.Index(rest, []byte("-->"))
	if line := bytes.IndexByte(rest, '\n'); end < 0 || line >= 0 && line < end {
		return offset
	}
	return len(d.text) - len(rest) + end + len("-->")
}
