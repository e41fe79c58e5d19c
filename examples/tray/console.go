package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/terminal"
)

// A console is the view, the notifier and the asker of a terminal, for machines without a tray. It takes the commands of a line each
// that consoleHelp lists.
type console struct {
	*terminal.Prompter
	in  *os.File
	out io.Writer

	mu       sync.Mutex
	changed  sync.Cond
	m        model
	headline string
}

const consoleHelp = `hosts           lists the gateways
connect HOST    connects to a gateway, by its number or name
disconnect      ends the tunnel
stats           tells about the tunnel
banner          shows the message of the gateway
switches        lists the preferences and, in the demonstration, the faults of the network
switch NUMBER   switches one of them on, or off again
quit            ends this program, as the end of the input does
`

func newConsole(in, out *os.File) *console {
	c := &console{Prompter: terminal.New(in, out), in: in, out: out}
	c.changed.L = &c.mu
	return c
}

// welcome says what there is to begin with.
func (c *console) welcome(proxy string) {
	c.print("The proxy is %s. The command help lists the others.\n", proxy)
}

// show implements view.
func (c *console) show(m model, _ time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = m
	if h := m.headline(); h != c.headline && !m.asking {
		c.headline = h
		fmt.Fprintf(c.out, "  >> state: %s\n", h)
	}
	c.changed.Broadcast()
}

// notify implements notifier.
func (c *console) notify(n notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.command != cmdAnswer {
		fmt.Fprintf(c.out, "  >> notice: %s\n", line(strings.TrimSuffix(n.title+": "+n.body, ": ")))
	}
}

// confirm implements asker.
func (c *console) confirm(ctx context.Context, title, s string) error {
	f := &login.Form{Title: title, Message: s, Fields: []login.Field{{Name: "go on", Label: "Go on (y or n)", Value: "y"}}}
	if err := c.Answer(ctx, f); err != nil {
		return err
	}
	if v := strings.ToLower(f.Fields[0].Value.Reveal()); v != "y" && v != "yes" {
		return errDeclined
	}
	return nil
}

// A consoleAsker is a console as an asker, whose method show is another than that of a view.
type consoleAsker struct{ *console }

// show implements asker.
func (c consoleAsker) show(ctx context.Context, title, s string) error {
	return c.Answer(ctx, &login.Form{Title: title, Message: s})
}

// again implements asker. The question is still on the screen.
func (consoleAsker) again() {}

// commands reads commands until the input ends. While a tunnel comes up the input belongs to the questions of the gateway.
func (c *console) commands(a *app) {
	c.wait(func(m model) bool { return m.proxy != "" }) // the app has begun
	for {
		typed, err := c.readLine()
		if err != nil {
			a.do(cmdQuit)
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(typed), " ")
		switch verb {
		case "":
		case "hosts":
			for i, h := range c.model().hosts {
				c.print("%3d  %s\n", i+1, h)
			}
		case "connect":
			i := c.find(strings.TrimSpace(rest))
			if i < 0 {
				c.print("There is no such gateway; hosts lists them.\n")
				continue
			}
			a.do(cmdConnect + strconv.Itoa(i))
			a.post(func() {}) // it is carried out after the command is shown
			c.wait(func(m model) bool { return m.state != connecting })
		case "disconnect":
			a.do(cmdDisconnect)
		case "stats", "state", "status":
			m := c.model()
			c.print("%s\n", m.headline())
			for _, e := range m.menu(time.Now()) {
				if e.disabled && !e.hidden && e.title != "" && strings.Contains(e.title, ": ") && e.id != "headline" {
					c.print("  %s\n", e.title)
				}
			}
		case "banner":
			if banner := text(c.model().status.Banner); banner != "" {
				c.print("%s\n", banner)
			}
		case "switches":
			for i, e := range c.switches() {
				mark := " "
				if e.checked {
					mark = "x"
				}
				c.print("%3d  [%s] %s\n", i+1, mark, e.title)
			}
		case "switch":
			list := c.switches()
			if n, err := strconv.Atoi(strings.TrimSpace(rest)); err != nil || n < 1 || n > len(list) {
				c.print("There is no such switch; switches lists them.\n")
			} else if e := list[n-1]; e.disabled {
				c.print("%s: that cannot be switched. %s\n", e.title, e.hint)
			} else {
				a.do(e.id)
				a.post(func() {}) // what comes next sees it done
			}
		case "quit", "exit":
			a.do(cmdQuit)
			return
		default:
			c.print("%s", consoleHelp)
		}
	}
}

// switches returns the entries of the menu that have a check box, without the gateways.
func (c *console) switches() []entry {
	var list []entry
	for _, e := range c.model().menu(time.Now()) {
		for _, child := range e.children {
			if child.check && !strings.HasPrefix(child.id, cmdConnect) {
				list = append(list, child)
			}
		}
	}
	return list
}

// find returns the place of the gateway with a number or a name, -1 if there is none. If there is just one, it need not be named.
func (c *console) find(name string) int {
	hosts := c.model().hosts
	if name == "" && len(hosts) == 1 {
		return 0
	}
	for i, h := range hosts {
		if strings.EqualFold(h, name) {
			return i
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= len(hosts) {
		return n - 1
	}
	return -1
}

func (c *console) model() model {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m
}

// wait waits until the model is as wanted.
func (c *console) wait(wanted func(model) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !wanted(c.m) {
		c.changed.Wait()
	}
}

func (c *console) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format, args...)
}

// readLine reads a line byte by byte, so that what was typed ahead stays for the next question.
func (c *console) readLine() (string, error) {
	const most = 4096
	var line []byte
	var b [1]byte
	for len(line) < most {
		n, err := c.in.Read(b[:])
		if n == 1 && b[0] == '\n' || errors.Is(err, io.EOF) && len(line) > 0 {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
		line = append(line, b[:n]...)
	}
	return "", fmt.Errorf("a line of more than %d bytes", most)
}
