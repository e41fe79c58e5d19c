package decision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/profile"
)

// planOf returns the plan of a profile with settings, and of a local policy with elements.
func planOf(t testing.TB, settings, elements string) *plan.Plan {
	t.Helper()
	p, err := profile.Parse("corp.xml", []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
<ClientInitialization>
`+settings+`
</ClientInitialization>
<ServerList>
<HostEntry><HostName>Office</HostName><HostAddress>vpn.corp.example</HostAddress>
<BackupServerList><HostAddress>192.0.2.7</HostAddress></BackupServerList></HostEntry>
</ServerList>
</AnyConnectProfile>
`))
	if err != nil {
		t.Fatal(err)
	}
	docs := plan.Documents{Profiles: &profile.Collection{Profiles: []*profile.Profile{p}}}
	if elements != "" {
		docs.LocalPath = "policy.xml"
		if docs.Local, _, err = local.Parse(docs.LocalPath, []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/">`+elements+`</AnyConnectLocalPolicy>`)); err != nil {
			t.Fatal(err)
		}
	}
	made, _ := plan.New("Office", docs, plan.Environment{System: "linux", WholeMachine: true})
	return made
}

const (
	alwaysOn = `<AutomaticVPNPolicy>true
<AlwaysOn>true
<ConnectFailurePolicy>Closed
<AllowCaptivePortalRemediation>true</AllowCaptivePortalRemediation></ConnectFailurePolicy>
<AllowedHosts>updates.example,198.51.100.0/24</AllowedHosts></AlwaysOn></AutomaticVPNPolicy>`
	fipsAndAlwaysOn = "<FipsMode>true</FipsMode>"
)

// way returns a Route that always says the same.
func way(o Outcome) func(Query) Answer {
	return func(Query) Answer {
		return Answer{Outcome: o, Steps: []Step{{Document: "gateway", Setting: "route", Says: "include 10.0.0.0/8", Effect: o}}}
	}
}

// blocks returns a Filter that blocks a name.
func blocks(name string) func(Query) Answer {
	return func(q Query) Answer {
		if q.Host != name {
			return Answer{Outcome: Allow, Steps: []Step{{Document: "flow rules", Setting: "payroll", Says: "it does not match"}}}
		}
		return Answer{Outcome: Block, Steps: []Step{{Document: "flow rules", Setting: "payroll", Says: "the flow is blocked", Effect: Block}}}
	}
}

