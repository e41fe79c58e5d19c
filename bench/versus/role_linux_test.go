package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

// TestMain lets the test binary play the roles of child processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleWord {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestPlayRole(t *testing.T) {
	leak.Check(t)
	for _, tt := range []struct{ name, role, input, want string }{
		{"begin", "visitor", `{"Op":"begin"}`, `reply {"Result":null}`},
		{"unknown request", "visitor", `{"Op":"dance"}`, `reply {"Error":"the role does not know this request"}`},
		{"wrong address", "inside", `{"Op":"begin","Listen":"nowhere"}`, `reply {"Error":"ParseAddr(\"nowhere\"): unable to parse IP"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if err := playRole([]string{tt.role}, strings.NewReader(tt.input+"\n"), &out); err != nil || strings.TrimSpace(out.String()) != tt.want {
				t.Errorf("%v, it says\n%swant\n%s", err, out.String(), tt.want)
			}
		})
	}
	for _, args := range [][]string{nil, {"nobody"}, {"inside", "visitor"}} {
		if err := playRole(args, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("%v is a role", args)
		}
	}
	if err := playRole([]string{"visitor"}, strings.NewReader("dance\n"), io.Discard); err == nil {
		t.Error("a request may be anything")
	}
}

// TestAwait takes lines that come in pieces, and does not wait for a process that has ended.
func TestAwait(t *testing.T) {
	p := &process{name: "x", done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		for _, s := range []string{"one\ntw", "o", "\nthree\n"} {
			io.WriteString(p, s)
			time.Sleep(time.Millisecond)
		}
	}()
	is := func(want string) func(string) bool { return func(line string) bool { return line == want } }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := p.await(ctx, 0, "two", is("two")); err != nil {
		t.Error(err)
	}
	if _, err := p.await(ctx, 2, "three", is("three")); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := p.await(short, 3, "one", is("one")); err == nil || !strings.Contains(err.Error(), "three") {
		t.Errorf("error %v does not tell what was printed", err)
	}
	close(p.done)
	if _, err := p.await(ctx, 0, "four", is("four")); err == nil {
		t.Error("it waits for the dead")
	}
}
