package network

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

var (
	epoch  = time.Unix(1e9, 0)
	office = []trusted.Link{{Name: "eth0", Suffixes: []string{"corp.example"}, Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}
	cafe   = []trusted.Link{{Name: "wlan0", Suffixes: []string{"cafe.example"}, Servers: []netip.Addr{netip.MustParseAddr("192.168.1.1")}}}
)

// A sim drives a Manager and writes down what it does.
type sim struct {
	t    *testing.T
	m    *Manager
	now  time.Time
	next time.Time
	log  []string
	run  uint64 // of the last attempt
	asks map[Do]uint64
	mode Mode
}

func newSim(t *testing.T, cfg Config) *sim {
	t.Helper()
	if cfg.Hosts == nil {
		cfg.Hosts = []Host{{Name: "Main", Server: "a", Backups: []string{"b"}}}
	}
	m, err := New(cfg, selection.Cache{}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return &sim{t: t, m: m, now: epoch, asks: map[Do]uint64{}}
}

// do tells the Manager of an event; answers get the number of the last question or attempt.
func (s *sim) do(e Event) error {
	switch e.Kind {
	case TunnelUp, TunnelDown, Redirected:
		e.Run = s.run
	case Asked:
		e.Run = s.asks[AskTrusted]
	case Looked:
		e.Run = s.asks[AskPortal]
	case Measured:
		e.Run = s.asks[Measure]
	}
	next, actions, err := s.m.Step(s.now, e)
	for _, a := range actions {
		text := a.Do.String()
		switch a.Do {
		case Connect, ResumeTunnel:
			s.run = a.Run
			text += " " + a.Server
		case AskTrusted, AskPortal, Measure:
			s.asks[a.Do] = a.Run
		case Disconnect:
			text += " (" + string(a.Reason) + ")"
		case SetFirewall:
			s.mode = a.Firewall.Mode
			text += " " + a.Firewall.Mode.String()
		case OpenPortal:
			text += " " + a.For.String()
		case Notify:
			text += " " + a.Notice.Kind
		}
		s.log = append(s.log, text)
	}
	s.next = next
	return err
}

func (s *sim) pass(d time.Duration) {
	end := s.now.Add(d)
	for !s.next.IsZero() && !s.next.After(end) {
		s.now = s.next
		_ = s.do(Event{})
	}
	s.now = end
	_ = s.do(Event{})
}

func (s *sim) expect(when, want string) {
	s.t.Helper()
	if got := strings.Join(s.log, ", "); got != want {
		s.t.Errorf("%s:\n got %s\nwant %s", when, got, want)
	}
	s.log = nil
}

func rules() trusted.Rules { return trusted.Rules{Domains: []string{"corp.example"}} }

// TestTrustedNetwork is the decision table of the network policies (D1216, D1217, D1220; A.13, B.1, B.12).
func TestTrustedNetwork(t *testing.T) {
	type state struct {
		how  string // the tunnel was made
		in   []trusted.Link
		into []trusted.Link
	}
	auto := func(trusted, untrusted Policy) Config {
		return Config{Automatic: true, Trusted: rules(), TrustedPolicy: trusted, UntrustedPolicy: untrusted, NoPortals: true}
	}
	const end, stay, nothing = "disconnect (trusted network)", "", ""
	for _, c := range []struct {
		row  string
		cfg  Config
		s    state
		want string // when the machine comes into the second network
	}{
		{"B.12: Disconnect ends what was up before", auto(profile.Disconnect, profile.Connect), state{"auto", cafe, office}, end},
		{"the default of TrustedNetworkPolicy is Disconnect", auto("", ""), state{"auto", cafe, office}, end},
		{"B.12: also what a person had started outside", auto(profile.Disconnect, profile.DoNothing), state{"manual", cafe, office}, end},
		{"B.12: not what a person starts inside", auto(profile.Disconnect, profile.Connect), state{"manual", office, office}, stay},
		{"Connect inside, down before", auto(profile.Connect, profile.DoNothing), state{"", cafe, office}, "connect a"},
		{"Connect inside, up before", auto(profile.Connect, profile.Connect), state{"auto", cafe, office}, stay},
		{"DoNothing inside, up before", auto(profile.DoNothing, profile.Connect), state{"auto", cafe, office}, stay},
		{"DoNothing inside, down before", auto(profile.DoNothing, profile.DoNothing), state{"", cafe, office}, nothing},
		{"B.12: Pause keeps the session", auto(profile.Pause, profile.Connect), state{"auto", cafe, office}, "pause"},
		{"Connect outside, down before", auto(profile.Disconnect, profile.Connect), state{"", office, cafe}, "connect a"},
		{"DoNothing outside, down before", auto(profile.Disconnect, profile.DoNothing), state{"", office, cafe}, nothing},
		{"from outside to outside", auto(profile.Disconnect, profile.Connect), state{"auto", cafe, cafe}, stay},
		{"D1216: AutomaticVPNPolicy off", Config{Trusted: rules(), TrustedPolicy: profile.Disconnect}, state{"manual", cafe, office}, stay},
		{"D1211: Service Disable", Config{Disabled: true, Automatic: true, Trusted: rules()}, state{"", office, cafe}, nothing},
	} {
		s := newSim(t, c.cfg)
		_ = s.do(Event{Kind: Start, Links: c.s.in})
		if c.s.how == "manual" {
			if err := s.do(Event{Kind: UserConnect}); err != nil {
				t.Error(c.row, err)
			}
		}
		if c.s.how != "" {
			_ = s.do(Event{Kind: TunnelUp})
			if s.m.phase != up {
				t.Errorf("%s: no tunnel to begin with: %v", c.row, s.log)
			}
		}
		s.log = nil
		_ = s.do(Event{Kind: NetworkChanged, Links: c.s.into})
		s.expect(c.row, c.want)
	}

	s := newSim(t, auto(profile.Pause, profile.Connect))
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(Event{Kind: TunnelUp})
	_ = s.do(Event{Kind: NetworkChanged, Links: office})
	_ = s.do(Event{Kind: NetworkChanged, Links: cafe})
	s.expect("B.12: paused, and resumed outside", "firewall open, connect a, pause, resume a")
	_ = s.do(Event{Kind: TunnelDown, Reason: Unreachable})
	s.expect("the session is gone", "connect a")

	// A person's word, and how long it counts.
	s = newSim(t, auto(profile.Disconnect, profile.Connect))
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(Event{Kind: TunnelUp})
	_ = s.do(Event{Kind: UserDisconnect})
	s.expect("a person ends it", "firewall open, connect a, disconnect (ended by the user)")
	_ = s.do(Event{Kind: NetworkChanged, Links: cafe})
	s.pass(24 * time.Hour)
	s.expect("and it stays down", "")
	_ = s.do(Event{Kind: NetworkChanged, Links: office})
	_ = s.do(Event{Kind: NetworkChanged, Links: cafe})
	s.expect("until the machine has been home", "connect a")

	for bypass, want := range map[bool]string{true: "notify ended", false: "connect a"} { // B.1: BypassConnectUponSessionTimeout
		cfg := auto(profile.Disconnect, profile.Connect)
		cfg.BypassSessionTimeout = bypass
		s = newSim(t, cfg)
		_ = s.do(Event{Kind: Start, Links: cafe})
		_ = s.do(Event{Kind: TunnelUp})
		s.pass(12 * time.Hour)
		s.log = nil
		_ = s.do(Event{Kind: TunnelDown, Reason: SessionTimeout})
		s.expect(fmt.Sprint("the session is too old, bypass ", bypass), want)
		if err := s.do(Event{Kind: UserConnect}); err != nil {
			t.Error(err)
		}
		if bypass {
			s.expect("a person connects", "connect a")
		}
	}

	// HTTPS servers have to prove it, which takes a while (B.1, B.12).
	cfg := auto(profile.Disconnect, profile.Connect)
	cfg.Trusted.HTTPS = []trusted.Server{{Address: "proof", Hash: make([]byte, 32)}}
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: office})
	s.expect("nothing happens before it is known", "firewall open, ask trusted")
	_ = s.do(Event{Kind: Asked, Answers: trusted.Answers{HTTPS: []trusted.Answer{trusted.Unreachable}}})
	s.expect("not proved", "connect a")
	_ = s.do(Event{Kind: TunnelUp})
	s.pass(5 * time.Second)
	_ = s.do(Event{Kind: Asked, Answers: trusted.Answers{HTTPS: []trusted.Answer{trusted.Genuine}}})
	s.expect("asked again, and proved", "ask trusted, disconnect (trusted network)")
	_ = s.do(Event{Kind: NetworkChanged, Links: office})
	s.pass(29 * time.Second)
	s.expect("no answer", "ask trusted")
	s.pass(time.Second)
	s.expect("no answer counts as untrusted", "connect a")
}

