package wire

import (
	"fmt"
	"strings"
)

// A Form is what a gateway asks of the user.
type Form struct {
	// Method is POST in all known forms; missing means POST.
	Method string
	// Action is where the reply goes: a path or URL, relative to that of the form. Missing or empty means "/".
	Action string
	// Fields are in the order in which they came, which is also the order of the reply.
	Fields []Field
}

// Types of fields. Others exist; a client skips what it does not know.
const (
	InputText     = "text"
	InputPassword = "password"
	InputHidden   = "hidden"
	InputSelect   = "select"
	InputSubmit   = "submit"
	InputReset    = "reset"
	InputSSO      = "sso"
)

// A Field is an input or select element.
type Field struct {
	// Type is one of the Input constants or another word, in lower case. A missing type is InputText.
	Type string
	// Name is the name of the answer, Label is for the user, Value is the preset.
	Name, Label, Value string
	// SecondAuth says that the field belongs to the second set of credentials, which only some groups ask for.
	SecondAuth bool
	// Options are the choices of a InputSelect.
	Options []Option
}

// Selected returns the index of the option that the gateway has preselected, else 0, or -1 if there are no options.
func (f *Field) Selected() int {
	if len(f.Options) == 0 {
		return -1
	}
	for i := range f.Options {
		if f.Options[i].Selected {
			return i
		}
	}
	return 0
}

// An Option is one choice of a select field. All but the first three fields matter to group lists only.
type Option struct {
	// Value is what to answer, Text what to show. A missing value is the text, and the other way round.
	Value, Text string
	Selected    bool

	// AuthType is information.
	AuthType string
	// NoAAA marks a group that wants a certificate only, no name and password.
	NoAAA bool
	// SecondAuth marks a group that wants the second set of credentials too.
	SecondAuth bool
	// OverrideName and OverrideLabel rename the second user name.
	OverrideName, OverrideLabel string
	// SecondaryUsername is the preset second user name; the user may change it if SecondaryUsernameEditable.
	SecondaryUsername         string
	SecondaryUsernameEditable bool
}

// A Value is a name with its value, verbatim. It may be a password: its String method leaves the value out.
type Value struct{ Name, Value string }

// String implements fmt.Stringer.
func (v Value) String() string { return v.Name + "=…" }

// GoString implements fmt.GoStringer.
func (v Value) GoString() string { return v.String() }

const lowerHex = "0123456789abcdef"

// AppendValues appends values to b in the form application/x-www-form-urlencoded, as gateways expect it: all but
// A-Z a-z 0-9 - . _ ~ is percent-encoded in lower case, also spaces.
func AppendValues(b []byte, values []Value) []byte {
	escape := func(b []byte, s string) []byte {
		for i := 0; i < len(s); i++ {
			switch c := s[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
				b = append(b, c)
			default:
				b = append(b, '%', lowerHex[c>>4], lowerHex[c&15])
			}
		}
		return b
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, '&')
		}
		b = escape(b, v.Name)
		b = append(b, '=')
		b = escape(b, v.Value)
	}
	return b
}

// ParseValues parses a URL-encoded body into values in their order. Bad percent-encoding is kept as it stands.
// It returns an error wrapping ErrTooLarge for more than 1024 values or more than MaxDocument bytes.
func ParseValues(body []byte) ([]Value, error) {
	const maxValues = 1024
	if len(body) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes URL-encoded", ErrTooLarge, len(body))
	}
	var out []Value
	for pair := range strings.SplitSeq(strings.Trim(string(body), " \t\r\n"), "&") {
		if pair == "" {
			continue
		}
		if len(out) == maxValues {
			return nil, fmt.Errorf("%w: more than %d values", ErrTooLarge, maxValues)
		}
		name, value, _ := strings.Cut(pair, "=")
		out = append(out, Value{unescapeValue(name), unescapeValue(value)})
	}
	return out, nil
}

func unescapeValue(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	digit := func(c byte) int {
		switch {
		case c >= '0' && c <= '9':
			return int(c - '0')
		case c >= 'a' && c <= 'f':
			return int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			return int(c-'A') + 10
		}
		return -1
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%' && i+2 < len(s) && digit(s[i+1]) >= 0 && digit(s[i+2]) >= 0:
			b = append(b, byte(digit(s[i+1])<<4|digit(s[i+2])))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}
