package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	hostresolver "culvert.example/vpn/host/resolver"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/system"
)

// machineFlagsOf parses a command line of connect.
func machineFlagsOf(t *testing.T, args ...string) (*app, *machineFlags) {
	t.Helper()
	a := &app{err: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	cmd := &cobra.Command{Use: "connect"}
	m := addMachineFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return a, m
}

func TestSystemConfig(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules.toml")
	if err := os.WriteFile(rules, []byte("default = 'block'\n[[rules]]\naction = 'allow'\nnames = ['corp.example']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, m := machineFlagsOf(t, "-i", "vpn0", "--data-path", "flow", "--include", "10.1.2.3/8", "--include", "*.Corp.example", "--include", "fd00::1",
		"--exclude", "10.9.0.0/16", "--exclude", ".cdn.example.", "--local-lan=false", "--dns-listen", "127.0.0.9:53", "--dns-outside", "tls://dns.example@192.0.2.1", "--no-ipv6-names", "--always-on", "open",
		"--allow-host", "192.0.2.1", "--allow-host", "2001:db8::/32", "--heal", "routes", "--journal", "/run/j", "--filter", rules)
	got, err := m.systemConfig(a)
	if err != nil {
		t.Fatal(err)
	}
	got.Logger = nil
	want := system.Config{
		Device: "vpn0", Journal: "/run/j", DataPath: system.Flow, LocalLAN: system.No, Heal: system.HealRoutes,
		DNS:        system.DNS{Listen: netip.MustParseAddrPort("127.0.0.9:53"), Upstreams: []string{"tls://dns.example@192.0.2.1"}, NoIPv6: true},
		KillSwitch: &system.KillSwitch{Open: true, AllowedHosts: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32")}},
		Filter:     &filter.Config{Default: filter.Block, Rules: []filter.Rule{{Action: filter.Allow, Names: []string{"corp.example"}}}},
	}
	want.User.Include = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::1/128")}
	want.User.DynamicInclude = []string{"corp.example"}
	want.User.Exclude = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	want.User.DynamicExclude = []string{"cdn.example"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	a, m = machineFlagsOf(t)
	if got, err = m.systemConfig(a); err != nil || got.Journal != system.DefaultJournal || got.LocalLAN != system.AsGateway || got.KillSwitch != nil || got.DNS.Off {
		t.Errorf("without flags: %+v, %v", got, err)
	}
	a, m = machineFlagsOf(t, "--always-on", "locked")
	if got, err = m.systemConfig(a); err != nil || got.KillSwitch == nil || got.KillSwitch.Open || !got.KillSwitch.Locked || !m.closed() {
		t.Errorf("%+v, %v", got, err)
	}
	a, m = machineFlagsOf(t, "--local-lan", "--always-on", "closed", "--no-dns")
	if got, err = m.systemConfig(a); err != nil || got.LocalLAN != system.Yes || got.KillSwitch == nil || got.KillSwitch.Open || !got.KillSwitch.LocalLAN || !got.DNS.Off {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestManual reads the example of a filter, and holds README.md to what it says of the machine.
func TestManual(t *testing.T) {
	example := strings.ReplaceAll(strings.TrimPrefix(filterExample, "  "), "\n  ", "\n")
	cfg, err := readFilter(put(t, t.TempDir(), "rules.toml", example))
	if err != nil || len(cfg.Rules) != 2 || len(cfg.Rules[0].Users) != 2 || len(cfg.Rules[1].Ports) != 3 {
		t.Errorf("%+v, %v", cfg, err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  ```toml\n" + filterExample + "  ```\n", fmt.Sprintf("routing table %d and rules of that priority", host.DefaultTable), fmt.Sprintf("mark %#x", host.DefaultMark),
		"table inet " + firewall.TableName, system.DefaultDevice, system.DefaultJournal, defaultLog,
	} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("README.md lacks %q", want)
		}
	}
	if host.DefaultTable != host.DefaultPriority {
		t.Error("the table and its rules have different numbers, other than README.md says")
	}
}

func TestIsDomain(t *testing.T) {
	for s, want := range map[string]bool{
		"corp.example": true, "*.corp.example": true, ".corp.example.": true, "localhost": true, "xn--bcher-kva.example": true, "_srv.a1": true,
		"": false, ".": false, "*": false, "a..b": false, "a b": false, "10.0.0": false, "10.0.0.0/8": false, "*.*.a": false, "ü.example": false,
		strings.Repeat("a", 64) + ".example": false, strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
	} {
		if got := isDomain(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// TestWhere checks that clients in different namespaces do not meet.
func TestWhere(t *testing.T) {
	none := func(string) string { return "" }
	w := &whereFlags{}
	if w.journalPath() != system.DefaultJournal || filepath.Base(w.controlPaths(none)[0]) != connectSocket {
		t.Errorf("%s, %s", w.journalPath(), w.controlPaths(none))
	}
	w = &whereFlags{netns: "/var/run/netns/blue"}
	if w.journalPath() != system.DefaultJournal+"-blue" || filepath.Base(w.controlPaths(none)[0]) != "connect-blue.sock" {
		t.Errorf("%s, %s", w.journalPath(), w.controlPaths(none))
	}
	w = &whereFlags{netns: "blue", journal: "/x/j", control: "/x/c"}
	if w.journalPath() != "/x/j" || w.controlPaths(none)[0] != "/x/c" {
		t.Errorf("%s, %s", w.journalPath(), w.controlPaths(none))
	}
}

// A fakeMachine is a machine without a network.
type fakeMachine struct {
	mu     sync.Mutex
	status system.Status
	did    []string
	err    error
}

func (f *fakeMachine) do(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, what)
	return f.err
}
func (f *fakeMachine) Status() system.Status          { return f.status }
func (f *fakeMachine) Confirm(want health.Path) error { return f.do("confirm " + want.String()) }
func (f *fakeMachine) Revert(context.Context) error   { return f.do("revert") }
func (f *fakeMachine) Failover() error                { return f.do("failover") }

// someStatus is the status of a machine at work.
func someStatus() (vpn.Status, system.Status) {
	at := time.Date(2026, 7, 1, 10, 0, 0, 0, time.UTC)
	t := vpn.Status{
		State: vpn.Connected, Server: "https://gw.example", Gateway: netip.MustParseAddrPort("192.0.2.1:443"), Path: "dtls", MTU: 1400,
		Paths: []vpn.PathStatus{
			{Name: "dtls", Open: true, Active: true, Detail: "DTLS 1.2"}, {Name: "tls", LastError: "reset\nby peer"},
		},
		Since: at, Started: at, Counters: vpn.Counters{SentBytes: 2048, ReceivedBytes: 5},
	}
	report := &health.Report{Path: health.Packet, Since: at, Confirmed: true, Reason: health.Panic, Err: "boom", Failovers: 1, Revert: health.RevertCommand}
	report.Parts[0] = health.PartReport{Part: health.DNSProxy, State: health.Failed, Since: at, Reason: health.Panic, Err: "boom"}
	report.Parts[1].Part, report.Parts[2].Part = health.TransparentProxy, health.ContentFilter
	s := system.Status{
		Attached: true, Since: at, Device: "culvert0", Journal: "/var/lib/culvert/journal", MTU: 1400,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.5/24")},
		Routes:    system.RouteStatus{Tunnel: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Tunnels: 1, Direct: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, Directs: 1200},
		Resolver: system.ResolverStatus{Backend: "systemd-resolved", Reason: "it runs", Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.40.53:53")}, Listen: "127.0.40.53:53",
			Inside: []netip.Addr{netip.MustParseAddr("10.0.0.53")}, Domains: []string{"corp.example"}, Outside: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}},
		Firewall: system.FirewallStatus{Mode: system.FirewallTunnel, OnFailure: "closed"},
		DataPath: system.DataPathStatus{Configured: system.Flow, Path: health.Packet, Reason: "panic", Report: report},
		Events:   []system.Event{{Time: at, Kind: system.EventRoutes, What: "a rule was deleted", Healed: true}},
	}
	return t, s
}

func TestMachineReport(t *testing.T) {
	tunnel, machine := someStatus()
	r := reportOf(&tunnel, machine)
	r.PID, r.Started = 4711, tunnel.Started
	var b strings.Builder
	now := tunnel.Since.Add(2 * time.Minute)
	if err := r.print(&page{w: &b, paint: (&reporter{}).paint}, now); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"State        connected for 2m (since ", "Gateway      https://gw.example at 192.0.2.1:443 over DTLS, DTLS 1.2\n", "Interface    culvert0, MTU 1400\n",
		"Addresses    10.8.0.5/24\n", "In tunnel    10.0.0.0/8\n", "Outside      10.9.0.0/16 (1200 in all)\n", "Names        corp.example from 10.0.0.53\n",
		"             others from 192.0.2.53:53\n", "Resolver     systemd-resolved asks 127.0.40.53:53, with the proxy at 127.0.40.53:53\n             it runs\n",
		"Kill switch  tunnel, closed when the tunnel fails\n", "Data path    packet for 2m (since ", "): panic\n",
		"dns-proxy         failed: panic: boom for 2m (since ", "transparent-proxy inactive\n", "go back with: culvert data-path revert\n",
		"Traffic      sent 2.0 KiB, received 5 B\n", "Last error   TLS: reset by peer\n", "Process      4711 for 2m (since ", "a rule was deleted; repaired\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "judged") || strings.Contains(text, "filter is NOT") {
		t.Errorf("it says what is not so:\n%s", text)
	}
	flow, filtered := reportOf(&tunnel, machine), reportOf(&tunnel, machine)
	flow.Routes.Judged, filtered.DataPath.FilterOff = true, true
	flow.Routes.Filtered = []string{"eth0"}
	walled, leaving, locked := reportOf(&tunnel, machine), reportOf(&tunnel, machine), reportOf(&tunnel, machine)
	noNames := *walled.Resolver
	noNames.Closed = true
	someNames := noNames
	someNames.Leaving = []string{"*.cdn.example", "a.example"}
	walled.Resolver, leaving.Resolver = &noNames, &someNames
	alone := reportOf(&tunnel, machine)
	own := *alone.Resolver
	own.Inside, own.Domains = nil, nil
	alone.Resolver = &own
	claimed, held := reportOf(&tunnel, machine), reportOf(&tunnel, machine)
	claims := *claimed.Resolver
	claims.Claims = []hostresolver.Claim{{Domain: "git.corp.example", Link: "eth0"}, {Domain: "."}}
	claimed.Resolver, held.Resolver = &claims, &claims
	off := *claimed.KillSwitch
	off.Mode = system.FirewallOff
	claimed.KillSwitch = &off
	wall := *locked.KillSwitch
	wall.Locked = true
	locked.KillSwitch = &wall
	for want, r := range map[string]machineReport{
		"corp.example from 10.0.0.53\n             others are not asked for, because of the kill switch\n":                     walled,
		"             *.cdn.example, a.example from 192.0.2.53:53\n             others are not asked for, because of the kill": leaving,
		"Names        all from 192.0.2.53:53, past the tunnel, since the gateway has no server for them\n":                     alone,
		"             it runs\n             warning: eth0 claims names below git.corp.example too, so that they are asked for OUTSIDE; prevent that by a kill switch (--always-on), or where it was set (resolvectl domain eth0)\n" +
			"             warning: systemd-resolved as a whole claims all names too, so that": claimed,
		"warning: eth0 claims names below git.corp.example too, which the kill switch keeps from being asked for there (resolvectl domain eth0)\n": held,
		"Kill switch  tunnel, locked when the tunnel fails\n": locked,
		"Outside      10.9.0.0/16 (1200 in all)\n             all flows come to culvert, and each is judged by this as it begins\n             warning: the kernel drops answers from there on eth0, since": flow,
		"): panic\n             warning: the content filter is NOT in force on the packet path\n":                                                                                                           filtered,
	} {
		b.Reset()
		if r.print(&page{w: &b, paint: (&reporter{}).paint}, now); !strings.Contains(b.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	r.print(&page{w: &b, paint: (&reporter{colour: true}).paint}, now)
	if !strings.Contains(b.String(), green+"connected"+plain) {
		t.Errorf("no colour:\n%s", b.String())
	}

	// What goes over the socket comes out the same.
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back machineReport
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	back.print(&page{w: &b, paint: (&reporter{}).paint}, now)
	if b.String() != text {
		t.Errorf("after the socket:\n%s", difference(text, b.String()))
	}

	// Before there is a tunnel there is little to tell.
	b.Reset()
	r = reportOf(nil, system.Status{Firewall: system.FirewallStatus{Mode: system.FirewallClosed, Reason: "no tunnel"}})
	if err := r.print(&page{w: &b, paint: (&reporter{}).paint}, now); err != nil || !strings.HasPrefix(b.String(), "State        connecting\n") || !strings.Contains(b.String(), "closed: no tunnel") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// difference returns the lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	only := func(sign, of, other string) {
		has := make(map[string]bool)
		for line := range strings.Lines(other) {
			has[line] = true
		}
		for line := range strings.Lines(of) {
			if !has[line] {
				b.WriteString(sign + line)
			}
		}
	}
	only("- ", before, after)
	only("+ ", after, before)
	return b.String()
}

func TestMachineText(t *testing.T) {
	_, s := someStatus()
	want := "this machine uses culvert0 for 10.0.0.0/8; outside stay 10.9.0.0/16 (1200 in all); names by systemd-resolved (it runs) and the proxy at " +
		"127.0.40.53:53; packet path: panic; kill switch closed"
	if got := machineText(s); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.Routes.Judged, s.Firewall.Locked = true, true
	if got := machineText(s); !strings.HasSuffix(got, "; kill switch locked") || !strings.Contains(got, "; all flows are taken to be judged; ") {
		t.Errorf("%s", got)
	}
	if got := undone(s, true, s.Resolver.Backend, false); got != "undone: addresses and routes, DNS (systemd-resolved), kill switch" {
		t.Errorf("%s", got)
	}
	if got := undone(s, true, s.Resolver.Backend, true); !strings.HasSuffix(got, "DNS (systemd-resolved); "+stillLocked) {
		t.Errorf("%s", got)
	}
	if got := undone(system.Status{}, false, "", false); got != "" {
		t.Errorf("of a machine that was not changed: %s", got)
	}
}

// TestAgent speaks the control protocol as the commands do.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	control := filepath.Join(dir, "c")
	tunnel, status := someStatus()
	f := &fakeMachine{status: status}
	g := newAgent(f, "https://gw.example")
	a := &app{getenv: func(string) string { return "" }}
	stop, err := a.serveAgent(&whereFlags{control: control}, g)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if fi, err := os.Stat(control); err != nil || fi.Mode().Perm() != 0o600 && os.PathSeparator == '/' {
		t.Errorf("control socket: %v, %v", fi, err)
	}
	if _, err := a.serveAgent(&whereFlags{control: control}, g); err == nil || !strings.Contains(err.Error(), "another culvert connect answers") {
		t.Errorf("a second one: %v", err)
	}
	ask := func(args ...string) result {
		t.Helper()
		return culvert(t, "", append(args, "--control", control)...)
	}

	got := ask("status", "--json")
	var r machineReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != exitOK || r.State != "connecting" || r.PID != os.Getpid() {
		t.Errorf("before the tunnel: %+v, %v", got, err)
	}
	g.tunnel(nil, &vpn.OpError{Op: "dial", Err: errors.New("no luck")})
	if got := ask("status"); !strings.Contains(got.out, "Last error   no luck\n") {
		t.Errorf("%+v", got)
	}
	g.tunnel(func() vpn.Status { return tunnel }, nil)
	if got := ask("status"); got.code != exitOK || !strings.Contains(got.out, "State        connected") || got.stderr != "" {
		t.Errorf("%+v", got)
	}

	for _, tt := range []struct {
		args []string
		did  string
	}{
		{[]string{"data-path", "confirm"}, "confirm flow"},
		{[]string{"data-path", "confirm", "packet"}, "confirm packet"},
		{[]string{"data-path", "revert"}, "revert"},
		{[]string{"data-path", "failover"}, "failover"},
	} {
		f.did, f.err = nil, nil
		if got := ask(tt.args...); got.code != exitOK || !slices.Equal(f.did, []string{tt.did}) || !strings.Contains(got.out, "transparent-proxy") {
			t.Errorf("%v: %+v, did %q", tt.args, got, f.did)
		}
		if got := ask(append(tt.args, "--json")...); !strings.Contains(got.out, `"path":"packet"`) {
			t.Errorf("%v: %+v", tt.args, got)
		}
		f.err = health.ErrNotConfirmed
		if got := ask(tt.args...); got.code != exitFailed || !strings.Contains(got.stderr, "not confirmed") {
			t.Errorf("%v: %+v", tt.args, got)
		}
	}
	client, err := dialControlAt("connect", []string{control})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/v1/data-path/sideways": http.StatusNotFound, "/v1/data-path/confirm": http.StatusBadRequest} {
		resp, err := client.http.Post("http://culvert"+path, "application/json", strings.NewReader("["+strings.Repeat("1", 8192)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}

	// Who asks for the end waits for it, and hears what went wrong or stays.
	go func() {
		d := <-g.leave
		d.locked = true
		close(d.done)
	}()
	if got := ask("disconnect"); got.code != exitOK || !strings.Contains(got.stderr, stillLocked) {
		t.Errorf("%+v", got)
	}
	for _, failed := range []error{nil, errors.New("a route would not go")} {
		go func() {
			d := <-g.leave
			d.err = failed
			close(d.done)
		}()
		got := ask("disconnect")
		if failed == nil && (got.code != exitOK || !strings.Contains(got.stderr, "as it was before")) {
			t.Errorf("%+v", got)
		}
		if failed != nil && (got.code != exitFailed || !strings.Contains(got.stderr, "would not go")) {
			t.Errorf("%+v", got)
		}
	}
}

// TestNotRunning asks where nobody answers.
func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	journal := filepath.Join(dir, "journal")
	where := []string{"--control", filepath.Join(dir, "c"), "--journal", journal}
	for _, args := range [][]string{{"status"}, {"disconnect"}, {"data-path", "confirm"}, {"data-path", "revert"}} {
		got := culvert(t, "", append(args, where...)...)
		if got.code != exitFailed || !strings.Contains(got.stderr, "no culvert connect is running") || strings.Contains(got.stderr, "repair") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	// A journal that makes no sense may hold anything.
	if err := os.Mkdir(journal, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := culvert(t, "", append([]string{"status"}, where...)...); got.code != exitFailed || !strings.Contains(got.stderr, "culvert repair") {
		t.Errorf("%+v", got)
	}
	got := culvert(t, "", append([]string{"status", "--json"}, where...)...)
	var r machineReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.State != "none" || !r.Leftovers || r.Blocked || r.Journal != journal {
		t.Errorf("%+v, %v", got, err)
	}
	for what, e := range map[string]*notRunningError{
		"its kill switch blocks the network of this machine, also after --always-on open, until: culvert repair": {left: true, walled: true},
		"it is locked, policy demands it, or no tunnel came about; it is lifted by: culvert repair":              {left: true, walled: true, alone: true},
		"without undoing its changes of this machine":                                                            {left: true},
		"is for root to see": {unknown: true},
	} {
		if !strings.Contains(e.Error(), what) {
			t.Errorf("%s, want %s", e, what)
		}
		if left := e.answer(); (left != nil) != e.walled {
			t.Errorf("%s: it says something of flows: %v", e, left != nil)
		} else if left != nil {
			v := decision.Judge(decision.Inputs{Down: true, Left: left}, decision.Query{Host: "x.example"})
			if text := v.String(); v.Outcome != decision.Nowhere || !strings.Contains(text, "blocks the network of this machine") || !strings.Contains(text, "until: culvert repair => nowhere") {
				t.Errorf("%s", text)
			}
		}
	}
}

// TestAskPaths: whoever is not root finds out that a client of root runs.
func TestAskPaths(t *testing.T) {
	env := func(k string) string { return map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}[k] }
	got := (&whereFlags{netns: "blue"}).askPaths(env)
	if want := []string{"/run/culvert/connect-blue.sock", "/run/user/1000/culvert/connect-blue.sock"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("%q", got)
	}
	if got := (&whereFlags{control: "/x"}).askPaths(env); !slices.Equal(got, []string{"/x"}) {
		t.Errorf("%q", got)
	}
}

// stableName is how the fields of JSON are called.
var stableName = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// TestReportNames fills a report to the last field, and fails on a name that Go has chosen.
func TestReportNames(t *testing.T) {
	var r machineReport
	populate(reflect.ValueOf(&r).Elem())
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back machineReport
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(back); err != nil || !bytes.Equal(again, b) {
		t.Errorf("%v: it is\n%s\nand comes back as\n%s", err, b, again)
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, v := range v {
				seen[at+name] = true
				if !stableName.MatchString(name) {
					t.Errorf("the field %s%s", at, name)
				}
				walk(at+name+".", v)
			}
		case []any:
			for _, v := range v {
				walk(at, v)
			}
		}
	}
	walk("", all)
	for _, name := range []string{"resolver.proxy.cache_entries", "resolver.proxy.upstreams.rtt", "kill_switch.counters.dropped_out.packets", "features.line", "paths.last_error", "data_path.components.since", "events.kind"} {
		if !seen[name] {
			t.Errorf("%s was not looked at: %s", name, b)
		}
	}
}

// populate gives everything in v that can be set a value that is not zero.
func populate(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.IPv6Loopback()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		populate(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		populate(v.Index(0))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				populate(v.Field(i))
			}
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	}
}

func TestPrintRepair(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b}
	a.printRepair(host.Report{})
	if b.String() != "There is nothing to repair.\n" {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	a.printRepair(host.Report{Undone: []string{"a rule"}, Gone: []string{"an address"}, Left: []string{"a\nfile"}})
	if want := "undone:           a rule\ngone already:     an address\nchanged by others a file\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	a.json = true
	a.printRepair(host.Report{Undone: []string{"a rule"}})
	if want := `{"undone":["a rule"],"gone":[],"left":[]}` + "\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}

func TestSystemHints(t *testing.T) {
	for err, want := range map[error]string{
		system.ErrNotPermitted: "sudo", system.ErrNoTUN: "modprobe tun", system.ErrBusy: "culvert disconnect", system.ErrLocked: "policy",
		&notRunningError{left: true}: "culvert repair", &notRunningError{unknown: true, asRoot: "sudo culvert disconnect"}: "sudo culvert disconnect", &closedSocketError{"connect", "/x", "sudo culvert disconnect"}: "sudo culvert disconnect",
		&rootOnlyError{fs.ErrPermission, "sudo culvert repair"}: "sudo culvert repair",
	} {
		if got := hint(err); !strings.Contains(got, want) || codeOf(err) != exitFailed {
			t.Errorf("%v: exit status %d, hint %q", err, codeOf(err), got)
		}
	}
}

// TestNetworks: a family with an address and without networks is in the tunnel as a whole, which must not be lost among the others.
func TestNetworks(t *testing.T) {
	prefixes := func(list ...string) (ps []netip.Prefix) {
		for _, s := range list {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	many := prefixes("10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16", "10.6.0.0/16")
	for _, tt := range []struct {
		addresses, include []netip.Prefix
		want               string
	}{
		{prefixes("10.9.0.2/24"), prefixes("10.0.0.0/8"), "; networks 10.0.0.0/8"},
		{prefixes("10.9.0.2/24", "fd00::2/64"), many, "; networks ::/0, 10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, 10.4.0.0/16 and 2 more"},
		{prefixes("10.9.0.2/24", "fd00::2/64"), prefixes("fd00::/8"), "; networks 0.0.0.0/0, fd00::/8"},
		{prefixes("10.9.0.2/24", "fd00::2/64"), prefixes("10.0.0.0/8", "fd00::/8"), "; networks 10.0.0.0/8, fd00::/8"},
	} {
		if got := describe(vpn.Status{Addresses: tt.addresses, Include: tt.include}); !strings.HasSuffix(got, tt.want) {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
	if got := describe(vpn.Status{Addresses: prefixes("10.9.0.2/24")}); strings.Contains(got, "networks") {
		t.Errorf("%s", got)
	}
}

// TestPassing says after which ends a kill switch has another tunnel made.
func TestPassing(t *testing.T) {
	attended, unattended := &asker{}, &asker{repeat: true}
	for _, tt := range []struct {
		err  error
		ask  *asker
		want bool
	}{
		{vpn.ErrUnreachable, attended, true},
		{vpn.ErrDisconnected, attended, true},
		{vpn.ErrExpired, attended, false},
		{vpn.ErrExpired, unattended, true},
		{vpn.ErrLogin, unattended, false},
		{vpn.ErrUntrusted, unattended, false},
		{vpn.ErrPrompt, unattended, false},
		{system.ErrCapture, unattended, false},
		{system.ErrDeleted, attended, true},
	} {
		if got := passing(tt.err, tt.ask); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}