func closed() Config {
	return Config{Document: "corp.xml", Automatic: true, Trusted: rules(), NoPortals: true, ManualHosts: true,
		AlwaysOn: AlwaysOn{On: true, Closed: true, AllowDisconnect: true, Allowed: []string{"proxy.example"}, LastRules: true}}
}

// TestMode is the table at Mode (D1214; A.13, B.1, B.12).
func TestMode(t *testing.T) {
	type edit func(*Config)
	opened := func(c *Config) { c.AlwaysOn.Closed = false }
	off := func(c *Config) { c.AlwaysOn.On = false }
	home := func(c *Config) { c.TrustedPolicy = profile.Connect }
	pause := func(c *Config) { c.TrustedPolicy = profile.Pause }
	none := func(*Config) {}
	start := func(l []trusted.Link) Event { return Event{Kind: Start, Links: l} }
	goes := func(l []trusted.Link) Event { return Event{Kind: NetworkChanged, Links: l} }
	tunnel, fails, user := Event{Kind: TunnelUp}, Event{Kind: TunnelDown, Reason: Unreachable}, Event{Kind: UserDisconnect}
	for _, c := range []struct {
		row    string
		edit   edit
		events []Event
		want   Mode
		status string
	}{
		{"before the start", none, []Event{{}}, Closed, "closed"},
		{"Closed, no tunnel", none, []Event{start(cafe)}, Closed, "closed"},
		{"Closed, no network", none, []Event{start(nil)}, Closed, "closed"},
		{"Closed, tunnel up", none, []Event{start(cafe), tunnel}, Tunnel, "connected"},
		{"Closed, the tunnel has failed", none, []Event{start(cafe), tunnel, fails}, Closed, "closed"},
		{"Closed, trusted network", none, []Event{start(office)}, Open, "trusted"},
		{"Closed, trusted network, tunnel up", func(c *Config) { home(c) }, []Event{start(office), tunnel}, Open, "trusted"},
		{"Closed, from outside to the trusted network", none, []Event{start(cafe), tunnel, goes(office)}, Open, "trusted"},
		{"Closed, paused in the trusted network", pause, []Event{start(cafe), tunnel, goes(office)}, Open, "trusted"},
		{"Closed, resuming outside", pause, []Event{start(cafe), tunnel, goes(office), goes(cafe)}, Closed, "closed"},
		{"Closed, out of the trusted network", none, []Event{start(office), goes(cafe)}, Closed, "closed"},
		{"Closed, a person has disconnected", none, []Event{start(cafe), tunnel, user}, Closed, "closed"},
		{"Closed, a person has paused", none, []Event{start(cafe), tunnel, {Kind: UserPause}}, Closed, "closed"},
		{"Closed, the login was refused", none, []Event{start(cafe), {Kind: TunnelDown, Reason: LoginFailed}}, Closed, "closed"},
		{"Closed, the client stops", none, []Event{start(cafe), tunnel, {Kind: Stop}}, Closed, "closed"},
		{"Closed, lifted by the gateway", none, []Event{start(cafe), {Kind: TunnelUp, Exempt: true}, fails}, Open, "lifted"},
		{"Closed, Service Disable", func(c *Config) { c.Disabled = true }, []Event{start(cafe)}, Open, "lifted"},
		{"Open, no tunnel", opened, []Event{start(cafe)}, Open, "open"},
		{"Open, tunnel up", opened, []Event{start(cafe), tunnel}, Tunnel, "connected"},
		{"Open, the tunnel has failed", opened, []Event{start(cafe), tunnel, fails}, Open, "open"},
		{"Open, a person has disconnected", opened, []Event{start(cafe), tunnel, user}, Closed, "closed"},
		{"Always-On off", off, []Event{start(cafe), tunnel, fails}, Open, "off"},
		{"AutomaticVPNPolicy off", func(c *Config) { c.Automatic = false }, []Event{start(cafe)}, Open, "off"},
	} {
		cfg := closed()
		c.edit(&cfg)
		s := newSim(t, cfg)
		for _, e := range c.events {
			if err := s.do(e); err != nil {
				t.Errorf("%s: %v", c.row, err)
			}
		}
		if st := s.m.Status(); s.mode != c.want || st.AlwaysOn != c.status || st.Firewall.Mode != c.want {
			t.Errorf("%s: %v, %s", c.row, s.mode, st.AlwaysOn)
		} else if down := st.WhenDown.Mode; c.want != Tunnel && !reflect.DeepEqual(st.WhenDown, st.Firewall) || c.want == Tunnel && (down == Closed) != cfg.AlwaysOn.Closed || down == Tunnel {
			t.Errorf("%s: %+v now, and %+v when the tunnel is down", c.row, st.Firewall, st.WhenDown)
		}
	}

	s := newSim(t, closed())
	_ = s.do(Event{Kind: Start, Links: cafe})
	f := s.m.Status().Firewall
	if strings.Join(f.Gateways, " ") != "a b" || f.Allowed[0] != "proxy.example" || !f.LastRules {
		t.Errorf("%+v", f)
	}
	_ = s.do(Event{Kind: TunnelUp})
	if f = s.m.Status().Firewall; f.Allowed != nil || f.LastRules {
		t.Errorf("hosts are allowed although the tunnel is up: %+v", f)
	}
	if d := s.m.Status().WhenDown; d.Mode != Closed || strings.Join(d.Gateways, " ") != "a b" || len(d.Allowed) != 1 || !d.LastRules {
		t.Errorf("when the tunnel is down: %+v", d)
	}
	s.log = nil
	_ = s.do(Event{Kind: UserDisconnect})
	s.expect("it is closed before the tunnel goes down", "firewall closed, disconnect (ended by the user)")

	// What the firewall needs to be asked, it lets through; what fails is tried again.
	cfg := closed()
	cfg.Trusted.HTTPS = []trusted.Server{{Address: "proof", Hash: make([]byte, 32)}}
	cfg.Trusted.Servers = []string{"10.0.0.1"}
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: office})
	if f = s.m.Status().Firewall; f.Mode != Closed || f.Probes[0] != "proof:443" || len(f.DNS) != 1 {
		t.Errorf("%+v", f)
	}
	s.log = nil
	_ = s.do(Event{Kind: FirewallFailed})
	s.pass(firewallRetry)
	s.expect("the firewall could not be set", "firewall closed")
}

