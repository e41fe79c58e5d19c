package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport/login"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A stage is a view, a notifier and an asker that remember.
type stage struct {
	mu     sync.Mutex
	models []model
	notes  []string
	asked  []string
	answer func(f *login.Form) error
	// declines is what the user says to a message.
	declines error
}

func (s *stage) show(m model, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.models = append(s.models, m)
}

func (s *stage) notify(n notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, n.title+" "+n.body)
}

func (s *stage) last() model {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.models) == 0 {
		return model{}
	}
	return s.models[len(s.models)-1]
}

func (s *stage) heard(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.notes, func(n string) bool { return strings.Contains(n, text) })
}

type stageAsker struct{ *stage }

func (s stageAsker) Answer(_ context.Context, f *login.Form) error { return s.answer(f) }
func (s stageAsker) confirm(_ context.Context, _, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, text)
	return s.declines
}
func (stageAsker) show(context.Context, string, string) error { return nil }
func (stageAsker) again()                                     {}

// wait waits for a state of the app.
func (s *stage) wait(t *testing.T, what string, ok func(model) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(s.last()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s: %+v", what, s.last())
		}
	}
}

// newStage starts an app against a gateway.
func newStage(t *testing.T, change func(a *app)) (*stage, *app) {
	t.Helper()
	d, err := startDemo()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.gateway.Close() })
	p, err := d.profile()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	a := newApp(hostsOf(p.Hosts()), newChoices(p), l.Addr().String())
	a.config, a.faulty = d.config(), d
	a.m.faults = &faults{}
	if change != nil {
		change(a)
	}
	return play(t, a, l), a
}

// play runs an app for a user who knows the password.
func play(t *testing.T, a *app, l net.Listener) *stage {
	t.Helper()
	s := &stage{answer: func(f *login.Form) error {
		return login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}.Answer(t.Context(), f)
	}}
	a.view, a.notes, a.asker = s, s, stageAsker{s}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func isUp(m model) bool   { return m.state == connected }
func isDown(m model) bool { return m.state == disconnected }

func TestConnectOnStart(t *testing.T) {
	s, a := newStage(t, func(a *app) {
		if err := a.prefs.docs.Preferences.User.SetControl(settingConnectOnStart, "true"); err != nil {
			t.Fatal(err)
		}
		a.prefs.env.Message = "the rules"
	})
	s.wait(t, "the tunnel", isUp)
	a.do(cmdConnect + "1") // there is one already
	a.do(cmdConnect + "99")
	a.do(cmdConnect + "x")
	a.do("no such command")
	if got := s.last().host; got != "Demonstration" || !slices.Equal(s.asked, []string{"the rules"}) {
		t.Errorf("connected to %q after %q", got, s.asked)
	}
	a.do(cmdDisconnect)
	s.wait(t, "the end", isDown)
	if m := s.last(); m.problem != "" || m.attention() {
		t.Errorf("what the user wanted is a problem: %q", m.problem)
	}
	a.do(cmdQuit)
	<-a.stopped
	a.do(cmdConnect + "0") // nobody is there, which keeps nobody waiting
}

func TestFailures(t *testing.T) {
	s, a := newStage(t, nil)
	a.do(cmdConnect + "2")
	s.wait(t, "the failure", func(m model) bool { return isDown(m) && m.problem != "" })
	if m := s.last(); !m.attention() || strings.Contains(m.problem, "vpn dial") {
		t.Errorf("the problem is %q", m.problem)
	}
	if !s.heard("No tunnel to Nobody there") {
		t.Errorf("the notices are %q", s.notes)
	}

	// An account is locked by wrong answers: no other gateway is tried with the same.
	asked := 0
	s.mu.Lock()
	s.answer = func(f *login.Form) error {
		asked++
		return errDeclined
	}
	s.mu.Unlock()
	a.do(cmdConnect + "1")
	s.wait(t, "the question", func(m model) bool { return m.host == "Demonstration, by its backup" && isDown(m) })
	if m := s.last(); m.problem != "" || asked != 1 {
		t.Errorf("asked %d times, problem %q", asked, m.problem)
	}

	// To give up while a question is open is no failure either.
	s.mu.Lock()
	hold := make(chan struct{})
	s.answer = func(f *login.Form) error {
		<-hold
		return errors.New("too late")
	}
	s.mu.Unlock()
	a.do(cmdConnect + "0")
	s.wait(t, "the question", func(m model) bool { return m.asking })
	a.do(cmdDisconnect)
	close(hold)
	s.wait(t, "the end", isDown)
	if m := s.last(); m.problem != "" || m.asking {
		t.Errorf("problem %q, asking %v", m.problem, m.asking)
	}
}

