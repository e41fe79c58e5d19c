package terminal_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/terminal"
)

func form() *login.Form {
	return &login.Form{
		Gateway: "vpn.example.com",
		ID:      "main",
		Title:   "Login",
		Message: "Please \x1b[31menter\x07 your name.",
		Attempt: 1,
		Fields: []login.Field{
			{Name: "lang", Label: "Language:", Kind: login.Choice, Value: "en", Options: []login.Option{
				{Value: "de", Text: "German"}, {Value: "en", Text: "English"}, {Value: "fr", Text: "French"},
			}},
			{Name: "username", Label: "Username:"},
			{Name: "password", Kind: login.Password},
			{Name: "domain", Label: "Domain", Value: "CORP"},
			{Name: "known", Value: "x", Answered: true},
		},
	}
}

// TestPipes asks over a pair of pipes, as a program does that drives another one.
func TestPipes(t *testing.T) {
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inR.Close()
	if _, err := inW.WriteString("9\n3\nalice\r\nsecret\n\nleft over\n"); err != nil {
		t.Fatal(err)
	}
	inW.Close()
	p := terminal.New(inR, outW)
	f := form()
	if err := p.Answer(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lang": "fr", "username": "alice", "password": "secret", "domain": "CORP", "known": "x"} {
		if got := f.Field(name).Value.Reveal(); got != want || !f.Field(name).Answered {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	// What was not asked for stays there for the next form, and then the input ends.
	f = &login.Form{Fields: []login.Field{{Name: "answer", Kind: login.Password}}}
	if err := p.Answer(t.Context(), f); err != nil || f.Fields[0].Value.Reveal() != "left over" {
		t.Errorf("the next form: %v, %q", err, f.Fields[0].Value.Reveal())
	}
	if err := p.Answer(t.Context(), &login.Form{Fields: []login.Field{{Name: "more"}}}); !errors.Is(err, terminal.ErrInterrupted) {
		t.Errorf("at the end of the input: %v", err)
	}
	outW.Close()
	shown, err := io.ReadAll(outR)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Login\nPlease [31menter your name.\n", "  2  English\n", "Language [2]: ", "no such choice", "Username: ", "password: ", "Domain [CORP]: "} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("the output %q lacks %q", shown, want)
		}
	}
	if login.Unattended(p) {
		t.Error("a person counts as unattended")
	}
}

func TestCancel(t *testing.T) {
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inR.Close()
	defer inW.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- terminal.New(inR, null).Answer(ctx, form()) }()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Answer: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Answer does not return when its context ends")
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		" plain\n":                     "plain",
		"a\x1b]0;title\x07b\x9bc":      "a]0;titlebc",
		"evil\u202egpj.exe":            "evilgpj.exe",
		"two\nlines\twith a tab\x00\r": "two\nlines\twith a tab",
		"äöü €":                        "äöü €",
	} {
		if got := terminal.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}
