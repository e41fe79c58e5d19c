package logins

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/logind"
)

// silent returns the path of a socket that accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "logins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Without a bus, or with one that has no logind, utmp says who is logged on; without either, nobody is.
func TestUtmpFallback(t *testing.T) {
	leak.Check(t)
	l := nativeLayout()
	logons := append(l.write(row{kind: 7, pid: int32(os.Getpid()), line: "pts/0", user: "root", host: "10.1.2.3"}),
		l.write(row{kind: 7, pid: 1<<22 - 1, line: "pts/1", user: "gone"})...)
	for name, bus := range map[string]string{"no bus": "unix:path=/nonexistent/bus", "no logind": logind.Bus(t)} {
		t.Run(name, func(t *testing.T) {
			utmp := filepath.Join(t.TempDir(), "utmp")
			src := New(Options{Bus: bus, Utmp: utmp})
			if got, err := src.List(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("without a file: %v, %v", got, err)
			}
			write(t, utmp, logons)
			got, err := src.List(t.Context())
			if err != nil || len(got) != 1 || got[0].User != "root" || got[0].UID != 0 || !got[0].Remote || got[0].Leader != os.Getpid() {
				t.Errorf("%+v, %v", got, err)
			}
			write(t, utmp, logons[:len(logons)-1])
			if got, err := src.List(t.Context()); !errors.Is(err, ErrInvalid) || got != nil {
				t.Errorf("a file cut off: %v, %v", got, err)
			}
		})
	}
}

// Without logind utmp is looked at again and again.
func TestWatchUtmp(t *testing.T) {
	leak.Check(t)
	utmp := filepath.Join(t.TempDir(), "utmp")
	src := New(Options{Bus: "unix:path=/nonexistent/bus", Utmp: utmp})
	src.poll = 10 * time.Millisecond
	next := collect(t, src)
	expect(t, next, "")
	write(t, utmp, nativeLayout().write(row{kind: 7, pid: int32(os.Getpid()), line: "pts/0", user: "root", host: "10.1.2.3"}))
	got := next()
	for strings.Contains(got, "invalid") { // the file was read half written
		got = next()
	}
	if !strings.HasPrefix(got, "pts/0 ") || !strings.HasSuffix(got, " remote") {
		t.Fatalf("%q was reported", got)
	}
	if err := os.Remove(utmp); err != nil {
		t.Fatal(err)
	}
	expect(t, next, "")
}

// A shell that a process of the name sshd started is remote, from the other end of that process's connection, though no file
// and no daemon says so; and what the environment says does not matter.
func TestAskerBehindSSHD(t *testing.T) {
	leak.Check(t)
	src := New(Options{Bus: "unix:path=/nonexistent/bus", Utmp: filepath.Join(t.TempDir(), "utmp")})
	t.Setenv("SSH_CONNECTION", "10.1.2.3 50000 10.1.2.4 22")
	if a, err := src.Asker(t.Context(), os.Getpid()); err != nil || a.Found {
		t.Fatalf("this test runs in a remote shell, or is taken for it: %+v, %v", a, err)
	}
	// A copy of the shell under that name, with one end of a TCP connection for its input.
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if sh, err = filepath.EvalSymlinks(sh); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sh)
	if err != nil {
		t.Fatal(err)
	}
	sshd := filepath.Join(t.TempDir(), "sshd")
	if err := os.WriteFile(sshd, b, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	cmd := exec.Command(sshd, "-c", "sleep 60 & echo $!; wait")
	cmd.Stdin = file
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	var line [16]byte
	n, err := out.Read(line[:])
	pid, ok := parseNumber(line[:n])
	if err != nil || !ok {
		t.Fatal(err, string(line[:n]))
	}
	defer func() {
		if p, err := os.FindProcess(int(pid)); err == nil {
			p.Kill()
		}
		cmd.Process.Kill()
		cmd.Wait()
	}()
	a, err := src.Asker(t.Context(), int(pid))
	if err != nil || !a.Found || !a.Session.Remote || a.Session.Kind != SSH || a.Session.RemoteAddr != netip.MustParseAddr("127.0.0.1") ||
		a.Session.Leader != cmd.Process.Pid || a.Session.User == "" {
		t.Errorf("%+v, %v", a, err)
	}
}
