package login

import (
	"fmt"

	"culvert.example/vpn/transport"
)

// A Form is what a gateway asks at one step of a login, or only tells if it has no fields. Several forms may follow one
// another under the same ID, such as the user name on one page and the password on the next: the fields say what is wanted,
// not the ID.
//
// The texts come from the gateway. Whoever shows them must expect anything in them, control characters too.
type Form struct {
	// Gateway is the name of the host that asks, with its port unless that is 443.
	Gateway string
	// ID is the gateway's name for the step: main, challenge and the like.
	ID string
	// Title, Message and Banner are for the user; any may be empty.
	Title, Message, Banner string
	// Error is what was wrong with the last answer, or empty.
	Error string
	// Fields are the questions, in the order of the gateway.
	Fields []Field
	// Attempt is 1 when the form comes for the first time, and one more each time the gateway has rejected the answers.
	Attempt int
}

// Field returns the field with the given name, or nil.
func (f *Form) Field(name string) *Field {
	for i := range f.Fields {
		if f.Fields[i].Name == name {
			return &f.Fields[i]
		}
	}
	return nil
}

// missing returns the label of the first field that has neither an answer nor a preset.
func (f *Form) missing() (string, bool) {
	for i := range f.Fields {
		if v := &f.Fields[i]; v.Kind != Choice && !v.Answered && v.Value == "" {
			return v.caption(), true
		}
	}
	return "", false
}

// A Kind is how a field is to be asked.
type Kind uint8

const (
	// Text may be shown while it is typed.
	Text Kind = iota
	// Password must not be shown.
	Password
	// Choice is one of the options.
	Choice
)

// String implements fmt.Stringer.
func (k Kind) String() string {
	switch k {
	case Text:
		return "text"
	case Password:
		return "password"
	case Choice:
		return "choice"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// GroupField is the name of the Choice of a group, which gateways call a connection profile or tunnel group. It is asked in
// a form of its own, before the other fields, because these may depend on it.
const GroupField = "group_list"

// A Field is one question of a form.
type Field struct {
	// Name is the gateway's name for the field: username, password, secondary_password, answer and the like.
	Name string
	// Label is for the user. It may end with a colon, and may be empty.
	Label string
	// Kind says how to ask.
	Kind Kind
	// Options are the choices of a Choice. There may be just one.
	Options []Option
	// Value is the preset of the gateway and then the answer. For a Choice it is the Value of an Option.
	Value transport.Secret
	// Answered says that Value is an answer. A Chain asks its further members only for what is not Answered.
	// A field that nobody answers keeps its preset.
	Answered bool
}

// Set answers the field.
func (f *Field) Set(value string) {
	f.Value, f.Answered = transport.Secret(value), true
}

// Choose answers a Choice with the option that has the given value or else the given text, and reports whether there is one.
// It compares with the same case first and without regard to case then.
func (f *Field) Choose(nameOrText string) bool {
	i := f.find(nameOrText)
	if i < 0 {
		return false
	}
	f.Set(f.Options[i].Value)
	return true
}

func (f *Field) caption() string {
	if f.Label != "" {
		return f.Label
	}
	return f.Name
}

// An Option is one choice.
type Option struct {
	// Value is what is answered, Text what is shown. They are often the same.
	Value, Text string
}
