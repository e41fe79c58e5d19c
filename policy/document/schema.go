package document

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Schema is what may stand in one kind of document.
type Schema struct {
	// Root is the outermost element.
	Root *Element
	// Namespace is the namespace of all elements, or "" for none.
	Namespace string
	// Title is what the kind of document is called.
	Title string
	// About is a sentence or two on what the documents are for.
	About string
	// Foreign says what is known of an element that is not in the table, such as the document that it belongs into: the
	// rule that a finding about it names, why, and what to do. It returns "" for a name that nothing is known of.
	Foreign func(name string) (rule Rule, message, hint string)
}

// Content says what may stand inside of an element.
type Content uint8

const (
	// Value: text only.
	Value Content = iota
	// Mixed: a text, and elements beside it.
	Mixed
	// Group: elements only.
	Group
	// Empty: nothing; the element has attributes.
	Empty
	// Open: elements of any name, whose content is not looked at.
	Open
)

// Order says in which order the children of an element stand.
type Order uint8

const (
	// AnyOrder: in any order, each of them at most once.
	AnyOrder Order = iota
	// Sequence: in the order of the table.
	Sequence
)

// Control says whether the administrator may leave an element to the user, by the attribute UserControllable.
type Control uint8

const (
	// Fixed: the element has no such attribute.
	Fixed Control = iota
	// ControlOff: the user controls it if the attribute is true, and not without the attribute.
	ControlOff
	// ControlOn: the user controls it unless the attribute is false.
	ControlOn
)

// Systems is a set of operating systems.
type Systems uint8

const (
	// Windows is Microsoft Windows.
	Windows Systems = 1 << iota
	// MacOS is macOS.
	MacOS
	// Linux is Linux.
	Linux
	// Mobile are the systems of telephones.
	Mobile

	// Desktop are the systems of computers with a desktop.
	Desktop = Windows | MacOS | Linux
	// Everywhere are all systems.
	Everywhere = Desktop | Mobile
)

// Has reports whether the system that Go calls goos is in the set.
func (s Systems) Has(goos string) bool {
	switch goos {
	case "windows":
		return s&Windows != 0
	case "darwin":
		return s&MacOS != 0
	case "linux":
		return s&Linux != 0
	case "android", "ios":
		return s&Mobile != 0
	}
	return false
}

