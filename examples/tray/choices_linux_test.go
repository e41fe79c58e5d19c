package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// The places below the root of a machine in these tests.
const (
	profiles   = "opt/cisco/secureclient/vpn/profile"
	resources  = "opt/cisco/secureclient/resources"
	userFile   = "home/alice/.config/culvert/preferences.xml"
	globalFile = "etc/culvert/preferences_global.xml"
)

// newMachine returns the root of a machine with a gateway, and what starts the program on it.
func newMachine(t *testing.T) (root string, gw *gatewaytest.Gateway, start func(o options) (*stage, *app)) {
	t.Helper()
	t.Setenv("HOME", "/home/alice")
	t.Setenv("XDG_CONFIG_HOME", "")
	root, gw = t.TempDir(), gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	return root, gw, func(o options) (*stage, *app) {
		t.Helper()
		o.root, o.pin, o.listen = root, gw.Pin, "127.0.0.1:0"
		a, l, end, err := prepare(&o, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(end)
		return play(t, a, l), a
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// install has the machine have a profile with one gateway, of the same name, none of whose settings is the user's.
func install(t *testing.T, root string, gw *gatewaytest.Gateway, name string, settings map[string]string) {
	t.Helper()
	p, err := profile.New(profile.NewOptions{Name: name, Hosts: []profile.Host{{Name: name, Address: gw.Addr.String()}}, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	for setting := range settings {
		if v, ok := profile.Resolve(p, nil, "linux").Get(setting); ok && v.UserControllable {
			if err := p.SetUserControllable(setting, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, filepath.Join(root, profiles, name+".xml"), string(p.Bytes()))
}

// edit changes preferences as another program does.
func edit(t *testing.T, path, setting, value string) {
	t.Helper()
	if err := preferences.Edit(path, preferences.UserMode, false, func(p *preferences.Preferences) error { return p.SetControl(setting, value) }); err != nil {
		t.Fatal(err)
	}
}

// questions returns the messages that were shown.
func (s *stage) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// connect connects to a gateway of the menu and disconnects again.
func connect(t *testing.T, s *stage, a *app, command string) {
	t.Helper()
	a.do(command)
	s.wait(t, "the tunnel", isUp)
	a.do(cmdDisconnect)
	s.wait(t, "the end", isDown)
}

// startProxy starts a proxy that takes CONNECT and counts how often, and that can be told to refuse.
func startProxy(t *testing.T) (address string, asked *atomic.Int32, refuses *atomic.Bool) {
	t.Helper()
	l := listen(t)
	asked, refuses = new(atomic.Int32), new(atomic.Bool)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodConnect || refuses.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			defer here.Close()
			io.Copy(here, there)
		}()
		io.Copy(there, buffered)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String(), asked, refuses
}

// TestProxyOfProfile goes through the proxy that the profile demands, and nowhere else.
func TestProxyOfProfile(t *testing.T) {
	root, gw, start := newMachine(t)
	address, asked, refuses := startProxy(t)
	override := map[string]string{"ProxySettings": "Override", "ProxySettings/PublicProxyServerAddress": address}
	install(t, root, gw, "demands", override)
	override["AllowLocalProxyConnections"] = "false"
	install(t, root, gw, "forbids", override)
	// The address is that of an entry, so that nobody gets past the proxy by typing it.
	for _, o := range []options{{}, {servers: []string{gw.URL + "/"}}} {
		asked.Store(0)
		s, a := start(o)
		connect(t, s, a, cmdConnect+"0")
		if n := asked.Load(); n == 0 {
			t.Errorf("%v: the proxy was not asked", o.servers)
		}
	}
	s, a := start(options{})
	refuses.Store(true)
	a.do(cmdConnect + "0")
	s.wait(t, "the refusal of the proxy", func(m model) bool { return isDown(m) && strings.Contains(m.problem, address) })
	asked.Store(0)
	a.do(cmdConnect + "1")
	s.wait(t, "the refusal of the profile", func(m model) bool { return isDown(m) && strings.Contains(m.problem, "AllowLocalProxyConnections") })
	if n := asked.Load(); n > 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

// TestThrough says which way leads to the gateway by profile and environment.
func TestThrough(t *testing.T) {
	t.Setenv("https_proxy", "http://proxy.example:3128")
	t.Setenv("no_proxy", "near.example")
	const own = "127.0.0.1:1080"
	for _, c := range []struct {
		server      string
		way         plan.Proxy
		environment string
		proxied     bool
		err         string
	}{
		{server: "https://vpn.example/group", proxied: true},
		{server: "vpn.example:8443", proxied: true},
		{server: "[2001:db8::1]", proxied: true},
		{server: "https://near.example/group"},
		{server: "vpn.example", way: plan.Proxy{Choice: profile.ProxyIgnore}},
		{server: "near.example", way: plan.Proxy{Choice: profile.ProxyOverride, Public: "other.example:1"}, proxied: true},
		{server: "vpn.example", way: plan.Proxy{Choice: profile.ProxyOverride}, err: "PublicProxyServerAddress"},
		{server: "vpn.example", environment: "http://127.0.0.1:3128", err: "runs on this machine"},
		{server: "vpn.example", environment: "http://127.0.0.1:3128", way: plan.Proxy{AllowLocal: true}, proxied: true},
		{server: "vpn.example", environment: "socks5h://localhost:1080", way: plan.Proxy{AllowLocal: true}},
		{server: "https://vpn example", err: "want https://"},
	} {
		if c.environment != "" {
			t.Setenv("https_proxy", c.environment)
		}
		a := newApp(nil, newChoices(), own)
		dial, err := a.through(&plan.Plan{Proxy: c.way}, c.server, nil)
		if (dial != nil) != c.proxied || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: by proxy %v, %v", c, dial != nil, err)
		}
	}
}

// TestSettingsOfGateway has two profiles: for each gateway, those of its own profile hold.
func TestSettingsOfGateway(t *testing.T) {
	root, gw, start := newMachine(t)
	install(t, root, gw, "first", nil)
	install(t, root, gw, "second", map[string]string{"AutoReconnect": "false", "ShowPreConnectMessage": "true"})
	s, a := start(options{message: "the rules"})

	a.do(cmdConnect + "0")
	s.wait(t, "the first tunnel", isUp)
	gw.ResetTCP()
	s.wait(t, "it to come back", func(m model) bool { return isUp(m) && m.status.Reconnects == 1 })
	a.do(cmdDisconnect)
	s.wait(t, "its end", isDown)
	if q := s.questions(); len(q) > 0 {
		t.Errorf("the first gateway has the message of the second: %q", q)
	}

	a.do(cmdConnect + "1")
	s.wait(t, "the second tunnel", func(m model) bool { return isUp(m) && m.host == "second" })
	if q := s.questions(); !slices.Equal(q, []string{"the rules"}) {
		t.Errorf("the second gateway has the messages %q", q)
	}
	gw.ResetTCP()
	s.wait(t, "the end of the tunnel that does not come back", func(m model) bool { return isDown(m) && m.problem == errLost.Error() })
}

// TestBoxesOfProfiles has a box for what any profile leaves to the user.
func TestBoxesOfProfiles(t *testing.T) {
	var all []*profile.Profile
	for _, controllable := range []bool{false, true} {
		p, err := profile.New(profile.NewOptions{Name: "p", Hosts: []profile.Host{{Name: "h", Address: "h.example"}}, Settings: map[string]string{settingReconnect: "false"}})
		if err == nil {
			err = p.SetUserControllable(settingReconnect, controllable)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	has := func(c *choices) bool {
		return slices.ContainsFunc(c.boxes(), func(b box) bool { return b.setting == settingReconnect && !b.checked })
	}
	if has(newChoices(all[0])) || !has(newChoices(all...)) {
		t.Errorf("%+v, %+v", newChoices(all[0]).boxes(), newChoices(all...).boxes())
	}
}

// TestMessageOnce shows the message once for each text, whatever starts meanwhile.
func TestMessageOnce(t *testing.T) {
	root, gw, start := newMachine(t)
	install(t, root, gw, "corp", map[string]string{"ShowPreConnectMessage": "true"})
	write(t, filepath.Join(root, resources, "preconnect.txt"), "Read the manual.\n")
	edit(t, filepath.Join(root, userFile), "AutoUpdate", "false")

	s, a := start(options{})
	s.mu.Lock()
	s.declines = errDeclined
	s.mu.Unlock()
	a.do(cmdConnect + "0")
	s.wait(t, "the message", func(m model) bool { return isDown(m) && m.host == "corp" })
	s.mu.Lock()
	s.declines = nil
	s.mu.Unlock()
	edit(t, filepath.Join(root, userFile), "LocalLanAccess", "true")
	connect(t, s, a, cmdConnect+"0")
	connect(t, s, a, cmdConnect+"0")
	if q := s.questions(); !slices.Equal(q, []string{"Read the manual.", "Read the manual."}) {
		t.Errorf("who declines once and agrees once saw %q", q)
	}
	saved, err := preferences.Load(filepath.Join(root, userFile), false)
	if err != nil {
		t.Fatal(err)
	}
	if c := saved.Controls(); c["AutoUpdate"] != "false" || c["LocalLanAccess"] != "true" || len(c) != 3 {
		t.Errorf("the preferences are %v", c)
	}

	s, a = start(options{})
	connect(t, s, a, cmdConnect+"0")
	if q := s.questions(); len(q) > 0 {
		t.Errorf("the next program shows %q", q)
	}
	// The directory of this client comes first, and the command line before that.
	write(t, filepath.Join(root, "etc/culvert/preconnect.txt"), "Read the new manual.")
	for _, c := range []struct{ message, want string }{{"", "Read the new manual."}, {"the rules", "the rules"}} {
		s, a = start(options{message: c.message})
		connect(t, s, a, cmdConnect+"0")
		if q := s.questions(); !slices.Equal(q, []string{c.want}) {
			t.Errorf("the program shows %q", q)
		}
	}
	write(t, filepath.Join(root, "etc/culvert/preconnect.txt"), strings.Repeat("x", 17<<10))
	if _, _, err := findHosts(&options{root: root}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "preconnect.txt has more than") {
		t.Errorf("got %v", err)
	}
}

// TestMessageNotNoted goes on where the preferences cannot be written.
func TestMessageNotNoted(t *testing.T) {
	root, gw, start := newMachine(t)
	install(t, root, gw, "corp", map[string]string{"ShowPreConnectMessage": "true"})
	s, a := start(options{})
	write(t, filepath.Join(root, filepath.Dir(userFile)), "no directory")
	connect(t, s, a, cmdConnect+"0")
	if !s.heard("The message will be shown again") {
		t.Errorf("the notices are %q", s.notes)
	}
}

// TestGlobalPreferences heeds what was chosen for everybody on the machine.
func TestGlobalPreferences(t *testing.T) {
	root, gw, start := newMachine(t)
	install(t, root, gw, "corp", nil)
	global := filepath.Join(root, globalFile)
	edit(t, global, settingConnectOnStart, "true")
	edit(t, filepath.Join(root, userFile), settingConnectOnStart, "false")
	s, a := start(options{})
	s.wait(t, "the tunnel", isUp)
	// What the user cannot change with this program is not offered.
	before, err := os.ReadFile(filepath.Join(root, userFile))
	if err != nil {
		t.Fatal(err)
	}
	a.do(cmdPreference + settingConnectOnStart)
	a.do(cmdDisconnect)
	s.wait(t, "the end", isDown)
	if b := s.last().boxes[0]; b.setting != settingConnectOnStart || !b.checked || b.why == "" {
		t.Errorf("the box is %+v", b)
	}
	if after, err := os.ReadFile(filepath.Join(root, userFile)); err != nil || string(after) != string(before) {
		t.Errorf("the file of the user is %s, %v", after, err)
	}

	// One that makes no sense keeps nobody from working.
	write(t, global, "<nonsense")
	if _, prefs, err := findHosts(&options{root: root}, slog.New(slog.DiscardHandler)); err != nil || prefs.docs.Preferences.Global != nil {
		t.Errorf("got %v", err)
	}
}

// TestTypedAddress obeys the profiles of the machine for a gateway that is named on the command line as well.
func TestTypedAddress(t *testing.T) {
	root, gw, start := newMachine(t)
	install(t, root, gw, "corp", map[string]string{"ServiceDisable": "true"})
	s, a := start(options{servers: []string{"https://127.0.0.1:1"}})
	if hosts := s.last().hosts; len(hosts) > 1 {
		t.Errorf("the gateways are %q", hosts)
	}
	a.do(cmdConnect + "0")
	s.wait(t, "the refusal", func(m model) bool { return isDown(m) && strings.HasPrefix(m.problem, "ServiceDisable (profile ") })
}
