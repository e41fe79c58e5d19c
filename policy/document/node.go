package document

import (
	"strconv"
	"strings"
)

// An Attribute is an attribute of a [Node].
type Attribute struct {
	// Name is the name without its prefix.
	Name string
	// Space is the namespace, which is empty for an attribute without a prefix.
	Space string
	// Value is the value with its references resolved.
	Value string

	prefix     string
	start      int // of the name
	value, end int // of the raw value, without its quotes
	namespace  bool
}

// A Node is an element of a [Document], and belongs to it: an edit of the document replaces all of its nodes.
type Node struct {
	// Name is the name without its prefix.
	Name string
	// Space is the namespace, or "".
	Space string
	// Parent is the element around this one, nil for the outermost.
	Parent *Node
	// Children are the elements directly inside.
	Children []*Node
	// Attributes are the attributes, declarations of namespaces left out.
	Attributes []Attribute

	doc    *Document
	prefix string
	// The start tag is text[start:open], the content text[open:close], and the end tag text[close:end]. Of an empty-element
	// tag open, close and end are the same.
	start, open, close, end int
	runs                    []run
	namespaces              []Attribute
}

// A run is text directly inside of an element, between two tags, comments or processing instructions.
type run struct {
	start, end int
	cdata      bool // then the run includes the brackets around it
}

// Position returns the place of the element's start tag.
func (n *Node) Position() Position { return n.doc.position(n.start) }

// Path returns the names of the elements from the outermost to this one, such as /AnyConnectProfile/ClientInitialization.
func (n *Node) Path() string {
	if n == nil {
		return ""
	}
	return n.Parent.Path() + "/" + n.Name
}

// Child returns the first child with the name, in any namespace, or nil. The nil Node has no children.
func (n *Node) Child(name string) *Node {
	if n == nil {
		return nil
	}
	for _, c := range n.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// All returns the children with the name, in any namespace.
func (n *Node) All(name string) []*Node {
	if n == nil {
		return nil
	}
	var all []*Node
	for _, c := range n.Children {
		if c.Name == name {
			all = append(all, c)
		}
	}
	return all
}

// Find returns the element that a path of names such as AutoReconnect/AutoReconnectBehavior leads to from n, taking the first
// where there are several, or nil.
func (n *Node) Find(path string) *Node {
	for name := range strings.SplitSeq(path, "/") {
		n = n.Child(name)
	}
	return n
}

// Attribute returns the value of the attribute without a prefix, and whether it is there.
func (n *Node) Attribute(name string) (string, bool) {
	if n == nil {
		return "", false
	}
	for _, a := range n.Attributes {
		if a.Name == name && a.Space == "" {
			return a.Value, true
		}
	}
	return "", false
}

// Value returns the text directly inside of the element, without the white space around it and with white space inside of it
// as one space each, as XML Schema reads a token.
func (n *Node) Value() string {
	if n == nil {
		return ""
	}
	if len(n.runs) == 1 && !n.runs[0].cdata {
		return collapse(expand(string(n.doc.text[n.runs[0].start:n.runs[0].end])))
	}
	var b strings.Builder
	for _, r := range n.runs {
		b.WriteString(n.doc.expandRun(r))
	}
	return collapse(b.String())
}

// empty reports whether there is not even white space inside of the element.
func (n *Node) empty() bool { return len(n.runs) == 0 }

// collapse does what whiteSpace="collapse" of XML Schema asks for. A no-break space is no white space to XML.
func collapse(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return isSpace(r) }), " ")
}

// isSpace reports whether r is white space to XML.
func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }

// expand resolves the references in s: the five entities of XML, and characters by number. Others stay as they are.
func expand(s string) string {
	if !strings.Contains(s, "&") {
		return s
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "&")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		// A reference is short. To look for its end further on would take long where there are many & and no end.
		name, _, ok := strings.Cut(after[:min(len(after), maxReference)], ";")
		r, known := reference(name)
		if !ok || !known {
			b.WriteByte('&')
			s = after
			continue
		}
		b.WriteRune(r)
		s = after[len(name)+len(";"):]
	}
}

// maxReference is the length of the longest reference that is resolved: its number may have leading zeros.
const maxReference = 64

// reference returns the character that a reference without & and ; stands for.
func reference(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "apos":
		return '\'', true
	case "quot":
		return '"', true
	}
	if len(name) < 2 || len(name) >= maxReference || name[0] != '#' {
		return 0, false
	}
	digits, base := name[1:], 10
	if digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	// ParseUint also takes an underscore and a sign only with base 0, so nothing but digits passes.
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || !isChar(rune(n)) || n > 0x10ffff {
		return 0, false
	}
	return rune(n), true
}

// isChar reports whether XML 1.0 allows the character at all.
func isChar(r rune) bool {
	return isSpace(r) || r >= 0x20 && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000 && r <= 0x10ffff
}
