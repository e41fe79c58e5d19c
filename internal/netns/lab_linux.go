package netns

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stateDir is where ip keeps the names of namespaces.
	stateDir = "/run/netns"
	// prefix begins the names of all namespaces made here. The process id and something random follow.
	prefix = "culvert-"
	// ipTimeout bounds one run of ip.
	ipTimeout = 20 * time.Second
)

// A Lab is a network of hosts that belongs to one test, or another owner. Its methods end the test if they fail, so they must
// be called from the goroutine of the test.
type Lab struct {
	tb    TB
	id    string
	hosts map[string]*Host
	links int
	wires []*Wire
}

// New returns an empty Lab, which is taken down when the test and its later clean-ups are over. It ends the test where
// namespaces cannot be made: as skipped, or as failed if the environment variable CULVERT_INTEROP is 1.
func New(tb TB) *Lab {
	tb.Helper()
	if why := unable(); why != "" {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			tb.Fatalf("netns: CULVERT_INTEROP=1, but %s", why)
		}
		tb.Skipf("netns: %s", why)
	}
	sweep()
	l := &Lab{tb: tb, id: fmt.Sprintf("%s%d-%.8s", prefix, os.Getpid(), rand.Text()), hosts: make(map[string]*Host)}
	tb.Cleanup(l.close)
	return l
}

// unable returns why no namespace can be made here, or "".
func unable() string {
	if os.Geteuid() != 0 {
		return "making network namespaces needs root"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "the command ip (package iproute2) is not installed"
	}
	// Root in a container may lack CAP_SYS_ADMIN. Unshare tells, and costs no more than this goroutine's thread.
	result := make(chan error)
	go func() { result <- unshare() }()
	if err := <-result; err != nil {
		return fmt.Sprintf("network namespaces are not allowed: %v", err)
	}
	return ""
}

// sweep removes what processes left behind that were killed before they could clean up.
func sweep() {
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		if err != nil || n <= 0 || !errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			continue
		}
		remove(e.Name())
	}
}

// remove kills what runs in a namespace and deletes it.
func remove(name string) error {
	var failed error
	for range 50 {
		pids, err := ip("netns", "pids", name)
		if err != nil {
			failed = err
			break
		}
		if strings.TrimSpace(pids) == "" {
			break
		}
		for _, s := range strings.Fields(pids) {
			// A thread of this process that is in the namespace is a bug of the test, which must not kill the test.
			if pid, err := strconv.Atoi(s); err == nil && pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := ip("netns", "del", name); err != nil {
		return err
	}
	return failed
}

// ip runs the command ip and returns what it prints. The error includes what it complains of.
func ip(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ipTimeout)
	defer cancel()
	return output(exec.CommandContext(ctx, "ip", args...))
}

func output(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

func (l *Lab) ip(args ...string) {
	l.tb.Helper()
	if _, err := ip(args...); err != nil {
		l.tb.Fatalf("netns: %v", err)
	}
}

func (l *Lab) close() {
	for _, w := range l.wires {
		w.close()
	}
	for _, h := range l.hosts {
		if err := h.close(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.tb.Errorf("netns: %v", err)
		}
	}
}

// Host returns the host of that name, and makes it if there is none yet: a namespace whose loopback interface is up.
func (l *Lab) Host(name string) *Host {
	l.tb.Helper()
	if h, ok := l.hosts[name]; ok {
		return h
	}
	h := &Host{tb: l.tb, Name: l.id + "-" + name}
	l.ip("netns", "add", h.Name)
	// From here on there is something to take down.
	l.hosts[name] = h
	f, err := os.Open(stateDir + "/" + h.Name)
	if err != nil {
		l.tb.Fatalf("netns: %v", err)
	}
	h.ns = f
	// Addresses of IPv6 are usable at once, instead of after a second in which the machine looks for duplicates.
	h.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	h.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	l.ip("-n", h.Name, "link", "set", "lo", "up")
	return h
}

// Join lays a cable between two hosts, and returns the names of the interfaces at its ends. Each end gets the addresses
// given for it, separated by spaces, such as "10.0.0.1/24 fd00::1/64".
func (l *Lab) Join(a *Host, addrsA string, b *Host, addrsB string) (ifA, ifB string) {
	l.tb.Helper()
	ifA, ifB = fmt.Sprintf("veth%da", l.links), fmt.Sprintf("veth%db", l.links)
	l.links++
	l.ip("link", "add", ifA, "netns", a.Name, "type", "veth", "peer", "name", ifB, "netns", b.Name)
	a.setUp(ifA, addrsA)
	b.setUp(ifB, addrsB)
	return ifA, ifB
}

// setUp gives an interface its addresses and switches it on.
func (h *Host) setUp(dev, addrs string) {
	h.tb.Helper()
	for _, s := range strings.Fields(addrs) {
		if _, err := netip.ParsePrefix(s); err != nil {
			h.tb.Fatalf("netns: %v", err)
		}
		h.IP("address", "add", s, "dev", dev)
	}
	h.IP("link", "set", dev, "up")
}

// terminate asks a process to end, kills it if it does not, and waits for it.
func terminate(p *os.Process, done <-chan struct{}) {
	p.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		p.Kill()
		<-done
	}
}
