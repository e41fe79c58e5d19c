package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"culvert.example/vpn/internal/netns"
)

const (
	// maxLines is how much is kept of what a process prints, in lines.
	maxLines = 2000
	// politeTime is how long a process may take to end when it is asked to.
	politeTime = 3 * time.Second
)

// A process is a program that runs on a host, with what it prints.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	began time.Time // just before it was started
	done  chan struct{}
	ended sync.Once

	mu      sync.Mutex
	partial []byte
	lines   []string
	first   int           // the number of lines that were forgotten
	changed chan struct{} // closed at the next line
}

// spawn starts a program on the host. It runs in a process group of its own, so that a SIGINT from the terminal does not reach it,
// and dies with the stage.
func (s *stage) spawn(h *netns.Host, name string, args ...string) *process {
	p := &process{name: name, cmd: exec.Command(name, args...), done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second // children may hold the output open
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		s.check(err)
	}
	// A child is born into the namespace of the thread that starts it, so there is no other program in between whose start
	// would be measured too.
	h.Do(func() {
		p.began = time.Now()
		err = p.cmd.Start()
	})
	s.check(err)
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	s.Cleanup(p.stop)
	return p
}

// pid returns the id of the process.
func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end, then ends it and its children.
func (p *process) stop() { p.ended.Do(p.end) }

func (p *process) end() {
	p.stdin.Close()
	select {
	case <-p.done:
	default:
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(politeTime):
		}
	}
	syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

// Write implements io.Writer, for what the process prints.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = append(p.partial, b...)
	for {
		line, rest, ok := bytes.Cut(p.partial, []byte("\n"))
		if !ok {
			break
		}
		p.lines = append(p.lines, string(line))
		p.partial = append(p.partial[:0], rest...)
		if extra := len(p.lines) - maxLines; extra > 0 {
			p.lines = append(p.lines[:0], p.lines[extra:]...)
			p.first += extra
		}
		close(p.changed)
		p.changed = make(chan struct{})
	}
	return len(b), nil
}

// said returns the last lines that the process has printed.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-20):], "\n") + string(p.partial)
}

// count returns how many lines the process has printed.
func (p *process) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first + len(p.lines)
}

// await waits for a line after the first n that match likes, and returns it.
func (p *process) await(ctx context.Context, n int, what string, match func(line string) bool) (string, error) {
	for {
		p.mu.Lock()
		for i := max(n-p.first, 0); i < len(p.lines); i++ {
			if line := p.lines[i]; match(line) {
				p.mu.Unlock()
				return line, nil
			}
		}
		n = p.first + len(p.lines)
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-p.done:
			return "", fmt.Errorf("%s has ended before %s; it printed:\n%s", p.name, what, p.said())
		case <-ctx.Done():
			return "", fmt.Errorf("%s: waiting for %s: %w; it printed:\n%s", p.name, what, context.Cause(ctx), p.said())
		}
	}
}

// call sends a request to a role, a line of JSON, and decodes its reply into result.
func (p *process) call(ctx context.Context, request request, result any) error {
	n := p.count()
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := p.stdin.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w; it printed:\n%s", p.name, err, p.said())
	}
	line, err := p.await(ctx, n, "its reply to "+request.Op, isReply)
	if err != nil {
		return err
	}
	return decode(line, request.Op, result)
}

func isReply(line string) bool { return strings.HasPrefix(line, replyMark) }

// commandOutput runs a program where this process is and returns all that it prints.
func commandOutput(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