// What a person may not do has an error with the setting's name.
func TestNotAllowed(t *testing.T) {
	locked := closed()
	locked.AlwaysOn.AllowDisconnect = false
	noPortal := closed()
	manual := Config{Document: "corp.xml"}
	for _, c := range []struct {
		row     string
		cfg     Config
		events  []Event
		setting string
	}{
		{"B.1: AllowVPNDisconnect", locked, []Event{{Kind: Start, Links: cafe}, {Kind: TunnelUp}, {Kind: UserDisconnect}}, "AllowVPNDisconnect is false"},
		{"pausing would be a way around it", locked, []Event{{Kind: Start, Links: cafe}, {Kind: TunnelUp}, {Kind: UserPause}}, "AllowVPNDisconnect is false"},
		{"in the trusted network it does not matter", locked, []Event{{Kind: Start, Links: office}, {Kind: UserConnect}, {Kind: TunnelUp}, {Kind: UserDisconnect}}, ""},
		{"disconnecting is allowed", closed(), []Event{{Kind: Start, Links: cafe}, {Kind: UserDisconnect}}, ""},
		{"D1211: Service Disable", Config{Disabled: true, Document: "corp.xml"}, []Event{{Kind: Start}, {Kind: UserConnect}}, "ServiceDisable is true"},
		{"AllowManualHostInput", manual, []Event{{Kind: Start}, {Kind: UserConnect, Host: "else.example"}}, "AllowManualHostInput is false"},
		{"Always-On and a gateway that is not listed", closed(), []Event{{Kind: Start, Links: cafe}, {Kind: UserConnect, Host: "else.example"}}, "AlwaysOn is true"},
		{"a gateway that is listed", closed(), []Event{{Kind: Start, Links: cafe}, {Kind: UserConnect, Host: "MAIN"}}, ""},
		{"AllowCaptivePortalRemediation", noPortal, []Event{{Kind: Start, Links: cafe}, {Kind: UserPortal}}, "AllowCaptivePortalRemediation is false"},
	} {
		s := newSim(t, c.cfg)
		var err error
		for _, e := range c.events {
			if err = s.do(e); err != nil {
				break
			}
		}
		var no *NotAllowedError
		if c.setting == "" && err != nil || c.setting != "" && (!errors.As(err, &no) || !errors.Is(err, ErrNotAllowed) ||
			!strings.Contains(err.Error(), c.setting) || !strings.Contains(err.Error(), "corp.xml")) {
			t.Errorf("%s: %v", c.row, err)
		}
	}
}

