package login

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// answer has the Prompter answer the form in doc and posts what it says, or starts anew with another group.
func (c *conversation) answer(ctx context.Context, doc *wire.Document) (*wire.Document, error) {
	option, hasGroups, again, err := c.chooseGroup(ctx, doc)
	if err != nil {
		return nil, err
	}
	if again {
		return c.hello(ctx)
	}
	inputs := c.inputs(doc.Auth.Form, option)
	f := c.form(doc.Auth)
	for i := range inputs {
		if in := &inputs[i]; in.ask {
			in.place = len(f.Fields)
			f.Fields = append(f.Fields, in.field())
		}
	}
	if err := c.prompt(ctx, f); err != nil {
		return nil, err
	}

	var values []wire.Value
	for _, in := range inputs {
		value := in.Value
		if in.ask {
			value = f.Fields[in.place].Value.Reveal()
		}
		name := in.Name
		if !doc.Legacy {
			switch name {
			case "verify_pin", "verify_password":
				continue // compared by prompt, of no interest to the gateway
			case "answer", "whichpin", "new_password":
				name = wire.FieldPassword
			}
			if !wire.ValidName(name) {
				c.log.Warn("left out a field whose name cannot be sent", "gateway", c.name(), "field", name)
				continue
			}
			if !wire.Encodable(value) {
				return nil, fmt.Errorf("%w: the answer to %.100q has control characters or is not UTF-8, which %s cannot be told",
					transport.ErrPrompt, in.Name, c.name())
			}
		}
		values = append(values, wire.Value{Name: name, Value: value})
	}
	group := ""
	if hasGroups {
		group = c.group
	}
	return c.post(ctx, doc, values, group)
}

// An input is a field of the gateway's form as the chosen group has it.
type input struct {
	wire.Field
	ask   bool // the Prompter is to answer it; else its value is sent as it is
	place int  // where it stands among the questions, if ask
}

// inputs returns the fields that are to be sent, in their order. Option is the chosen group, or nil.
func (c *conversation) inputs(f *wire.Form, option *wire.Option) []input {
	var out []input
	for _, v := range f.Fields {
		if v.Name == "" || v.Name == wire.FieldGroup && v.Type == wire.InputSelect {
			continue
		}
		in := input{Field: v}
		switch v.Type {
		case wire.InputHidden:
		case wire.InputText, wire.InputPassword:
			in.ask = true
			if option != nil {
				if option.NoAAA || v.SecondAuth && !option.SecondAuth {
					continue
				}
				if v.SecondAuth && v.Name == "secondary_username" {
					in.override(option)
				}
			}
		case wire.InputSelect:
			in.ask = len(v.Options) > 0
		case wire.InputSubmit, wire.InputReset:
			continue
		default:
			c.log.Warn("left out a field of unknown type", "gateway", c.name(), "field", v.Name, "type", v.Type)
			continue
		}
		out = append(out, in)
	}
	return out
}

// override applies what a group says about the second user name.
func (in *input) override(o *wire.Option) {
	if o.OverrideName != "" {
		in.Name = o.OverrideName
	}
	if o.OverrideLabel != "" {
		in.Label = o.OverrideLabel
	}
	if o.SecondaryUsername != "" {
		in.Value = o.SecondaryUsername
		in.ask = o.SecondaryUsernameEditable
	}
}

// field returns the question that the Prompter sees.
func (in *input) field() Field {
	f := Field{Name: in.Name, Label: in.Label, Value: transport.Secret(in.Value)}
	switch in.Type {
	case wire.InputPassword:
		f.Kind = Password
		f.Value = "" // gateways have no business presetting a password
	case wire.InputSelect:
		f.Kind = Choice
		for _, o := range in.Options {
			f.Options = append(f.Options, Option{Value: o.Value, Text: o.Text})
		}
	}
	return f
}

// chooseGroup has the group chosen, if the form offers one, before anything else is asked. It returns the chosen option and
// whether the dialogue must start again, since the gateway offers the form of another group than the chosen one.
func (c *conversation) chooseGroup(ctx context.Context, doc *wire.Document) (option *wire.Option, offered, again bool, err error) {
	var list *wire.Field
	for i := range doc.Auth.Form.Fields {
		if v := &doc.Auth.Form.Fields[i]; v.Name == wire.FieldGroup && v.Type == wire.InputSelect && len(v.Options) > 0 {
			list = v
		}
	}
	if list == nil {
		return nil, false, false, nil
	}
	preset := list.Selected()
	chosen := c.chosen(list)
	if chosen < 0 {
		f := c.form(doc.Auth)
		field := (&input{Field: *list}).field()
		field.Value = transport.Secret(list.Options[preset].Value)
		f.Fields = []Field{field}
		if err := c.prompt(ctx, f); err != nil {
			return nil, false, false, err
		}
		chosen = f.Fields[0].find(f.Fields[0].Value.Reveal())
	}
	c.group, c.groupText = list.Options[chosen].Value, list.Options[chosen].Text
	// In the older dialect there is no way to ask for another form; the group goes with the answers.
	if chosen != preset && !doc.Legacy && c.groupSelect != list.Options[chosen].Value && c.groupTries < maxGroups {
		c.groupTries++
		c.groupSelect = list.Options[chosen].Value
		return nil, true, true, nil
	}
	return &list.Options[chosen], true, false, nil
}

