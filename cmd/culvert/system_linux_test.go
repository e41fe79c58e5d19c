package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/ocserv"
)

// TestMachine connects a machine in all the ways in which its names may be resolved, and takes it back in all the ways in
// which a client may end.
func TestMachine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		how     taste
		backend string
		end     []func(t *testing.T, m *machine, p *process)
	}{
		{"systemd-resolved", taste{resolved: true, lines: splitLines}, "systemd-resolved", []func(*testing.T, *machine, *process){killed, terminated}},
		{"resolv.conf", taste{lines: splitLines}, "resolv.conf", []func(*testing.T, *machine, *process){interruptedByHand, killed, connectedAgain}},
		{"linked resolv.conf", taste{symlink: true, lines: splitLines}, "resolv.conf", []func(*testing.T, *machine, *process){disconnected, killed}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, tt.how)
			for round, end := range tt.end {
				p := m.connect("--include", more, "--include", "saas.example", "--exclude", "172.31.98.0/24")
				m.splits(tt.backend, round)
				end(t, m, p)
			}
		})
	}
}

// splits fails the test unless each destination and each name is on the side where it belongs. Names are new in each round,
// so that no cache answers.
func (m *machine) splits(backend string, round int) {
	m.t.Helper()
	inside, outside := fmt.Sprintf("git%d.corp.example", round), fmt.Sprintf("www%d.other.example", round)
	m.seen(ocserv.Inside.String(), tunnelled)
	m.seen(ocserv.Inside6.String(), tunnel6)
	m.seen(more, tunnelled)
	m.seen(excluded, plainly)
	m.seen(somebody, plainly)
	m.seen(somebody6, plainly6)
	m.resolves(inside, insideAnswer, "inside")
	m.resolves(outside, outsideAnswer, "outside")
	// The tap is behind what happens. Once it has seen the second name it would have seen the first one.
	m.eventually(5*time.Second, "the outside name is seen outside, without which the tap proves nothing", func() bool {
		return len(m.out.mentions(outside)) > 0
	})
	if found := m.out.mentions(inside); len(found) > 0 {
		m.t.Errorf("the inside name leaves the machine: %q", found)
	}
	// The user has this one in the tunnel by its name, although its address is outside.
	m.lookup("app.saas.example")
	m.eventually(2*time.Second, saas+" is in the tunnel, since it has a name that is", func() bool {
		return strings.HasPrefix(m.from(saas), tunnelled)
	})

	got := m.culvert("status", "--json")
	var r machineReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil {
		m.t.Fatalf("%+v: %v", got, err)
	}
	if r.State != "connected" || r.Device != "culvert0" || len(r.Addresses) != 2 || r.Resolver.Backend != backend || r.Resolver.Reason == "" ||
		r.DataPath.Path != "packet" && r.DataPath.Path != "flow" || r.KillSwitch.Mode != "off" || r.Counters.SentBytes == 0 || r.PID == 0 {
		m.t.Errorf("%+v", r)
	}
	if got := m.culvert("pause"); got.code != exitFailed || !strings.Contains(got.stderr, "no AutomaticVPNPolicy") {
		m.t.Errorf("pause: %+v", got)
	}
	if got := m.culvert("status"); got.code != exitOK || !strings.Contains(got.out, "Names        corp.example, saas.example from 172.31.0.1\n") || strings.Contains(got.out, "\x1b") {
		m.t.Errorf("%+v", got)
	}
}

func terminated(t *testing.T, m *machine, p *process) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status after SIGTERM: %d", code)
	}
	m.unchanged("after SIGTERM")
	m.loggedOut()
}

func interruptedByHand(t *testing.T, m *machine, p *process) {
	t.Helper()
	p.cmd.Process.Signal(os.Interrupt)
	if code := p.exit(); code != exitInterrupted {
		t.Errorf("exit status after SIGINT: %d", code)
	}
	m.unchanged("after SIGINT")
	m.loggedOut()
}