// TestRetain is the table of Retain VPN on Logoff (D1219; A.13, B.1).
func TestRetain(t *testing.T) {
	off := func(u string) Event { return Event{Kind: Logoff, User: u} }
	on := func(u string) Event { return Event{Kind: Logon, User: u} }
	for _, c := range []struct {
		row         string
		retain, any bool
		events      []Event
		want        string
	}{
		{"not kept", false, false, []Event{off("ann")}, "disconnect (logoff)"},
		{"another user logs off", false, false, []Event{on("bob"), off("bob")}, ""},
		{"kept", true, false, []Event{off("ann")}, ""},
		{"kept, the same user comes back", true, false, []Event{off("ann"), on("ann")}, ""},
		{"SameUserOnly: another user comes", true, false, []Event{off("ann"), on("bob")}, "disconnect (logoff)"},
		{"AnyUser: another user comes", true, true, []Event{off("ann"), on("bob")}, ""},
		{"another user beside the owner", true, false, []Event{on("bob")}, ""},
	} {
		s := newSim(t, Config{RetainOnLogoff: c.retain, AnyUser: c.any})
		_ = s.do(Event{Kind: Start})
		_ = s.do(on("ann"))
		_ = s.do(Event{Kind: UserConnect})
		_ = s.do(Event{Kind: TunnelUp, User: "ann"})
		s.log = nil
		for _, e := range c.events {
			_ = s.do(e)
		}
		s.expect(c.row, c.want)
	}
	cfg := closed()
	s := newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(on("ann"))
	_ = s.do(Event{Kind: TunnelUp, User: "ann"})
	s.log = nil
	_ = s.do(off("ann"))
	s.pass(time.Hour)
	s.expect("nobody is dialled for a user who is gone", "firewall closed, disconnect (logoff)")
	_ = s.do(on("bob"))
	s.expect("the next user", "connect a")

	// Sessions that come and go of users who are here anyway are no logon of another user, but may be what a rule was about.
	s = newSim(t, Config{RetainOnLogoff: true})
	_ = s.do(Event{Kind: Start})
	_ = s.do(on("ann"))
	_ = s.do(on("bob"))
	_ = s.do(Event{Kind: UserConnect})
	_ = s.do(Event{Kind: TunnelUp, User: "ann"})
	_ = s.do(off("ann"))
	s.log = nil
	_ = s.do(on("bob"))
	s.expect("SameUserOnly: another session of somebody who was there before", "")
	s = newSim(t, cfg)
	_ = s.do(on("ann"))
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(Event{Kind: TunnelDown, Reason: LogonRules})
	s.pass(time.Hour)
	s.log = nil
	_ = s.do(on("ann"))
	s.expect("B.3: the second session that a rule forbids has ended", "connect a")
	_ = s.do(off("bob"))
	_ = s.do(Event{Kind: TunnelDown, Reason: LogonRules})
	s.expect("somebody has logged off while it was judged", "connect a")
	_ = s.do(Event{Kind: TunnelDown, Reason: LogonRules})
	s.expect("and it is refused again", "notify ended")
}

