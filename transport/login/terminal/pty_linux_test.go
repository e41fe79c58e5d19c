package terminal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/terminal"
)

// A pty is a terminal and the hand that types at it.
type pty struct {
	hand, tty *os.File
	wg        sync.WaitGroup

	mu    sync.Mutex
	shown []byte
}

func newPTY(t *testing.T) *pty {
	t.Helper()
	hand, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(hand.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(hand.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	p := &pty{hand: hand, tty: tty}
	p.wg.Go(func() {
		var b [256]byte
		for {
			n, err := unix.Read(int(hand.Fd()), b[:])
			if err != nil || n == 0 {
				return
			}
			p.mu.Lock()
			p.shown = append(p.shown, b[:n]...)
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		tty.Close() // ends the reading from the other side
		p.wg.Wait()
		hand.Close()
	})
	return p
}

func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.shown)
}

// enter types when the prompt is there.
func (p *pty) enter(t *testing.T, prompt, keys string) {
	t.Helper()
	for range 500 {
		if strings.HasSuffix(p.text(), prompt) {
			if _, err := p.hand.WriteString(keys); err != nil {
				t.Error(err)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("the terminal shows %q and no prompt %q", p.text(), prompt)
}

func (p *pty) mode(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func TestTerminal(t *testing.T) {
	p := newPTY(t)
	before := p.mode(t)
	ask := terminal.New(p.tty, p.tty)
	f := form()
	f.Fields = f.Fields[:3]
	done := make(chan error, 1)
	go func() { done <- ask.Answer(t.Context(), f) }()
	p.enter(t, "Language [2]: ", "\r")
	p.enter(t, "Username: ", "alicx\x7fe\r")
	p.enter(t, "password: ", "secret\r")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lang": "en", "username": "alice", "password": "secret"} {
		if got := f.Field(name).Value.Reveal(); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if shown := p.text(); strings.Contains(shown, "secret") || !strings.Contains(shown, "alic") || strings.Contains(shown, "\x1b[31m") {
		t.Errorf("the terminal showed %q", shown)
	}
	if p.mode(t) != before {
		t.Error("the terminal is not left as it was")
	}

	// Ctrl-C gives up.
	f = &login.Form{Fields: []login.Field{{Name: "answer", Kind: login.Password}}}
	go func() { done <- ask.Answer(t.Context(), f) }()
	p.enter(t, "answer: ", "12\x03")
	if err := <-done; !errors.Is(err, terminal.ErrInterrupted) {
		t.Errorf("after Ctrl-C: %v", err)
	}

	// The end of the context gives up too.
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- ask.Answer(ctx, &login.Form{Fields: []login.Field{{Name: "code", Kind: login.Password}}})
	}()
	p.enter(t, "code: ", "12")
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of the context: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Answer does not return when its context ends")
	}
	if p.mode(t) != before {
		t.Error("the terminal is not left as it was")
	}
}
