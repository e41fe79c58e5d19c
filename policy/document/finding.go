package document

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Severity says how bad a [Finding] is.
type Severity string

const (
	// SeverityError is the severity of what breaks a rule.
	SeverityError Severity = "error"
	// SeverityWarning is the severity of what is allowed and probably not meant.
	SeverityWarning Severity = "warning"
	// SeverityNote is the severity of what is worth knowing.
	SeverityNote Severity = "note"
)

// A Rule names what a [Finding] is about. The names do not change between versions, so a pipeline may filter by them. Other
// packages add rules of their own for the meaning of a document.
type Rule string

const (
	// RuleMalformed: the text is not XML.
	RuleMalformed Rule = "malformed"
	// RuleEncoding: the bytes are not in the encoding that the document says or implies, or in one that is not read.
	RuleEncoding Rule = "encoding"
	// RuleDoctype: the document has a document type declaration, the door of entity bombs and external entities.
	RuleDoctype Rule = "doctype"
	// RuleTooLarge: the document is larger than [MaxSize], deeper than [MaxDepth], or has more parts than is read.
	RuleTooLarge Rule = "too-large"
	// RuleRoot: the outermost element is another one than the kind of document has.
	RuleRoot Rule = "wrong-root"
	// RuleNamespace: an element is in another namespace than the kind of document has.
	RuleNamespace Rule = "namespace"
	// RuleUnknownElement: no such element exists.
	RuleUnknownElement Rule = "unknown-element"
	// RuleMisspelledElement: no such element exists, but one with almost the same name does.
	RuleMisspelledElement Rule = "misspelled-element"
	// RuleMisplacedElement: the element exists, but not inside of this parent, so it has no effect.
	RuleMisplacedElement Rule = "misplaced-element"
	// RuleUnknownAttribute: the element has no such attribute.
	RuleUnknownAttribute Rule = "unknown-attribute"
	// RuleDuplicateElement: an element stands more often than it may.
	RuleDuplicateElement Rule = "duplicate-element"
	// RuleDuplicateValue: a value that identifies its element stands twice.
	RuleDuplicateValue Rule = "duplicate-value"
	// RuleMissingElement: an element that must be there is not.
	RuleMissingElement Rule = "missing-element"
	// RuleWrongOrder: an element stands behind one that it must stand in front of.
	RuleWrongOrder Rule = "wrong-order"
	// RuleWrongValue: the value is none of those that the element or attribute may have.
	RuleWrongValue Rule = "wrong-value"
	// RuleValueCase: the value is an allowed one but for capital and small letters. It is read as the allowed one.
	RuleValueCase Rule = "value-case"
	// RuleEmptyValue: the element is empty, which means its default.
	RuleEmptyValue Rule = "empty-value"
	// RuleStrayText: text stands where only elements may.
	RuleStrayText Rule = "stray-text"
	// RuleMoreFindings: there are more findings than are listed.
	RuleMoreFindings Rule = "more-findings"
)

// A Position is a place in a document.
type Position struct {
	// Line is counted from 1; 0 means that the place is not known.
	Line int `json:"line"`
	// Column is counted in characters from 1.
	Column int `json:"column"`
}

// String returns line:column.
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// A Finding is one thing to say about a document.
type Finding struct {
	// File is the name that the document was read under, which may be empty.
	File string `json:"file,omitempty"`
	Position
	// Path leads to the element, such as /AnyConnectProfile/ClientInitialization/AutoUpdate. It is empty where the fault is
	// in the XML itself.
	Path string `json:"path,omitempty"`
	// Severity says how bad it is.
	Severity Severity `json:"severity"`
	// Rule names the rule.
	Rule Rule `json:"rule"`
	// Message says what is wrong.
	Message string `json:"message"`
	// Hint says what to write instead, where that is known.
	Hint string `json:"hint,omitempty"`
	// Schema says that the XML Schema written from the same table refuses the document for this too. An XML Schema cannot
	// see the text of an element that has children, nor compare one setting with another.
	Schema bool `json:"schema,omitempty"`
}

// String returns the finding as compilers print theirs: file:line:column: severity: message; hint (rule).
func (f Finding) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
	}
	if f.Line > 0 {
		b.WriteString(f.Position.String() + ":")
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	fmt.Fprintf(&b, "%s: %s", f.Severity, f.Message)
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	fmt.Fprintf(&b, " (%s)", f.Rule)
	return b.String()
}

// A Collector gathers what there is to say about one document, from the table and from whoever checks the meaning. A document can
// break a rule as often as it has elements, and a person reads only so many findings; so of those beyond the bound only the first of
// each kind is kept, and the rest is counted. What is decided by the findings, such as whether a document may be acted upon, is
// therefore the same as if all of them were there.
type Collector struct {
	doc      *Document
	findings []Finding
	kinds    map[kind]bool
	unlisted int
}

// A kind is what decisions tell findings apart by. Which element is missing is a part of it, since some elements may be; the table
// bounds how many that can be.
type kind struct {
	severity Severity
	rule     Rule
	schema   bool
	missing  string
}

// NewCollector returns a Collector for findings about d.
func NewCollector(d *Document) *Collector { return &Collector{doc: d, kinds: map[kind]bool{}} }

// Add adds a finding about an element of the document.
func (c *Collector) Add(n *Node, severity Severity, rule Rule, message, hint string) {
	c.add(c.doc.Finding(n, severity, rule, message, hint))
}

func (c *Collector) add(f Finding) {
	k := kind{f.Severity, f.Rule, f.Schema, ""}
	if f.Rule == RuleMissingElement {
		k.missing = f.Path
	}
	if len(c.findings) >= maxFindings && c.kinds[k] {
		c.unlisted++
		return
	}
	c.kinds[k] = true
	c.findings = append(c.findings, f)
}

// Findings returns the findings in the order of the document. If there are more, the last one says how many.
func (c *Collector) Findings() []Finding {
	all := Merge(c.findings, nil)
	if c.unlisted > 0 {
		all = append(all, Finding{
			File: c.doc.name, Position: c.doc.position(len(c.doc.text)), Severity: SeverityNote, Rule: RuleMoreFindings,
			Message: fmt.Sprintf("%d more findings of the same kinds are not listed", c.unlisted), Hint: "mend those that are, and check again",
		})
	}
	return all
}

// An InvalidError reports everything that keeps a document from being used.
type InvalidError struct {
	// Findings are the reasons, at least one, in the order of the document.
	Findings []Finding
}

// Error returns every finding, one on each line.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Has reports whether err says that a document is invalid, and for the rule given.
func Has(err error, rule Rule) bool {
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		return false
	}
	for _, f := range invalid.Findings {
		if f.Rule == rule {
			return true
		}
	}
	return false
}

// Errors returns an [*InvalidError] with the findings of severity error, but for those whose rule is among tolerated, and nil
// if there are none.
func Errors(findings []Finding, tolerated ...Rule) error {
	var bad []Finding
next:
	for _, f := range findings {
		if f.Severity != SeverityError {
			continue
		}
		for _, rule := range tolerated {
			if f.Rule == rule {
				continue next
			}
		}
		bad = append(bad, f)
	}
	if bad == nil {
		return nil
	}
	return &InvalidError{Findings: bad}
}

// Merge returns the findings of two lists in the order of the document.
func Merge(a, b []Finding) []Finding {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return all
}
