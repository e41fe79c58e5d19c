package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
)

// TestConsole uses the program at a terminal, which is a pipe here.
func TestConsole(t *testing.T) {
	in, type_, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d, err := startDemo()
	if err != nil {
		t.Fatal(err)
	}
	defer d.gateway.Close()
	p, err := d.profile()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	a := newApp(hostsOf(p.Hosts()), newChoices(p), l.Addr().String())
	a.config, a.prefs.env.Message = d.config(), "the rules"
	c := newConsole(in, out)
	a.view, a.notes, a.asker = c, c, consoleAsker{c}
	c.welcome(a.m.proxy)
	script := "help\nswitch 9\nswitches\nswitch 2\nswitches\nswitch 2\nswitches\nconnect nowhere\nhosts\nconnect 3\nn\nconnect demonstration\ny\n" + gatewaytest.User + "\n" + gatewaytest.Password + "\nstats\nbanner\ndisconnect\nquit\n"
	if _, err := io.WriteString(type_, script); err != nil {
		t.Fatal(err)
	}
	commands := make(chan struct{})
	go func() {
		c.commands(a)
		close(commands)
	}()
	ended := make(chan error, 1)
	go func() {
		err := a.run(t.Context(), l)
		out.Close()
		ended <- err
	}()
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(read)
		said <- string(b)
	}()
	select {
	case text := <-said:
		at := 0
		for _, s := range []string{
			"The command help lists", "connect HOST", "no such switch",
			"[x] Reconnect when", "[ ] Reconnect when", "[x] Reconnect when", "There is no such gateway", "1  Demonstration", "3  Nobody there", "the rules", "state: Disconnected", "state: Connecting",
			"state: Connected to Demonstration", "Address: ", "Gateway: 127.0.0.1:", "Welcome to the <demonstration>", "state: Disconnected",
		} {
			i := strings.Index(text[at:], s)
			if i < 0 {
				t.Fatalf("no %q from %d on in:\n%s", s, at, text)
			}
			at += i
		}
		// Who declines is asked again; whether the state is shown before that is open.
		if n := strings.Count(text, "the rules"); n != 2 {
			t.Errorf("the message came %d times:\n%s", n, text)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no end")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-commands
	in.Close()
	type_.Close()
	read.Close()
}
