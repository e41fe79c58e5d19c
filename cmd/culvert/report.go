package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn"
)

// An event is a line of --json. Fields that do not apply are left out.
type event struct {
	Time time.Time `json:"time"`
	// Event is what this is about: tunnel, system, listen, forward, flow, session, message or error.
	Event string `json:"event"`
	// State is connecting, connected, reconnecting, paused or closed for a tunnel, connected or closed for the system that uses it, listening
	// for a listener, listening or failed for a forward, and login, connected, disconnected or closed for a session.
	State string `json:"state,omitempty"`
	// Path is dtls or tls.
	Path string `json:"path,omitempty"`
	// Address is the first inner address of a tunnel or session, or where a listener or forward listens.
	Address   string       `json:"address,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Target is the host and port that a forward or flow leads to.
	Target string `json:"target,omitempty"`

	// Rule is the rule of the content filter that has noted a flow, and Decided the one that decided about it. Name is what the other end is
	// called. User and Program are whose flow it is, Action is allow or block, and Skipped is how many flows before it were not told of
	// because there were too many.
	Rule     string `json:"rule,omitempty"`
	Decided  string `json:"decided,omitempty"`
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Program  string `json:"program,omitempty"`
	Action   string `json:"action,omitempty"`
	Skipped  uint64 `json:"skipped,omitempty"`

	// Kind is what has happened to the machine, such as routes, resolver or firewall, and Healed says that it was repaired.
	Kind   string `json:"kind,omitempty"`
	Healed bool   `json:"healed,omitempty"`
	// Device is the network interface of the machine, Namespace where it is. Routes lead into the tunnel, Direct past it. DNS are the
	// servers that the machine asks, as it was told by way of Resolver.
	Device     string         `json:"device,omitempty"`
	Namespace  string         `json:"namespace,omitempty"`
	Routes     []netip.Prefix `json:"routes,omitempty"`
	Direct     []netip.Prefix `json:"direct,omitempty"`
	DNS        []string       `json:"dns,omitempty"`
	Resolver   string         `json:"resolver,omitempty"`
	DataPath   string         `json:"data_path,omitempty"`
	KillSwitch string         `json:"kill_switch,omitempty"`

	// Sent and Received are what a tunnel has carried, in bytes, where somebody has asked by SIGUSR1.
	Sent     uint64 `json:"sent,omitempty"`
	Received uint64 `json:"received,omitempty"`

	Gateway string `json:"gateway,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	Session string `json:"session,omitempty"`
	User    string `json:"user,omitempty"`
	Remote  string `json:"remote,omitempty"`
	Pin     string `json:"pin,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Exit    *int   `json:"exit,omitempty"`
}

// A reporter tells on standard error what happens: to a person, or with --json to a program.
type reporter struct {
	mu     sync.Mutex
	w      io.Writer
	json   bool
	quiet  bool
	colour bool
	dated  bool // lines begin with the time
}

// detach keeps whoever does not read what is told from stopping the command. Flush waits for him for a while in the end.
func (r *reporter) detach() (flush func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := newOutlet(r.w, func(lost int) []byte {
		text := fmt.Sprintf("%d messages are left out here, since nobody read them", lost)
		if r.json {
			b, _ := json.Marshal(event{Time: time.Now(), Event: "message", Message: text})
			return append(b, '\n')
		}
		return []byte("culvert: warning: " + text + "\n")
	})
	r.w = o
	return o.flush
}

// inLog has the lines from now on be those of a log, rather than of a terminal.
func (r *reporter) inLog() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.colour, r.dated = false, true
}

// front is what lines for a person begin with. The lock is held.
func (r *reporter) front() string {
	if r.dated {
		return time.Now().Format(time.RFC3339) + " culvert:"
	}
	return "culvert:"
}

// Escape sequences of the few colours, and none where they are not wanted.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

func (r *reporter) paint(colour, s string) string {
	if !r.colour || colour == "" {
		return s
	}
	return colour + s + plain
}

// colourOf says how a state is shown.
func colourOf(state string) string {
	switch state {
	case "connected", "listening":
		return green
	case "reconnecting", "connecting":
		return yellow
	case "closed", "failed", "error":
		return red
	}
	return ""
}

// say tells an event: with a sentence to a person, all of it to a program. A state that the sentence begins with is coloured.
func (r *reporter) say(e event, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		e.Time = time.Now()
		json.NewEncoder(r.w).Encode(e)
		return
	}
	if r.quiet {
		return
	}
	text := fmt.Sprintf(format, args...)
	if rest, ok := strings.CutPrefix(text, e.State); ok {
		text = r.paint(colourOf(e.State), e.State) + rest
	}
	fmt.Fprintf(r.w, "%s %s\n", r.front(), text)
}

// warn tells what the user should know, even if quiet.
func (r *reporter) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		json.NewEncoder(r.w).Encode(event{Time: time.Now(), Event: "message", Message: text})
		return
	}
	fmt.Fprintf(r.w, "%s %s %s\n", r.front(), r.paint(yellow, "warning:"), text)
}

// fail tells the error that the command ends with, and what to do about it.
func (r *reporter) fail(err error, code exitCode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, advice := oneLine(plainText(err)), hint(err)
	if r.json {
		exit := int(code)
		json.NewEncoder(r.w).Encode(event{Time: time.Now(), Event: "error", Error: text, Hint: advice, Exit: &exit})
		return
	}
	fmt.Fprintf(r.w, "%s %s %s\n", r.front(), r.paint(red, "error:"), text)
	if advice != "" {
		fmt.Fprintln(r.w, advice)
	}
}

// plainText returns the text of an error, without the name of the call that failed: to a person the command did.
func plainText(err error) string {
	if op := (*vpn.OpError)(nil); errors.As(err, &op) && err == error(op) {
		return op.Err.Error()
	}
	return err.Error()
}

// logger returns a logger for the library, at the level that -v asks for.
func (r *reporter) logger(verbose int) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case verbose == 1:
		level = slog.LevelInfo
	case verbose > 1:
		level = slog.LevelDebug
	case r.quiet:
		level = slog.LevelError
	}
	opts := &slog.HandlerOptions{Level: level}
	w := &lockedWriter{r}
	if r.json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// A lockedWriter keeps log lines and events from mixing.
type lockedWriter struct{ r *reporter }

// Write implements io.Writer.
func (w *lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.w.Write(p)
}
