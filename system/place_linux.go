package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces is where "ip netns" keeps the namespaces that have names.
const namespaces = "/run/netns"

// A place is a network namespace to make sockets and interfaces in.
type place struct {
	ns   *os.File
	path string // where others find it, or empty
	name string // see NamespaceName
	home bool   // it is the one that threads are in anyway

	mu     sync.RWMutex
	closed bool
}

// here returns the place of the calling thread.
func here() (*place, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("system: the network namespace of this thread: %w", err)
	}
	return newPlace(ns, "")
}

// newPlace returns the place of a namespace, which it closes if it fails.
func newPlace(ns *os.File, path string) (*place, error) {
	p := &place{ns: ns, path: path}
	var err error
	if p.home, err = isHome(ns); err != nil {
		ns.Close()
		return nil, fmt.Errorf("system: the network namespace of this process: %w", err)
	}
	return p, nil
}

// isHome reports whether a namespace is the one of all threads that nobody has moved. That of /proc/self will not do: it is of the first
// thread, which may be the one that the caller has moved.
func isHome(ns *os.File) (home bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		home, err = sameFile(ns, "/proc/thread-self/ns/net")
	}()
	<-done
	return home, err
}

func sameFile(f *os.File, path string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// named returns the place that "ip netns" knows by that name, or that a path leads to.
func named(name string) (*place, error) {
	path := name
	if !filepath.IsAbs(name) {
		if strings.Contains(name, "/") || name == "." || name == ".." {
			return nil, invalid("Namespace: %q is neither a name nor an absolute path", name)
		}
		path = filepath.Join(namespaces, name)
	}
	ns, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, invalid("Namespace: there is no %s; make it with: ip netns add %s", path, filepath.Base(path))
	}
	if err != nil {
		return nil, fmt.Errorf("system: network namespace %s: %w", name, err)
	}
	// What is no namespace cannot be entered, and says so here rather than in the middle of a change.
	if kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		ns.Close()
		return nil, invalid("Namespace: %s is not a network namespace", path)
	}
	p, err := newPlace(ns, path)
	if err != nil {
		return nil, err
	}
	if p.name, err = NamespaceName(path); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// NamespaceName returns a name for what belongs to a [Config.Namespace], such as its journal, that no other one has at the same
// time: the name that "ip netns" knows, or, for a path to somewhere else such as /proc/4711/ns/net, one that is made of the number
// that the kernel has given the namespace. The error matches [ErrConfig] if that path cannot be looked at.
func NamespaceName(namespace string) (string, error) {
	dir, name := filepath.Split(filepath.Clean(namespace))
	if dir == "" || dir == namespaces+"/" || dir == "/var/run/netns/" {
		return name, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(namespace, &st); err != nil {
		return "", invalid("Namespace: %v", &fs.PathError{Op: "stat", Path: namespace, Err: err})
	}
	return fmt.Sprintf("ns-%d", st.Ino), nil
}

// is reports whether both are the same namespace.
func (p *place) is(o *place) bool {
	a, err1 := p.ns.Stat()
	b, err2 := o.ns.Stat()
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// close leaves the place alone. Whoever enters it at the same time, such as a connection that was given up, is there or is told that it is
// closed.
func (p *place) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.ns.Close()
}

// set moves the calling thread to the place.
func (p *place) set() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return net.ErrClosed
	}
	return unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET)
}

// file is what the firewall needs to find the place, nil if that is where threads are anyway.
func (p *place) file() *os.File {
	if p.home {
		return nil
	}
	return p.ns
}

// enter moves the calling goroutine, with its thread, to the place. It returns what moves it back.
func (p *place) enter() (back func(), err error) {
	if p.home {
		return func() {}, nil
	}
	runtime.LockOSThread()
	from, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	if err := p.set(); err != nil {
		from.Close()
		runtime.UnlockOSThread()
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("entering the network namespace: %w: CAP_SYS_ADMIN is needed", ErrNotPermitted)
		}
		return nil, fmt.Errorf("entering the network namespace: %w", err)
	}
	done := false
	return func() {
		if done {
			return
		}
		done = true
		defer from.Close()
		// A thread that cannot go back must not run anything else: it stays locked, and ends with its goroutine.
		if unix.Setns(int(from.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}, nil
}

// do calls f in the place. Goroutines that f starts do not run there, but sockets that f makes belong to it for ever.
func (p *place) do(f func() error) error {
	back, err := p.enter()
	if err != nil {
		return err
	}
	defer back()
	return f()
}

// dial connects a socket of the place to an address without a name. Control may prepare it. Only the socket is made in the place:
// waiting for the other side needs no thread.
func (p *place) dial(ctx context.Context, network, address string, control func(network, address string, c syscall.RawConn) error) (net.Conn, error) {
	back, err := p.enter()
	if err != nil {
		return nil, err
	}
	defer back()
	d := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		back()
		return control(network, address, c)
	}}
	return d.DialContext(ctx, network, address)
}

// index returns the index of an interface of the place.
func (p *place) index(name string) (index int, err error) {
	err = p.do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return index, err
}

// loopback reports that programs of the place cannot reach each other: a new namespace has its loopback interface down, where sockets
// can be bound all the same.
func (p *place) loopback() error {
	return p.do(func() error {
		if lo, err := net.InterfaceByName("lo"); err != nil || lo.Flags&net.FlagUp != 0 {
			return nil // somebody has renamed it, and knows what he does
		}
		command := "ip -n " + p.name + " link set lo up"
		if filepath.Join(namespaces, p.name) != p.path {
			command = "nsenter --net=" + p.path + " ip link set lo up"
		}
		return invalid("Namespace: the loopback interface of %s is down, so that its programs could not ask the DNS proxy; set it up with: %s", p.path, command)
	})
}

// mark marks a socket.
func mark(c syscall.RawConn, mark uint32) error {
	return option(c, "SO_MARK", func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
}

// bind has a socket send and receive by one interface alone.
func bind(c syscall.RawConn, device string) error {
	return option(c, "SO_BINDTODEVICE", func(fd int) error { return unix.BindToDevice(fd, device) })
}

func option(c syscall.RawConn, name string, set func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = set(int(fd)) }); err != nil {
		return err
	}
	if errors.Is(inner, unix.EPERM) {
		return fmt.Errorf("%w: %s: run as root or with CAP_NET_ADMIN", ErrNotPermitted, name)
	}
	return os.NewSyscallError(name, inner)
}

// probe looks for the TUN driver. Opening its device makes no interface yet.
func probe() error {
	const device = "/dev/net/tun"
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %w: load it (modprobe tun), or give the container the device (docker: --device %s)", ErrNoTUN, err, device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w: run as root, or give the container the device (docker: --device %s)", ErrNoTUN, err, device)
	}
	return fmt.Errorf("system: %w", err)
}
