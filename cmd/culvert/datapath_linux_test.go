package main

import (
	"encoding/json"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/system"
)

// TestDataPath has a machine leave the flow path for the packet path, and go back, with the same session.
func TestDataPath(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	rules := "default = 'allow'\n[[rules]]\nname = 'seen'\naction = 'log'\n[[rules]]\nname = 'no telnet'\naction = 'block'\nports = ['23']\n"
	m.write("/etc/rules.toml", rules)
	p := m.start("pass\n", m.connectArgs("--data-path", "flow", "--filter", "/etc/rules.toml")...)
	var told int
	e := p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	if slices.Contains(e.Routes, netip.MustParsePrefix("0.0.0.0/0")) || !slices.Contains(e.Routes, netip.MustParsePrefix("192.168.77.0/24")) {
		t.Errorf("in the tunnel is %v", e.Routes)
	}
	m.eventually(5*time.Second, "the flow path is confirmed", func() bool { return m.culvert("data-path", "confirm", "flow").code == exitOK })
	m.splitsOnFlowPath()
	p.wait(new(int), "a flow is noted", func(e event) bool {
		return e.Event == "flow" && e.Rule == "seen" && e.Decided == "default" && e.Action == "allow" && e.Program != "" && e.User != "" && e.Target != ""
	})
	session := m.session()
	if got := m.culvert("status"); !strings.Contains(got.out, "each is judged by this as it begins\n") || !regexp.MustCompile(`(?m)^In tunnel .*192\.168\.77\.0/24`).MatchString(got.out) {
		t.Errorf("status: %+v", got)
	}
	if got := m.culvert("policy", "explain", ocserv.Inside.String()+":23"); got.code != exitFailed || !strings.Contains(got.out, "no telnet = block (flow rules /etc/rules.toml): the flow is blocked => block") {
		t.Errorf("explain: %+v", got)
	}

	begin := time.Now()
	if got := m.culvert("data-path", "failover"); got.code != exitOK || !strings.Contains(got.out, "packet for") || !strings.Contains(got.out, "the content filter is NOT in force") {
		t.Errorf("failover: %+v", got)
	}
	to := netip.AddrPortFrom(ocserv.Inside, 80).String()
	for {
		var err error
		m.client.Do(func() {
			var c net.Conn
			if c, err = net.DialTimeout("tcp", to, 200*time.Millisecond); err == nil {
				c.Close()
			}
		})
		if err == nil {
			break
		}
		if time.Since(begin) > time.Second {
			t.Fatalf("a second after the flow path has failed nothing can be connected to: %v", err)
		}
	}
	t.Logf("interop: after the flow path was left, a connection was open again within %v", time.Since(begin).Round(time.Millisecond))
	r := m.report()
	if r.DataPath.Path != "packet" || r.DataPath.Revert == "" || r.DataPath.Failovers != 1 || r.State != "connected" {
		t.Errorf("%+v", r.DataPath)
	}
	p.wait(&told, "the content filter is off", func(e event) bool {
		return e.Kind == "data-path" && strings.Contains(e.Message, "content filter is not in force")
	})
	if got := m.culvert("status"); !strings.Contains(got.out, "the content filter is NOT in force") || !r.DataPath.FilterOff {
		t.Errorf("status: %+v", got)
	}
	got := m.culvert("policy", "explain", ocserv.Inside.String()+":23")
	for _, want := range []string{
		"/tcp: tunnel\n", "no telnet = block (flow rules /etc/rules.toml): the rules are not in force: packets take the packet path", "until: culvert data-path revert; otherwise they would block this",
		" => tunnel\n", "whenever the tunnel is down: direct\n", "--always-on: it is not given",
	} {
		if got.code != exitOK || !strings.Contains(got.out, want) {
			t.Errorf("explain: %+v, want %s", got, want)
		}
	}
	if got := m.culvert("data-path", "confirm", "packet"); got.code != exitOK {
		t.Errorf("confirm packet: %+v", got)
	}
	if got := m.culvert("data-path", "confirm"); got.code != exitFailed || !strings.Contains(got.stderr, "revert") {
		t.Errorf("confirm: %+v", got)
	}
	m.seen(ocserv.Inside.String(), tunnelled)
	m.seen(somebody, plainly)

	if got := m.culvert("data-path", "revert"); got.code != exitOK || !strings.Contains(got.out, "healthy") {
		t.Errorf("revert: %+v", got)
	}
	if got := m.culvert("data-path", "confirm"); got.code != exitOK {
		t.Errorf("confirm after revert: %+v", got)
	}
	m.splitsOnFlowPath()
	if now := m.session(); now != session {
		t.Errorf("the session at the gateway is %s, and was %s", now, session)
	}
	var path []string
	for _, e := range m.report().Events {
		if e.Kind == system.EventDataPath {
			path = append(path, e.What)
		}
	}
	if want := []string{"packets take the flow path", "packets take the packet path, since somebody wanted it so; the content filter is not in force there, until: " + "culvert data-path revert", "packets take the flow path"}; !slices.Equal(path, want) {
		t.Errorf("it tells of the path %q", path)
	}
	if r = m.report(); len(r.DataPath.Components) != 3 {
		t.Errorf("%+v", r.DataPath)
	}
	for _, c := range r.DataPath.Components {
		if c.State != "active" || c.Since.IsZero() {
			t.Errorf("%+v", c)
		}
	}
	terminated(t, m, p)
}

// splitsOnFlowPath is splits for the flow path.
func (m *machine) splitsOnFlowPath() {
	m.t.Helper()
	m.seen(ocserv.Inside.String(), tunnelled)
	m.seen(ocserv.Inside6.String(), tunnel6)
	m.seen(excluded, plainly)
	m.seen(somebody, plainly)
	if out, err := m.try("curl", "-sS", "-m", "3", "telnet://"+ocserv.Inside.String()+":23"); err == nil {
		m.t.Errorf("what the rules block is connected to: %s", out)
	}
}

// report asks the client how it is.
func (m *machine) report() machineReport {
	m.t.Helper()
	var r machineReport
	if got := m.culvert("status", "--json"); json.Unmarshal([]byte(got.out), &r) != nil {
		m.t.Fatalf("%+v", got)
	}
	return r
}

// sessionID is how occtl prints what the gateway knows a session by. It complains of devices in between.
var sessionID = regexp.MustCompile(`"Session":\s*"([^"]+)"`)

// session is what the gateway knows its only session by.
func (m *machine) session() string {
	m.t.Helper()
	found := sessionID.FindAllStringSubmatch(m.server.Control("--json", "show", "users"), -1)
	if len(found) != 1 {
		m.t.Fatalf("want one session: %q", found)
	}
	return found[0][1]
}
