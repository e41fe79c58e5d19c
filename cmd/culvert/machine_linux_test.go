package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/internal/resolved"
)

// What there is outside, on the loopback interface of the router: somebody's server, a server in the middle of the networks
// behind the gateway, and a resolver. What is behind the gateway is that of package ocserv, and one more network.
const (
	somebody, somebody6 = "203.0.113.1", "2001:db8:2::1"
	saas                = "203.0.113.77"
	excluded            = "172.31.99.1"
	more                = "198.51.100.1"
	resolver            = "10.98.0.1"
	insideAnswer        = "172.31.0.1"
	outsideAnswer       = somebody
)

// A machine is the client of a lab with what a machine has of its own besides a network: /etc, /run and /var/lib. What is done
// in it is not seen outside.
type machine struct {
	*lab
	server *ocserv.Server
	holder int                    // a process that does nothing in it
	before string                 // how it was
	out    tap                    // what leaves it
	mark   time.Time              // until when that was looked at
	asked  map[string]*nameserver // inside and outside
	daemon *resolved.Daemon       // nil if it has none
}

// makeMachine runs in the network namespace and in a mount namespace of its own, $1 is an empty directory. The names of
// network namespaces stay visible.
const makeMachine = `set -e
mkdir "$1/etc" "$1/run" "$1/run/netns" "$1/lib"
cp -a /etc/. "$1/etc"
mount --rbind /run/netns "$1/run/netns"
mount --bind "$1/etc" /etc
mount --rbind "$1/run" /run
mount --bind "$1/lib" /var/lib
rm -f /etc/resolv.conf
mkdir -p /run/systemd/resolve /run/dbus
echo ready
exec sleep 600
`

// A taste is what machines differ in.
type taste struct {
	// Resolved gives it systemd-resolved; otherwise Conf is its resolv.conf, or what that links to.
	resolved bool
	symlink  bool
	// Lines are for ocserv.
	lines []string
	// Network is told of the lab before the machine begins to use it.
	network func(*lab)
}

// splitLines are the lines of ocserv for a tunnel that only inside names and networks belong to; ocserv has those networks
// anyway.
var splitLines = []string{"split-dns = corp.example", "ipv4-network = 192.168.77.0", "ipv6-network = fd00:77::/64"}

// wholeLines are those for a tunnel that everything belongs to.
var wholeLines = []string{"route = default", "no-route", "tunnel-all-dns = true"}

// newMachine returns a machine before it connects.
func newMachine(t *testing.T, how taste) *machine {
	t.Helper()
	l := newLab(t, "ocserv", "nft", "curl", "nsenter", "getent")
	m := &machine{lab: l, asked: map[string]*nameserver{}}
	l.gateway.Sysctl("net.ipv4.ip_forward", "1")
	l.gateway.Sysctl("net.ipv6.conf.all.forwarding", "1")
	l.router.IP("route", "add", "192.168.77.0/24", "via", "10.99.0.1")
	l.router.IP("route", "add", "fd00:77::/64", "via", "fd00:99::1")
	for _, a := range []string{somebody, saas, excluded, somebody6} {
		l.router.IP("address", "add", a, "dev", "lo")
	}
	l.gateway.IP("address", "add", more, "dev", "lo")
	if how.network != nil {
		how.network(l)
	}
	m.server = ocserv.Start(t, l.gateway, ocserv.Config{Address: outside, Lines: how.lines})
	for _, a := range []string{somebody, saas, excluded, somebody6} {
		l.echo(l.router, a)
	}
	for _, a := range []string{ocserv.Inside.String(), ocserv.Inside6.String(), more} {
		l.echo(l.gateway, a)
	}
	m.asked["inside"] = l.names(l.gateway, ocserv.Inside.String(), insideAnswer)
	m.asked["outside"] = l.names(l.router, resolver, outsideAnswer)

	m.hold()
	if how.resolved {
		m.daemon = resolved.Start(t, l.client)
		m.daemon.Control("dns", l.clientIf, resolver)
		m.run("ln", "-s", strings.TrimPrefix(m.daemon.Address, "unix:path="), "/run/dbus/system_bus_socket")
		m.write("/run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example\n")
		m.run("ln", "-s", "../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
	} else if conf := "# made by hand\nsearch home.example\nnameserver " + resolver + "\noptions timeout:2\n"; how.symlink {
		m.write("/run/resolvconf", conf)
		m.run("ln", "-s", "../run/resolvconf", "/etc/resolv.conf")
	} else {
		m.write("/etc/resolv.conf", conf)
	}
	m.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	// What others have made is to stay as it is.
	m.run("nft", "add table ip other; add chain ip other out { type filter hook output priority 5; policy accept; }; "+
		"add rule ip other out ip daddr 192.0.2.99 drop")
	l.client.IP("rule", "add", "from", "10.98.7.7", "lookup", "77", "priority", "7000")
	l.client.IP("route", "add", "192.0.2.0/24", "via", "10.98.0.1", "table", "77")
	m.out = tap{l.router.Tap(l.routerIf)}
	// Neighbours are known from here on, so that nothing waits for the first question for them.
	l.client.Run("ping", "-c", "1", "-W", "2", "10.98.0.1")
	l.eventually(5*time.Second, "the client reaches its router over IPv6", func() bool {
		return l.client.Command(t.Context(), "ping", "-c", "1", "-W", "1", "fd00:98::1").Run() == nil
	})
	m.before = m.picture()
	return m
}

// hold starts the process that keeps the mount namespace.
func (m *machine) hold() {
	m.t.Helper()
	dir := m.t.TempDir()
	cmd, kill := m.lab.command(m.client, "sh", "-c", makeMachine, "sh", dir)
	r, w, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	defer r.Close()
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &complaint
	err = cmd.Start()
	w.Close()
	if err != nil {
		kill()
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); cmd.Wait() }()
	m.t.Cleanup(func() { kill(); <-done })
	if b, _ := io.ReadAll(io.LimitReader(r, 6)); string(b) != "ready\n" {
		kill()
		<-done
		m.t.Fatalf("making a machine: %s", complaint.String())
	}
	m.holder = cmd.Process.Pid
}

