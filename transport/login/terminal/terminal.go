// Package terminal asks a person at a terminal for what a gateway wants to know. Passwords are not shown while they are
// typed. A program whose standard input is a pipe still finds its person at the controlling terminal.
package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/term"

	"culvert.example/vpn/transport/login"
)

// ErrInterrupted says that the person typed Ctrl-C, or Ctrl-D on an empty line.
var ErrInterrupted = errors.New("terminal: interrupted at the prompt")

// A Prompter is a login.Prompter that asks at a terminal. One question is asked at a time, whoever asks.
type Prompter struct {
	in, out *os.File
	mu      sync.Mutex
	told    string // the texts that were shown last, so that they are not repeated
}

// New returns a Prompter that reads from in and writes to out, and closes neither. If in is no terminal, it reads plain lines
// and cannot hide anything. If in is nil, it uses standard input and standard error, if both are terminals, or else opens the
// controlling terminal of the process for each form.
func New(in, out *os.File) *Prompter { return &Prompter{in: in, out: out} }

// Unattended returns false.
func (*Prompter) Unattended() bool { return false }

// Answer implements login.Prompter. The error matches login.ErrCannot if there is no terminal, ErrInterrupted if the person
// gives up, and the error of ctx if that ends first; then the terminal is left as it was found.
func (p *Prompter) Answer(ctx context.Context, f *login.Form) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	in, out, done, err := p.open()
	if err != nil {
		return fmt.Errorf("%w: there is no terminal to ask at: %w", login.ErrCannot, err)
	}
	defer done()
	s, err := newScreen(ctx, in, out)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()

	if err := p.tell(s, f); err != nil {
		return err
	}
	for i := range f.Fields {
		field := &f.Fields[i]
		if field.Answered {
			continue
		}
		if err := ask(s, field); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	return nil
}

// open returns the files to use and what to do with them in the end.
func (p *Prompter) open() (in, out *os.File, done func(), err error) {
	switch {
	case p.in != nil:
		return p.in, p.out, func() {}, nil
	case term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())):
		return os.Stdin, os.Stderr, func() {}, nil
	}
	in, out, err = controlling()
	if err != nil {
		return nil, nil, nil, err
	}
	return in, out, func() {
		_ = in.Close() // a terminal keeps nothing back
		if out != in {
			_ = out.Close()
		}
	}, nil
}

// tell shows the texts of a form.
func (p *Prompter) tell(s *screen, f *login.Form) error {
	var b strings.Builder
	for _, text := range []string{f.Banner, f.Title, f.Message, f.Error} {
		if text = Clean(text); text != "" {
			b.WriteString(text + "\n")
		}
	}
	text := b.String()
	if text == p.told && f.Error == "" {
		return nil // the choice of the group comes with the same texts as the form after it
	}
	p.told = text
	return s.print(text)
}

func ask(s *screen, field *login.Field) error {
	label := strings.TrimRight(Clean(field.Label), ": ")
	if label == "" {
		label = Clean(field.Name)
	}
	preset := field.Value.Reveal()
	switch field.Kind {
	case login.Password:
		v, err := s.line(label+": ", true)
		if err != nil {
			return err
		}
		field.Set(v)
		return nil
	case login.Choice:
		return choose(s, field, label)
	}
	prompt := label + ": "
	if preset != "" {
		prompt = fmt.Sprintf("%s [%s]: ", label, Clean(preset))
	}
	v, err := s.line(prompt, false)
	if err != nil {
		return err
	}
	if v == "" {
		v = preset
	}
	field.Set(v)
	return nil
}

// choose asks for one of the options, by number, by value or by text, until it gets one. A single option needs no question.
func choose(s *screen, field *login.Field, label string) error {
	if len(field.Options) == 1 {
		field.Set(field.Options[0].Value)
		return nil
	}
	var b strings.Builder
	preset := ""
	for i, o := range field.Options {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, Clean(o.Text))
		if o.Value == field.Value.Reveal() && preset == "" {
			preset = strconv.Itoa(i + 1)
		}
	}
	if err := s.print(b.String()); err != nil {
		return err
	}
	prompt := label + ": "
	if preset != "" {
		prompt = fmt.Sprintf("%s [%s]: ", label, preset)
	}
	for {
		v, err := s.line(prompt, false)
		if err != nil {
			return err
		}
		if v = strings.TrimSpace(v); v == "" {
			v = preset
		}
		if field.Choose(v) {
			return nil
		}
		if n, err := strconv.Atoi(v); err == nil && n >= 1 && n <= len(field.Options) {
			field.Set(field.Options[n-1].Value)
			return nil
		}
		if err := s.print("There is no such choice.\n"); err != nil {
			return err
		}
	}
}

// Clean returns text without the characters that could command a terminal: all control and formatting characters but the end
// of a line and the tab. What a gateway says is not to be trusted with those.
func Clean(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, text))
}

// A screen is a terminal, or a pair of files in place of one, while one form is asked.
type screen struct {
	in      *reader
	out     io.Writer
	term    *term.Terminal // nil if in is no terminal
	restore func() error
}

func newScreen(ctx context.Context, in, out *os.File) (*screen, error) {
	r, err := newReader(ctx, in)
	if err != nil {
		return nil, err
	}
	s := &screen{in: r, out: out, restore: func() error { return nil }}
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return s, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	s.restore = func() error { return term.Restore(fd, state) }
	s.term = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{r, out}, "")
	if width, height, err := term.GetSize(fd); err == nil && width > 0 && height > 0 {
		_ = s.term.SetSize(width, height) // without it long lines look odd, no more
	}
	return s, nil
}

func (s *screen) close() error { return errors.Join(s.restore(), s.in.close()) }

func (s *screen) print(text string) error {
	if text == "" {
		return nil
	}
	var err error
	if s.term != nil {
		_, err = s.term.Write([]byte(text))
	} else {
		_, err = io.WriteString(s.out, text)
	}
	return err
}

// line asks for one line.
func (s *screen) line(prompt string, hidden bool) (string, error) {
	if s.term == nil {
		if err := s.print(prompt); err != nil {
			return "", err
		}
		return s.plainLine()
	}
	if hidden {
		v, err := s.term.ReadPassword(prompt)
		return v, interrupted(err)
	}
	s.term.SetPrompt(prompt)
	v, err := s.term.ReadLine()
	return v, interrupted(err)
}

func interrupted(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrInterrupted
	}
	return err
}

// plainLine reads a line byte by byte, so that what follows stays where it is.
func (s *screen) plainLine() (string, error) {
	const most = 4096
	var line []byte
	var b [1]byte
	for len(line) < most {
		n, err := s.in.Read(b[:])
		if n == 1 && b[0] == '\n' || errors.Is(err, io.EOF) && len(line) > 0 {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		if err != nil {
			return "", interrupted(err)
		}
		line = append(line, b[:n]...)
	}
	return "", fmt.Errorf("terminal: a line of more than %d bytes", most)
}
