package document

import (
	"fmt"
	"slices"
	"strings"
)

// Lint returns what is wrong with the document by the table, in the order of the document. It does not repeat the errors that
// [Parse] has returned.
func (s *Schema) Lint(d *Document) []Finding {
	l := &linter{schema: s, d: d, findings: slices.Clone(d.warnings)}
	root := d.root
	if root.Name != s.Root.Name {
		hint := fmt.Sprintf("an %s begins with <%s>", s.Title, s.Root.Name)
		l.add(root, SeverityError, RuleRoot, fmt.Sprintf("<%s> is not an %s", clip(root.Name), s.Title), hint, true)
		return l.findings
	}
	l.namespace(root, s.Namespace)
	l.element(root, s.Root)
	return Merge(l.findings, nil)
}

type linter struct {
	schema   *Schema
	d        *Document
	findings []Finding
}

func (l *linter) add(n *Node, severity Severity, rule Rule, message, hint string, schema bool) {
	l.addAt(n, n.start, severity, rule, message, hint, schema)
}

func (l *linter) addAt(n *Node, offset int, severity Severity, rule Rule, message, hint string, schema bool) {
	if len(l.findings) == maxFindings {
		return
	}
	f := l.d.Finding(n, severity, rule, message, hint)
	f.Position, f.Schema = l.d.position(offset), schema
	l.findings = append(l.findings, f)
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
	if len(l.findings) == maxFindings {
		return
	}
	rule, message, hint := RuleUnknownElement, "", ""
	var places, names []string
	if l.schema.Root.Name == n.Name {
		places = append(places, "the outermost element")
	}
	l.schema.Root.Walk(func(path string, s *Element) {
		if s.Name == n.Name {
			places = append(places, path)
		}
		names = append(names, s.Name)
	})
	if len(places) > 0 {
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
		siblings := make([]string, len(e.Children))
		for i, c := range e.Children {
			siblings[i] = c.Name
		}
		if s := Nearest(n.Name, append(siblings, names...)); s != "" {
			rule, hint = RuleMisspelledElement, fmt.Sprintf("did you mean <%s>?", s)
		}
	}
	l.add(n, SeverityError, rule, message, hint, true)
}
