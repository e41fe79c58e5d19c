package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/host/logins"
)

// scriptText notes what it is told, and who it is.
const scriptText = `#!/bin/sh
echo "$reason $TUNDEV $INTERNAL_IP4_ADDRESS $CISCO_SPLIT_DNS $(id -u):$(id -g) $(id -G)" >>/run/said/all
`

// TestHooks connects by profiles that let the scripts of the user run, and by one that does not.
func TestHooks(t *testing.T) {
	t.Parallel()
	// Whoever runs this may have logged on as somebody, who counts before sudo.
	login, err := os.ReadFile("/proc/self/loginuid")
	known := err == nil && strings.TrimSpace(string(login)) != "4294967295"
	m := newMachine(t, taste{lines: splitLines})
	m.run("mkdir", "-p", "/etc/culvert/script", "/run/said")
	m.run("touch", "/run/said/all")
	m.run("chmod", "666", "/run/said/all")
	for _, name := range []string{"OnConnect.sh", "OnDisconnect.sh", "other.sh"} {
		m.write("/etc/culvert/script/"+name, scriptText)
		m.run("chmod", "755", "/etc/culvert/script/"+name)
	}
	said := func() string { return m.run("cat", "/run/said/all") }
	connect := func(settings string, env ...string) *process {
		file := m.profileOf(settings)
		p := m.startIn(append([]string{"env", "-u", "SUDO_UID", "-u", "PKEXEC_UID", "HOME=/run/home", "XDG_CONFIG_HOME=/run/home/.config"}, env...), "pass\n", m.named(file)...)
		var told int
		p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
		return p
	}

	p := connect("", "SUDO_UID=65534")
	terminated(t, m, p)
	if got := said(); got != "" {
		t.Errorf("without EnableScripting, scripts have said %q", got)
	}

	const enabled = "<EnableScripting UserControllable=\"false\">true</EnableScripting>"
	p = connect(enabled, "SUDO_UID=65534")
	m.eventually(5*time.Second, "OnConnect", func() bool { return strings.HasSuffix(said(), "\n") })
	terminated(t, m, p)
	got := strings.Split(said(), "\n")
	if len(got) != 3 || !strings.HasPrefix(got[0], "connect culvert0 192.168.77.") || !strings.HasPrefix(got[1], "disconnect culvert0 192.168.77.") {
		t.Fatalf("the scripts have said %q", got)
	}
	for _, line := range got[:2] {
		words := strings.Fields(line)
		if words[3] != "corp.example" || strings.HasPrefix(words[4], "0:") || strings.HasSuffix(words[4], ":0") {
			t.Errorf("a script was told, or is, %q", line)
		}
		for _, group := range words[5:] {
			if group == "0" {
				t.Errorf("a script has the group of root: %q", line)
			}
		}
	}

	// Where root is not known to act for anybody, nothing runs.
	m.run("truncate", "-s", "0", "/run/said/all")
	p = connect(enabled)
	terminated(t, m, p)
	if got := said(); !known && (got != "" || !strings.Contains(p.said(), "scripts OnConnect and OnDisconnect do not run")) {
		t.Errorf("for nobody: the scripts have said %q, the command %s", got, p.said())
	} else if strings.Contains(got, " 0:") {
		t.Errorf("scripts ran as root: %q", got)
	}

	// What does not end is ended, with what it has started, and keeps nothing else from ending.
	m.run("truncate", "-s", "0", "/run/said/all")
	m.write("/etc/culvert/script/OnDisconnect.sh", scriptText+"sleep 300\n")
	p = connect(enabled, "SUDO_UID=65534")
	since := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(since); took < hooksPatience || took > hooksPatience+8*time.Second {
		t.Errorf("with a script that does not end, it took %v", took)
	}
	if got := said(); strings.Count(got, "\n") != 2 {
		t.Errorf("the scripts have said %q", got)
	}
	if found, err := m.try("pgrep", "-f", "^sleep 300$"); err == nil {
		t.Errorf("it still runs: %s", found)
	}
	m.unchanged("after a script that does not end")
}

// TestHooksUser says whose scripts run when nobody has started the command.
func TestHooksUser(t *testing.T) {
	at := logins.Session{UID: 1000, Class: logins.User, Active: true}
	far, front, root, gone, behind := at, at, at, at, at
	far.Remote, far.UID = true, 1001
	front.Class, front.UID = logins.Greeter, 1002
	root.UID = 0
	gone.Closing, gone.UID = true, 1003
	behind.Active, behind.UID = false, 1004
	another := at
	another.UID = 1005
	for name, c := range map[string]struct {
		sessions []logins.Session
		want     uint32
	}{
		"nobody":     {nil, 0},
		"one":        {[]logins.Session{far, front, root, gone, behind, at, at}, 1000},
		"others":     {[]logins.Session{far, front, root, gone, behind}, 0},
		"two in one": {[]logins.Session{at, another}, 0},
	} {
		if got, err := sitting(c.sessions); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}