func disconnected(t *testing.T, m *machine, p *process) {
	t.Helper()
	if got := m.culvert("disconnect"); got.code != exitOK {
		t.Errorf("disconnect: %+v", got)
	}
	m.unchanged("after culvert disconnect")
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status after culvert disconnect: %d", code)
	}
	m.loggedOut()
}

func killed(t *testing.T, m *machine, p *process) {
	t.Helper()
	m.kill(p)
	if got := m.culvert("status"); got.code != exitFailed || !strings.Contains(got.stderr, "culvert repair") {
		t.Errorf("status after a crash: %+v", got)
	}
	got := m.culvert("repair")
	if got.code != exitOK || !strings.Contains(got.out, "undone") {
		t.Errorf("repair: %+v", got)
	}
	m.unchanged("after culvert repair")
	if got := m.culvert("repair"); got.code != exitOK || !strings.Contains(got.out, "nothing to repair") {
		t.Errorf("second repair: %+v", got)
	}
}

// connectedAgain has the next client repair.
func connectedAgain(t *testing.T, m *machine, p *process) {
	t.Helper()
	m.kill(p)
	p = m.connect()
	m.seen(ocserv.Inside.String(), tunnelled)
	terminated(t, m, p)
}

// kill ends a client as a crash does, and fails the test unless that leaves something to repair.
func (m *machine) kill(p *process) {
	m.t.Helper()
	p.cmd.Process.Kill()
	<-p.done
	if m.picture() == m.before {
		m.t.Error("kill -9 leaves nothing to repair, so that this proves nothing")
	}
}

// loggedOut waits until the gateway knows no session any more that is connected.
func (m *machine) loggedOut() {
	m.t.Helper()
	m.eventually(5*time.Second, "the gateway knows no session", func() bool {
		return !strings.Contains(m.server.Control("--json", "show", "users"), `"Username":`)
	})
}

// TestHangup ends a client without ending the session, which the next one goes on with.
func TestHangup(t *testing.T) {
	t.Parallel()
	// Under nohup this process ignores the signal, and so would its children.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	m := newMachine(t, taste{lines: splitLines})
	got := m.culvertWith("pass\n", append(m.connectArgs(), "--cookieonly")...)
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	args := []string{"connect", "--cookie-on-stdin", "--non-inter", "--servercert", m.server.Pin, m.server.URL, "-i", "vpn0", "--pid-file", "/run/vpn.pid"}
	for range 2 {
		p := m.start(got.out, args...)
		var told int
		e := p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
		if e.Device != "vpn0" {
			t.Errorf("the device is %s", e.Device)
		}
		m.seen(ocserv.Inside.String(), tunnelled)
		if b, err := os.ReadFile(m.path("/run/vpn.pid")); err != nil || string(b) != fmt.Sprintln(p.cmd.Process.Pid) {
			t.Errorf("pid file: %q, %v", b, err)
		}
		p.cmd.Process.Signal(syscall.SIGUSR1)
		p.wait(&told, "the state, on SIGUSR1", func(e event) bool { return e.Event == "tunnel" && e.State == "connected" })
		p.cmd.Process.Signal(syscall.SIGHUP)
		if code := p.exit(); code != exitOK {
			t.Errorf("exit status after SIGHUP: %d", code)
		}
		m.unchanged("after SIGHUP")
		if _, err := os.Stat(m.path("/run/vpn.pid")); err == nil {
			t.Error("the pid file is still there")
		}
	}
}

// TestBackground leaves a client in the background.
func TestBackground(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	args := m.connectArgs("--background", "--pid-file", "/run/vpn.pid", "--log-file", "/run/vpn.log")
	// The pipe ends although the client goes on.
	got := m.runAs("pass\n", "sh", append([]string{"-c", `"$0" "$@" 2>&1 | cat`, self(t)}, args...)...)
	if got.code != exitOK || !strings.Contains(got.out, "in the background") || !strings.Contains(got.out, "/run/vpn.log") {
		t.Fatalf("%+v", got)
	}
	m.seen(ocserv.Inside.String(), tunnelled)
	if got := m.culvert("disconnect"); got.code != exitOK {
		t.Errorf("disconnect: %+v", got)
	}
	m.unchanged("after culvert disconnect")
	log, err := os.ReadFile(m.path("/run/vpn.log"))
	if err != nil || !strings.HasPrefix(string(log), "20") || !strings.Contains(string(log), " culvert: logged out\n") || !strings.Contains(string(log), " culvert: undone: ") {
		t.Errorf("the log is %q, %v", log, err)
	}
	got = m.runAs("wrong\n", self(t), args...)
	if got.code != exitLogin || strings.Count(got.stderr, "error: the gateway refused the user name or the password, which was read from standard input") != 1 ||
		strings.Count(got.stderr, "\n") > 3 {
		t.Errorf("wrong password: %+v", got)
	}
	m.unchanged("after a login that failed")
}

