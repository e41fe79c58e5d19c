package resolver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/leak"
)

// A machine is a directory with a resolv.conf in it, and the journal of who changes that.
type machine struct {
	t       *testing.T
	dir     string
	path    string
	mu      sync.Mutex
	journal [][]byte
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	return &machine{t: t, dir: dir, path: filepath.Join(dir, "resolv.conf")}
}

func (m *machine) resolver() *Resolver {
	return New(Options{Path: m.path, Bus: "unix:path=" + filepath.Join(m.dir, "no-bus"), Switch: filepath.Join(m.dir, "nsswitch.conf")})
}

func (m *machine) record(undo []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.journal = append(m.journal, undo)
	return nil
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read() string {
	m.t.Helper()
	b, err := os.ReadFile(m.path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

// undo undoes the whole journal from its end, as another process would.
func (m *machine) undo() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resolver()
	var first error
	for i := len(m.journal) - 1; i >= 0; i-- {
		if err := r.Undo(m.t.Context(), m.journal[i]); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// snapshot describes everything in the directory but the times.
func (m *machine) snapshot() string {
	m.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content, _ := os.Readlink(path)
		if info.Mode().IsRegular() {
			c, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(c)
		}
		value := make([]byte, 64)
		n, _ := unix.Lgetxattr(path, "user.label", value)
		b.WriteString(strings.Join([]string{path, info.Mode().String(), itoa(st.Uid), itoa(st.Gid), itoa(uint32(st.Nlink)), content,
			string(value[:max(n, 0)])}, "|") + "\n")
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

func itoa(n uint32) string { return time.Duration(n).String() }

func fileConfig(server string) Config {
	return Config{Device: "culvert0", Index: 9, Servers: addrPorts(server + ":53"), Search: []string{"corp.example"}, Default: true}
}

// kinds are the forms that a resolv.conf comes in.
var kinds = []struct {
	name string
	make func(t *testing.T, m *machine)
}{
	{"plain", func(t *testing.T, m *machine) {
		m.write("resolv.conf", "nameserver 192.0.2.1\nsearch home.example\noptions edns0\n")
	}},
	{"without a newline", func(t *testing.T, m *machine) { m.write("resolv.conf", "nameserver 192.0.2.1") }},
	{"binary", func(t *testing.T, m *machine) {
		m.write("resolv.conf", "\x00\xff\r\n# culvert \nnameserver 192.0.2.1\r\n\n\n")
	}},
	{"long", func(t *testing.T, m *machine) {
		m.write("resolv.conf", "nameserver 192.0.2.1\n"+strings.Repeat("# comment\n", 2000))
	}},
	{"empty", func(t *testing.T, m *machine) { m.write("resolv.conf", "") }},
	{"missing", func(t *testing.T, m *machine) {}},
	{"odd owner", func(t *testing.T, m *machine) {
		m.write("resolv.conf", "nameserver 192.0.2.1\n")
		if os.Geteuid() == 0 {
			if err := os.Chown(m.path, 1234, 5678); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(m.path, 0o640|os.ModeSetgid|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(m.path, "user.label", []byte("a label"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			t.Fatal(err)
		}
	}},
	{"absolute link", func(t *testing.T, m *machine) {
		m.write("real.conf", "nameserver 192.0.2.1\n")
		link(t, filepath.Join(m.dir, "real.conf"), m.path)
	}},
	{"chain of links", func(t *testing.T, m *machine) {
		if err := os.MkdirAll(filepath.Join(m.dir, "run/deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		m.write("run/deep/real.conf", "nameserver 192.0.2.1\n")
		link(t, "deep", filepath.Join(m.dir, "run/dir"))
		link(t, "../run/dir/second", m.path+".1")
		link(t, "real.conf", filepath.Join(m.dir, "run/deep/second"))
		link(t, filepath.Join("..", filepath.Base(m.dir), "run/dir/second"), m.path)
		os.Remove(m.path + ".1")
	}},
	{"link to nothing", func(t *testing.T, m *machine) { link(t, "not-yet.conf", m.path) }},
	{"two names", func(t *testing.T, m *machine) {
		m.write("resolv.conf", "nameserver 192.0.2.1\n")
		if err := os.Link(m.path, filepath.Join(m.dir, "other")); err != nil {
			t.Fatal(err)
		}
	}},
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			leak.Check(t)
			m := newMachine(t)
			kind.make(t, m)
			before := m.snapshot()
			r := m.resolver()
			if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
				t.Fatal(err)
			}
			conf, err := ParseConf([]byte(m.read()))
			if err != nil || len(conf.Servers) != 1 || conf.Servers[0].String() != "10.0.0.53" || len(conf.Search) != 1 || conf.Search[0] != "corp.example" {
				t.Errorf("resolv.conf is %q, %v", m.read(), err)
			}
			if len(m.journal) != 1 {
				t.Errorf("%d records, want 1", len(m.journal))
			}
			// The same again is no change, another one is.
			for _, server := range []string{"10.0.0.53", "10.0.0.54", "10.0.0.55"} {
				if err := r.Apply(t.Context(), fileConfig(server), m.record); err != nil {
					t.Fatal(err)
				}
			}
			if len(m.journal) != 3 || !strings.Contains(m.read(), "nameserver 10.0.0.55\n") {
				t.Errorf("%d records, want 3, and %q", len(m.journal), m.read())
			}
			u, err := r.Upstream(t.Context())
			if want := strings.Contains(before, "nameserver 192.0.2.1"); err != nil || (len(u.Servers) == 1 && u.Servers[0].String() == "192.0.2.1:53") != want {
				t.Errorf("Upstream = %+v, %v", u, err)
			}
			for range 2 {
				if err := m.undo(); err != nil {
					t.Error(err)
				}
				if after := m.snapshot(); after != before {
					t.Errorf("it is\n%s\nand was\n%s", after, before)
				}
			}
		})
	}
}

// TestFileRecordFails changes nothing if the journal cannot be written, and undoing what was never done is nothing.
func TestFileRecordFails(t *testing.T) {
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	before := m.snapshot()
	full := errors.New("disk full")
	err := m.resolver().Apply(t.Context(), fileConfig("10.0.0.53"), func(undo []byte) error {
		m.record(undo)
		return full
	})
	if !errors.Is(err, full) || m.snapshot() != before {
		t.Errorf("Apply = %v, and left\n%s", err, m.snapshot())
	}
	if err := m.undo(); err != nil || m.snapshot() != before {
		t.Errorf("Undo = %v, and left\n%s", err, m.snapshot())
	}
}

func TestFileInvalid(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(m *machine)
		cfg  Config
		want error
	}{
		{"split", func(m *machine) { m.write("resolv.conf", "") },
			Config{Device: "x", Servers: addrPorts("10.0.0.53:53"), Search: []string{"corp.example"}}, ErrNoSplit},
		{"port", func(m *machine) { m.write("resolv.conf", "") },
			Config{Device: "x", Servers: addrPorts("10.0.0.53:5353"), Default: true}, ErrInvalid},
		{"directory", func(m *machine) { os.Mkdir(m.path, 0o755) }, fileConfig("10.0.0.53"), ErrInvalid},
		{"circle", func(m *machine) { link(t, "resolv.conf", m.path) }, fileConfig("10.0.0.53"), ErrInvalid},
		{"link to a missing directory", func(m *machine) { link(t, "none/resolv.conf", m.path) }, fileConfig("10.0.0.53"), os.ErrNotExist},
		{"too long", func(m *machine) { m.write("resolv.conf", strings.Repeat("#\n", maxConf)) }, fileConfig("10.0.0.53"), ErrInvalid},
		{"device file", func(m *machine) { link(t, "/dev/null", m.path) }, fileConfig("10.0.0.53"), ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			test.make(m)
			before := m.snapshot()
			if err := m.resolver().Apply(t.Context(), test.cfg, m.record); !errors.Is(err, test.want) {
				t.Errorf("Apply = %v, want %v", err, test.want)
			}
			if len(m.journal) > 0 || m.snapshot() != before {
				t.Errorf("%d records, and\n%s", len(m.journal), m.snapshot())
			}
		})
	}
}

// TestFileOthers has another program change the file after us: what it wrote stays.
func TestFileOthers(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(m *machine)
	}{
		{"rewritten", func(m *machine) { m.write("resolv.conf", "nameserver 198.51.100.1\n") }},
		{"edited", func(m *machine) { m.write("resolv.conf", m.read()+"options rotate\n") }},
		{"replaced", func(m *machine) {
			m.write("new", "nameserver 198.51.100.1\n")
			os.Rename(filepath.Join(m.dir, "new"), m.path)
		}},
		{"removed", func(m *machine) { os.Remove(m.path) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			m.write("resolv.conf", "nameserver 192.0.2.1\n")
			r := m.resolver()
			if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
				t.Fatal(err)
			}
			test.change(m)
			before := m.snapshot()
			if err := m.undo(); !errors.Is(err, ErrChanged) || m.snapshot() != before {
				t.Errorf("Undo = %v, and left\n%s\nof\n%s", err, m.snapshot(), before)
			}
		})
	}
}

// TestFileStale finds the file of a process that was killed and not undone.
func TestFileStale(t *testing.T) {
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	before := m.snapshot()
	if err := m.resolver().Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
		t.Fatal(err)
	}
	m.write(".resolv.conf.culvert", "half of ")
	if err := m.resolver().Apply(t.Context(), fileConfig("10.0.0.54"), m.record); !errors.Is(err, ErrStale) {
		t.Errorf("Apply = %v, want ErrStale", err)
	}
	if err := m.undo(); err != nil || m.snapshot() != before {
		t.Errorf("Undo = %v, and left\n%s", err, m.snapshot())
	}
}

// TestFileTorn has the machine stop while the file is written over.
func TestFileTorn(t *testing.T) {
	const original = "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"
	m := newMachine(t)
	m.write("resolv.conf", original)
	if err := m.resolver().Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
		t.Fatal(err)
	}
	ours := m.read()
	for k := range len(ours) + 1 {
		content := ours[:k]
		if k < len(original) {
			content += original[k:]
		}
		m.write("resolv.conf", content)
		if err := m.undo(); err != nil || m.read() != original {
			t.Fatalf("after %d bytes: Undo = %v, and left %q", k, err, m.read())
		}
	}
	m.write("resolv.conf", "")
	if err := m.undo(); err != nil || m.read() != original {
		t.Errorf("emptied: Undo = %v, and left %q", err, m.read())
	}
}

