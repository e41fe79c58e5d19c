package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
)

func TestPolicy(t *testing.T) {
	dir := t.TempDir()
	good := put(t, dir, "policy.xml", policyXML)
	empty := filepath.Join(dir, "empty")
	installed := filepath.Join(dir, "installed")
	put(t, installed, "opt/cisco/secureclient/AnyConnectLocalPolicy.xml", policyXML)
	for _, tt := range []struct {
		args, stdin string
		code        exitCode
		out, err    string
	}{
		{"policy lint", "", exitUsage, "", "FILE is missing"},
		{"policy lint " + good, "", exitOK, "^$", "^$"},
		{"policy lint -", strings.Replace(policyXML, "Trust>true", "Trust>yes", 1), exitFailed, `(?m)^\(standard input\):3:\d+: error: .*"yes".*\(wrong-value\)$`, "found 1 error"},
		{"policy lint -", profileXML, exitFailed, `(?m):2:\d+: error: .*\(wrong-root\)$`, "found"},
		{"policy show " + good, "", exitOK, `(?s)policy\.xml\nSETTING.*RestrictWebLaunch +false +not applicable.*StrictCertificateTrust +true +on.*\*\.corp\.example`, "^$"},
		{"policy show -", "<a/>", exitFailed, "^$", "error"},
		{"policy show a b", "", exitUsage, "", "unexpected argument"},
		{"policy show --document-root " + empty, "", exitOK, `(?s)no local policy.*FipsMode +false +off`, "^$"},
		{"policy show --document-root " + installed, "", exitOK, `secureclient/AnyConnectLocalPolicy\.xml\n`, "^$"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := culvert(t, tt.stdin, strings.Fields(tt.args)...)
			if got.code != tt.code {
				t.Errorf("exit status %d, want %d", got.code, tt.code)
			}
			for name, pair := range map[string][2]string{"output": {tt.out, got.out}, "standard error": {tt.err, got.stderr}} {
				if !regexp.MustCompile(pair[0]).MatchString(pair[1]) {
					t.Errorf("%s does not match %s:\n%s", name, pair[0], pair[1])
				}
			}
		})
	}
}

// TestPolicySample: the sample of the administrator's guide (D1237–D1261) is not well-formed, and every fault of it is named.
func TestPolicySample(t *testing.T) {
	const sample = "../../policy/local/testdata/sample.xml"
	source, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	got := culvert(t, "", "policy", "lint", sample)
	if got.code != exitFailed {
		t.Errorf("exit status %d", got.code)
	}
	faults := 0
	for i, line := range strings.Split(string(source), "\n") {
		n := strings.Count(line, ">>") + strings.Count(line, "=http://")
		faults += n
		at := regexp.MustCompile(regexp.QuoteMeta(sample) + `:` + regexp.QuoteMeta(jsonNumber(i+1)) + `:\d+: error: .* \([a-z-]+\)\n`)
		if found := len(at.FindAllString(got.out, -1)); found != n {
			t.Errorf("line %d has %d faults, and %d are named", i+1, n, found)
		}
	}
	if lines := strings.Count(got.out, "\n"); faults != 14 || lines != faults {
		t.Errorf("%d faults, %d lines", faults, lines)
	}
	if got := culvert(t, "", "policy", "show", sample); got.code != exitFailed || got.out != "" || strings.Count(got.stderr, "sample.xml:") != faults || !strings.Contains(got.stderr, "sample.xml:17:48") {
		t.Errorf("it is shown: %d %s %s", got.code, got.out, got.stderr)
	}
	got = culvert(t, "", "policy", "explain", "x.example", "--local-policy", sample)
	if got.code != exitUsage || strings.Count(got.stderr, "sample.xml:") != faults || !strings.Contains(got.stderr, "has 14 faults") {
		t.Errorf("it is acted upon: %d %s %s", got.code, got.out, got.stderr)
	}
}

