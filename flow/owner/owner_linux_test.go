package owner

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/leak"
)

func newFinder(tb testing.TB, cfg Config) *Finder {
	tb.Helper()
	f, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

func flowOf(c net.Conn) Flow {
	return Flow{
		Network: c.LocalAddr().Network(),
		Local:   netip.MustParseAddrPort(c.LocalAddr().String()), Remote: netip.MustParseAddrPort(c.RemoteAddr().String()),
	}
}

func executable(tb testing.TB) string {
	tb.Helper()
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// TestFind looks for sockets of this process, of every kind.
func TestFind(t *testing.T) {
	leak.Check(t)
	f := newFinder(t, Config{})
	want := Owner{UID: os.Getuid(), User: f.username(os.Getuid()), PID: os.Getpid(), Program: executable(t)}
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 3 {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := f.Find(t.Context(), flowOf(c)); err != nil || got != want {
				t.Errorf("%v: %+v, %v, want %+v", c.LocalAddr(), got, err, want)
			}
		}
		u, err := net.Dial("udp", net.JoinHostPort(host, "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if got, err := f.Find(t.Context(), flowOf(u)); err != nil || got != want {
			t.Errorf("%v: %+v, %v, want %+v", u.LocalAddr(), got, err, want)
		}
		// A socket that is not connected belongs to all that it sends, and one for both families to those of IPv4.
		for _, at := range []string{net.JoinHostPort(host, "0"), ":0"} {
			p, err := net.ListenPacket("udp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			port := uint16(p.LocalAddr().(*net.UDPAddr).Port)
			flow := Flow{"udp", netip.AddrPortFrom(netip.MustParseAddr(host), port), netip.AddrPortFrom(netip.MustParseAddr(host), 4444)}
			if got, err := f.Find(t.Context(), flow); err != nil || got != want {
				t.Errorf("%v: %+v, %v, want %+v", p.LocalAddr(), got, err, want)
			}
		}
	}
	if s := f.Stats(); s.Found != 12 || s.NotFound != 0 || s.Nobody != 0 || s.Remembered+s.Searched != 12 {
		t.Errorf("counted %+v", s)
	}
}

// A connection that is still being opened has an owner already.
func TestFindSynSent(t *testing.T) {
	f := newFinder(t, Config{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// A listener whose queue is full drops SYNs.
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	full, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := unix.Connect(fd, at); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect: %v", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	flow := Flow{"tcp", netip.AddrPortFrom(loopback, uint16(local.(*unix.SockaddrInet4).Port)), netip.AddrPortFrom(loopback, uint16(at.(*unix.SockaddrInet4).Port))}
	if got, err := f.Find(t.Context(), flow); err != nil || got.PID != os.Getpid() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNotFound(t *testing.T) {
	f := newFinder(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	flow := flowOf(c)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // and stays behind in the kernel, waiting
	s.Close()
	time.Sleep(20 * time.Millisecond)
	if got, err := f.Find(t.Context(), flow); !errors.Is(err, ErrNotFound) || got != Unknown {
		t.Errorf("a closed connection: %+v, %v", got, err)
	}
	flow.Network = "sctp"
	if _, err := f.Find(t.Context(), flow); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("network sctp: %v", err)
	}
	flow.Network, flow.Remote = "udp", netip.MustParseAddrPort("[::1]:1")
	if _, err := f.Find(t.Context(), flow); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("two families: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Find(ctx, flow); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	f.Close()
	if _, err := f.Find(t.Context(), flowOf(c)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// childVariable makes the test binary a program that connects to the address in it and waits for the end of its input.
const childVariable = "OWNER_TEST_CHILD"

func TestMain(m *testing.M) {
	if to := os.Getenv(childVariable); to != "" {
		c, err := net.Dial("tcp", to)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.LocalAddr())
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child runs a program that becomes this test binary, or is it, and connects.
func child(t *testing.T, path, to string, attr *syscall.SysProcAttr, args ...string) (flow Flow, pid int) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), childVariable+"="+to)
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return Flow{"tcp", netip.MustParseAddrPort(strings.TrimSpace(line)), netip.MustParseAddrPort(to)}, cmd.Process.Pid
}

// TestFindOther looks for sockets of other programs: of another user, and in another view of the file system.
func TestFindOther(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatal("CULVERT_INTEROP=1, but this is not root")
		}
		t.Skip("being another user needs root")
	}
	f := newFinder(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A copy that other users may run, with a name that has a blank in it.
	dir, err := os.MkdirTemp("", "owner test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "the program")
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	flow, pid := child(t, path, l.Addr().String(), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	want := Owner{UID: nobody, User: f.username(nobody), PID: pid, Program: path}
	if got, err := f.Find(t.Context(), flow); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if want.User == "" {
		t.Error("the user has no name")
	}
	// It is known by its path also after the file has gone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Find(t.Context(), flow); err != nil || got != want {
		t.Errorf("after its file has gone: %+v, %v, want %+v", got, err, want)
	}

	// Another view of the file system matters only if the program is another file in it.
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	flow, pid = child(t, path, l.Addr().String(), &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS})
	if got, err := f.Find(t.Context(), flow); err != nil || got.PID != pid || got.Program != path || got.Contained {
		t.Errorf("in another mount namespace: %+v, %v", got, err)
	}
	disguise := filepath.Join(dir, "curl")
	if err := os.WriteFile(disguise, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	flow, pid = child(t, "unshare", l.Addr().String(), nil, "-m", "sh", "-c", `mount --bind "$0" "$1" && exec "$1"`, path, disguise)
	if got, err := f.Find(t.Context(), flow); err != nil || got.PID != pid || got.Program != disguise || !got.Contained {
		t.Errorf("in the disguise of another program: %+v, %v", got, err)
	}
}

// What is remembered is bounded, and checked before it is believed.
func TestRemember(t *testing.T) {
	f := newFinder(t, Config{MaxSockets: 4})
	for i := range 100 {
		f.remember(uint32(i), place{1, i})
	}
	if len(f.sockets) != 4 || len(f.order) != 4 || f.sockets[99] != (place{1, 99}) {
		t.Errorf("%v, %v", f.sockets, f.order)
	}
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, inode, err := f.diag.find(flowOf(c))
	if err != nil {
		t.Fatal(err)
	}
	f.remember(inode, place{1, 0}) // which is a lie
	if got, err := f.Find(t.Context(), flowOf(c)); err != nil || got.PID != os.Getpid() {
		t.Errorf("%+v, %v", got, err)
	}
	if f.Stats().Searched != 1 {
		t.Errorf("counted %+v", f.Stats())
	}
	// Now it is where it was found, even if everything else has been forgotten.
	f.proc.maxFiles, f.recent = 0, [8]int{}
	if got, err := f.Find(t.Context(), flowOf(c)); err != nil || got.PID != os.Getpid() || f.Stats().Remembered != 1 {
		t.Errorf("%+v, %v, %+v", got, err, f.Stats())
	}
}

// A search that would take too long ends without the program, but with the user.
func TestMaxFiles(t *testing.T) {
	f := newFinder(t, Config{MaxFiles: 1})
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := f.Find(t.Context(), flowOf(c)); err != nil || got.UID != os.Getuid() || got.PID != 0 || got.Program != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if f.Stats().Nobody != 1 {
		t.Errorf("counted %+v", f.Stats())
	}
}

// An answer of the kernel that is damaged is an error and nothing else.
func TestParseAnswer(t *testing.T) {
	native := binary.NativeEndian
	answer := func(kind uint16, seq uint32, body []byte) []byte {
		b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
		native.PutUint32(b, uint32(cap(b)))
		native.PutUint16(b[4:], kind)
		native.PutUint32(b[8:], seq)
		return append(b, body...)
	}
	errno := func(e unix.Errno) []byte { return native.AppendUint32(nil, uint32(-int32(e))) }
	message := make([]byte, diagMessageLen)
	native.PutUint32(message[diagUID:], 1000)
	native.PutUint32(message[diagInode:], 77)
	long := answer(sockDiagByFamily, 5, message)
	native.PutUint32(long, 1000)
	for _, tt := range []struct {
		name string
		in   []byte
		ours bool
		err  error // nil with uid and inode, or what the error matches
		any  bool  // any error
	}{
		{"a socket", answer(sockDiagByFamily, 5, message), true, nil, false},
		{"to another question", answer(sockDiagByFamily, 4, message), false, nil, false},
		{"of another kind", answer(3, 5, message), false, nil, false},
		{"empty", nil, false, nil, false},
		{"longer than it is", long, false, nil, false},
		{"cut short", answer(sockDiagByFamily, 5, message[:71]), true, nil, true},
		{"nobody's", answer(sockDiagByFamily, 5, make([]byte, diagMessageLen)), true, ErrNotFound, false},
		{"none", answer(unix.NLMSG_ERROR, 5, errno(unix.ENOENT)), true, ErrNotFound, false},
		{"not built in", answer(unix.NLMSG_ERROR, 5, errno(unix.EOPNOTSUPP)), true, ErrUnsupported, false},
		{"refused", answer(unix.NLMSG_ERROR, 5, errno(unix.EPERM)), true, unix.EPERM, false},
		{"an error cut short", answer(unix.NLMSG_ERROR, 5, []byte{1}), true, nil, true},
	} {
		uid, inode, ours, err := parseAnswer(tt.in, 5)
		switch {
		case ours != tt.ours,
			tt.any && err == nil,
			!tt.any && !errors.Is(err, tt.err),
			ours && err == nil && (uid != 1000 || inode != 77):
			t.Errorf("%s: %d, %d, %v, %v", tt.name, uid, inode, ours, err)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(make([]byte, 88), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, seq uint32) { parseAnswer(b, seq) })
}

func TestInodeOf(t *testing.T) {
	if n, ok := inodeOf(socketName(4294967295)); n != 4294967295 || !ok {
		t.Errorf("%d, %v", n, ok)
	}
	for _, s := range []string{"", "socket:[", "socket:[1", "socket:[x]", "pipe:[1]", "/tmp/socket:[1]", "socket:[4294967296]"} {
		if n, ok := inodeOf(s); ok {
			t.Errorf("inodeOf(%q) = %d", s, n)
		}
	}
}

// BenchmarkFind is the time to find the owner of a flow of a program that has been seen before (found=again) and of one whose socket
// is new.
func BenchmarkFind(b *testing.B) {
	f := newFinder(b, Config{})
	for _, found := range []string{"again", "new"} {
		b.Run("found="+found, func(b *testing.B) {
			c, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(9))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			flow := flowOf(c)
			b.ReportAllocs()
			for b.Loop() {
				if found == "new" {
					clear(f.sockets)
					f.order, f.next = nil, 0
					f.recent = [8]int{}
				}
				if _, err := f.Find(b.Context(), flow); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
