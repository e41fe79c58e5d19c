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

// proxy returns what programs of the user see.
func (m *machine) proxy() string {
	m.t.Helper()
	var all []string
	for _, key := range []string{"mode", "autoconfig-url"} {
		all = append(all, strings.TrimSpace(m.run("setpriv", append(nobodys[:len(nobodys):len(nobodys)], "gsettings", "get", "org.gnome.system.proxy", key)...)))
	}
	return strings.Join(all, " ")
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
		if got := m.proxy(); got != fresh {
			t.Errorf("%s the settings are %s, not %s", when, got, fresh)
		}
	}
	connect := func(args ...string) *process {
		t.Helper()
		p := m.connect(args...)
		m.seen(ocserv.Inside.String(), tunnelled)
		return p
	}

	p := connect()
	if got := m.proxy(); got != want {
		t.Errorf("programs see %s", got)
	}
	if got := m.culvert("status"); !strings.Contains(got.out, "\nDesktop      user 65534 has the proxy settings of the gateway") {
		t.Errorf("the status does not say so: %+v", got)
	}
	terminated(t, m, p)
	same("after the end")

	p = connect("--no-desktop-proxy")
	same("with --no-desktop-proxy")
	if got := m.culvert("status"); strings.Contains(got.out, "\nDesktop ") {
		t.Errorf("the status tells of desktops: %+v", got)
	}
	terminated(t, m, p)

	p = connect()
	m.kill(p)
	if got := m.proxy(); got != want {
		t.Errorf("after kill -9 programs see %s", got)
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
