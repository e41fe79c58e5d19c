package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/ocserv"
)

// nobodys runs a program in the session of the user nobody of the machine.
var nobodys = []string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/run/home",
	"XDG_RUNTIME_DIR=/run/user/65534", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/65534/bus", "GSETTINGS_BACKEND=dconf"}

// logOn gives the machine a user with a session bus, on which the real dconf-service is started on demand.
func (m *machine) logOn() (off func()) {
	m.t.Helper()
	m.run("mkdir", "-p", "/run/home", "/run/user/65534")
	m.run("chown", "65534:65534", "/run/home", "/run/user/65534")
	m.run("chmod", "700", "/run/home", "/run/user/65534")
	cmd, kill := m.command("setpriv", append(nobodys[:len(nobodys):len(nobodys)],
		"dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path=/run/user/65534/bus")...)
	said, err := os.Create(m.t.TempDir() + "/bus") // a file, since what the bus starts would keep a pipe open
	if err != nil {
		m.t.Fatal(err)
	}
	defer said.Close()
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		kill()
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); cmd.Wait() }()
	off = func() { cmd.Process.Signal(syscall.SIGTERM); <-done; m.run("rm", "-f", "/run/user/65534/bus") }
	m.t.Cleanup(func() { kill(); <-done })
	m.eventually(5*time.Second, "the session bus", func() bool { _, err := m.try("test", "-S", "/run/user/65534/bus"); return err == nil })
	return off
}

// gsettings runs the program of that name for the user, and returns its last line: dconf warns in front of it where there is room
// for locks and there are none.
func (m *machine) gsettings(args ...string) (string, error) {
	out, err := m.try("setpriv", append(append(nobodys[:len(nobodys):len(nobodys)], "gsettings"), args...)...)
	out = strings.TrimSpace(out)
	return out[strings.LastIndexByte(out, '\n')+1:], err
}

// proxy returns what programs of the user see.
func (m *machine) proxy() string {
	m.t.Helper()
	var all []string
	for _, key := range []string{"mode", "autoconfig-url"} {
		got, err := m.gsettings("get", "org.gnome.system.proxy", key)
		if err != nil {
			m.t.Fatal(err, got)
		}
		all = append(all, got)
	}
	return strings.Join(all, " ")
}

// locked reports whether the user can change what proxy shows.
func (m *machine) locked() bool {
	m.t.Helper()
	got, err := m.gsettings("writable", "org.gnome.system.proxy", "mode")
	if err != nil {
		m.t.Fatal(err, got)
	}
	return got == "false"
}

// TestDesktopProxy gives a desktop the proxy of the gateway, and takes it back at every kind of end.
func TestDesktopProxy(t *testing.T) {
	t.Parallel()
	for _, need := range []string{"dbus-daemon", "gsettings", "setpriv", "/usr/libexec/dconf-service"} {
		if _, err := exec.LookPath(need); err != nil {
			if os.Getenv("CULVERT_INTEROP") == "1" {
				t.Fatalf("CULVERT_INTEROP=1, but %v", err)
			}
			t.Skip(err)
		}
	}
	const pac = "http://wpad.corp.example/x.pac"
	m := newMachine(t, taste{lines: append(splitLines[:len(splitLines):len(splitLines)], "proxy-url = "+pac)})
	m.run("sed", "-i", "s,^nobody:.*,nobody:x:65534:65534::/run/home:/bin/sh,", "/etc/passwd")
	off := m.logOn()
	fresh := m.proxy()
	const want = "'auto' '" + pac + "'"
	if fresh == want {
		t.Fatalf("before, the settings are %s", fresh)
	}
	same := func(when string) {
		t.Helper()
		if got := m.proxy(); got != fresh || m.locked() {
			t.Errorf("%s the settings are %s, not %s; locked: %v", when, got, fresh, m.locked())
		}
	}
	connect := func(args ...string) *process {
		t.Helper()
		p := m.connect(args...)
		m.seen(ocserv.Inside.String(), tunnelled)
		return p
	}

	// What the desktop says counts for the way to the gateway too, where the profile says so.
	native := m.named(m.profileOf("<ProxySettings>Native</ProxySettings>"))
	for _, c := range []struct{ key, value, want string }{
		{"org.gnome.system.proxy autoconfig-url", "http://mine.example/proxy.pac", ""},
		{"org.gnome.system.proxy mode", "auto", "the settings of the desktop name the PAC file http://mine.example/proxy.pac"},
		{"org.gnome.system.proxy.https host", "10.98.0.1", ""},
		{"org.gnome.system.proxy.https port", "9", ""},
		{"org.gnome.system.proxy mode", "manual", "proxy http://10.98.0.1:9"},
	} {
		if got, err := m.gsettings(append([]string{"set"}, strings.Fields(c.key+" "+c.value)...)...); err != nil {
			t.Fatal(err, got)
		}
		if c.want == "" {
			continue
		}
		if got := m.culvertWith("pass\n", native...); got.code == exitOK || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: %+v", c.want, got)
		}
	}
	for _, schema := range []string{"org.gnome.system.proxy", "org.gnome.system.proxy.https"} {
		if got, err := m.gsettings("reset-recursively", schema); err != nil {
			t.Fatal(err, got)
		}
	}
	same("again")

	p := connect()
	if got := m.proxy(); got != want {
		t.Errorf("programs see %s", got)
	}
	if got := m.culvert("status"); !strings.Contains(got.out, "the desktop of user 65534 has the gateway's") || !strings.Contains(got.out, "no line system-db:culvert") {
		t.Errorf("without room for locks: %+v", got)
	}
	terminated(t, m, p)
	same("after the end")

	// From here on the administrator has made room for locks.
	m.run("mkdir", "-p", "/etc/dconf/profile", "/etc/dconf/db")
	m.write("/etc/dconf/profile/user", "user-db:user\nsystem-db:culvert\n")

	p = connect("--no-desktop-proxy")
	same("with --no-desktop-proxy")
	if got := m.culvert("status"); strings.Contains(got.out, "\nWeb proxy ") {
		t.Errorf("the status tells of desktops: %+v", got)
	}
	terminated(t, m, p)

	// What one that was killed has left is undone by the next one, before it makes its own changes.
	for _, when := range []string{"once", "twice"} {
		p = connect()
		if got := m.culvert("status"); !strings.Contains(got.out, "which the user cannot change") {
			t.Errorf("with room for locks: %+v", got)
		}
		m.kill(p)
		if got := m.proxy(); got != want || !m.locked() {
			t.Errorf("after kill -9, %s, programs see %s, locked %v", when, got, m.locked())
		}
	}
	if got := m.culvert("repair"); got.code != exitOK || !strings.Contains(got.out, "undone:           settings of the desktop") {
		t.Errorf("repair: %+v", got)
	}
	same("after repair")
	m.unchanged("after repair")

	// Whoever has logged off gets the old settings back when there is a session again, and keeps nobody from anything.
	p = connect()
	off()
	terminated(t, m, p)
	if out, err := m.try("test", "-e", "/etc/dconf/db/culvert"); err == nil {
		t.Errorf("the locks, which need no session, are still there %s", out)
	}
	if got := m.culvert("repair"); got.code != exitOK || !strings.Contains(got.out, "not possible yet: settings of the desktop") {
		t.Errorf("repair without a session: %+v", got)
	}
	p = connect()
	terminated(t, m, p)
	m.logOn()
	if got := m.proxy(); got != want {
		t.Errorf("at the next logon programs see %s", got)
	}
	if got := m.culvert("repair"); got.code != exitOK {
		t.Errorf("repair after the logon: %+v", got)
	}
	same("after the logon")
}
