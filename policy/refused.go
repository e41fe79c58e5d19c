package policy

import (
	"fmt"
	"strings"
)

// A RefusedError says which setting of which document refuses something. It matches [ErrDenied] and the error behind it.
type RefusedError struct {
	// Document is where the setting stands, such as "profile corp.xml" or "local policy", and "" if there is none.
	Document string
	// Setting is the name of the setting, and Value its value, which may be "".
	Setting, Value string
	// Line and Column are where the setting stands in the document, counted from 1; 0 means that this is not known.
	Line, Column int
	// Reason says why, in words, and what to do where something can be done.
	Reason string
	// Err is the error behind it, or nil. Its text is not repeated: Reason has what a person needs.
	Err error
}

// Error returns a text such as
//
//	AlwaysOn (profile corp.xml:12:7): nothing passes while the tunnel is down
func (e *RefusedError) Error() string {
	var b strings.Builder
	b.WriteString(e.Setting)
	if e.Document != "" {
		b.WriteString(" (" + e.Document)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, max(e.Column, 1))
		}
		b.WriteByte(')')
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// Unwrap returns [ErrDenied], and the error behind it if there is one.
func (e *RefusedError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrDenied}
	}
	return []error{ErrDenied, e.Err}
}