// alone runs f in a mount namespace of its own, in a thread that ends with it.
func alone(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatal("CULVERT_INTEROP=1, but mounting needs root")
		}
		t.Skip("mounting needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestFileMounted is a container, where something is mounted on resolv.conf.
func TestFileMounted(t *testing.T) {
	m := newMachine(t)
	m.write("resolv.conf", "below\n")
	m.write("mounted", "nameserver 192.0.2.1\n")
	if err := os.Chmod(filepath.Join(m.dir, "mounted"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := m.snapshot()
	alone(t, func() {
		if err := unix.Mount(filepath.Join(m.dir, "mounted"), m.path, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
			return
		}
		before := m.snapshot()
		r := m.resolver()
		for _, server := range []string{"10.0.0.53", "10.0.0.54"} {
			if err := r.Apply(t.Context(), fileConfig(server), m.record); err != nil {
				t.Error(err)
			}
			b, _ := os.ReadFile(filepath.Join(m.dir, "mounted"))
			if !strings.Contains(m.read(), server) || string(b) != m.read() {
				t.Errorf("resolv.conf is %q, and what is mounted on it %q", m.read(), b)
			}
		}
		if err := m.undo(); err != nil || m.snapshot() != before {
			t.Errorf("Undo = %v, and left\n%s\nof\n%s", err, m.snapshot(), before)
		}
	})
	if m.snapshot() != outside {
		t.Errorf("outside it is\n%s\nand was\n%s", m.snapshot(), outside)
	}
}

func TestFileReadOnly(t *testing.T) {
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	before := m.snapshot()
	alone(t, func() {
		err := unix.Mount(m.dir, m.dir, "", unix.MS_BIND, "")
		if err == nil {
			err = unix.Mount("none", m.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		if err != nil {
			t.Error(err)
			return
		}
		if err := m.resolver().Apply(t.Context(), fileConfig("10.0.0.53"), m.record); !errors.Is(err, ErrPermission) {
			t.Errorf("Apply = %v, want ErrPermission", err)
		}
		if err := m.undo(); err != nil {
			t.Errorf("Undo = %v", err)
		}
	})
	if m.snapshot() != before {
		t.Errorf("it is\n%s", m.snapshot())
	}
}

func TestDetectFile(t *testing.T) {
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 127.0.0.53\n")
	b, reason, err := m.resolver().Detect(t.Context())
	if b != File || err != nil || !strings.Contains(reason, "no system bus") {
		t.Errorf("Detect = %v, %q, %v", b, reason, err)
	}
	r := New(Options{Backend: Resolved, Bus: "unix:path=" + m.path})
	if b, _, err := r.Detect(t.Context()); b != Resolved || !errors.Is(err, ErrUnavailable) {
		t.Errorf("Detect = %v, %v", b, err)
	}
	if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); !errors.Is(err, ErrUnavailable) || len(m.journal) > 0 {
		t.Errorf("Apply = %v", err)
	}
}

// watch starts a Watch that ends with the test.
func watch(t *testing.T, r *Resolver, policy Policy, record func([]byte) error) <-chan Event {
	t.Helper()
	events := make(chan Event, 64)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Watch(ctx, policy, record, func(e Event) { events <- e }); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	time.Sleep(100 * time.Millisecond) // it has begun to listen
	return events
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was noticed")
		panic("unreachable")
	}
}

func TestWatchFileRepairs(t *testing.T) {
	leak.Check(t)
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	r := m.resolver()
	events := watch(t, r, Repair, m.record)
	if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
		t.Fatal(err)
	}
	ours := m.read()
	for _, test := range []struct {
		name   string
		change func()
		what   string
	}{
		{"edited", func() { m.write("resolv.conf", ours+"options rotate\n") }, "edited"},
		{"removed", func() { os.Remove(m.path) }, "removed"},
		{"renamed over", func() {
			m.write("new", "nameserver 198.51.100.1\n")
			os.Rename(filepath.Join(m.dir, "new"), m.path)
		}, "rewritten"},
		{"another link", func() {
			m.write("real", "nameserver 198.51.100.2\n")
			os.Remove(m.path)
			link(t, "real", m.path)
		}, "leads to another file"},
	} {
		test.change()
		e := next(t, events)
		if !e.Repaired || e.Err != nil || e.Backend != File || !strings.Contains(e.What, test.what) || !strings.Contains(m.read(), "nameserver 10.0.0.53") {
			t.Errorf("%s: %+v, and resolv.conf is %q", test.name, e, m.read())
		}
	}
	// Our own change is none.
	if err := r.Apply(t.Context(), fileConfig("10.0.0.54"), m.record); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if len(events) > 0 {
		t.Errorf("an event of nothing: %+v", <-events)
	}
	// What is put back is the newest that somebody else wrote.
	if err := m.undo(); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(m.path); err != nil || to != "real" || m.read() != "nameserver 198.51.100.2\n" {
		t.Errorf("resolv.conf leads to %q, %v, and is %q", to, err, m.read())
	}
}

func TestWatchFileReports(t *testing.T) {
	leak.Check(t)
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	if err := os.Link(m.path, filepath.Join(t.TempDir(), "elsewhere")); err != nil {
		t.Fatal(err)
	}
	r := m.resolver()
	if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
		t.Fatal(err)
	}
	events := watch(t, r, Report, m.record)
	const theirs = "nameserver 198.51.100.1\n"
	m.write("resolv.conf", theirs)
	if e := next(t, events); e.Repaired || e.Err != nil || m.read() != theirs {
		t.Errorf("%+v, and resolv.conf is %q", e, m.read())
	}
	m.write("resolv.conf", theirs)
	time.Sleep(200 * time.Millisecond)
	if len(events) > 0 {
		t.Errorf("the same was told of twice: %+v", <-events)
	}
	if err := m.undo(); !errors.Is(err, ErrChanged) || m.read() != theirs {
		t.Errorf("Undo = %v, and left %q", err, m.read())
	}
}

// TestWatchFileFight gives up against a program that always writes its own file back.
func TestWatchFileFight(t *testing.T) {
	leak.Check(t)
	m := newMachine(t)
	m.write("resolv.conf", "nameserver 192.0.2.1\n")
	r := m.resolver()
	if err := r.Apply(t.Context(), fileConfig("10.0.0.53"), m.record); err != nil {
		t.Fatal(err)
	}
	events := watch(t, r, Repair, m.record)
	for i := range 6 {
		m.write("resolv.conf", "nameserver 198.51.100.1\n")
		e := next(t, events)
		if fought := i == 5; e.Repaired == fought || errors.Is(e.Err, ErrFight) != fought {
			t.Fatalf("change %d: %+v", i, e)
		}
	}
	if err := m.undo(); err != nil && !errors.Is(err, ErrChanged) || m.read() != "nameserver 198.51.100.1\n" {
		t.Errorf("Undo = %v, and left %q", err, m.read())
	}
}

// TestAtomicFile reads all the time, and never sees less than a whole file.
func TestAtomicFile(t *testing.T) {
	for _, names := range []int{1, 2} {
		m := newMachine(t)
		m.write("resolv.conf", "nameserver 192.0.2.1\n")
		if names == 2 {
			if err := os.Link(m.path, m.path+".2"); err != nil {
				t.Fatal(err)
			}
		}
		stop := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if b, err := os.ReadFile(m.path); err != nil || !bytes.Contains(b, []byte("nameserver ")) {
					t.Errorf("a reader sees %q, %v", b, err)
					return
				}
			}
		})
		r := m.resolver()
		for i := range 20 {
			if err := r.Apply(t.Context(), fileConfig([]string{"10.0.0.53", "10.200.200.200"}[i%2]), m.record); err != nil {
				t.Error(err)
			}
		}
		if err := m.undo(); err != nil {
			t.Error(err)
		}
		close(stop)
		reader.Wait()
	}
}

// TestUpstreamSearch: what a search list has beside domains is left out.
func TestUpstreamSearch(t *testing.T) {
	m := newMachine(t)
	for line, want := range map[string][]string{
		"search .": nil, "domain .": nil, "search home.example. . b@d.example HOME.example lab.example": {"home.example", "lab.example"},
	} {
		m.write("resolv.conf", "nameserver 192.0.2.1\n"+line+"\n")
		if u, err := m.resolver().Upstream(t.Context()); err != nil || !slices.Equal(u.Search, want) {
			t.Errorf("%s: %q, %v", line, u.Search, err)
		}
	}
}