// TestStartBeforeLogon is the table of Start Before Logon (D1211, D1280; A.13, B.1), and of whose the tunnel is that came up then.
func TestStartBeforeLogon(t *testing.T) {
	local, remote := Event{Kind: Logon, User: "ann"}, Event{Kind: Logon, User: "bob", Remote: true}
	off := Event{Kind: Logoff, User: "ann"}
	start, tunnel := Event{Kind: Start, Links: cafe}, Event{Kind: TunnelUp}
	for _, c := range []struct {
		row    string
		before bool // UseStartBeforeLogon
		events []Event
		want   string
		held   string
	}{
		{"D1211: off, nobody is logged on", false, []Event{start}, "firewall open", "nobody is logged on, and UseStartBeforeLogon is not set"},
		{"off, and somebody logs on", false, []Event{start, local}, "firewall open, connect a", ""},
		{"off, and somebody is logged on", false, []Event{local, start}, "firewall open, connect a", ""},
		{"on, nobody is logged on", true, []Event{start}, "firewall open, connect a", ""},
		{"on, and the first user logs on and off", true, []Event{start, tunnel, local, off}, "firewall open, connect a, disconnect (logoff)", "the user has logged off"},
		{"on, and it is not the tunnel of who comes over the network", true, []Event{start, tunnel, remote, {Kind: Logoff, User: "bob"}}, "firewall open, connect a", ""},
		{"off, and the user logs off before the tunnel is up", false, []Event{local, start, off, tunnel}, "firewall open, connect a, disconnect (logoff)", "the user has logged off"},
		{"off, with two users it is nobody's", false, []Event{local, {Kind: Logon, User: "eve"}, start, tunnel, off}, "firewall open, connect a", ""},
	} {
		s := newSim(t, Config{Automatic: true, Trusted: rules(), NoPortals: true, NeedUser: !c.before})
		for _, e := range c.events {
			_ = s.do(e)
		}
		s.expect(c.row, c.want)
		if held := s.m.Status().Held; held != c.held {
			t.Errorf("%s: held: %q", c.row, held)
		}
	}
	s := newSim(t, Config{Automatic: true, Trusted: rules(), NoPortals: true, NeedUser: true, ConnectOnStart: true})
	_ = s.do(start)
	s.expect("D1280: AutoConnectOnStart acts before logon", "firewall open, connect a")
}