// status returns the state of a manager with the plan after some events.
func status(t testing.TB, p *plan.Plan, events ...network.Event) *network.Status {
	t.Helper()
	now := time.Unix(1700000000, 0)
	m, err := network.New(p.Network, selection.Cache{}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		_, actions, err := m.Step(now, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range actions {
			if a.Do == network.Connect && e.Kind != network.Start {
				break
			}
		}
	}
	s := m.Status()
	return &s
}

// connectedStatus returns the state of a manager whose tunnel is up, in a network with links, and exempt from Always-On if the gateway says so.
func connectedStatus(t testing.TB, p *plan.Plan, exempt bool, links ...trusted.Link) *network.Status {
	t.Helper()
	now := time.Unix(1700000000, 0)
	m, err := network.New(p.Network, selection.Cache{}, now)
	if err != nil {
		t.Fatal(err)
	}
	var run uint64
	for _, e := range []network.Event{{Kind: network.Start, Links: append([]trusted.Link{}, links...)}, {Kind: network.UserConnect}} {
		_, actions, err := m.Step(now, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range actions {
			if a.Do == network.Connect {
				run = a.Run
			}
		}
	}
	if _, _, err := m.Step(now, network.Event{Kind: network.TunnelUp, Run: run, Exempt: exempt}); err != nil {
		t.Fatal(err)
	}
	s := m.Status()
	return &s
}

// TestJudge is the table of verdicts, with the setting that decides.
func TestJudge(t *testing.T) {
	plain := planOf(t, "", "")
	on := planOf(t, alwaysOn, "")
	open := planOf(t, strings.Replace(alwaysOn, "Closed", "Open", 1), "")
	disabled := planOf(t, "<ServiceDisable>true</ServiceDisable>"+alwaysOn, "")
	fips := planOf(t, alwaysOn, fipsAndAlwaysOn)
	noTLS := planOf(t, "", "<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>")
	program := planOf(t, "", "<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>")
	program.Environment.WholeMachine = false
	tnd := planOf(t, `<AutomaticVPNPolicy>true
<TrustedDNSDomains>corp.example</TrustedDNSDomains>
<TrustedNetworkPolicy>Disconnect</TrustedNetworkPolicy></AutomaticVPNPolicy>`, "")
	lan := planOf(t, "<LocalLanAccess>true</LocalLanAccess>", "")
	rules := planOf(t, `<AutomaticVPNPolicy>true
<AlwaysOn>true
<ConnectFailurePolicy>Closed
<ApplyLastVPNLocalResourceRules>true</ApplyLastVPNLocalResourceRules></ConnectFailurePolicy></AlwaysOn>

<TrustedDNSServers>10.0.0.53</TrustedDNSServers>
<TrustedHttpsServerList><TrustedHttpsServer><Address>proof.corp.example</Address><Port>8443</Port>
<CertificateHash>`+strings.Repeat("ab", 32)+`</CertificateHash></TrustedHttpsServer></TrustedHttpsServerList></AutomaticVPNPolicy>`, "")
	away := status(t, rules, network.Event{Kind: network.Start, Links: []trusted.Link{{Name: "wlan0"}}})
	atHome := status(t, tnd, network.Event{Kind: network.Start, Links: []trusted.Link{{Name: "eth0", Suffixes: []string{"corp.example"}, Servers: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}}})
	down := status(t, on, network.Event{Kind: network.Start, Links: []trusted.Link{{Name: "wlan0"}}})
	portal := *down
	portal.PortalWindow = time.Unix(1700000300, 0)
	remote := logon.Decide(on.Logon, []logon.Session{{ID: "c1", Account: "uid 1000", User: "anna", Remote: true}}, logon.Request{Session: "c1"}, time.Unix(0, 0))
	localUser := logon.Decide(on.Logon, []logon.Session{{ID: "1", Account: "uid 1000", User: "anna", Active: true}}, logon.Request{Session: "1"}, time.Unix(0, 0))
	if remote.Allow || !localUser.Allow {
		t.Fatalf("logons: %+v, %+v", remote, localUser)
	}
	for _, tt := range []struct {
		name    string
		in      Inputs
		query   Query
		want    Outcome
		decided string // document, setting and value of the step that decided, as in Step.String
		line    int
	}{
		{"nothing is known", Inputs{}, Query{Host: "x.example"}, Allow, "(gateway)", 0},
		{"loopback", Inputs{Plan: disabled}, Query{Host: "127.0.0.1"}, Direct, "", 0},
		{"loopback in IPv6", Inputs{Plan: on, Network: down}, Query{Host: "::1"}, Direct, "", 0},
		{"loopback by its name", Inputs{Plan: on, Network: down}, Query{Host: "localhost."}, Direct, "", 0},

		// Routes, with a tunnel.
		{"tunnel", Inputs{Plan: plain, Route: way(Tunnel)}, Query{Host: "git.corp.example"}, Tunnel, "route (gateway)", 0},
		{"direct", Inputs{Plan: plain, Route: way(Direct)}, Query{Host: "x.example"}, Direct, "route (gateway)", 0},
		{"nowhere", Inputs{Plan: plain, Route: way(Nowhere)}, Query{Host: "x.example"}, Nowhere, "route (gateway)", 0},
		{"routes that say nothing", Inputs{Plan: plain, Route: func(Query) Answer { return Answer{} }}, Query{Host: "x.example"}, Nowhere, "(routes)", 0},
		{"routes that say nonsense", Inputs{Plan: plain, Route: way("somewhere")}, Query{Host: "x.example"}, Nowhere, "(routes)", 0},
		{"no routes known", Inputs{Plan: plain}, Query{Host: "x.example"}, Allow, "(gateway)", 0},
		{"tunnel that is up", Inputs{Plan: plain, Network: connectedStatus(t, plain, false), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, "route (gateway)", 0},
		{"tunnel that is up, Always-On", Inputs{Plan: on, Network: connectedStatus(t, on, false), Route: way(Direct)}, Query{Host: "x.example"}, Direct, "route (gateway)", 0},

		// Rules about flows come before routes.
		{"blocked", Inputs{Plan: plain, Filter: blocks("pay.corp.example"), Route: way(Tunnel)}, Query{Host: "pay.corp.example"}, Block, "payroll (flow rules)", 0},
		{"not blocked", Inputs{Plan: plain, Filter: blocks("pay.corp.example"), Route: way(Tunnel)}, Query{Host: "git.corp.example"}, Tunnel, "route (gateway)", 0},
		{"blocked without a step", Inputs{Filter: func(Query) Answer { return Answer{Outcome: Block} }, Route: way(Tunnel)}, Query{Host: "x.example"}, Block, "(flow rules)", 0},

		// No tunnel by the documents.
		{"ServiceDisable", Inputs{Plan: disabled, Route: way(Tunnel)}, Query{Host: "x.example"}, Direct, "AlwaysOn = true (profile corp.xml)", 4},
		{"RestrictTunnelProtocols", Inputs{Plan: noTLS, Route: way(Tunnel)}, Query{Host: "x.example"}, Direct, "AlwaysOn = false", 0},
		{"RestrictTunnelProtocols, of a program", Inputs{Plan: program, Route: way(Tunnel)}, Query{Host: "x.example"}, Nowhere, "tunnel", 0},
		{"FipsMode under Always-On", Inputs{Plan: fips}, Query{Host: "x.example"}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},
		{"FipsMode under Always-On, gateway", Inputs{Plan: fips}, Query{Host: "vpn.corp.example"}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},
		{"FipsMode under Always-On, allowed host", Inputs{Plan: fips}, Query{Host: "198.51.100.9"}, Direct, "AllowedHosts = updates.example,198.51.100.0/24 (profile corp.xml)", 7},

		// No tunnel by who is logged on.
		{"remote user", Inputs{Plan: on, Logon: &remote}, Query{Host: "x.example"}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},
		{"remote user without Always-On", Inputs{Plan: plain, Logon: &remote}, Query{Host: "x.example"}, Direct, "AlwaysOn = false", 0},
		{"local user", Inputs{Plan: plain, Logon: &localUser, Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, "route (gateway)", 0},
		{"verdict without a reason", Inputs{Plan: plain, Logon: &logon.Verdict{}}, Query{Host: "x.example"}, Direct, "AlwaysOn = false", 0},

		// No tunnel by the network.
		{"trusted network", Inputs{Plan: tnd, Network: atHome, Route: way(Tunnel)}, Query{Host: "git.corp.example"}, Direct, "AlwaysOn = false", 0},
		{"closed", Inputs{Plan: on, Network: down, Route: way(Tunnel)}, Query{Host: "x.example", Port: 443}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},
		{"closed, gateway", Inputs{Plan: on, Network: down}, Query{Host: "VPN.corp.example."}, Direct, "ServerList (profile corp.xml)", 0},
		{"closed, backup", Inputs{Plan: on, Network: down}, Query{Host: "192.0.2.7"}, Direct, "ServerList (profile corp.xml)", 0},
		{"closed, allowed name", Inputs{Plan: on, Network: down}, Query{Host: "updates.example"}, Direct, "AllowedHosts = updates.example,198.51.100.0/24 (profile corp.xml)", 7},
		{"closed, allowed network", Inputs{Plan: on, Network: down}, Query{Host: "a.example", Addr: netip.MustParseAddr("::ffff:198.51.100.1")}, Direct, "AllowedHosts = updates.example,198.51.100.0/24 (profile corp.xml)", 7},
		{"closed, portal window", Inputs{Plan: on, Network: &portal}, Query{Host: "portal.hotel.example", Port: 80}, Direct, "AllowCaptivePortalRemediation = true (profile corp.xml)", 6},
		{"closed, portal window, another port", Inputs{Plan: on, Network: &portal}, Query{Host: "portal.hotel.example", Port: 22}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},
		{"closed, server that proves a trusted network", Inputs{Plan: rules, Network: away}, Query{Host: "proof.corp.example", Port: 8443}, Direct, "TrustedHttpsServerList (profile corp.xml)", 0},
		{"closed, DNS server of a trusted network", Inputs{Plan: rules, Network: away}, Query{Host: "10.0.0.53", Port: 53}, Direct, "TrustedDNSServers = 10.0.0.53 (profile corp.xml)", 8},
		{"closed, that server for something else", Inputs{Plan: rules, Network: away}, Query{Host: "10.0.0.53", Port: 22}, Direct, "ApplyLastVPNLocalResourceRules = true (profile corp.xml)", 6},
		{"closed, local network under the last rules", Inputs{Plan: rules, Network: away}, Query{Host: "192.168.1.7"}, Direct, "ApplyLastVPNLocalResourceRules = true (profile corp.xml)", 6},
		{"open", Inputs{Plan: open, Network: status(t, open, network.Event{Kind: network.Start, Links: []trusted.Link{{Name: "wlan0"}}})}, Query{Host: "x.example"}, Direct, "AlwaysOn = true (profile corp.xml)", 4},
		{"before the start", Inputs{Plan: on, Network: status(t, on)}, Query{Host: "x.example"}, Nowhere, "ConnectFailurePolicy = Closed (profile corp.xml)", 5},

		{"local network", Inputs{Plan: lan, Route: way(Direct)}, Query{Host: "192.168.1.9"}, Direct, "route (gateway)", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := Judge(tt.in, tt.query)
			d := v.Decided()
			got := d
			got.Line, got.Column, got.Says, got.Effect = 0, 0, "", ""
			name := strings.TrimSuffix(got.String(), ": ")
			if strings.HasPrefix(tt.decided, "(") {
				name = "(" + name + ")"
			}
			if v.Outcome != tt.want || name != tt.decided && !strings.HasPrefix(name, tt.decided+" (") || d.Line != tt.line && tt.line != 0 {
				t.Errorf("%s, want %s by %s at line %d", v, tt.want, tt.decided, tt.line)
			}
			for i, s := range v.Chain {
				if last := i == len(v.Chain)-1; (s.Effect != "") != last || s.Says == "" || last && s.Effect != v.Outcome {
					t.Errorf("step %d is %+v", i+1, s)
				}
			}
			err := v.Err()
			var refused *policy.RefusedError
			if (err != nil) != tt.want.Refused() || err != nil && (!errors.As(err, &refused) || refused.Setting != d.Setting || refused.Document != d.Document) {
				t.Errorf("error %v", err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var back Verdict
			if err := json.Unmarshal(b, &back); err != nil || back.Outcome != v.Outcome || len(back.Chain) != len(v.Chain) || back.Query != v.Query {
				t.Errorf("%v: %s", err, b)
			}
		})
	}
}

// TestChain: who is asked, in which order.
func TestChain(t *testing.T) {
	settings := func(v Verdict) string {
		var all []string
		for _, s := range v.Chain {
			name := s.Setting
			if name == "" {
				name = s.Document
			}
			all = append(all, name)
		}
		return strings.Join(all, " > ")
	}
	on := planOf(t, alwaysOn+"<LocalLanAccess>true</LocalLanAccess>", "<StrictCertificateTrust>true</StrictCertificateTrust>")
	yes := logon.Verdict{Allow: true}
	in := Inputs{Plan: on, Logon: &yes, Network: connectedStatus(t, on, false), Filter: blocks("x"), Route: way(Tunnel)}
	if got, want := settings(Judge(in, Query{Host: "10.1.2.3"})), "local policy policy.xml > HostEntry > logon > tunnel > payroll > LocalLanAccess > route"; got != want {
		t.Errorf("the chain is\n%s, want\n%s", got, want)
	}
	disabled := planOf(t, "<ServiceDisable>true</ServiceDisable>", fipsAndAlwaysOn)
	if got, want := settings(Judge(Inputs{Plan: disabled}, Query{Host: "10.1.2.3"})), "ServiceDisable > FipsMode > AlwaysOn"; got != want {
		t.Errorf("the chain is\n%s, want\n%s", got, want)
	}
	tnd := planOf(t, "<AutomaticVPNPolicy>true<TrustedDNSDomains>corp.example</TrustedDNSDomains></AutomaticVPNPolicy>", "")
	home := status(t, tnd, network.Event{Kind: network.Start, Links: []trusted.Link{{Name: "eth0", Suffixes: []string{"corp.example"}, Servers: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}}})
	v := Judge(Inputs{Plan: tnd, Network: home}, Query{Host: "x.example"})
	if got, want := settings(v), "local policy > HostEntry > TrustedDNSDomains > TrustedNetworkPolicy > AlwaysOn"; got != want {
		t.Errorf("the chain is\n%s, want\n%s", got, want)
	}
	if text := v.String(); !strings.Contains(text, "TrustedNetworkPolicy = Disconnect (default): the network is trusted") {
		t.Errorf("text\n%s", text)
	}
}

// TestDown: with a tunnel the verdict also says what becomes of the flow without one, and who says so.
func TestDown(t *testing.T) {
	plain, on := planOf(t, "", ""), planOf(t, alwaysOn, "")
	opens := planOf(t, strings.Replace(alwaysOn, "Closed", "Open", 1), "")
	home := planOf(t, strings.Replace(alwaysOn, "<AlwaysOn>", "<TrustedDNSServers>10.0.0.53</TrustedDNSServers><TrustedNetworkPolicy>Connect</TrustedNetworkPolicy><AlwaysOn>", 1), "")
	suffix := planOf(t, strings.Replace(alwaysOn, "<AlwaysOn>", "<TrustedDNSDomains>corp.example</TrustedDNSDomains><TrustedNetworkPolicy>Connect</TrustedNetworkPolicy><AlwaysOn>", 1), "")
	office := trusted.Link{Name: "eth0", Suffixes: []string{"corp.example"}, Servers: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	wall := func(o Outcome) func(Query) Answer {
		return func(Query) Answer {
			return Answer{Outcome: o, Steps: []Step{{Document: "command line", Setting: "--always-on", Value: "closed", Says: "so it is wanted", Effect: o}}}
		}
	}
	for _, tt := range []struct {
		name  string
		in    Inputs
		query Query
		want  Outcome
		down  Outcome
		chain string // the settings for when the tunnel is down, or for now if there is none
	}{
		{"nobody minds", Inputs{Plan: plain, Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Direct, "AlwaysOn"},
		{"Always-On", Inputs{Plan: on, Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Nowhere, "ConnectFailurePolicy"},
		{"Always-On, allowed host", Inputs{Plan: on, Route: way(Tunnel)}, Query{Host: "updates.example"}, Tunnel, Direct, "ConnectFailurePolicy > AllowedHosts"},
		{"Always-On before the kill switch", Inputs{Plan: on, Route: way(Tunnel), KillSwitch: wall(Direct)}, Query{Host: "x.example"}, Tunnel, Nowhere, "ConnectFailurePolicy"},
		{"kill switch", Inputs{Plan: plain, Route: way(Direct), KillSwitch: wall(Nowhere)}, Query{Host: "x.example"}, Direct, Nowhere, "AlwaysOn > --always-on"},
		{"kill switch that lets it pass", Inputs{KillSwitch: wall(Direct)}, Query{Host: "x.example"}, Allow, Direct, "AlwaysOn > --always-on"},
		{"kill switch that opens no more than Always-On", Inputs{Plan: opens, Route: way(Tunnel), KillSwitch: wall(Nowhere)}, Query{Host: "x.example"}, Tunnel, Nowhere, "AlwaysOn > --always-on"},
		{"kill switch that says nonsense", Inputs{Plan: plain, KillSwitch: wall("perhaps")}, Query{Host: "x.example"}, Allow, Nowhere, "AlwaysOn > --always-on > kill switch"},
		{"left by a dead client", Inputs{Plan: on, Down: true, Left: wall(Nowhere), Route: way(Tunnel)}, Query{Host: "updates.example"}, Nowhere, "",
			"local policy > HostEntry > tunnel > --always-on"},
		// With a manager whose tunnel is up, what counts is what it would do without.
		{"Always-On, connected", Inputs{Plan: on, Network: connectedStatus(t, on, false), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Nowhere, "ConnectFailurePolicy"},
		{"Always-On, connected, allowed host", Inputs{Plan: on, Network: connectedStatus(t, on, false), Route: way(Tunnel)}, Query{Host: "updates.example"}, Tunnel, Direct,
			"ConnectFailurePolicy > AllowedHosts"},
		{"Always-On, connected, gateway", Inputs{Plan: on, Network: connectedStatus(t, on, false), Route: way(Direct)}, Query{Host: "vpn.corp.example"}, Direct, Direct,
			"ConnectFailurePolicy > ServerList"},
		{"Always-On, connected, trusted server", Inputs{Plan: home, Network: connectedStatus(t, home, false, trusted.Link{Name: "wlan0"}), Route: way(Tunnel)},
			Query{Host: "10.0.0.53", Port: 53}, Tunnel, Direct, "ConnectFailurePolicy > TrustedDNSServers"},
		{"Always-On, reconnecting", Inputs{Plan: on, Network: connectedStatus(t, on, false), Reconnecting: true, Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Nowhere,
			"ConnectFailurePolicy"},
		{"Always-On, connected, fails open", Inputs{Plan: opens, Network: connectedStatus(t, opens, false), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Direct, "AlwaysOn"},
		{"Always-On, connected, lifted", Inputs{Plan: on, Network: connectedStatus(t, on, true), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Direct, "AlwaysOn"},
		{"Always-On, connected, in a trusted network", Inputs{Plan: suffix, Network: connectedStatus(t, suffix, false, office), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Direct, "AlwaysOn"},
		{"Always-On, connected, in a network nobody knows", Inputs{Plan: suffix, Network: connectedStatus(t, suffix, false, trusted.Link{Name: "wlan0"}), Route: way(Tunnel)},
			Query{Host: "x.example"}, Tunnel, Nowhere, "ConnectFailurePolicy"},
		{"no Always-On, connected", Inputs{Plan: plain, Network: connectedStatus(t, plain, false), Route: way(Tunnel)}, Query{Host: "x.example"}, Tunnel, Direct, "AlwaysOn"},
		{"no Always-On, connected, kill switch", Inputs{Plan: plain, Network: connectedStatus(t, plain, false), Route: way(Tunnel), KillSwitch: wall(Nowhere)}, Query{Host: "x.example"},
			Tunnel, Nowhere, "AlwaysOn > --always-on"},
		{"blocked by a rule", Inputs{Plan: plain, Filter: blocks("x.example"), KillSwitch: wall(Nowhere)}, Query{Host: "x.example"}, Block, Nowhere, "AlwaysOn > --always-on"},
		{"loopback", Inputs{Plan: on}, Query{Host: "localhost"}, Direct, "", ""},
		{"no tunnel now", Inputs{Plan: plain, Down: true, Route: way(Tunnel), KillSwitch: wall(Nowhere)}, Query{Host: "x.example"}, Nowhere, "",
			"local policy > HostEntry > tunnel > AlwaysOn > --always-on"},
		{"no tunnel now, by the policy for the network", Inputs{Plan: on, Network: status(t, on)}, Query{Host: "x.example"}, Nowhere, "",
			"local policy > HostEntry > network > UntrustedNetworkPolicy > ConnectFailurePolicy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := Judge(tt.in, tt.query)
			chain := v.DownChain
			if tt.down == "" && tt.chain != "" {
				chain = v.Chain
			}
			var names []string
			for i, s := range chain {
				names = append(names, cmp.Or(s.Setting, s.Document))
				if last := i == len(chain)-1; (s.Effect != "") != last {
					t.Errorf("step %d is %+v", i+1, s)
				}
			}
			if v.Outcome != tt.want || v.Down != tt.down || strings.Join(names, " > ") != tt.chain {
				t.Errorf("%s%s, want %s, and %q by %s", v, strings.Join(names, " > "), tt.want, tt.down, tt.chain)
			}
			if text := v.String(); strings.Contains(text, "whenever the tunnel is down: ") != (tt.down != "") {
				t.Errorf("text\n%s", text)
			}
		})
	}
}

// TestTunnelText: the steps about the tunnel say how it is, and why Always-On leaves the flow alone.
func TestTunnelText(t *testing.T) {
	on := planOf(t, alwaysOn, "")
	opens := planOf(t, strings.Replace(alwaysOn, "Closed", "Open", 1), "")
	for name, tt := range map[string]struct {
		in         Inputs
		want, down string
	}{
		"connected":    {Inputs{Plan: on, Network: connectedStatus(t, on, false)}, "tunnel: it is connected to Office", "nothing passes while the tunnel is down"},
		"reconnecting": {Inputs{Plan: on, Network: connectedStatus(t, on, false), Reconnecting: true}, "tunnel: it is reconnecting to Office: what goes through it waits", "nothing passes"},
		"alone":        {Inputs{Reconnecting: true}, "tunnel: it is reconnecting: what goes through it waits", "keeps nothing from passing while there is no tunnel =>"},
		"fails open": {Inputs{Plan: opens, Network: connectedStatus(t, opens, false)}, "tunnel: it is connected to Office",
			"keeps nothing from passing while there is no tunnel: ConnectFailurePolicy is Open =>"},
		"lifted": {Inputs{Plan: on, Network: connectedStatus(t, on, true)}, "tunnel: it is connected to Office", "keeps nothing from passing while there is no tunnel: it is lifted =>"},
	} {
		t.Run(name, func(t *testing.T) {
			v := Judge(tt.in, Query{Host: "x.example"})
			if text := v.String(); !strings.Contains(text, ". "+tt.want+"\n") || !strings.Contains(text, tt.down) {
				t.Errorf("%s, want %q and %q", text, tt.want, tt.down)
			}
		})
	}
}

// TestFilterOff: rules that are not in force are named and do not decide.
func TestFilterOff(t *testing.T) {
	in := Inputs{Filter: blocks("pay.corp.example"), FilterOff: true, FilterWhy: "packets take the packet path", Route: way(Tunnel)}
	for host, would := range map[string]string{"pay.corp.example": "block", "git.corp.example": "allow"} {
		v := Judge(in, Query{Host: host})
		want := "payroll (flow rules): the rules are not in force: packets take the packet path; otherwise they would " + would + " this"
		if v.Outcome != Tunnel || v.Chain[0].String() != want {
			t.Errorf("%s", v)
		}
	}
	in.FilterOff, in.FilterWhy = false, "packets take the flow path"
	if v := Judge(in, Query{Host: "pay.corp.example"}); v.Outcome != Block || v.Chain[0].String() != "flow rules: they are in force: packets take the flow path" {
		t.Errorf("%s", v)
	}
}

// TestUnlisted: a gateway that is none of the profile's is not one without a profile.
func TestUnlisted(t *testing.T) {
	listed := planOf(t, "", "")
	p, err := plan.New("nosuch", listed.Documents, listed.Environment)
	if err != nil {
		t.Fatal(err)
	}
	const want = "HostEntry (profile corp.xml): there is no entry nosuch, so the features that need a profile are off; the entries are: Office"
	if v := Judge(Inputs{Plan: p}, Query{Host: "x.example"}); v.Chain[1].String() != want {
		t.Errorf("%s", v)
	}
}

// TestRefusedText is the form that a refusal has.
func TestRefusedText(t *testing.T) {
	on := planOf(t, alwaysOn, "")
	v := Judge(Inputs{Plan: on, Network: status(t, on)}, Query{Host: "x.example", Port: 443, Network: "tcp"})
	const want = "ConnectFailurePolicy (profile corp.xml:5:1): nothing passes while the tunnel is down but what it takes to get one, and AllowedHosts"
	if err := v.Err(); err == nil || err.Error() != want || !errors.Is(err, policy.ErrDenied) {
		t.Errorf("error %v", err)
	}
	if text := v.String(); !strings.HasPrefix(text, "x.example:443/tcp: nowhere\n") {
		t.Errorf("text %s", text)
	}
}

// TestDecider: flows by the present state of affairs.
func TestDecider(t *testing.T) {
	ctx := t.Context()
	flow := policy.Flow{Network: "tcp", Host: "git.corp.example", Port: 22}
	d := NewDecider("anna")
	if got, err := d.Decide(ctx, flow); err == nil || got.Allow {
		t.Errorf("before the documents were read: %+v, %v", got, err)
	}
	var asked Query
	d.Set(Inputs{Plan: planOf(t, "", ""), Route: way(Tunnel), Filter: func(q Query) Answer { asked = q; return Answer{Outcome: Allow} }})
	got, err := d.Decide(ctx, flow)
	if err != nil || !got.Allow || !strings.Contains(got.Reason, "include 10.0.0.0/8") {
		t.Errorf("%+v, %v", got, err)
	}
	if asked.User != "anna" || asked.Host != flow.Host || asked.Port != 22 || asked.Network != "tcp" {
		t.Errorf("the filter was asked about %+v", asked)
	}
	if v := d.Explain(ctx, Query{Host: "x", User: "bob"}); v.Query.User != "bob" || asked.User != "bob" {
		t.Errorf("%+v, asked %+v", v.Query, asked)
	}
	d.Set(Inputs{Plan: planOf(t, "", ""), Route: way(Nowhere)})
	got, err = d.Decide(ctx, flow)
	var refused *policy.RefusedError
	if got.Allow || !errors.As(err, &refused) || refused.Setting != "route" || got.Reason != err.Error() {
		t.Errorf("%+v, %v", got, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if got, err := d.Decide(ended, flow); got.Allow || !errors.Is(err, policy.ErrDenied) {
		t.Errorf("after its context has ended: %+v, %v", got, err)
	}
	var _ policy.Decider = d
	if got, err := new(Decider).Decide(ctx, flow); err == nil || got.Allow {
		t.Errorf("the zero Decider: %+v, %v", got, err)
	}
}