func TestReconnectOff(t *testing.T) {
	s, a := newStage(t, nil)
	a.do(cmdPreference + settingReconnect)
	a.do(cmdPreference + preferences.BlockUntrustedServers) // nothing can be done about that one
	a.do(cmdConnect + "0")
	s.wait(t, "the tunnel", isUp)
	for _, b := range s.last().boxes {
		if want := b.setting == preferences.BlockUntrustedServers; b.checked != want && b.setting != "LocalLanAccess" && b.setting != "MinimizeOnConnect" {
			t.Errorf("%s is %v", b.setting, b.checked)
		}
	}
	a.do(cmdFault + "udp")
	s.wait(t, "TLS, which is no end", func(m model) bool { return m.symbol() == symbolTLS })
	a.do(cmdFault + "all")
	s.wait(t, "the end", func(m model) bool { return isDown(m) && m.problem == errLost.Error() })
	a.do(cmdPreference + settingReconnect)
	s.wait(t, "the preference as it was", func(m model) bool {
		return slices.ContainsFunc(m.boxes, func(b box) bool { return b.setting == settingReconnect && b.checked })
	})
}

func TestExpiry(t *testing.T) {
	m := up("tls")
	m.status.Expires = noon.Add(time.Hour)
	a := &app{m: m}
	for at, want := range map[time.Time]bool{noon: false, noon.Add(49 * time.Minute): false, noon.Add(51 * time.Minute): true} {
		if a.expires(at); a.m.expiring != want {
			t.Errorf("at %v: %v", at, a.m.expiring)
		}
	}
	a.m.status.Expires = time.Time{}
	if a.expires(noon); a.m.expiring {
		t.Error("a session without end expires")
	}
}

