package document

import (
	"fmt"
	"slices"
	"strings"
)

// Lint returns what is wrong with the document by the table, in the order of the document. It does not repeat the errors that
// [Parse] has returned.
func (s *Schema) Lint(d *Document) []Finding {
	c := NewCollector(d)
	s.Check(c)
	return c.Findings()
}

// Check adds to c what Lint finds, for packages that also check the meaning of documents. It reports whether the document is of this
// kind at all.
func (s *Schema) Check(c *Collector) bool {
	l := &linter{schema: s, d: c.doc, found: c}
	for _, f := range l.d.warnings {
		c.add(f)
	}
	root := l.d.root
	if root.Name != s.Root.Name {
		hint := fmt.Sprintf("an %s begins with <%s>", s.Title, s.Root.Name)
		l.add(root, SeverityError, RuleRoot, fmt.Sprintf("<%s> is not an %s", clip(root.Name), s.Title), hint, true)
		return false
	}
	l.namespace(root, s.Namespace)
	l.element(root, s.Root)
	return true
}

type linter struct {
	schema *Schema
	d      *Document
	found  *Collector
	places map[string][]string // the paths of all elements of the table by their names, nil until they are needed
	names  []string            // those names
	// misspelled holds what names that are not in the table were probably meant to be, "" for nothing, by the name and its parent.
	misspelled map[[2]string]string
}

func (l *linter) add(n *Node, severity Severity, rule Rule, message, hint string, schema bool) {
	l.addAt(n, n.start, severity, rule, message, hint, schema)
}

func (l *linter) addAt(n *Node, offset int, severity Severity, rule Rule, message, hint string, schema bool) {
	f := l.d.Finding(n, severity, rule, message, hint)
	f.Position, f.Schema = l.d.position(offset), schema
	l.found.add(f)
}

func (l *linter) namespace(n *Node, want string) {
	if n.Space == want {
		return
	}
	if want == "" {
		l.add(n, SeverityError, RuleNamespace, fmt.Sprintf("<%s> is in the namespace %q and should be in none", clip(n.Name), clip(n.Space)), "remove the attribute xmlns", true)
		return
	}
	message := fmt.Sprintf("<%s> is in the namespace %q", clip(n.Name), clip(n.Space))
	if n.Space == "" {
		message = fmt.Sprintf("<%s> is in no namespace", clip(n.Name))
	}
	l.add(n, SeverityError, RuleNamespace, message, fmt.Sprintf("write xmlns=%q in the outermost element", want), true)
}

func (l *linter) element(n *Node, e *Element) {
	l.attributes(n, e)
	switch e.Content {
	case Open:
		l.strayText(n)
		return
	case Group, Empty:
		l.strayText(n)
	case Value:
		if n.empty() && len(n.Children) == 0 && e.Default != "" {
			l.add(n, SeverityWarning, RuleEmptyValue, fmt.Sprintf("<%s> is empty, which means its default %s", e.Name, e.Default), "", false)
			break
		}
		l.value(n, e.Type, e.Name, true)
	case Mixed:
		if n.Value() != "" {
			l.value(n, e.Type, e.Name, false)
		} else if e.Default != "" {
			l.add(n, SeverityWarning, RuleEmptyValue, fmt.Sprintf("<%s> has no value of its own, which means its default %s", e.Name, e.Default), "", false)
		}
	}
	l.children(n, e)
}

// value checks the text of an element. An XML Schema sees it unless the element has mixed content.
func (l *linter) value(n *Node, t Type, name string, schema bool) {
	if _, err := t.validate(n.Value()); err != nil {
		offset := n.start
		if first := n.firstText(); first >= 0 {
			offset = first
		}
		l.addAt(n, offset, SeverityError, err.rule, fmt.Sprintf("<%s>: %s", name, err.message), err.hint, schema && err.schema)
	}
}

// firstText returns the offset of the first character inside of the element that is no white space, or -1.
func (n *Node) firstText() int {
	for _, r := range n.runs {
		for i := r.start; i < r.end; i++ {
			if !isSpace(rune(n.doc.text[i])) {
				return i
			}
		}
	}
	return -1
}

func (l *linter) strayText(n *Node) {
	if at := n.firstText(); at >= 0 {
		l.addAt(n, at, SeverityError, RuleStrayText, fmt.Sprintf("<%s> has no text, but here is %q", clip(n.Name), clip(n.Value())),
			"", true)
	}
}

func (l *linter) attributes(n *Node, e *Element) {
	specs := e.attributes()
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	for _, a := range n.Attributes {
		if a.Space == xsiSpace {
			switch a.Name {
			case "schemaLocation", "noNamespaceSchemaLocation":
			case "type", "nil":
				l.addAt(n, a.start, SeverityError, RuleUnknownAttribute, fmt.Sprintf("xsi:%s has no place in an %s", a.Name, l.schema.Title), "remove it", false)
			default:
				hint := "remove it"
				if near(a.Name, "schemaLocation") {
					hint = "write xsi:schemaLocation"
				}
				l.addAt(n, a.start, SeverityError, RuleUnknownAttribute, fmt.Sprintf("the attribute xsi:%s is not known", clip(a.Name)), hint, true)
			}
			continue
		}
		i := slices.Index(names, a.Name)
		if i < 0 || a.Space != "" {
			message, hint := fmt.Sprintf("<%s> has no attribute %s", e.Name, clip(a.Name)), "remove it"
			switch {
			case a.Space != "":
				message = fmt.Sprintf("<%s> has no attribute %s:%s", e.Name, clip(a.prefix), clip(a.Name))
			case a.Name == "UserControllable":
				message = fmt.Sprintf("<%s> cannot be left to the user", e.Name)
			default:
				if s := Nearest(a.Name, names); s != "" {
					hint = fmt.Sprintf("did you mean %s?", s)
				}
			}
			l.addAt(n, a.start, SeverityError, RuleUnknownAttribute, message, hint, true)
			continue
		}
		if _, err := specs[i].Type.validate(collapse(a.Value)); err != nil {
			l.addAt(n, a.start, SeverityError, err.rule, fmt.Sprintf("<%s %s>: %s", e.Name, a.Name, err.message), err.hint, err.schema)
		}
	}
}

