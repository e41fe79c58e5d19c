package proxysettings

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

// A desk is a user with a session bus, where dconf-service is started on demand, and with gsettings as the other program.
type desk struct {
	t       *testing.T
	dir     string
	session Session
	profile string
	journal [][]byte
}

// newDesk makes one for a user: a directory of its own is their home.
func newDesk(t *testing.T, uid int) *desk {
	t.Helper()
	for _, need := range []string{"dbus-daemon", "gsettings", "/usr/libexec/dconf-service"} {
		if _, err := exec.LookPath(need); err != nil {
			if os.Getenv("CULVERT_INTEROP") == "1" {
				t.Fatalf("CULVERT_INTEROP=1, but %v", err)
			}
			t.Skip(err)
		}
	}
	dir, err := os.MkdirTemp("", "desk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &desk{t: t, dir: dir, profile: filepath.Join(dir, "profile"), session: Session{UID: uid, GID: uid, Bus: "unix:path=" + filepath.Join(dir, "bus"), Config: filepath.Join(dir, ".config")}}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "run"), 0o700), os.Chown(dir, uid, uid), os.Chown(filepath.Join(dir, "run"), uid, uid)); err != nil {
		t.Fatal(err)
	}
	bus := d.command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+d.session.Bus)
	bus.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A file, since a pipe would stay open as long as what the bus has started.
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	bus.Stderr = said
	if err := bus.Start(); err != nil {
		t.Fatal(err)
	}
	// What the bus has started ends with it.
	t.Cleanup(func() { bus.Process.Signal(syscall.SIGTERM); bus.Wait() })
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "bus")); err == nil {
			return d
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(said.Name())
			t.Fatalf("no session bus: %s", b)
		}
	}
}

// command is one that runs as the user, in the user's session.
func (d *desk) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = "/"
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "XDG_RUNTIME_DIR=" + filepath.Join(d.dir, "run"),
		"DBUS_SESSION_BUS_ADDRESS=" + d.session.Bus, "GSETTINGS_BACKEND=dconf", "DCONF_PROFILE=" + d.profile}
	if _, err := os.Stat(d.profile); err != nil {
		c.Env = c.Env[:len(c.Env)-1]
	}
	c.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() != d.session.UID {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(d.session.UID), Gid: uint32(d.session.GID)}
	}
	return c
}

// gsettings runs gsettings and returns what it prints.
func (d *desk) gsettings(args ...string) string {
	d.t.Helper()
	c := d.command("gsettings", args...)
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Process.Kill() })
	defer stop()
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		d.t.Fatalf("gsettings %q: %v: %s", args, err, &said)
	}
	return strings.TrimSpace(string(out))
}

// show returns what gsettings says of keys, such as mode or http/host.
func (d *desk) show(keys ...string) string {
	d.t.Helper()
	var all []string
	for _, key := range keys {
		schema := "org.gnome.system.proxy"
		if sub, name, ok := strings.Cut(key, "/"); ok {
			schema, key = schema+"."+sub, name
		}
		all = append(all, d.gsettings("get", schema, key))
	}
	return strings.Join(all, " ")
}

func (d *desk) desktop() *Desktop {
	return Open(Options{Session: d.session, Profile: d.profile, SystemBus: "unix:path=" + filepath.Join(d.dir, "none")})
}

func (d *desk) record(b []byte) error { d.journal = append(d.journal, b); return nil }

func (d *desk) apply(desktop *Desktop, c Config) {
	d.t.Helper()
	if err := desktop.Apply(d.t.Context(), c, d.record); err != nil {
		d.t.Fatal(err)
	}
}

// undo undoes the journal from its end, as another process would.
func (d *desk) undo() (err error) {
	for _, r := range slices.Backward(d.journal) {
		err = errors.Join(err, d.desktop().Undo(d.t.Context(), r))
	}
	return err
}

func (d *desk) keys() map[string]variant {
	d.t.Helper()
	db, err := d.session.readUser("user")
	if err != nil {
		d.t.Fatal(err)
	}
	return db.values
}

func same(a, b map[string]variant) bool {
	return maps.EqualFunc(a, b, func(a, b variant) bool { return bytes.Equal(a, b) })
}