// TestFailures: which gateway is next, and when nobody is dialled any more (B.12).
func TestFailures(t *testing.T) {
	fail := func(r Reason) Event { return Event{Kind: TunnelDown, Reason: r, Err: "no"} }
	s := newSim(t, closed())
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(fail(Unreachable))
	_ = s.do(fail(Untrusted))
	s.expect("backup servers in file order", "firewall closed, connect a, connect b")
	s.pass(5 * time.Second)
	_ = s.do(fail(Refused))
	if err := s.do(Event{Kind: Redirected, Server: "elsewhere.example"}); !errors.Is(err, selection.ErrRedirect) {
		t.Error("always-on follows a redirect to a stranger", err)
	}
	_ = s.do(fail(Unreachable))
	s.pass(10 * time.Second)
	s.expect("again after 5 s, and after 10 s", "connect a, connect b, connect a")
	_ = s.do(Event{Kind: TunnelUp})
	_ = s.do(fail(Unreachable))
	s.expect("it falls down at once", "firewall tunnel, firewall closed")
	s.pass(5 * time.Second)
	s.expect("a pause", "connect a")
	_ = s.do(fail(LoginFailed))
	s.pass(24 * time.Hour)
	s.expect("gateways lock accounts", "notify failed")
	_ = s.do(Event{Kind: UserConnect})
	s.expect("a person tries again", "connect a")

	s = newSim(t, Config{})
	_ = s.do(Event{Kind: Start})
	_ = s.do(Event{Kind: UserConnect})
	_ = s.do(fail(Unreachable))
	_ = s.do(Event{Kind: Looked, Report: portal.Report{Verdict: portal.Unknown}})
	_ = s.do(fail(Unreachable))
	s.pass(time.Hour)
	s.expect("by hand it is one round", "firewall open, connect a, ask portal, connect b, notify failed")

	s = newSim(t, Config{Hosts: []Host{{Name: "One", Server: "a"}, {Name: "Two", Server: "b"}}, Default: "Two", NoPortals: true})
	_ = s.do(Event{Kind: Start})
	_ = s.do(Event{Kind: UserConnect})
	_ = s.do(fail(Unreachable))
	s.expect("nobody has chosen: the others too", "firewall open, connect b, connect a")
	_ = s.do(Event{Kind: TunnelUp})
	_ = s.do(Event{Kind: UserConnect, Host: "Two"})
	s.expect("a person chooses another one", "disconnect (another gateway), connect b")
	_ = s.do(fail(Unreachable))
	s.expect("which is the only one then", "notify failed")

	s = newSim(t, Config{DisconnectOnSuspend: true})
	_ = s.do(Event{Kind: Start})
	_ = s.do(Event{Kind: UserConnect})
	_ = s.do(Event{Kind: TunnelUp})
	s.log = nil
	_ = s.do(Event{Kind: Resume, Asleep: time.Hour})
	s.expect("B.1: DisconnectOnSuspend", "disconnect (suspend)")
}

