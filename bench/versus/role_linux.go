package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"culvert.example/vpn/internal/netns"
)

// A role is what a child process of this program does on a host: it is a server, a client, or what sends requests. The parent speaks
// with it in lines of JSON, requests on its standard input and replies on its standard output; it ends with its standard input.
type role interface {
	// begin starts the role. The request has what it needs to know. What it returns is the reply.
	begin(ctx context.Context, r request) (any, error)
	// serve answers one of the later requests.
	serve(ctx context.Context, r request) (any, error)
	// close ends the role.
	close()
}

// roles are the roles there are, by name.
func newRole(name string) role {
	switch name {
	case "inside":
		return new(insideRole)
	case "visitor":
		return new(visitorRole)
	case "forward":
		return new(forwardRole)
	case "tun":
		return new(tunRole)
	case "embedded":
		return new(embeddedRole)
	case "gateway":
		return new(gatewayRole)
	case "dns":
		return new(dnsRole)
	case "dns-upstream":
		return new(dnsUpstreamRole)
	case "wireguard-tun":
		return new(wireguardTunRole)
	case "wireguard-stack":
		return new(wireguardStackRole)
	}
	return nil
}

// roleWord as the first argument makes this program play a role.
const roleWord = "role"

// replyMark begins the lines that are replies.
const replyMark = "reply "

// A request is what the parent asks of a role. Op is begin for the first one. Which other fields have a meaning is up to the role.
type request struct {
	Op string

	// Of clients.
	Server, Pin string   `json:",omitempty"`
	NoDTLS      bool     `json:",omitempty"`
	Forwards    []string `json:",omitempty"` // PORT:HOST:PORT
	Routes      []string `json:",omitempty"` // destinations in the tunnel
	Target      string   `json:",omitempty"` // host of the servers behind it

	// Of gateways.
	Listen    string   `json:",omitempty"`
	Addresses []string `json:",omitempty"` // of the device
	TUN       bool     `json:",omitempty"`

	// Of WireGuard: what its configuration protocol takes.
	Wireguard string `json:",omitempty"`

	// Of traffic.
	Up, Down int           `json:",omitempty"`
	Time     time.Duration `json:",omitempty"`
}

// A reply is what a role answers.
type reply struct {
	Error  string          `json:",omitempty"`
	Result json.RawMessage `json:",omitempty"`
}

// playRole is main for a child process.
func playRole(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 || newRole(args[0]) == nil {
		return fmt.Errorf("no such role: %v", args)
	}
	r := newRole(args[0])
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer r.close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return err
		}
		handle := r.serve
		if req.Op == "begin" {
			handle = r.begin
		}
		result, err := handle(ctx, req)
		if err := answer(out, result, err); err != nil {
			return err
		}
	}
	return lines.Err()
}

// answer writes a reply.
func answer(w io.Writer, result any, failure error) error {
	var r reply
	var err error
	if failure != nil {
		r.Error = failure.Error()
	} else if r.Result, err = json.Marshal(result); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", replyMark, b)
	return err
}

// errNoOp is what a role answers to requests that it does not know.
var errNoOp = errors.New("the role does not know this request")

// startRole starts a child process in a role on a host and gives it its first request, without waiting for the reply.
func (s *stage) startRole(h *netns.Host, name string, r request) *process {
	self, err := os.Executable()
	s.check(err)
	p := s.spawn(h, self, roleWord, name)
	p.name = name
	r.Op = "begin"
	b, err := json.Marshal(r)
	s.check(err)
	_, err = p.stdin.Write(append(b, '\n'))
	s.check(err)
	return p
}

// begun waits for the reply to the first request.
func (p *process) begun(ctx context.Context, result any) error {
	line, err := p.await(ctx, 0, "it has begun", isReply)
	if err != nil {
		return err
	}
	return decode(line, "begin", result)
}

// decode takes a reply apart.
func decode(line, op string, result any) error {
	var r reply
	if err := json.Unmarshal([]byte(line[len(replyMark):]), &r); err != nil {
		return err
	}
	if r.Error != "" {
		return fmt.Errorf("the role cannot %s: %s", op, r.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Result, result)
}

// startTime bounds how long a role or a client may take to start.
const startTime = 30 * time.Second

// startServer starts a role that serves, and waits for its reply.
func (s *stage) startServer(h *netns.Host, name string, r request, result any) *process {
	p := s.startRole(h, name, r)
	ctx, cancel := context.WithTimeout(s.ctx, startTime)
	defer cancel()
	s.check(p.begun(ctx, result))
	return p
}

// runIP runs the command ip in the namespace of this process.
func runIP(args ...string) error {
	out, err := commandOutput("ip", slices.Clone(args)...)
	if err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}
