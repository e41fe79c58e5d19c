package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
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
		"--exclude", "10.9.0.0/16", "--exclude", ".cdn.example.", "--local-lan=false", "--dns-listen", "127.0.0.9:53", "--always-on", "open",
		"--allow-host", "192.0.2.1", "--allow-host", "2001:db8::/32", "--heal", "routes", "--journal", "/run/j", "--filter", rules)
	got, err := m.systemConfig(a)
	if err != nil {
		t.Fatal(err)
	}
	got.Logger = nil
	want := system.Config{
		Device: "vpn0", Journal: "/run/j", DataPath: system.Flow, LocalLAN: system.No, Heal: system.HealRoutes,
		DNS:        system.DNS{Listen: netip.MustParseAddrPort("127.0.0.9:53")},
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
	a, m = machineFlagsOf(t, "--local-lan", "--always-on", "closed", "--no-dns")
	if got, err = m.systemConfig(a); err != nil || got.LocalLAN != system.Yes || got.KillSwitch == nil || got.KillSwitch.Open || !got.KillSwitch.LocalLAN || !got.DNS.Off {
		t.Errorf("%+v, %v", got, err)
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
	w = &whereFlags{netns: "/run/netns/blue"}
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
		"State        connected since 2m (", "Gateway      https://gw.example at 192.0.2.1:443 over DTLS, DTLS 1.2\n", "Interface    culvert0, MTU 1400\n",
		"Addresses    10.8.0.5/24\n", "In tunnel    10.0.0.0/8\n", "Outside      10.9.0.0/16 (1200 in all)\n", "Names        corp.example from 10.0.0.53\n",
		"             others from 192.0.2.53:53\n", "Resolver     systemd-resolved asks 127.0.40.53:53, with the proxy at 127.0.40.53:53\n             it runs\n",
		"Kill switch  tunnel, closed when the tunnel fails\n", "Data path    packet since 2m", "): panic\n",
		"dns-proxy         failed: panic: boom since 2m", "transparent-proxy inactive\n", "go back with: culvert data-path revert\n",
		"Traffic      sent 2.0 KiB, received 5 B\n", "Last error   TLS: reset by peer\n", "Process      4711 since 2m", "a rule was deleted; repaired\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
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
	if got := undone(s, false); got != "undone: addresses and routes, DNS (systemd-resolved), kill switch" {
		t.Errorf("%s", got)
	}
	if got := undone(s, true); !strings.Contains(got, "the kill switch stays") {
		t.Errorf("%s", got)
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

	// Who asks for the end waits for it, and hears what went wrong.
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
	if err := os.WriteFile(journal, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := culvert(t, "", append([]string{"status"}, where...)...); got.code != exitFailed || !strings.Contains(got.stderr, "culvert repair") {
		t.Errorf("%+v", got)
	}
	got := culvert(t, "", append([]string{"status", "--json"}, where...)...)
	var r machineReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.State != "none" || !r.Leftovers || r.Journal != journal {
		t.Errorf("%+v, %v", got, err)
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
		&notRunningError{left: true}: "culvert repair",
	} {
		if got := hint(err); !strings.Contains(got, want) || codeOf(err) != exitFailed {
			t.Errorf("%v: exit status %d, hint %q", err, codeOf(err), got)
		}
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
	} {
		if got := passing(tt.err, tt.ask); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}