// TestDesktop applies the gateway's settings and takes them back (D146, D148, D149), for root and for another user, with a real
// dconf-service; gsettings says what programs see.
func TestDesktop(t *testing.T) {
	uids := []int{os.Getuid()}
	if os.Getuid() == 0 {
		uids = append(uids, 65534) // nobody
	}
	for _, uid := range uids {
		t.Run("uid "+strconv.Itoa(uid), func(t *testing.T) {
			leak.Check(t)
			d := newDesk(t, uid)
			desktop := d.desktop()
			fresh := d.keys()
			manual, err := New("use-server", "proxy.corp.example:3128", "", []string{"*.corp.example", "10.*"}, true)
			if err != nil {
				t.Fatal(err)
			}
			d.apply(desktop, manual)
			all := []string{"mode", "http/host", "http/port", "https/host", "https/port", "socks/host", "ignore-hosts"}
			const want = "'manual' 'proxy.corp.example' 3128 'proxy.corp.example' 3128 '' ['localhost', '127.0.0.0/8', '::1', '*.corp.example', '10.0.0.0/8']"
			if got := d.show(all...); got != want {
				t.Errorf("programs see %s", got)
			}
			if s := desktop.Status(); !s.Applied || s.Lockdown || !strings.Contains(s.NotLocked, "system-db:culvert") {
				t.Errorf("status %+v", s)
			}
			n := len(d.journal)
			d.apply(desktop, manual)
			if len(d.journal) != n || n != 1 {
				t.Errorf("%d records for one change, then %d", n, len(d.journal))
			}
			if c, err := desktop.Current(t.Context()); err != nil || c.Mode != "manual" || c.HTTPS != "proxy.corp.example:3128" || len(c.Except) != 5 {
				t.Errorf("current: %+v, %v", c, err)
			}
			d.apply(desktop, Config{Method: Auto, PAC: "http://wpad.corp.example/x.pac"})
			if got := d.show("mode", "autoconfig-url"); got != "'auto' 'http://wpad.corp.example/x.pac'" {
				t.Errorf("programs see %s", got)
			}
			if err := d.undo(); err != nil {
				t.Error(err)
			}
			// Keys that were not set are not set again, rather than set to what is the default today.
			if got := d.keys(); !same(got, fresh) || len(got) != 0 {
				t.Errorf("afterwards the user has set %v", got)
			}
			if err := d.undo(); err != nil {
				t.Errorf("undone twice: %v", err)
			}
		})
	}
}

// TestUser keeps what the user had, and what the user does meanwhile.
func TestUser(t *testing.T) {
	leak.Check(t)
	d := newDesk(t, os.Getuid())
	d.gsettings("set", "org.gnome.system.proxy", "mode", "manual")
	d.gsettings("set", "org.gnome.system.proxy.http", "host", "mine.example")
	d.gsettings("set", "org.gnome.system.proxy.http", "use-authentication", "true")
	d.gsettings("set", "org.gnome.system.proxy", "ignore-hosts", "['a', 'b']")
	before := d.keys()
	desktop := d.desktop()
	d.apply(desktop, Config{Method: Manual, HTTP: "p:1"})
	if got := d.show("http/use-authentication", "http/host"); got != "false 'p'" {
		t.Errorf("programs see %s", got)
	}
	if err := d.undo(); err != nil {
		t.Error(err)
	}
	if !same(d.keys(), before) {
		t.Errorf("before %v, after %v", before, d.keys())
	}

	d.journal = nil
	d.apply(desktop, Config{Method: None})
	d.gsettings("set", "org.gnome.system.proxy", "mode", "auto")
	if err := d.undo(); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "/system/proxy/mode") {
		t.Errorf("changed by the user: %v", err)
	}
	if got := d.show("mode"); got != "'auto'" {
		t.Errorf("the user's choice became %s", got)
	}

	// A journal that cannot be written keeps the change from being made; one that was written does no harm without it.
	full := errors.New("disk full")
	var lost []byte
	err := desktop.Apply(t.Context(), Config{Method: None}, func(b []byte) error { lost = b; return full })
	if !errors.Is(err, full) || d.show("mode") != "'auto'" {
		t.Errorf("%v: %s", err, d.show("mode"))
	}
	if err := desktop.Undo(t.Context(), lost); err != nil || d.show("mode") != "'auto'" {
		t.Errorf("%v: %s", err, d.show("mode"))
	}
	if err := desktop.Apply(t.Context(), Config{Method: NoModify, Lockdown: true}, d.record); err != nil || desktop.Status().NotLocked == "" {
		t.Errorf("no-modify: %v, %+v", err, desktop.Status())
	}
}