func (l *linter) children(n *Node, e *Element) {
	counts := make([]int, len(e.Children))
	first := make([]*Node, len(e.Children))
	last := -1
	for _, c := range n.Children {
		i := slices.IndexFunc(e.Children, func(s *Element) bool { return s.Name == c.Name })
		if i < 0 {
			l.unknown(c, e)
			continue
		}
		spec := e.Children[i]
		if c.Space != n.Space {
			l.namespace(c, l.schema.Namespace)
		}
		counts[i]++
		switch {
		case counts[i] == 1:
			first[i] = c
		case counts[i] == spec.max()+1 && spec.max() == 1:
			l.add(c, SeverityError, RuleDuplicateElement, fmt.Sprintf("<%s> stands a second time, after line %d", spec.Name, l.d.line(first[i].start)),
				"remove one of them", true)
		case counts[i] == spec.max()+1:
			l.add(c, SeverityError, RuleDuplicateElement, fmt.Sprintf("<%s> stands more than %d times", spec.Name, spec.max()), "", true)
		}
		if e.Order == Sequence {
			if i < last {
				l.add(c, SeverityError, RuleWrongOrder, fmt.Sprintf("<%s> stands behind <%s>", spec.Name, e.Children[last].Name),
					fmt.Sprintf("the order in <%s> is %s", e.Name, e.order()), true)
			}
			last = max(last, i)
		}
		l.element(c, spec)
	}
	for i, spec := range e.Children {
		if counts[i] < spec.Min {
			l.add(n, SeverityError, RuleMissingElement, fmt.Sprintf("<%s> lacks <%s>", e.Name, spec.Name), "", true)
		}
	}
	if e.Unique != "" {
		seen := map[string]*Node{}
		for _, c := range n.Children {
			key := c.Child(e.Unique)
			if key == nil || e.Child(c.Name) == nil {
				continue
			}
			if before, ok := seen[key.Value()]; ok {
				l.add(key, SeverityError, RuleDuplicateValue, fmt.Sprintf("<%s> is %q, as in line %d", e.Unique, clip(key.Value()), l.d.line(before.start)),
					"give each a name of its own", true)
				continue
			}
			seen[key.Value()] = key
		}
	}
}

// order returns the names of the children, for people.
func (e *Element) order() string {
	names := make([]string, len(e.Children))
	for i, c := range e.Children {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

// unknown says what is known of an element that the parent e has no place for.
func (l *linter) unknown(n *Node, e *Element) {
	if l.places == nil {
		l.places = map[string][]string{l.schema.Root.Name: {"the outermost element"}}
		l.schema.Root.Walk(func(path string, s *Element) {
			if l.places[s.Name] == nil {
				l.names = append(l.names, s.Name)
			}
			l.places[s.Name] = append(l.places[s.Name], path)
		})
	}
	rule, message, hint := RuleUnknownElement, "", ""
	if places := l.places[n.Name]; len(places) > 0 {
		rule = RuleMisplacedElement
		message = fmt.Sprintf("<%s> has no effect inside of <%s>", clip(n.Name), e.Name)
		hint = "its place is " + strings.Join(places[:min(3, len(places))], " or ")
	} else if l.schema.Foreign != nil {
		var r Rule
		if r, message, hint = l.schema.Foreign(n.Name); message != "" {
			rule = r
		}
	}
	if message == "" {
		message = fmt.Sprintf("<%s> is not known", clip(n.Name))
		switch s, ok := l.meant(n.Name, e); {
		case !ok:
			rule, message = RuleTooLarge, fmt.Sprintf("the document has more than %d names of elements that are not known", maxUnknown)
		case s != "":
			rule, hint = RuleMisspelledElement, fmt.Sprintf("did you mean <%s>?", s)
		}
	}
	l.add(n, SeverityError, rule, message, hint, true)
}

// meant returns the name that one inside of e was probably meant to be, "" for none. To find out takes long, so it is done for
// maxUnknown names only, and ok is false for those beyond: whether a document may be acted upon can depend on the answer.
func (l *linter) meant(name string, e *Element) (s string, ok bool) {
	key := [2]string{name, e.Name}
	if s, ok := l.misspelled[key]; ok {
		return s, true
	}
	if len(l.misspelled) == maxUnknown {
		return "", false
	}
	if l.misspelled == nil {
		l.misspelled = map[[2]string]string{}
	}
	names := make([]string, len(e.Children))
	for i, c := range e.Children {
		names[i] = c.Name
	}
	s = Nearest(name, append(names, l.names...))
	l.misspelled[key] = s
	return s, true
}