// TestSelect: the gateway that answers fastest (A.13, B.12).
func TestSelect(t *testing.T) {
	cfg := Config{Select: true, NoPortals: true, Exclude: []string{"Three"}, Hosts: []Host{
		{Name: "One", Server: "a", Backups: []string{"a2"}}, {Name: "Two", Server: "b"}, {Name: "Three", Server: "c"}}}
	s := newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(Event{Kind: UserConnect})
	_ = s.do(Event{Kind: Measured, Samples: []selection.Sample{{Server: "a", Delay: 50, OK: true}, {Server: "b", Delay: 30, OK: true}, {Server: "c", Delay: 1, OK: true}}})
	s.expect("measured", "firewall open, measure, save, connect b")
	_ = s.do(Event{Kind: TunnelUp})
	_ = s.do(Event{Kind: UserDisconnect})
	_ = s.do(Event{Kind: UserConnect})
	s.expect("not measured again", "save, save, disconnect (ended by the user), connect b")
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(Event{Kind: UserConnect})
	s.pass(measureTime)
	s.expect("nobody answers the measuring", "firewall open, measure, save, connect a")
}

// TestPortal: detected, remediated, connected (D1215; A.13, B.12).
func TestPortal(t *testing.T) {
	found := Event{Kind: Looked, Report: portal.Report{Verdict: portal.Portal, URL: "http://hotel.example/"}}
	none := Event{Kind: Looked, Report: portal.Report{Verdict: portal.None}}
	cfg := closed()
	cfg.NoPortals, cfg.AlwaysOn.Remediation, cfg.AlwaysOn.Window = false, true, 5*time.Minute
	s := newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	s.expect("dialled and looked at, at the same time", "firewall closed, connect a, ask portal")
	if got := strings.Join(s.m.gateways(), " "); got != "a b" {
		t.Errorf("asked about a portal: %s; the first may be dead", got)
	}
	_ = s.do(found)
	s.expect("a portal", "notify portal, disconnect (captive portal), open portal 5m0s")
	if s.mode != Closed || s.m.Status().PortalWindow.IsZero() {
		t.Error("the window is not one in a closed firewall")
	}
	s.pass(15 * time.Second)
	_ = s.do(none)
	s.expect("somebody has logged in to the network", "ask portal, notify portal-clean, close portal, connect a")
	_ = s.do(Event{Kind: TunnelUp})
	s.expect("connected", "firewall tunnel")

	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(found)
	s.log = nil
	_ = s.do(Event{Kind: NetworkChanged, Links: office})
	s.expect("home: the firewall is open, the window is none", "close portal, firewall open")

	cfg.AlwaysOn.Remediation = false
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(found)
	s.expect("B.12: default disabled", "firewall closed, connect a, ask portal, notify portal-blocked, disconnect (captive portal)")
	cfg.AlwaysOn.Remediation, cfg.AlwaysOn.Closed = true, false
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	_ = s.do(found)
	s.expect("B.12: with Open nothing is restricted", "firewall open, connect a, ask portal, notify portal, disconnect (captive portal)")
	cfg.NoPortals = true
	s = newSim(t, cfg)
	_ = s.do(Event{Kind: Start, Links: cafe})
	s.expect("DisableCaptivePortalDetection", "firewall open, connect a")
}