// command makes a command line for the machine. What it starts is killed with it by the function returned.
func (m *machine) command(name string, args ...string) (cmd *exec.Cmd, kill func()) {
	ctx, kill := context.WithCancel(context.Background())
	cmd = exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.holder), "--mount", "--net", "--", name}, args...)...)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, kill
}

// try runs a program on the machine for 10 s at most, and returns what it prints.
func (m *machine) try(name string, args ...string) (string, error) {
	cmd, kill := m.command(name, args...)
	defer time.AfterFunc(10*time.Second, kill).Stop()
	defer kill()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what must succeed.
func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// write writes a file of the machine.
func (m *machine) write(file, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(file), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// path returns where a file of the machine is for this process. The last element must be no link, unless to something below /.
func (m *machine) path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(m.holder), "root", file)
}

// start starts the command on the machine until the test ends, with --json.
func (m *machine) start(stdin string, args ...string) *process {
	m.t.Helper()
	return m.startIn(nil, stdin, args...)
}

// startIn is start with a program in front that starts the command.
func (m *machine) startIn(front []string, stdin string, args ...string) *process {
	m.t.Helper()
	line := append(append(front[:len(front):len(front)], self(m.t)), append(args, "--json")...)
	cmd, kill := m.command(line[0], line[1:]...)
	p := startProcess(m.t, stdin, cmd)
	m.t.Cleanup(kill)
	return p
}

// connect connects and waits until the tunnel is up.
func (m *machine) connect(args ...string) *process {
	m.t.Helper()
	p := m.start("pass\n", m.connectArgs(args...)...)
	var told int
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	return p
}

func (m *machine) connectArgs(args ...string) []string {
	return append([]string{"connect", "--user", "alice", "--passwd-on-stdin", "--non-inter", "--servercert", m.server.Pin, m.server.URL}, args...)
}

// culvert runs the command on the machine to its end.
func (m *machine) culvert(args ...string) result {
	m.t.Helper()
	return m.culvertWith("", args...)
}

// culvertWith is culvert with something on standard input.
func (m *machine) culvertWith(stdin string, args ...string) result {
	m.t.Helper()
	return m.runAs(stdin, self(m.t), args...)
}