func TestCycle(t *testing.T) {
	var got []faults
	a := &app{step: time.Second, cycleFrom: noon, faulty: recorder(func(f faults) { got = append(got, f) })}
	a.m.faults = &faults{cycling: true}
	for s := range 9 {
		a.cycle(noon.Add(time.Duration(s) * time.Second))
	}
	want := []faults{{udp: true}, {all: true}, {}, {udp: true}, {all: true}, {}}
	for i := range want {
		want[i].cycling = true
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

type recorder func(f faults)

func (r recorder) set(f faults) { r(f) }
func (recorder) end()           {}

func TestChoicesAreSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "preferences.xml")
	corp, err := profile.New(profile.NewOptions{Name: "corp", Hosts: []profile.Host{{Name: "North", Address: "north.example.com"}}})
	if err == nil {
		err = corp.SetUserControllable(settingReconnect, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := newChoices(corp)
	c.path = path
	if boxes := c.boxes(); boxes[0].setting != settingConnectOnStart || boxes[0].checked || boxes[1].setting != settingReconnect || !boxes[1].checked {
		t.Errorf("the defaults are not those of the table: %+v", boxes)
	}
	if err := c.toggle(settingConnectOnStart); err != nil {
		t.Fatal(err)
	}
	// Another program writes to the same file while this one runs.
	last := preferences.Last{HostName: "North", User: "alice"}
	err = preferences.Edit(path, preferences.UserMode, false, func(p *preferences.Preferences) error {
		return errors.Join(p.SetControl("LocalLanAccess", "true"), p.SetControl("AutoUpdate", "false"), p.SetLast(last))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.toggle(settingReconnect); err != nil {
		t.Fatal(err)
	}
	saved, err := preferences.Load(path, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{settingConnectOnStart: "true", settingReconnect: "false", "LocalLanAccess": "true", "AutoUpdate": "false"}
	if got := saved.Controls(); !maps.Equal(got, want) || saved.Last() != last {
		t.Errorf("saved is %v, %+v", got, saved.Last())
	}
	if got := c.docs.Preferences.User; !maps.Equal(got.Controls(), want) || got.Last() != last {
		t.Errorf("in use is %v, %+v", got.Controls(), got.Last())
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != preferences.UserMode {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestFindHosts(t *testing.T) {
	root := t.TempDir()
	d, err := profile.New(profile.NewOptions{Name: "corp", Hosts: []profile.Host{
		{Name: "North", Address: "north.example.com", UserGroup: "staff", Backups: []string{"south.example.com:8443"}},
		{Name: "IKE", Address: "ike.example.com", Protocol: "IPsec"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "corp.xml")
	if err := d.Save(file); err != nil {
		t.Fatal(err)
	}
	find := func(o options) ([]host, *choices, error) {
		o.root = root
		return findHosts(&o, slog.New(slog.DiscardHandler))
	}
	hosts, prefs, err := find(options{profile: file, servers: []string{"https://u:p@vpn.example.com/x?y"}})
	if err != nil || len(hosts) != 3 {
		t.Fatal(hosts, err)
	}
	if h := hosts[0]; h.name != "vpn.example.com/x" || h.servers[0] != "https://u:p@vpn.example.com/x?y" {
		t.Errorf("%+v", h)
	}
	if h := hosts[1]; h.name != "North" || !slices.Equal(h.servers, []string{"https://north.example.com/staff", "south.example.com:8443"}) {
		t.Errorf("%+v", h)
	}
	for i, refused := range []bool{false, false, true} {
		if p, err := prefs.plan(hosts[i].entry); (err != nil) != refused || p.Listed != (i > 0) {
			t.Errorf("%+v: listed %v, %v", hosts[i], p.Listed, err)
		}
	}
	for _, typed := range []string{"north.example.com", "https://north.example.com:443/guests", "https://NORTH.example.com?x"} {
		hosts, prefs, err := find(options{profile: file, servers: []string{typed}})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := prefs.plan(hosts[0].entry); err != nil || p.Host.Name != "North" {
			t.Errorf("%s is %+v, %v", typed, p.Host, err)
		}
	}
	if _, _, err := find(options{}); err == nil || !strings.Contains(err.Error(), "--demo") {
		t.Errorf("got %v", err)
	}

	// What the profile refuses is not dialled, and neither is what it does not list.
	for setting, typed := range map[string][]string{"ServiceDisable = true": nil, "AllowManualHostInput = false": {"127.0.0.1:1"}} {
		name, value, _ := strings.Cut(setting, " = ")
		if err := d.Set(name, value); err != nil {
			t.Fatal(err)
		}
		if err := d.Save(file); err != nil {
			t.Fatal(err)
		}
		hosts, prefs, err := find(options{profile: file, servers: typed})
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t)
		a := newApp(hosts, prefs, l.Addr().String())
		s := play(t, a, l)
		a.do(cmdConnect + "0")
		s.wait(t, "the refusal", func(m model) bool { return isDown(m) && strings.HasPrefix(m.problem, name+" (profile "+file+":") })
		if err := d.Unset(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParse(t *testing.T) {
	for args, want := range map[string]string{
		"--demo https://x": "--demo", "--demo --profile x": "--demo", "--demo-step 1ms": "--demo-step", "--nonsense": "nonsense", "--demo": "",
	} {
		var usage strings.Builder
		_, err := parse(strings.Fields(args), &usage)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestFaults checks that the demonstration shows what it says.
func TestFaults(t *testing.T) {
	s, a := newStage(t, nil)
	a.do(cmdConnect + "0")
	s.wait(t, "DTLS", func(m model) bool { return m.symbol() == symbolDTLS && m.status.Path == "dtls" })
	a.do(cmdFault + "udp")
	s.wait(t, "TLS", func(m model) bool { return m.symbol() == symbolTLS })
	a.do(cmdFault + "all")
	s.wait(t, "the loss", func(m model) bool { return m.symbol() == symbolWaiting })
	a.do(cmdFault + "all")
	s.wait(t, "the return", func(m model) bool { return m.symbol() == symbolTLS && m.status.Reconnects == 1 })
	a.do(cmdFault + "end")
	s.wait(t, "the end", func(m model) bool { return m.symbol() == symbolAttention })
	if m := s.last(); !strings.Contains(m.problem, "the demonstration is over") || *m.faults != (faults{}) {
		t.Errorf("the problem is %q, the faults %+v", m.problem, *m.faults)
	}
}