func jsonNumber(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	corp := put(t, dir, "corp.xml", profileXML)
	plain := put(t, dir, "plain.xml", strings.Replace(profileXML, "<AlwaysOn>true", "<AlwaysOn>false", 1))
	disabled := put(t, dir, "disabled.xml", strings.NewReplacer("<ClientInitialization>", "<ClientInitialization><ServiceDisable>true</ServiceDisable>", "<AlwaysOn>true", "<AlwaysOn>false").Replace(profileXML))
	strict := put(t, dir, "policy.xml", policyXML)
	fips := put(t, dir, "fips.xml", strings.ReplaceAll(policyXML, "StrictCertificateTrust", "FipsMode"))
	noTLS := put(t, dir, "notls.xml", strings.Replace(policyXML, "<StrictCertificateTrust>true</StrictCertificateTrust>", "<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>", 1))
	rules := put(t, dir, "rules.toml", `default = "allow"
[[rules]]
name = "payroll"
action = "block"
names = ["pay.corp.example"]
users = ["guest"]
`)
	known := put(t, dir, "known.toml", "[[rules]]\nname = \"payroll\"\naction = \"block\"\nusers = [\"root\", \"4711\"]\n")
	root := filepath.Join(dir, "root")
	put(t, root, "opt/cisco/secureclient/vpn/profile/corp.xml", profileXML)
	none := "--document-root " + filepath.Join(dir, "none")
	for _, tt := range []struct {
		args     string
		code     exitCode
		out, err string
	}{
		{"policy explain", exitUsage, "", "HOST is missing"},
		{"policy explain https://x", exitUsage, "", "neither a name nor an address"},
		{"policy explain x:0", exitUsage, "", "port"},
		{"policy explain --protocol sctp x", exitUsage, "", "--protocol"},
		{"policy explain --control /x --profile " + corp + " x", exitUsage, "", "--control"},
		{"policy explain --control " + filepath.Join(dir, "no.sock") + " x", exitUnreachable, "", "no culvert connect answers"},
		{"policy explain --profile nothing x", exitUsage, "", "--profile"},
		{"policy explain --local-policy nothing x", exitUsage, "", "--local-policy"},
		{"policy explain --filter nothing x", exitUsage, "", "--filter"},
		{"policy explain --filter " + corp + " x", exitUsage, "", "--filter"},
		{"policy explain git.corp.example:22 " + none, exitOK, `(?s)^git\.corp\.example:22/tcp: allow\n  1\. local policy: there is none.*profile: there is none.*routes`, "^$"},
		{"policy explain [2001:db8::1]:443 --protocol udp " + none, exitOK, `^\[2001:db8::1\]:443/udp: allow\n`, "^$"},
		{"policy explain x.example --document-root " + root, exitOK, `HostEntry = Office \(profile \S*/corp\.xml:15:5\)`, "^$"},
		{"policy explain x.example --profile " + corp + " --local-policy " + strict, exitOK, `local policy \S*policy\.xml: it allows tunnels over TLS`, "^$"},
		{"policy explain x.example --profile " + disabled, exitOK, `(?s): direct\n  1\. ServiceDisable = true \(profile \S*disabled\.xml:3:25\).*AlwaysOn = false`, "^$"},
		{"policy explain x.example --profile " + corp + " --local-policy " + noTLS, exitFailed,
			`(?s): nowhere\n  1\. RestrictTunnelProtocols = TLS \(local policy \S*notls\.xml:3:3\).*2\. ConnectFailurePolicy = Closed \(profile \S*corp\.xml:9:9\).*=> nowhere`,
			`ConnectFailurePolicy \(profile \S*corp\.xml:9:9\): nothing passes`},
		{"policy explain updates.example --profile " + corp + " --local-policy " + noTLS, exitOK, `AllowedHosts = updates\.example \(profile \S*corp\.xml:10:9\): updates\.example is allowed => direct`, "^$"},
		{"policy explain x.example --gateway else.example --profile " + corp, exitFailed, `(?s)AlwaysOn = true \(profile \S*corp\.xml:8:7\).*list of gateways \(Office`, "nothing passes"},
		{"policy explain x.example --gateway nosuch --profile " + plain, exitOK, `HostEntry \(profile \S*plain\.xml\): there is no entry nosuch, .*the entries are: Office\b`, "^$"},
		{"policy explain x.example --profile " + corp, exitOK, `(?s): allow\n.*\nwhenever the tunnel is down: nowhere\n  1\. ConnectFailurePolicy = Closed \(profile \S*corp\.xml:9:9\).*=> nowhere`, "^$"},
		{"policy explain x.example " + none, exitOK, `(?s): allow\n.*\nwhenever the tunnel is down: direct\n  1\. AlwaysOn = false .*=> direct`, "^$"},
		{"policy explain x.example --profile " + corp + " --local-policy " + fips, exitOK, ": allow", "^$"},
		{"policy explain pay.corp.example --user guest --filter " + rules, exitFailed, `(?s): block.*payroll = block \(flow rules \S*rules\.toml\): the flow is blocked => block`, `payroll \(flow rules`},
		{"policy explain pay.corp.example --user anna --filter " + rules, exitOK, `(?s): allow.*payroll = block \(flow rules \S*rules\.toml\): it does not match.*default = allow`,
			`(?s)--user: this machine has no user anna;.*rule "payroll": users: this machine has no user "guest"`},
		{"policy explain pay.corp.example --user root --filter " + known, exitFailed, `payroll = block`, `^[^\n]*payroll \(flow rules[^\n]*\n$`},
		{"policy explain pay.corp.example --user 0 --filter " + known, exitFailed, `payroll = block`, `^[^\n]*payroll \(flow rules[^\n]*\n$`},
		{"policy explain 127.0.0.1 " + none, exitOK, `: direct\n  1\. it never leaves this machine => direct`, "^$"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := culvert(t, "", strings.Fields(tt.args)...)
			if got.code != tt.code {
				t.Errorf("exit status %d, want %d", got.code, tt.code)
			}
			for name, pair := range map[string][2]string{"output": {tt.out, got.out}, "standard error": {tt.err, got.stderr}} {
				if !regexp.MustCompile(pair[0]).MatchString(pair[1]) {
					t.Errorf("%s does not match %s:\n%s", name, pair[0], pair[1])
				}
			}
		})
	}
	var v decision.Verdict
	got := culvert(t, "", "policy", "explain", "--json", "10.1.2.3:22", "--profile", corp)
	if err := json.Unmarshal([]byte(got.out), &v); err != nil || v.Outcome != decision.Allow || v.Query.Addr != netip.MustParseAddr("10.1.2.3") || len(v.Chain) < 4 {
		t.Errorf("%v: %s", err, got.out)
	}
}

