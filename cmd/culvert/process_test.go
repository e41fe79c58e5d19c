package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// asCommand is set in the environment of this test program to make it the command.
const asCommand = "CULVERT_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A process is the command at work, with --json.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex
	events []event
	stderr strings.Builder
	news   chan struct{}
}

// start runs the command in a process of its own until the test ends.
func start(t *testing.T, stdin string, args ...string) *process {
	t.Helper()
	return startProcess(t, stdin, exec.Command(self(t), append(args, "--json")...))
}

// self returns this program, which is the command where asCommand is set.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// startProcess is start for a command line of this program that somebody else has made.
func startProcess(t *testing.T, stdin string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{}), news: make(chan struct{}, 1)}
	p.cmd.Env = append(os.Environ(), asCommand+"=1", "XDG_RUNTIME_DIR="+t.TempDir())
	p.cmd.Stdin = strings.NewReader(stdin)
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); p.read(pipe) }()
	go func() { <-read; p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%q said:\n%s", cmd.Args, p.said())
		}
	})
	return p
}

func (p *process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e event
		err := json.Unmarshal(lines.Bytes(), &e)
		p.mu.Lock()
		fmt.Fprintln(&p.stderr, lines.Text())
		if err == nil {
			p.events = append(p.events, e)
		}
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// wait waits for the first event from number *from on that fits, and counts from up to behind it.
func (p *process) wait(from *int, what string, fits func(event) bool) event {
	p.t.Helper()
	return p.within(20*time.Second, from, what, fits)
}

// within is wait with another patience.
func (p *process) within(patience time.Duration, from *int, what string, fits func(event) bool) event {
	p.t.Helper()
	limit := time.After(patience)
	for {
		p.mu.Lock()
		for ; *from < len(p.events); *from++ {
			if e := p.events[*from]; fits(e) {
				*from++
				p.mu.Unlock()
				return e
			}
		}
		p.mu.Unlock()
		select {
		case <-p.news:
		case <-p.done:
			p.mu.Lock()
			more := *from < len(p.events)
			p.mu.Unlock()
			if !more {
				p.t.Fatalf("the command has ended without: %s", what)
			}
		case <-limit:
			p.t.Fatalf("the command did not say within %v: %s", patience, what)
		}
	}
}

// exit waits for the end and returns the exit status.
func (p *process) exit() exitCode {
	p.t.Helper()
	select {
	case <-p.done:
		return exitCode(p.cmd.ProcessState.ExitCode())
	case <-time.After(20 * time.Second):
		p.t.Fatal("the command does not end")
		return -1
	}
}
