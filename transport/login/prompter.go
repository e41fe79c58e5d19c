package login

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"culvert.example/vpn/transport"
)

// A Prompter answers the forms of a gateway: from memory, from a token, or by asking a person.
type Prompter interface {
	// Answer fills in the fields of f that are not Answered yet, with Field.Set or Field.Choose. If it has no answer for
	// one, it answers what it can and returns an error matching ErrCannot; fields that keep a preset do no harm then.
	// Any other error ends the login. A form without fields is only to be shown.
	Answer(ctx context.Context, f *Form) error
}

// ErrCannot says that a Prompter has no answer to a field. It matches transport.ErrPrompt.
var ErrCannot error = &cannotError{}

// A cannotError is ErrCannot. Its text does not repeat that of transport.ErrPrompt, which says the same.
type cannotError struct{ _ byte }

func (*cannotError) Error() string { return "no answer to it is known" }

func (*cannotError) Unwrap() error { return transport.ErrPrompt }

// reason returns what err says more than that it is ErrCannot.
func reason(err error) string {
	if err == nil {
		return ""
	}
	text, cannot := err.Error(), ErrCannot.Error()
	if rest, ok := strings.CutPrefix(text, cannot); ok {
		return strings.TrimPrefix(rest, ": ")
	}
	return strings.TrimSuffix(text, ": "+cannot)
}

// A RejectedError says that the gateway has rejected the answers to a form, and that there are no others. It matches
// transport.ErrLogin and Err.
type RejectedError struct {
	// Gateway is its name, and Said what it says, as it came.
	Gateway, Said string
	// Err is what the Prompter has said when it was asked again.
	Err error
}

// Error returns a text with what the gateway says, and why there are no other answers if the Prompter says more than that.
func (e *RejectedError) Error() string {
	s := fmt.Sprintf("%v: %s rejected the answers", transport.ErrLogin, e.Gateway)
	if e.Said != "" {
		s += fmt.Sprintf(" and says %.400q", e.Said)
	}
	if why := reason(e.Err); why != "" {
		s += "; " + why
	}
	return s
}

// Unwrap returns transport.ErrLogin and Err.
func (e *RejectedError) Unwrap() []error { return []error{transport.ErrLogin, e.Err} }

// A PrompterFunc is a function as a Prompter.
type PrompterFunc func(ctx context.Context, f *Form) error

// Answer implements Prompter.
func (p PrompterFunc) Answer(ctx context.Context, f *Form) error { return p(ctx, f) }

// Unattended reports whether p says of itself, by a method Unattended() bool, that it answers without a person. Only then
// should a program log in again by itself.
func Unattended(p Prompter) bool {
	u, ok := p.(interface{ Unattended() bool })
	return ok && u.Unattended()
}

// Fixed answers from memory. It answers a form only the first time: a rejected value is never sent again by itself, since that
// locks accounts, but a name is preset then for the Prompter that comes after. The empty value of a field means that it is not known. It answers every login alike, also one that a session makes
// by itself, so one-time codes do not belong here but to package oath or terminal.
type Fixed struct {
	// Group is the group to choose, by name or by label. Without it the gateway's own choice stays.
	Group string
	// Username answers the field username.
	Username string
	// Password answers the field password.
	Password transport.Secret
	// SecondUsername and SecondPassword answer the second set of credentials.
	SecondUsername string
	SecondPassword transport.Secret
	// Entries answers any other field, or the same ones with precedence. The key is the name of the field, or the ID of the
	// form, a colon and the name.
	Entries map[string]transport.Secret
}

// Unattended returns true.
func (Fixed) Unattended() bool { return true }

// Answer implements Prompter.
func (p Fixed) Answer(_ context.Context, f *Form) error {
	complete, rejected := true, false
	for i := range f.Fields {
		field := &f.Fields[i]
		if field.Answered {
			continue
		}
		value, ok := p.lookup(f, field)
		switch {
		case !ok:
			complete = false
		case field.Kind == Choice:
			if !field.Choose(value) {
				return fmt.Errorf("%w: %s offers no %q for %.100q, only %s", transport.ErrLogin, f.Gateway, value,
					field.caption(), field.choices())
			}
		case f.Attempt > 1:
			if rejected = true; field.Kind == Text {
				field.Value = transport.Secret(value)
			}
		default:
			field.Set(value)
		}
	}
	if rejected {
		return fmt.Errorf("%w: stored answers are not sent twice", ErrCannot)
	}
	if !complete {
		return ErrCannot
	}
	return nil
}

func (p Fixed) lookup(f *Form, field *Field) (string, bool) {
	if v, ok := p.Entries[f.ID+":"+field.Name]; ok {
		return v.Reveal(), true
	}
	if v, ok := p.Entries[field.Name]; ok {
		return v.Reveal(), true
	}
	var v string
	switch field.Name {
	case GroupField:
		v = p.Group
	case "username":
		v = p.Username
	case "password":
		v = p.Password.Reveal()
	case "secondary_username":
		v = p.SecondUsername
	case "secondary_password":
		v = p.SecondPassword.Reveal()
	case "verify_password", "verify_pin":
		// The repetition of a new password is compared here and not sent.
		e, ok := p.Entries["new_password"]
		return e.Reveal(), ok
	}
	return v, v != ""
}

// Chain asks the Prompters in turn, each for what the ones before it could not answer.
func Chain(ps ...Prompter) Prompter { return chain(ps) }

type chain []Prompter

// Unattended reports whether all members are.
func (c chain) Unattended() bool {
	for _, p := range c {
		if !Unattended(p) {
			return false
		}
	}
	return len(c) > 0
}

// Answer implements Prompter.
func (c chain) Answer(ctx context.Context, f *Form) error {
	last := ErrCannot
	for _, p := range c {
		err := p.Answer(ctx, f)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrCannot) {
			return err
		}
		last = err
	}
	return last
}

// find returns the index of the option with the given value or else text, or -1.
func (f *Field) find(s string) int {
	same := func(a, b string) bool { return a == b }
	for _, equal := range [...]func(a, b string) bool{same, strings.EqualFold} {
		for i, o := range f.Options {
			if equal(o.Value, s) {
				return i
			}
		}
		for i, o := range f.Options {
			if equal(o.Text, s) {
				return i
			}
		}
	}
	return -1
}

// choices lists the options for an error.
func (f *Field) choices() string {
	const most = 16
	var s []string
	for i, o := range f.Options {
		if i == most {
			s = append(s, fmt.Sprintf("and %d more", len(f.Options)-most))
			break
		}
		s = append(s, fmt.Sprintf("%.60q", o.Text))
	}
	return strings.Join(s, ", ")
}