// chosen returns the place of the chosen group in a list, or -1 if none was chosen or it is not there any more.
func (c *conversation) chosen(list *wire.Field) int {
	if c.group == "" {
		return -1
	}
	for i, o := range list.Options {
		if o.Value == c.group {
			return i
		}
	}
	for i, o := range list.Options {
		if o.Text == c.groupText {
			return i
		}
	}
	return -1
}

// form returns a form for the Prompter that has the texts of a and no fields yet.
func (c *conversation) form(a *wire.Auth) *Form {
	return &Form{
		Gateway: c.name(),
		ID:      a.ID,
		Title:   a.Title,
		Message: a.Message.String(),
		Banner:  a.Banner.String(),
		Error:   a.Error.String(),
	}
}

// prompt has the Prompter fill in f, and counts the attempt.
func (c *conversation) prompt(ctx context.Context, f *Form) error {
	if len(f.Fields) == 0 {
		if c.empty++; c.empty > maxEmpty {
			return c.circles()
		}
		if f.Message == "" && f.Banner == "" && f.Error == "" || c.prompter == nil {
			return nil
		}
	} else {
		c.empty = 0
	}
	key := f.key()
	f.Attempt = 1 + c.answered[key]
	for range maxDiffer {
		err := c.ask(ctx, f)
		if err != nil {
			return err
		}
		if !f.differs() {
			if c.answered == nil {
				c.answered = make(map[string]int)
			}
			c.answered[key]++
			return nil
		}
		f.Error = "The repetition of the new password differs from it."
		for i := range f.Fields {
			f.Fields[i].Answered = f.Fields[i].Kind == Choice
		}
	}
	return fmt.Errorf("%w: the repetition of the new password for %s differs from it", transport.ErrPrompt, c.name())
}

func (c *conversation) ask(ctx context.Context, f *Form) error {
	err, fields := ErrCannot, len(f.Fields)
	if c.prompter != nil {
		err = c.prompter.Answer(ctx, f)
	}
	if len(f.Fields) != fields {
		return errors.New("login: the Prompter changed the number of fields")
	}
	asked := err
	if errors.Is(err, ErrCannot) {
		if label, ok := f.missing(); ok {
			asked = fmt.Errorf("%s asks for %.100q: %w", c.name(), strings.TrimRight(label, ": "), err)
		} else {
			err = nil
		}
	}
	switch {
	case err == nil:
		return f.check()
	case f.Attempt > 1 || f.Error != "":
		said := f.Error
		if said == "" {
			said = f.Message
		}
		return &RejectedError{Gateway: c.name(), Said: said, Err: err}
	}
	return asked
}

// check makes sure that choices are choices.
func (f *Form) check() error {
	for i := range f.Fields {
		if v := &f.Fields[i]; v.Kind == Choice && !v.Choose(v.Value.Reveal()) {
			return fmt.Errorf("%w: %s offers for %.100q only %s", transport.ErrPrompt, f.Gateway, v.caption(), v.choices())
		}
	}
	return nil
}

// key tells questions apart. The texts are no part of it: gateways vary them, and a stored password that was rejected with
// another text is rejected all the same.
func (f *Form) key() string {
	var b strings.Builder
	b.WriteString(f.ID)
	for i := range f.Fields {
		b.WriteByte(0)
		b.WriteString(f.Fields[i].Name)
	}
	return b.String()
}

// differs reports whether a repetition of a new password differs from it.
func (f *Form) differs() bool {
	for i := range f.Fields {
		if n := f.Fields[i].Name; n != "verify_password" && n != "verify_pin" {
			continue
		}
		first := f.Field("new_password")
		for j := i - 1; j >= 0 && first == nil; j-- {
			if f.Fields[j].Kind == Password {
				first = &f.Fields[j]
			}
		}
		if first != nil && first.Value != f.Fields[i].Value {
			return true
		}
	}
	return false
}