// runAs runs a program on the machine that may run this one as the command.
func (m *machine) runAs(stdin, name string, args ...string) result {
	m.t.Helper()
	cmd, kill := m.command(name, args...)
	limit := time.AfterFunc(30*time.Second, kill)
	defer limit.Stop()
	var out, stderr bytes.Buffer
	cmd.Env = append(os.Environ(), asCommand+"=1", "XDG_RUNTIME_DIR=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return result{exitCode(cmd.ProcessState.ExitCode()), out.String(), stderr.String()}
}

// picture is everything of the machine that a tunnel could change, as other programs see it.
func (m *machine) picture() string {
	m.t.Helper()
	var b strings.Builder
	show := func(name string, args ...string) {
		out, err := m.try(name, args...)
		if err != nil {
			m.t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		// One line for each thing makes differences legible.
		fmt.Fprintf(&b, "== %s %s\n%s\n", name, strings.Join(args, " "), strings.ReplaceAll(strings.TrimSpace(out), "},{", "},\n{"))
	}
	show("ip", "-j", "address")
	for _, family := range []string{"-4", "-6"} {
		show("ip", family, "-j", "route", "show", "table", "all")
		show("ip", family, "-j", "rule")
	}
	show("nft", "-j", "list", "ruleset")
	show("stat", "-c", "%N %a %U %G %s", "/etc/resolv.conf")
	show("stat", "-L", "-c", "%F %a %U %G %s", "/etc/resolv.conf")
	show("cat", "/etc/resolv.conf")
	show("find", "/etc", "-maxdepth", "1", "-name", "*resolv*")
	if m.daemon != nil {
		for line := range strings.Lines(m.daemon.Control("status")) {
			if !strings.Contains(line, "Current DNS Server") { // which server answered last changes by itself
				fmt.Fprintln(&b, strings.TrimSpace(line))
			}
		}
	}
	return b.String()
}

// unchanged fails the test unless the machine is as it was before.
func (m *machine) unchanged(when string) {
	m.t.Helper()
	var now string
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if now = m.picture(); now == m.before {
			return
		}
	}
	m.t.Errorf("%s the machine is not as it was:\n%s", when, difference(m.before, now))
}

// echo serves a page that is the address of whoever asks.
func (l *lab) echo(h *netns.Host, addr string) {
	l.t.Helper()
	ln, err := h.Listen("tcp", net.JoinHostPort(addr, "80"))
	if err != nil {
		l.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		io.WriteString(w, host)
	})}
	go srv.Serve(ln)
	l.t.Cleanup(func() { srv.Close() })
}

// from returns the address from which the machine is seen by the server at addr, or what curl complains of.
func (m *machine) from(addr string) string {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	out, _ := m.try("curl", "-sS", "-m", "4", "http://"+addr+"/")
	return strings.TrimSpace(out)
}

// seen fails the test unless the server at addr sees the machine from an address that begins with prefix.
func (m *machine) seen(addr, prefix string) {
	m.t.Helper()
	if got := m.from(addr); !strings.HasPrefix(got, prefix) {
		m.t.Errorf("%s sees the machine from %q, not from %s...", addr, got, prefix)
	}
}

// What the machine is seen from.
const (
	plainly, plainly6   = "10.98.0.", "fd00:98:"
	tunnelled, tunnel6  = "192.168.77.", "fd00:77:"
	unreachableFromHere = "curl: "
)

// A nameserver answers every question for an IPv4 address with the same one, unless answers has another, and remembers who was
// asked for.
type nameserver struct {
	answer  string
	answers map[string]string

	mu    sync.Mutex
	names []string
}

// names starts a nameserver.
func (l *lab) names(h *netns.Host, addr, answer string) *nameserver {
	l.t.Helper()
	pc, err := h.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		l.t.Fatal(err)
	}
	s := &nameserver{answer: answer, answers: map[string]string{"app.saas.example.": saas}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := s.reply(buf[:n]); b != nil {
				pc.WriteTo(b, from)
			}
		}
	}()
	l.t.Cleanup(func() { pc.Close(); <-done })
	return s
}

func (s *nameserver) reply(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(q.Name.String())
	s.mu.Lock()
	s.names = append(s.names, name)
	s.mu.Unlock()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, Authoritative: true},
		Questions: []dnsmessage.Question{q},
	}
	answer := s.answer
	if a := s.answers[name]; a != "" {
		answer = a
	}
	switch {
	case strings.HasSuffix(name, ".home.example."):
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(answer).As4()},
		}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// heard reports whether the server was asked for a name.
func (s *nameserver) heard(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.names {
		if n == strings.ToLower(name)+"." {
			return true
		}
	}
	return false
}

// lookup asks as programs of the machine do, and returns the first address or what getent says.
func (m *machine) lookup(name string) string {
	out, err := m.try("getent", "ahostsv4", name)
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	addr, _, _ := strings.Cut(out, " ")
	return addr
}

// resolves fails the test unless a name has an address and only one side was asked for it.
func (m *machine) resolves(name, want, side string) {
	m.t.Helper()
	var got string
	for range 3 { // what has only just been told is not in force everywhere at once
		if got = m.lookup(name); got == want {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	if got != want {
		m.t.Errorf("%s is %q, not %s", name, got, want)
	}
	for where, server := range m.asked {
		if heard := server.heard(name); heard != (where == side) {
			m.t.Errorf("was the server %s asked for %s? %v", where, name, heard)
		}
	}
}
