package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Host is one namespace of a [Lab].
type Host struct {
	// Name is the name that "ip netns" knows the namespace by. No other in the machine has it.
	Name string

	tb    TB
	ns    *os.File
	mu    sync.Mutex
	stops []func()
}

// unshare moves a new thread into a new namespace and lets both die.
func unshare() error {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	return unix.Unshare(unix.CLONE_NEWNET)
}

// Do runs f in the namespace. Sockets that f makes belong to it for ever. Goroutines that f starts do not run there, so f
// must make its sockets itself. F may end the test.
func (h *Host) Do(f func()) {
	h.tb.Helper()
	if err := h.enter(f); err != nil {
		h.tb.Fatalf("netns: %v", err)
	}
}

// enter is Do for any goroutine: it fails only before it calls f.
func (h *Host) enter(f func()) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering %s: %w", h.Name, err)
	}
	defer func() {
		// A thread that cannot go home must not run anything else: it stays locked, and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
	return nil
}

// DialContext connects from the host. The address must be an IP address with a port, since names would be asked for
// outside of the namespace. It may be called from any goroutine.
func (h *Host) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	if e := h.enter(func() { conn, err = new(net.Dialer).DialContext(ctx, network, addr) }); e != nil {
		return nil, e
	}
	return conn, err
}

// Listen listens on the host. The address is an IP address, or nothing, with a port.
func (h *Host) Listen(network, addr string) (l net.Listener, err error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	if e := h.enter(func() { l, err = net.Listen(network, addr) }); e != nil {
		return nil, e
	}
	return l, err
}

// ListenPacket listens for packets on the host. The address is an IP address, or nothing, with a port.
func (h *Host) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	if err := literal(addr); err != nil {
		return nil, err
	}
	if e := h.enter(func() { c, err = net.ListenPacket(network, addr) }); e != nil {
		return nil, e
	}
	return c, err
}

func literal(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host != "" && net.ParseIP(strings.Split(host, "%")[0]) == nil {
		return &net.AddrError{Err: "not an IP address", Addr: addr}
	}
	return nil
}

// Command returns a command that will run on the host, and dies with ctx. Whoever starts it waits for it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.Name, name}, args...)...)
	// Children that a server leaves behind hold its output open, and are only killed with the namespace.
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a command on the host and returns what it prints. It ends the test if the command fails.
func (h *Host) Run(name string, args ...string) string {
	h.tb.Helper()
	out, err := output(h.Command(h.tb.Context(), name, args...))
	if err != nil {
		h.tb.Fatalf("netns: %v", err)
	}
	return out
}

// IP runs ip on the host, and ends the test if that fails.
func (h *Host) IP(args ...string) {
	h.tb.Helper()
	if _, err := ip(append([]string{"-n", h.Name}, args...)...); err != nil {
		h.tb.Fatalf("netns: %v", err)
	}
}

// Sysctl sets a kernel variable of the host, such as net.ipv4.ip_forward. Where the kernel does not have it, nothing
// happens.
func (h *Host) Sysctl(name, value string) {
	h.tb.Helper()
	h.Do(func() {
		err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			h.tb.Fatalf("netns: %v", err)
		}
	})
}

// Start starts a command on the host, which is ended with the Lab, or by the function that it returns, which waits
// until it is gone. What it prints goes to the log of the test, where the Lab ends it.
func (h *Host) Start(name string, args ...string) (stop func()) {
	h.tb.Helper()
	cmd := h.Command(context.Background(), name, args...)
	log := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.tb.Fatalf("netns: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	stop = sync.OnceFunc(func() {
		terminate(cmd.Process, done)
		if h.tb.Failed() {
			h.tb.Logf("%s on %s printed:\n%s", name, h.Name, log)
		}
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stops = append(h.stops, stop)
	return stop
}

// Processes returns the ids of the processes that run on the host now.
func (h *Host) Processes() []int {
	h.tb.Helper()
	out, err := ip("netns", "pids", h.Name)
	if err != nil {
		h.tb.Fatalf("netns: %v", err)
	}
	var pids []int
	for _, s := range strings.Fields(out) {
		if pid, err := strconv.Atoi(s); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *Host) close() error {
	h.mu.Lock()
	stops := h.stops
	h.stops = nil
	h.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
	if h.ns != nil {
		h.ns.Close()
	}
	return remove(h.Name)
}