// String returns the names of the systems with commas between them.
func (s Systems) String() string {
	if s == Everywhere {
		return "all"
	}
	var names []string
	for i, name := range []string{"Windows", "macOS", "Linux", "mobile"} {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// MarshalText returns what String returns.
func (s Systems) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// An Element is one row of the table: everything that is known of an element.
type Element struct {
	// Name is the name.
	Name string
	// Content says what may stand inside.
	Content Content
	// Type is the type of the text of a Value or Mixed element.
	Type Type
	// Default is the value of an element that is absent or empty, "" if it has none.
	Default string
	// Without is the value when there is no document at all, where that differs from Default.
	Without string
	// Feature is the name of the feature that the element switches, for those that do not exist without a document.
	Feature string
	// Min is how often the element must stand in its parent, 0 or 1.
	Min int
	// Max is how often it may. 0 means once, and -1 any number of times.
	Max int
	// Order says how the children are ordered.
	Order Order
	// Children are the elements that may stand inside.
	Children []*Element
	// Attributes are the attributes but UserControllable.
	Attributes []*AttributeSpec
	// Control says whether the element has the attribute UserControllable, and what its absence means.
	Control Control
	// Systems are the systems on which the element has an effect.
	Systems Systems
	// Effect says what the element does, as one or two sentences.
	Effect string
	// When is the value of this element with which its children have an effect, "" if they always have.
	When string
	// Unique names a child of the children that must not have the same value twice.
	Unique string
}

// An AttributeSpec is what is known of an attribute.
type AttributeSpec struct {
	// Name is the name.
	Name string
	// Type is the type.
	Type Type
	// Default is the value of an attribute that is absent.
	Default string
	// Effect says what it does.
	Effect string
}

// max is how often the element may stand in its parent.
func (e *Element) max() int {
	switch {
	case e.Max < 0:
		return maxElements
	case e.Max == 0:
		return 1
	}
	return e.Max
}

// Child returns the child with the name, or nil.
func (e *Element) Child(name string) *Element {
	if e == nil {
		return nil
	}
	for _, c := range e.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Find returns the element that a path such as AutoReconnect/AutoReconnectBehavior leads to from e, or nil.
func (e *Element) Find(path string) *Element {
	for name := range strings.SplitSeq(path, "/") {
		e = e.Child(name)
	}
	return e
}

// Walk calls f for every element below e, parents first, with its path from e.
func (e *Element) Walk(f func(path string, e *Element)) { e.walk("", f) }

func (e *Element) walk(prefix string, f func(string, *Element)) {
	for _, c := range e.Children {
		f(prefix+c.Name, c)
		c.walk(prefix+c.Name+"/", f)
	}
}

// Repeated reports whether the element may stand more than once in its parent.
func (e *Element) Repeated() bool { return e.max() > 1 }

// spec returns the row for an element of a document, or nil if its place is not in the table.
func (s *Schema) spec(n *Node) *Element {
	if n.Parent == nil {
		if n.Name == s.Root.Name {
			return s.Root
		}
		return nil
	}
	return s.spec(n.Parent).Child(n.Name)
}

// attributes returns all attributes of the element, UserControllable among them.
func (e *Element) attributes() []*AttributeSpec {
	if e.Control == Fixed {
		return e.Attributes
	}
	a := &AttributeSpec{Name: "UserControllable", Type: Boolean(), Default: "false", Effect: "Whether the user may choose another value."}
	if e.Control == ControlOn {
		a.Default = "true"
	}
	return append([]*AttributeSpec{a}, e.Attributes...)
}

// Kind is the kind of a [Type].
type Kind uint8

const (
	// KindText is any text.
	KindText Kind = iota
	// KindBoolean is true or false, in small letters.
	KindBoolean
	// KindEnumeration is one of a few words.
	KindEnumeration
	// KindInteger is a whole number.
	KindInteger
)

// A Type is what a value may be.
type Type struct {
	// Name is the name of the type, such as HostName. It is empty for plain text.
	Name string
	// Kind is the kind.
	Kind Kind
	// Values are the words of an enumeration or boolean.
	Values []string
	// Min and Max are the bounds of an integer, or of the number of characters of a text, where Max 0 means none.
	Min, Max int
	// Unit is what an integer that means a time counts in, or 0.
	Unit time.Duration
	// Form describes a text, for people.
	Form string
	// Check finds what neither a list of words nor a length can say. It may be nil.
	Check func(value string) error
}

// Boolean returns the type of true and false.
func Boolean() Type {
	return Type{Name: "Boolean", Kind: KindBoolean, Values: []string{"true", "false"}}
}

// Enumeration returns the type of one of the words.
func Enumeration(name string, words ...string) Type {
	return Type{Name: name, Kind: KindEnumeration, Values: words}
}

// Integer returns the type of the whole numbers from least to most.
func Integer(name string, least, most int) Type {
	return Type{Name: name, Kind: KindInteger, Min: least, Max: most}
}

// Text returns the type of texts of least to most characters, where most 0 means any number.
func Text(name string, least, most int, form string, check func(string) error) Type {
	return Type{Name: name, Min: least, Max: most, Form: form, Check: check}
}

// Describe says what a value may be, for people.
func (t Type) Describe() string {
	switch t.Kind {
	case KindBoolean, KindEnumeration:
		return strings.Join(t.Values, " | ")
	case KindInteger:
		return fmt.Sprintf("%d to %d", t.Min, t.Max)
	}
	form := t.Form
	if form == "" {
		form = "text"
	}
	if t.Max > 0 {
		form += fmt.Sprintf(", %d to %d characters", t.Min, t.Max)
	}
	return form
}

// A valueError says why a value is not of a type.
type valueError struct {
	rule          Rule
	message, hint string
	schema        bool // an XML Schema sees it too
}

func (e *valueError) Error() string {
	if e.hint != "" {
		return e.message + "; " + e.hint
	}
	return e.message
}

// Validate returns the value as it is meant, which differs from the argument where only capital and small letters were mixed
// up, or an error that names what is allowed.
func (t Type) Validate(value string) (string, error) {
	meant, err := t.validate(value)
	if err != nil && err.rule != RuleValueCase {
		return "", err
	}
	return meant, nil
}

func (t Type) validate(value string) (string, *valueError) {
	wrong := func(hint string) (string, *valueError) {
		return "", &valueError{RuleWrongValue, fmt.Sprintf("%q is not allowed here", clip(value)), hint, true}
	}
	switch t.Kind {
	case KindBoolean, KindEnumeration:
		if slices.Contains(t.Values, value) {
			return value, nil
		}
		allowed := "allowed are " + strings.Join(t.Values, ", ")
		for _, v := range t.Values {
			if strings.EqualFold(v, value) {
				return v, &valueError{RuleValueCase, fmt.Sprintf("%q is not allowed here", clip(value)), "write " + v, true}
			}
			// What is left of <A>>v</A> and the like.
			if strings.EqualFold(v, strings.Trim(value, "<>\"'")) {
				return wrong(fmt.Sprintf("%s; there is a character too many", allowed))
			}
		}
		if v := Nearest(value, t.Values); v != "" {
			allowed += fmt.Sprintf("; did you mean %s?", v)
		}
		return wrong(allowed)
	case KindInteger:
		n, err := strconv.ParseInt(strings.TrimPrefix(value, "+"), 10, 64)
		if err != nil || strings.HasPrefix(value, "+-") || strings.HasPrefix(value, "++") || n < int64(t.Min) || n > int64(t.Max) {
			return wrong(fmt.Sprintf("allowed are whole numbers from %d to %d", t.Min, t.Max))
		}
		return strconv.FormatInt(n, 10), nil
	}
	if n := utf8.RuneCountInString(value); n < t.Min || t.Max > 0 && n > t.Max {
		hint := fmt.Sprintf("it must have %d to %d characters", t.Min, t.Max)
		if t.Max == 0 {
			hint = "it must not be empty"
		}
		return wrong(hint)
	}
	if t.Check != nil && value != "" {
		if err := t.Check(value); err != nil {
			return "", &valueError{RuleWrongValue, fmt.Sprintf("%q is not allowed here", clip(value)), err.Error(), false}
		}
	}
	return value, nil
}