// TestRefusals checks that a machine which cannot use a tunnel is left as it was, with words that help.
func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	refused := func(t *testing.T, want string, front ...string) {
		t.Helper()
		p := m.in(t).startIn(front, "pass\n", m.connectArgs()...)
		code := p.exit()
		if code == exitOK || !strings.Contains(p.said(), want) {
			t.Errorf("exit status %d, want words with %q:\n%s", code, want, p.said())
		}
	}
	t.Run("no CAP_NET_ADMIN", func(t *testing.T) {
		refused(t, "sudo", "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--")
		m.in(t).unchanged("without CAP_NET_ADMIN")
	})
	t.Run("no root", func(t *testing.T) {
		refused(t, "sudo", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")
		m.in(t).unchanged("without root")
	})
	t.Run("no TUN", func(t *testing.T) {
		refused(t, "/dev/net/tun", "unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$0" "$@"`)
		m.in(t).unchanged("without /dev/net/tun")
	})
	t.Run("wrong password", func(t *testing.T) {
		m := m.in(t)
		p := m.start("wrong\n", m.connectArgs()...)
		if code := p.exit(); code != exitLogin {
			t.Errorf("exit status %d", code)
		}
		m.unchanged("after a login that failed")
	})
	t.Run("second instance", func(t *testing.T) {
		m := m.in(t)
		first := m.connect()
		before := m.picture()
		refused(t, "culvert disconnect")
		if got := m.culvert("repair"); got.code != exitFailed || !strings.Contains(got.stderr, "culvert disconnect") {
			t.Errorf("repair while a client runs: %+v", got)
		}
		if after := m.picture(); after != before {
			t.Errorf("a second instance changes the machine:\n%s", difference(before, after))
		}
		m.seen(ocserv.Inside.String(), tunnelled)
		terminated(t, m, first)
	})
	t.Run("no IPv6", func(t *testing.T) {
		m := m.in(t)
		m.client.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
		m.client.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
		m.before = m.picture()
		p := m.connect()
		m.seen(ocserv.Inside.String(), tunnelled)
		m.resolves("git.corp.example", insideAnswer, "inside")
		terminated(t, m, p)
	})
}

// TestMeddling has other programs break what the client has made.
func TestMeddling(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	p := m.connect()
	var told int
	noticed := func(kind string, healed bool) {
		t.Helper()
		p.within(10*time.Second, &told, "somebody has changed our "+kind, func(e event) bool { return e.Event == "system" && e.Kind == kind && e.Healed == healed })
	}
	rule := func() bool {
		return strings.Contains(m.run("ip", "-j", "rule"), `"table":"10400"`)
	}
	if !rule() {
		t.Fatalf("where is our rule? %s", m.run("ip", "-j", "rule"))
	}
	m.client.IP("rule", "del", "priority", "10400")
	noticed("routes", true)
	if !rule() {
		t.Error("the rule is not there again")
	}
	m.seen(ocserv.Inside.String(), tunnelled)

	const theirs = "nameserver 192.0.2.53\n"
	m.write("/etc/resolv.conf", theirs)
	noticed("resolver", true)
	if now := m.run("cat", "/etc/resolv.conf"); !strings.Contains(now, "nameserver 127.0.40.53") {
		t.Errorf("resolv.conf is\n%s", now)
	}
	m.resolves("git.corp.example", insideAnswer, "inside")
	if r := m.culvert("status"); !strings.Contains(r.out, "repaired") {
		t.Errorf("status tells nothing of it:\n%s", r.out)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.exit()
	// What somebody else has written since is newer than what was there before.
	if now := m.run("cat", "/etc/resolv.conf"); now != theirs {
		t.Errorf("at the end resolv.conf is\n%s", now)
	}

	// With another policy it is theirs at once.
	m.before = m.picture()
	told = 0
	p = m.connect("--heal", "nothing")
	m.client.IP("rule", "del", "priority", "10400")
	noticed("routes", false)
	if rule() {
		t.Error("the rule is there again")
	}
	terminated(t, m, p)
}

// TestOtherNamespace puts the interface into a namespace of its own, where programs use the tunnel and nothing else.
func TestOtherNamespace(t *testing.T) {
	t.Parallel()
	var box string
	m := newMachine(t, taste{lines: splitLines, network: func(l *lab) { box = l.net.Host("box").Name }})
	inBox := func(args ...string) (string, error) {
		return m.try("ip", append([]string{"netns", "exec", box}, args...)...)
	}
	picture := func() string {
		var b strings.Builder
		for _, args := range [][]string{{"ip", "-j", "address"}, {"ip", "-j", "route", "show", "table", "all"}, {"ip", "-6", "-j", "route", "show", "table", "all"}, {"ip", "-j", "rule"}} {
			out, err := inBox(args...)
			if err != nil {
				t.Fatal(err, out)
			}
			b.WriteString(out)
		}
		return b.String()
	}
	before := picture()
	p := m.connect("--netns", box)
	if got, err := inBox("curl", "-sS", "-m", "5", "http://"+ocserv.Inside.String()+"/"); !strings.HasPrefix(got, tunnelled) {
		t.Errorf("from the namespace %s sees %q, %v", ocserv.Inside, got, err)
	}
	if got, err := inBox("getent", "ahostsv4", "git.corp.example"); !strings.HasPrefix(got, insideAnswer) {
		t.Errorf("in the namespace git.corp.example is %q, %v", got, err)
	}
	// The rest of the machine does not notice.
	m.unchanged("with the tunnel in another namespace")
	if got := m.from(ocserv.Inside.String()); !strings.HasPrefix(got, unreachableFromHere) && !strings.HasPrefix(got, plainly) {
		t.Errorf("the machine itself uses the tunnel: %q", got)
	}
	if got := m.culvert("status", "--netns", box, "--json"); got.code != exitOK || !strings.Contains(got.out, box) {
		t.Errorf("status: %+v", got)
	}
	if got := m.culvert("status"); got.code != exitFailed {
		t.Errorf("status without --netns: %+v", got)
	}
	p.cmd.Process.Kill()
	<-p.done
	if got := m.culvert("repair", "--netns", box); got.code != exitOK {
		t.Errorf("repair: %+v", got)
	}
	if after := picture(); after != before {
		t.Errorf("the namespace is not as it was:\n%s\nwas\n%s", after, before)
	}
	noFiles := func() {
		t.Helper()
		if left, err := m.try("find", "/etc/netns"); err == nil {
			t.Errorf("there is still %s", left)
		}
	}
	noFiles()

	// A path to a namespace says nothing about which one it is; its number does.
	info, err := os.Stat(m.path("/run/netns/" + box))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("ns-%d", info.Sys().(*syscall.Stat_t).Ino)
	m.run("sh", "-c", "touch /run/net && mount --bind /run/netns/"+box+" /run/net")
	m.connect("--netns", "/run/net")
	for _, file := range []string{"/var/lib/culvert/journal-" + name, "/etc/netns/" + name + "/resolv.conf"} {
		if _, err := os.Stat(m.path(file)); err != nil {
			t.Error(err)
		}
	}
	if got := m.culvert("disconnect", "--netns", "/run/net"); got.code != exitOK {
		t.Errorf("disconnect: %+v", got)
	}
	noFiles()
	m.unchanged("in the end")
}

// in returns the machine for a subtest.
func (m *machine) in(t *testing.T) *machine {
	c := *m
	c.lab = m.lab.in(t)
	return &c
}