// TestLockdown locks the settings where the administrator has made room for it (D146), and leaves the administrator's own locks
// alone (D147, D150).
func TestLockdown(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CULVERT_INTEROP") == "1" {
		t.Fatal("this test runs as root")
	}
	leak.Check(t)
	d := newDesk(t, os.Getuid())
	file := filepath.Join(d.dir, "db", "culvert")
	os.Mkdir(filepath.Dir(file), 0o755)
	if err := os.WriteFile(d.profile, []byte("# culvert\nuser-db:user\nfile-db:"+file+"\nfile-db:"+filepath.Join(d.dir, "db", "site")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	desktop := d.desktop()
	c, err := New("", "proxy.corp.example:3128", "", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	d.apply(desktop, c)
	if s := desktop.Status(); !s.Lockdown {
		t.Errorf("status %+v", s)
	}
	for _, key := range []string{"mode", "autoconfig-url", "ignore-hosts"} {
		if got := d.gsettings("writable", "org.gnome.system.proxy", key); got != "false" {
			t.Errorf("%s can be written: %s", key, got)
		}
	}
	if got := d.show("mode", "https/host", "https/port"); got != "'manual' 'proxy.corp.example' 3128" {
		t.Errorf("programs see %s", got)
	}
	if out, err := d.command("gsettings", "set", "org.gnome.system.proxy", "mode", "none").CombinedOutput(); err == nil && d.show("mode") != "'manual'" {
		t.Errorf("the user has changed it: %s", out)
	}
	// The locks are for all users of the machine, of whom one is the first.
	other := d.desktop()
	if err := other.Apply(d.t.Context(), c, d.record); err != nil || !other.Status().Lockdown {
		t.Errorf("another user: %v, %+v", err, other.Status())
	}
	d.apply(desktop, Config{Method: Auto, PAC: "http://h/x", Lockdown: true})
	if got := d.show("mode", "autoconfig-url"); got != "'auto' 'http://h/x'" {
		t.Errorf("programs see %s", got)
	}
	if err := d.undo(); err != nil && !errors.Is(err, ErrChanged) {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the locks are still there: %v", err)
	}
	if got := d.gsettings("writable", "org.gnome.system.proxy", "mode") + " " + d.show("mode"); got != "true 'none'" {
		t.Errorf("afterwards: %s", got)
	}

	// The administrator's locks.
	site := database{values: map[string]variant{directory + "mode": variantString("manual"), directory + "https/host": variantString("admin")}, locks: map[string]bool{directory + "mode": true}}
	if err := os.WriteFile(filepath.Join(d.dir, "db", "site"), site.bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	n := len(d.journal)
	if err := desktop.Apply(t.Context(), c, d.record); !errors.Is(err, ErrLocked) || len(d.journal) != n {
		t.Errorf("locked by the administrator: %v", err)
	}
	if cur, err := desktop.Current(t.Context()); err != nil || cur.Mode != "manual" {
		t.Errorf("current: %+v, %v", cur, err)
	}
}

// TestIdentity becomes another user on one thread, and is root again afterwards.
func TestIdentity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	status := func() string {
		b, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(b)) {
			for _, prefix := range []string{"Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"} {
				if strings.HasPrefix(line, prefix) {
					lines = append(lines, line)
				}
			}
		}
		return strings.Join(lines, "")
	}
	before := status()
	for range 20 {
		if err := as(65534, 65534, func() error {
			_, err := os.ReadFile("/etc/shadow")
			if err == nil {
				return errors.New("nobody reads /etc/shadow")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		// Whatever thread this goes on with is what it was.
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if now := status(); now != before {
					t.Errorf("a thread is %s\nand was %s", now, before)
				}
			})
		}
		all.Wait()
	}
}

// TestNobody says what is missing.
func TestNobody(t *testing.T) {
	dir := t.TempDir()
	s := Session{UID: os.Getuid(), GID: os.Getgid(), Bus: "unix:path=" + filepath.Join(dir, "bus"), Config: dir}
	d := Open(Options{Session: s, Profile: filepath.Join(dir, "none")})
	err := d.Apply(t.Context(), Config{Method: None}, func([]byte) error { return nil })
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("no bus: %v", err)
	}
	os.MkdirAll(filepath.Join(dir, "dconf"), 0o755)
	if err := syscall.Mkfifo(filepath.Join(dir, "dconf", "user"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(t.Context(), Config{Method: None}, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a pipe for a database: %v", err)
	}
	if _, err := Own(func(string) string { return "" }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no session: %v", err)
	}
	if s, err := Own(func(name string) string {
		return map[string]string{"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=/tmp/x,guid=1", "HOME": "/home/a"}[name]
	}); err != nil || s.Config != "/home/a/.config" {
		t.Errorf("%+v, %v", s, err)
	}
	if got, err := sessionsIn(dir, user.LookupId); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