// An explainedMachine is a machine whose routes and state are a test's.
type explainedMachine struct {
	routes map[string][]system.Route
	status system.Status
}

func (m *explainedMachine) Explain(_ context.Context, host string) ([]system.Route, error) {
	if r := m.routes[host]; r != nil {
		return r, nil
	}
	return nil, errors.New("the table is gone")
}

func (m *explainedMachine) Status() system.Status { return m.status }

// TestExplainRunning: a culvert connect that runs is asked over its control socket.
func TestExplainRunning(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "culvert"), 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "culvert", "connect.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	route := func(way split.Way, rule string, origin split.Origin, addr string) system.Route {
		r := system.Route{Verdict: split.Verdict{Way: way, Rule: rule, Origin: origin}}
		if addr != "" {
			r.Addr = netip.MustParseAddr(addr)
		}
		return r
	}
	m := &explainedMachine{routes: map[string][]system.Route{
		"git.corp.example": {route(split.Tunnel, "include 10.0.0.0/8", split.FromGateway, "10.1.2.3"), route(split.Direct, "not included", split.FromGateway, "fd00::1")},
		"10.9.9.9":         {route(split.Nowhere, "the tunnel has no IPv4", split.FromLease, "10.9.9.9")},
		"x.example":        {route(split.Direct, "user dynamic exclude x.example", split.FromUser, "")},
	}}
	m.status.Attached, m.status.DataPath.Path = true, health.Flow
	view := machineView{sys: m, file: "rules.toml", said: func(string) string { return "command line" }}
	explain, err := view.explainer(&filter.Config{Default: filter.Allow, Rules: []filter.Rule{{Name: "no git", Action: filter.Block, Programs: []string{"/usr/bin/git"}, Users: []string{"guest"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+explainPath, explainHandler(explain))
	srv := controlServer(mux)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()

	env := map[string]string{"XDG_RUNTIME_DIR": dir}
	if os.Getuid() == 0 {
		if _, err := os.Stat("/run/culvert/connect.sock"); err == nil {
			t.Fatal("a culvert connect runs on this machine, and would be asked first")
		}
	}
	for _, tt := range []struct {
		args string
		code exitCode
		out  string
	}{
		{"git.corp.example:22 --user anna --program /usr/bin/git", exitOK, `(?s): tunnel\n.*in force: packets take the flow path\n.*no git = block \(flow rules rules\.toml\): it does not match.*` +
			`route \(gateway\): fd00::1: not included, direct\n.*route \(gateway\): 10\.1\.2\.3: include 10\.0\.0\.0/8 => tunnel\nwhenever the tunnel is down: direct\n.*--always-on: it is not given`},
		{"git.corp.example:22 --user guest --program /usr/bin/git", exitFailed, `(?s): block\n.*no git = block \(flow rules rules\.toml\): the flow is blocked => block`},
		{"x.example", exitOK, `--exclude \(command line\): user dynamic exclude x\.example => direct`},
		{"10.9.9.9", exitFailed, `the tunnel has no IPv4 => nowhere`},
		{"other.example", exitFailed, `the table is gone => nowhere`},
		{"x.example --offline", exitOK, `there is none`},
		{"x.example --control " + socket, exitOK, `=> direct`},
	} {
		got := culvertEnv(t, "", env, append([]string{"policy", "explain"}, strings.Fields(tt.args)...)...)
		if got.code != tt.code || !regexp.MustCompile(tt.out).MatchString(got.out) {
			t.Errorf("%s: exit status %d\n%s%s", tt.args, got.code, got.out, got.stderr)
		}
	}

	// What is in force changes, and so does what becomes of a flow.
	closed := system.FirewallStatus{Mode: system.FirewallTunnel}
	left := system.DataPathStatus{Path: health.Packet, FilterOff: true, Reason: "the flow path was left: panic"}
	for _, tt := range []struct {
		name   string
		status system.Status
		wanted *system.KillSwitch
		host   string
		out    string
	}{
		{"packet path", system.Status{Attached: true, DataPath: left}, nil, "git.corp.example",
			`(?s): tunnel\n.*\(flow rules rules\.toml\): the rules are not in force: packets take the packet path \(the flow path was left: panic\), until: culvert data-path revert; otherwise they would block this\n.*=> tunnel\n`},
		{"no path", system.Status{Attached: true, DataPath: system.DataPathStatus{Path: health.Nowhere, Reason: "panic"}}, nil, "git.corp.example",
			`: nowhere\n(?s:.*)data path: nothing passes \(panic\), until: culvert data-path revert => nowhere`},
		{"kill switch", system.Status{Attached: true, Firewall: closed}, &system.KillSwitch{}, "x.example",
			`(?s): direct\n.*\nwhenever the tunnel is down: nowhere\n.*--always-on = closed \(command line\): the kill switch lets nothing pass but what it takes to get a tunnel => nowhere\n`},
		{"no tunnel", system.Status{Firewall: closed}, &system.KillSwitch{}, "x.example", `(?s): nowhere\n.*tunnel: there is none now\n.*--always-on = closed \(command line\): .* => nowhere\n$`},
		{"opens", system.Status{Attached: true}, &system.KillSwitch{Open: true}, "x.example", `tunnel is down: direct\n(?s:.*)--always-on = open \(command line\): the kill switch opens => direct\n`},
		{"lifted", system.Status{Attached: true, Firewall: system.FirewallStatus{Mode: system.FirewallLifted, Reason: "trusted"}}, &system.KillSwitch{}, "x.example",
			`the kill switch is lifted: trusted => direct\n`},
		{"allowed", system.Status{Attached: true, Firewall: closed}, &system.KillSwitch{AllowedHosts: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}, "10.9.9.9",
			`--allow-host = 10\.9\.0\.0/16 \(command line\): the kill switch lets it pass => direct\n`},
		{"not allowed", system.Status{Attached: true, Firewall: closed}, &system.KillSwitch{AllowedHosts: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")}}, "10.9.9.9",
			`and the addresses of --allow-host => nowhere\n`},
		{"local network", system.Status{Attached: true, Firewall: closed}, &system.KillSwitch{LocalLAN: true}, "10.9.9.9", `--local-lan \(command line\): .* => direct\n`},
	} {
		if tt.status.DataPath.Reason == "" {
			tt.status.DataPath.Path = health.Packet
		}
		view.sys, view.wanted = &explainedMachine{m.routes, tt.status}, tt.wanted
		var rules *filter.Config
		if tt.wanted == nil {
			rules = &filter.Config{Default: filter.Block}
		}
		explain, err := view.explainer(rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		printVerdict(&out, explain(t.Context(), decision.Query{Host: tt.host}))
		if !regexp.MustCompile(tt.out).MatchString(out.String()) {
			t.Errorf("%s: %s, want %s", tt.name, out.String(), tt.out)
		}
	}

	// With the tunnel up, the gateway's ports alone pass the kill switch.
	m.routes["192.0.2.1"] = []system.Route{route(split.Direct, "address of the gateway 192.0.2.1", split.FromLease, "192.0.2.1")}
	up := system.Status{Attached: true, Firewall: system.FirewallStatus{Mode: system.FirewallTunnel, Gateways: []string{"192.0.2.1:443/tcp", "192.0.2.1:443/udp", "192.0.2.10:1/tcp"}}}
	up.DataPath.Path = health.Packet
	view.wanted = &system.KillSwitch{}
	for _, tt := range []struct {
		network string
		port    uint16
		mode    string
		out     string
	}{
		{"udp", 53, system.FirewallTunnel, `(?s): nowhere\n.*address of the gateway 192\.0\.2\.1, direct\n.*--always-on \(command line\): it lets nothing else pass to the gateway than 192\.0\.2\.1:443/tcp, 192\.0\.2\.1:443/udp => nowhere\n`},
		{"ping", 0, system.FirewallTunnel, `: nowhere\n`},
		{"udp", 443, system.FirewallTunnel, `: direct\n`},
		{"tcp", 443, system.FirewallTunnel, `: direct\n`},
		{"udp", 53, system.FirewallLifted, `: direct\n`},
	} {
		up.Firewall.Mode = tt.mode
		view.sys = &explainedMachine{m.routes, up}
		explain, err := view.explainer(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		printVerdict(&out, explain(t.Context(), decision.Query{Host: "192.0.2.1", Addr: netip.MustParseAddr("192.0.2.1"), Port: tt.port, Network: tt.network}))
		if !regexp.MustCompile(tt.out).MatchString(out.String()) {
			t.Errorf("%s %d while %s: %s, want %s", tt.network, tt.port, tt.mode, out.String(), tt.out)
		}
	}

	// Nonsense is refused with words.
	for _, query := range []string{"", "host=a/b", "host=a&port=99999", "host=a&protocol=x"} {
		w := httptest.NewRecorder()
		explainHandler(func(context.Context, decision.Query) decision.Verdict {
			t.Errorf("%s is explained", query)
			return decision.Verdict{}
		}).ServeHTTP(w, httptest.NewRequest("GET", explainPath+"?"+query, nil))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "error") {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// FuzzExplainTarget: whatever is asked about, the query is one host, and it is the same after it has gone over the control socket.
func FuzzExplainTarget(f *testing.F) {
	for _, s := range []string{"x.example", "x.example:443", "[2001:db8::1]:22", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "[x]:1", ":1", "a:b:c", "%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := explainFlags{query: decision.Query{Network: "tcp"}}
		if e.target(s) != nil {
			return
		}
		if e.query.Host == "" || strings.ContainsAny(e.query.Host, "/ \t") {
			t.Errorf("%q is the host %q", s, e.query.Host)
		}
		v := decision.Judge(decision.Inputs{}, e.query)
		if len(v.Chain) == 0 || v.Decided().Effect != v.Outcome {
			t.Errorf("%q: %+v", s, v)
		}
		target := e.query.Host
		if e.query.Port != 0 {
			target = net.JoinHostPort(target, jsonNumber(int(e.query.Port)))
		}
		again := explainFlags{query: decision.Query{Network: "tcp"}}
		if err := again.target(target); err != nil || again.query != e.query {
			t.Errorf("%q is %+v, and as %q %+v: %v", s, e.query, target, again.query, err)
		}
	})
}
