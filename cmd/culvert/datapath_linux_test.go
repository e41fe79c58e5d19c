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
	rules := "default = 'allow'\n[[rules]]\nname = 'no telnet'\naction = 'block'\nports = ['23']\n"
	m.write("/etc/rules.toml", rules)
	p := m.connect("--data-path", "flow", "--filter", "/etc/rules.toml")
	m.eventually(5*time.Second, "the flow path is confirmed", func() bool { return m.culvert("data-path", "confirm", "flow").code == exitOK })
	m.splitsOnFlowPath()
	session := m.session()

	begin := time.Now()
	if got := m.culvert("data-path", "failover"); got.code != exitOK || !strings.Contains(got.out, "packet since") {
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
	var told []string
	for _, e := range m.report().Events {
		if e.Kind == system.EventDataPath {
			told = append(told, e.What)
		}
	}
	if want := []string{"packets take the flow path", "packets take the packet path, since somebody wanted it so", "packets take the flow path"}; !slices.Equal(told, want) {
		t.Errorf("it tells of the path %q", told)
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
