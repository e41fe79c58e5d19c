package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// xmlProfile returns a profile with settings and gateways.
func xmlProfile(t testing.TB, name, settings, hosts string) *profile.Profile {
	t.Helper()
	p, err := profile.Parse(name, []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
<ClientInitialization>
`+settings+`
</ClientInitialization>
<ServerList>
`+hosts+`
</ServerList>
</AnyConnectProfile>
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	return p
}

const office = `<HostEntry><HostName>Office</HostName><HostAddress>vpn.corp.example</HostAddress><UserGroup>staff</UserGroup>
<BackupServerList><HostAddress>vpn2.corp.example</HostAddress><HostAddress>vpn3.corp.example</HostAddress></BackupServerList></HostEntry>
<HostEntry><HostName>Lab</HostName><HostAddress>lab.corp.example:8443</HostAddress></HostEntry>
<HostEntry><HostName>Old</HostName><HostAddress>old.corp.example</HostAddress><PrimaryProtocol>IPsec</PrimaryProtocol></HostEntry>`

func collection(profiles ...*profile.Profile) *profile.Collection {
	return &profile.Collection{Profiles: profiles}
}

func xmlPolicy(t testing.TB, elements string) *local.Policy {
	t.Helper()
	p, _, err := local.Parse("policy.xml", []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/">
`+elements+`</AnyConnectLocalPolicy>`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func machine() Environment { return Environment{System: "linux", WholeMachine: true} }

// TestEntries: who names a gateway that is none of the profiles' is told which there are.
func TestEntries(t *testing.T) {
	many := ""
	for i := range maxEntries + 3 {
		many += fmt.Sprintf("<HostEntry><HostName>gw%d</HostName></HostEntry>", i)
	}
	for _, tt := range []struct {
		profiles           []*profile.Profile
		documents, entries string
	}{
		{nil, "", ""},
		{[]*profile.Profile{xmlProfile(t, "corp.xml", "", "")}, "profile corp.xml", "none"},
		{[]*profile.Profile{xmlProfile(t, "corp.xml", "", office), xmlProfile(t, "b.xml", "", "")}, "profile corp.xml, b.xml", "Office, Lab, Old"},
		{[]*profile.Profile{xmlProfile(t, "many.xml", "", many)}, "profile many.xml", "gw0, gw1, gw2, gw3, gw4, gw5, gw6, gw7, gw8, gw9, gw10, gw11, and 3 more"},
	} {
		p, _ := New("nosuch", Documents{Profiles: collection(tt.profiles...)}, machine())
		if documents, entries := p.Entries(); documents != tt.documents || entries != tt.entries {
			t.Errorf("%q, %q, want %q, %q", documents, entries, tt.documents, tt.entries)
		}
	}
	on := xmlProfile(t, "corp.xml", "<AutomaticVPNPolicy>true<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>", office)
	if _, err := New("nosuch", Documents{Profiles: collection(on)}, machine()); err == nil || !strings.Contains(err.Error(), "nosuch is not in the list of gateways (Office, Lab, Old)") {
		t.Errorf("under Always-On: %v", err)
	}
}

// TestFeaturesWithoutProfile: all eighteen are off, whatever the user prefers.
func TestFeaturesWithoutProfile(t *testing.T) {
	user := preferences.New()
	for name, value := range map[string]string{"LocalLanAccess": "true", "EnableScripting": "true", "EnableAutomaticServerSelection": "true", "UseStartBeforeLogon": "true"} {
		if err := user.SetControl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	p, err := New("vpn.corp.example", Documents{Preferences: preferences.Pair{User: user}}, machine())
	if err != nil {
		t.Fatal(err)
	}
	// D1211–D1220, line by line, both columns.
	want := []string{
		"Service Disable", "Untrusted Network Policy", // D1211
		"Certificate Store Override", "Trusted DNS Domains", // D1212
		"Show Pre-connect Message", "Trusted DNS Servers", // D1213
		"Local LAN Access", "Always-On", // D1214
		"Start Before Login", "Captive Portal Remediation", // D1215
		"Local proxy connections", "Scripting", // D1217
		"PPP Exclusion", "Retain VPN on Logoff", // D1218
		"Automatic VPN Policy", "Device Lock Required", // D1219
		"Trusted Network Policy", "Automatic Server Selection", // D1220
	}
	var got []string
	for _, f := range p.Features {
		got = append(got, f.Name)
		if f.State != Off || f.Why != "there is no profile" {
			t.Errorf("%s is %s: %s", f.Name, f.State, f.Why)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("features\n%q\nwant\n%q", got, want)
	}
	if p.LocalLAN || p.Script.Allowed || p.Message.Show || p.Proxy.AllowLocal || p.Network.Automatic || p.Network.Select || p.Network.AlwaysOn.On ||
		p.Network.RetainOnLogoff || p.Logon.RetainOnLogoff || p.Lock.Required || p.Certificates.Pins != nil || p.Network.Disabled {
		t.Errorf("a feature has an effect without a profile: %+v", p)
	}
}

// TestFeatures switches on each of the features by its element (table of the eighteen, D1211–D1220), and looks at what comes of it.
func TestFeatures(t *testing.T) {
	automatic := func(inside string) string { return "<AutomaticVPNPolicy>true\n" + inside + "</AutomaticVPNPolicy>" }
	store := func(p *Plan) certificate.Use {
		for _, s := range p.Certificates.Stores {
			if s.Kind == certificate.PEMMachine {
				return s.Clients
			}
		}
		return certificate.Use{}
	}
	for _, tt := range []struct {
		row, name, element string
		state              State
		effect             func(p *Plan) bool
	}{
		{"D1211", "Service Disable", `<ServiceDisable>true</ServiceDisable>`, On, func(p *Plan) bool { return p.Network.Disabled && len(p.Refusals) == 1 }},
		{"D1212", "Certificate Store Override", `<CertificateStoreOverride>true</CertificateStoreOverride>`, On, func(p *Plan) bool { return store(p).Allowed }},
		{"D1213", "Show Pre-connect Message", `<ShowPreConnectMessage>true</ShowPreConnectMessage>`, On, func(p *Plan) bool { return p.Message.Show && p.Message.Text != "" }},
		{"D1214", "Local LAN Access", `<LocalLanAccess>true</LocalLanAccess>`, On, func(p *Plan) bool { return p.LocalLAN }},
		{"D1215", "Start Before Login", `<UseStartBeforeLogon>true</UseStartBeforeLogon>`, On, func(p *Plan) bool { return p.BeforeLogon }},
		{"D1217", "Local proxy connections", `<AllowLocalProxyConnections>true</AllowLocalProxyConnections>`, On, func(p *Plan) bool { return p.Proxy.AllowLocal }},
		{"D1218", "PPP Exclusion", `<PPPExclusion>Override<PPPExclusionServerIP>192.0.2.9</PPPExclusionServerIP></PPPExclusion>`, On,
			func(p *Plan) bool { return p.PPP == (PPP{profile.PPPOverride, netip.MustParseAddr("192.0.2.9")}) }},
		{"D1219", "Automatic VPN Policy", automatic(""), On, func(p *Plan) bool { return p.Network.Automatic }},
		{"D1220", "Trusted Network Policy", automatic(`<TrustedNetworkPolicy>Pause</TrustedNetworkPolicy>`), On, func(p *Plan) bool { return p.Network.TrustedPolicy == profile.Pause }},
		{"D1211", "Untrusted Network Policy", automatic(`<UntrustedNetworkPolicy>Connect</UntrustedNetworkPolicy>`), On, func(p *Plan) bool { return p.Network.Automatic && p.Network.UntrustedPolicy == profile.Connect }},
		{"D1212", "Trusted DNS Domains", automatic(`<TrustedDNSDomains>*.corp.example</TrustedDNSDomains>`), On,
			func(p *Plan) bool { return slices.Equal(p.Network.Trusted.Domains, []string{"*.corp.example"}) }},
		{"D1213", "Trusted DNS Servers", automatic(`<TrustedDNSServers>10.0.0.53</TrustedDNSServers>`), On,
			func(p *Plan) bool { return slices.Equal(p.Network.Trusted.Servers, []string{"10.0.0.53"}) }},
		{"D1214", "Always-On", automatic(`<AlwaysOn>true</AlwaysOn>`), On, func(p *Plan) bool { return p.Network.AlwaysOn.On && p.Network.AlwaysOn.Closed }},
		{"D1215", "Captive Portal Remediation", automatic(`<AlwaysOn>true<ConnectFailurePolicy>Closed
			<AllowCaptivePortalRemediation>true</AllowCaptivePortalRemediation></ConnectFailurePolicy></AlwaysOn>`), On,
			func(p *Plan) bool {
				return p.Network.AlwaysOn.Remediation && p.Network.AlwaysOn.Window == 5*time.Minute
			}},
		{"D1217", "Scripting", `<EnableScripting>true</EnableScripting>`, On, func(p *Plan) bool { return p.Script.Allowed && p.Script.PostSBL }},
		{"D1218", "Retain VPN on Logoff", `<RetainVpnOnLogoff>true<UserEnforcement>AnyUser</UserEnforcement></RetainVpnOnLogoff>`, On,
			func(p *Plan) bool {
				return p.Logon.RetainOnLogoff && p.Logon.UserEnforcement == logon.AnyUser && p.Network.AnyUser
			}},
		{"D1219", "Device Lock Required", `<DeviceLockRequired>true</DeviceLockRequired>`, NotApplicable, func(p *Plan) bool { return !p.Lock.Required }},
		{"D1220", "Automatic Server Selection", `<EnableAutomaticServerSelection>true<AutoServerSelectionImprovement>30</AutoServerSelectionImprovement></EnableAutomaticServerSelection>`, On,
			func(p *Plan) bool { return p.Network.Select && p.Network.Selection.Improvement == 30 }},
	} {
		t.Run(tt.row+" "+tt.name, func(t *testing.T) {
			p, err := New("Office", Documents{Profiles: collection(xmlProfile(t, "corp.xml", tt.element, office))}, machine())
			if err != nil && tt.name != "Service Disable" {
				t.Fatal(err)
			}
			i := slices.IndexFunc(p.Features, func(f Feature) bool { return f.Name == tt.name })
			if i < 0 {
				t.Fatal("there is no such feature")
			}
			f := p.Features[i]
			if f.State != tt.state || (f.Why == "") != (tt.state == On) {
				t.Errorf("it is %s: %q", f.State, f.Why)
			}
			if f.Document != "profile corp.xml" || f.Line < 3 {
				t.Errorf("it stands in %s:%s", f.Document, f.Position)
			}
			if !tt.effect(p) {
				t.Error("it has no effect")
			}
			// The same profile without the element.
			p, err = New("Office", Documents{Profiles: collection(xmlProfile(t, "corp.xml", "<AutoUpdate>true</AutoUpdate>", office))}, machine())
			if err != nil {
				t.Fatal(err)
			}
			byDefault := tt.name == "PPP Exclusion" || tt.name == "Local proxy connections"
			if !byDefault && tt.state == On && tt.effect(p) {
				t.Error("it has its effect without the element too")
			}
		})
	}
}

// TestFeaturesOfAProgram: what is about the machine is named as not applicable where the tunnel is a program's.
func TestFeaturesOfAProgram(t *testing.T) {
	docs := Documents{Profiles: collection(xmlProfile(t, "corp.xml", `<LocalLanAccess>true</LocalLanAccess><AutomaticVPNPolicy>true<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>`, office))}
	p, err := New("Office", docs, Environment{System: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]Feature{}
	for _, f := range p.Features {
		states[f.Name] = f
	}
	for _, name := range []string{"Local LAN Access", "Always-On", "PPP Exclusion"} {
		if f := states[name]; f.State != NotApplicable || !strings.Contains(f.Why, "one program") {
			t.Errorf("%s is %s: %s", name, f.State, f.Why)
		}
	}
	env := machine()
	env.Unavailable = map[string]string{"PPPExclusion": "PPP servers are not found out", "EnableScripting": "there are no scripts"}
	if p, err = New("Office", docs, env); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Features {
		switch {
		case f.Name == "PPP Exclusion" && (f.State != NotApplicable || f.Why != "PPP servers are not found out"),
			f.Name == "Scripting" && f.State != Off, f.Name == "Local LAN Access" && f.State != On:
			t.Errorf("%s is %s: %s", f.Name, f.State, f.Why)
		}
	}
	if states["Automatic VPN Policy"].State != On {
		t.Error("Automatic VPN Policy is not on")
	}
}

func TestGateway(t *testing.T) {
	user := preferences.New()
	if err := user.SetLast(preferences.Last{HostName: "Lab", User: "anna", ClientCertificateThumbprint: "AB"}); err != nil {
		t.Fatal(err)
	}
	corp := xmlProfile(t, "corp.xml", "", office)
	for _, tt := range []struct {
		name, host string
		docs       Documents
		servers    string
		group      string
		listed     bool
	}{
		{"by name", "Office", Documents{Profiles: collection(corp)}, "vpn.corp.example vpn2.corp.example vpn3.corp.example", "staff", true},
		{"by name in capitals", "OFFICE", Documents{Profiles: collection(corp)}, "vpn.corp.example vpn2.corp.example vpn3.corp.example", "staff", true},
		{"by address", "lab.corp.example:8443", Documents{Profiles: collection(corp)}, "lab.corp.example:8443", "", true},
		{"the last one", "", Documents{Profiles: collection(corp), Preferences: preferences.Pair{User: user}}, "lab.corp.example:8443", "", true},
		{"the first one", "", Documents{Profiles: collection(corp)}, "vpn.corp.example vpn2.corp.example vpn3.corp.example", "staff", true},
		{"typed in", "other.example/x", Documents{Profiles: collection(corp)}, "other.example/x", "", false},
		{"typed in without documents", "other.example", Documents{}, "other.example", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := New(tt.host, tt.docs, machine())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.Servers, " "); got != tt.servers || p.Group != tt.group || p.Listed != tt.listed {
				t.Errorf("servers %s, group %q, listed %v", got, p.Group, p.Listed)
			}
			if tt.listed != (p.Profile != nil) {
				t.Errorf("the profile in force is %v", p.Profile)
			}
		})
	}
	if p, err := New("", Documents{}, machine()); !errors.Is(err, ErrNoHost) || p == nil || len(p.Features) != 18 {
		t.Errorf("without a gateway: %v, %v", p, err)
	}
	if p, _ := New("Lab", Documents{Profiles: collection(corp), Preferences: preferences.Pair{User: user}}, machine()); p.Certificates.Rules.Preferred != "AB" || p.Network.Default != "Lab" {
		t.Errorf("preferred certificate %q, default gateway %q", p.Certificates.Rules.Preferred, p.Network.Default)
	}
}

// TestRefusals: what keeps the client from connecting is named with setting, document and line.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, host, settings, policy string
		env                          Environment
		want                         policy.RefusedError
	}{
		{"ServiceDisable", "Office", "<ServiceDisable>true</ServiceDisable>", "", machine(),
			policy.RefusedError{Document: "profile corp.xml", Setting: "ServiceDisable", Value: "true", Line: 3, Column: 1}},
		{"ServiceDisable, for a gateway that is not listed", "else.example", "<ServiceDisable>true</ServiceDisable>", "", machine(),
			policy.RefusedError{Document: "profile corp.xml", Setting: "ServiceDisable", Value: "true", Line: 3, Column: 1}},
		{"D1247", "Office", "", "<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>", machine(),
			policy.RefusedError{Document: "local policy policy.xml", Setting: "RestrictTunnelProtocols", Value: "TLS", Line: 2, Column: 1}},
		{"IPsec", "Old", "", "", machine(),
			policy.RefusedError{Document: "profile corp.xml", Setting: "PrimaryProtocol", Value: "IPsec", Line: 9, Column: 1}},
		{"D1243", "Office", "", "<FipsMode>true</FipsMode>", machine(),
			policy.RefusedError{Document: "local policy policy.xml", Setting: "FipsMode", Value: "true", Line: 2, Column: 1}},
		{"AllowManualHostInput", "else.example", "<AllowManualHostInput>false</AllowManualHostInput>", "", machine(),
			policy.RefusedError{Document: "profile corp.xml", Setting: "AllowManualHostInput", Value: "false", Line: 3, Column: 1}},
		{"AlwaysOn", "else.example", "<AutomaticVPNPolicy>true\n<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>", "", machine(),
			policy.RefusedError{Document: "profile corp.xml", Setting: "AlwaysOn", Value: "true", Line: 4, Column: 1}},
		{"no store", "Office", "", "<ExcludeWinNativeCertStore>true</ExcludeWinNativeCertStore>", Environment{System: "windows"},
			policy.RefusedError{Document: "local policy policy.xml", Setting: "ExcludeWinNativeCertStore", Value: "true", Line: 2, Column: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs := Documents{Profiles: collection(xmlProfile(t, "corp.xml", tt.settings, office)), Local: xmlPolicy(t, tt.policy), LocalPath: "policy.xml"}
			p, err := New(tt.host, docs, tt.env)
			var got *policy.RefusedError
			if !errors.As(err, &got) || !errors.Is(err, policy.ErrDenied) {
				t.Fatalf("error %v", err)
			}
			if len(p.Refusals) != 1 || len(p.Features) != 18 {
				t.Errorf("%d refusals, %d features: %v", len(p.Refusals), len(p.Features), err)
			}
			reason := got.Reason
			if got.Reason, got.Err = "", nil; *got != tt.want {
				t.Errorf("got %+v, want %+v", *got, tt.want)
			}
			if reason == "" || !strings.HasPrefix(err.Error(), tt.want.Setting+" ("+tt.want.Document) {
				t.Errorf("text %q", err)
			}
		})
	}
	// What forbids nothing here.
	for name, element := range map[string]string{"IPSec": "<RestrictTunnelProtocols>IPSec</RestrictTunnelProtocols>", "FIPS": "<FipsMode>true</FipsMode>", "exclude": "<ExcludePemFileCertStore>true</ExcludePemFileCertStore>"} {
		env := machine()
		env.FIPS = true
		if _, err := New("Office", Documents{Local: xmlPolicy(t, element), Profiles: collection(xmlProfile(t, "corp.xml", "", office))}, env); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Two reasons are both named.
	docs := Documents{Profiles: collection(xmlProfile(t, "corp.xml", "<ServiceDisable>true</ServiceDisable>", office)), Local: xmlPolicy(t, "<FipsMode>true</FipsMode>")}
	if _, err := New("Office", docs, machine()); !strings.Contains(err.Error(), "ServiceDisable") || !strings.Contains(err.Error(), "FipsMode") {
		t.Errorf("error %v", err)
	}
}

// TestWhatProfilesSay: what is said about a profile is what happens by it.
func TestWhatProfilesSay(t *testing.T) {
	about := func(p *profile.Profile) string {
		var all []string
		for _, f := range p.Findings() {
			all = append(all, string(f.Severity)+" "+f.Message)
		}
		return strings.Join(all, "\n")
	}
	p := xmlProfile(t, "corp.xml", "", office)
	if _, err := New("Old", Documents{Profiles: collection(p)}, machine()); err == nil || !strings.Contains(about(p), "warning this client does not speak IPsec and refuses") {
		t.Errorf("IPsec: it is said that %s, and the plan says %v", about(p), err)
	}
	p = xmlProfile(t, "corp.xml", "<AutomaticVPNPolicy>true<TrustedDNSDomains>corp.example</TrustedDNSDomains><AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy><AllowManualHostInput>true</AllowManualHostInput>",
		"<HostEntry><HostName>one</HostName></HostEntry>")
	if _, err := New("typed.example", Documents{Profiles: collection(p)}, machine()); err == nil || !strings.Contains(about(p), "AllowManualHostInput has no effect") || strings.Contains(about(p), "warning") {
		t.Errorf("AlwaysOn: it is said that %s, and the plan says %v", about(p), err)
	}
}

// TestProfileOfTheGateway: of several profiles, that of the gateway is in force, and Always-On for one that none lists.
func TestProfileOfTheGateway(t *testing.T) {
	one := xmlProfile(t, "one.xml", "<LocalLanAccess>true</LocalLanAccess>", office)
	two := xmlProfile(t, "two.xml", "<EnableScripting>true</EnableScripting>", `<HostEntry><HostName>Branch</HostName><HostAddress>b.example</HostAddress></HostEntry>`)
	p, err := New("Branch", Documents{Profiles: collection(one, two)}, machine())
	if err != nil || p.LocalLAN || !p.Script.Allowed || p.Profile != two {
		t.Errorf("%v: %+v", err, p)
	}
	p, err = New("elsewhere.example", Documents{Profiles: collection(one, two)}, machine())
	if err != nil || p.LocalLAN || p.Script.Allowed || p.Profile != nil {
		t.Errorf("%v: %+v", err, p)
	}
}

// TestAlwaysOnReplaces: where a profile demands Always-On of the machine, the gateways of those that do not are none that one could have
// instead (D1208), and whether they disable the client counts all the same.
func TestAlwaysOnReplaces(t *testing.T) {
	const branch = `<HostEntry><HostName>Branch</HostName><HostAddress>b.example</HostAddress></HostEntry>`
	loose := xmlProfile(t, "loose.xml", "", branch+`<HostEntry><HostName>Office</HostName><HostAddress>other.example</HostAddress></HostEntry>`)
	strict := xmlProfile(t, "strict.xml", "<AutomaticVPNPolicy>true<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>", office)
	user := preferences.New()
	if err := user.SetLast(preferences.Last{HostName: "Branch"}); err != nil {
		t.Fatal(err)
	}
	docs := Documents{Profiles: collection(loose, strict), Preferences: preferences.Pair{User: user}}
	for _, name := range []string{"", "Office"} {
		p, err := New(name, docs, machine())
		if err != nil || p.Profile != strict || p.Servers[0] != "vpn.corp.example" || !p.Network.AlwaysOn.On {
			t.Errorf("%q: %v: %+v", name, err, p)
		}
	}
	for _, name := range []string{"Branch", "b.example"} {
		_, err := New(name, docs, machine())
		if refused := (*policy.RefusedError)(nil); !errors.As(err, &refused) || refused.Setting != "AlwaysOn" || refused.Line == 0 ||
			!strings.Contains(err.Error(), name+" is not in the list of gateways (Office, Lab, Old)") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := New("Branch", docs, Environment{System: "linux"}); err != nil || p.Profile != loose {
		t.Errorf("of a program: %v", err)
	}
	docs.Profiles = collection(xmlProfile(t, "loose.xml", "<ServiceDisable>true</ServiceDisable>", branch), strict)
	if _, err := New("Office", docs, machine()); err == nil || !strings.Contains(err.Error(), "ServiceDisable (profile loose.xml") {
		t.Errorf("disabled: %v", err)
	}
}

// TestAllowUserChoice: the user's choice counts where the profile leaves it to the user.
func TestAllowUserChoice(t *testing.T) {
	user := preferences.New()
	if err := errors.Join(user.SetControl("LocalLanAccess", "true"), user.SetControl("BlockUntrustedServers", "true")); err != nil {
		t.Fatal(err)
	}
	for may, want := range map[string]bool{"true": true, "false": false} {
		docs := Documents{
			Profiles:    collection(xmlProfile(t, "corp.xml", `<LocalLanAccess UserControllable="`+may+`">false</LocalLanAccess>`, office)),
			Preferences: preferences.Pair{User: user},
		}
		p, err := New("Office", docs, machine())
		if err != nil || p.LocalLAN != want {
			t.Errorf("UserControllable=%s: %v, local LAN %v", may, err, p.LocalLAN)
		}
		if got := slices.ContainsFunc(p.Choices(), func(v profile.Value) bool { return v.Path == "LocalLanAccess" }); got != want {
			t.Errorf("UserControllable=%s: among the choices is %v", may, got)
		}
		if err := p.CheckTrust(true, false); err == nil || !strings.Contains(err.Error(), "BlockUntrustedServers (preferences)") {
			t.Errorf("pins: %v", err)
		}
	}
}

// TestMessage: it is shown once, and again if its text changes.
func TestMessage(t *testing.T) {
	user := preferences.New()
	docs := Documents{Profiles: collection(xmlProfile(t, "corp.xml", "<ShowPreConnectMessage>true</ShowPreConnectMessage>", office)), Preferences: preferences.Pair{User: user}}
	show := func(text string) bool {
		env := machine()
		env.Message = text
		p, err := New("Office", docs, env)
		if err != nil {
			t.Fatal(err)
		}
		if text != "" && p.Message.Text != text {
			t.Errorf("text %q", p.Message.Text)
		}
		if err := p.Shown(user); err != nil {
			t.Fatal(err)
		}
		return p.Message.Show
	}
	if !show("Insert the card.") || show("Insert the card.") || !show("Insert the new card.") || show("Insert the new card.") {
		t.Error("it is not shown once for each text")
	}
	docs.Local = xmlPolicy(t, "<RestrictPreferenceCaching>All</RestrictPreferenceCaching>")
	for range 2 {
		if !show("Read this.") {
			t.Error("it was written down against the local policy")
		}
	}
	// The mark outlives the file.
	path := filepath.Join(t.TempDir(), "preferences.xml")
	if err := os.WriteFile(path, user.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := preferences.Load(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Findings()) > 0 {
		b, _ := os.ReadFile(path)
		t.Errorf("findings %v in\n%s", again.Findings(), b)
	}
	docs.Local, docs.Preferences.User = nil, again
	if show("Insert the new card.") {
		t.Error("it is shown again after the preferences have been read again")
	}
}

// TestCaching: what may be written down (D1246).
func TestCaching(t *testing.T) {
	for value, want := range map[string]preferences.Keep{
		"false":                     {Credentials: true, Thumbprints: true, Anything: true},
		"Credentials":               {Credentials: false, Thumbprints: true, Anything: true},
		"Thumbprints":               {Credentials: true, Thumbprints: false, Anything: true},
		"CredentialsAndThumbprints": {Anything: true},
		"All":                       {},
	} {
		p, err := New("gw.example", Documents{Local: xmlPolicy(t, "<RestrictPreferenceCaching>"+value+"</RestrictPreferenceCaching>")}, machine())
		if err != nil || p.Keep != want {
			t.Errorf("%s: %v, %+v, want %+v", value, err, p.Keep, want)
		}
		// What is remembered is what Forget would leave.
		prefs := preferences.New()
		all := preferences.Last{User: "a", SecondUser: "b", ClientCertificateThumbprint: "c", ClientCertificateThumbprints: "d",
			ServerCertificateThumbprint: "e", HostName: "f", HostAddress: "g", Group: "h", ProxyHost: "i", ProxyPort: "1", TokenType: "k"}
		if err := errors.Join(prefs.SetLast(all), prefs.Forget(p.Keep)); err != nil {
			t.Fatal(err)
		}
		if got := p.Remember(all); got != prefs.Last() {
			t.Errorf("%s: remembered %+v, want %+v", value, got, prefs.Last())
		}
	}
}

// TestAccept: the example of the administrator's guide (D1263–D1275), and each switch.
func TestAccept(t *testing.T) {
	example := xmlPolicy(t, `<UpdatePolicy>
<AllowSoftwareUpdatesFromAnyServer>false</AllowSoftwareUpdatesFromAnyServer>
<AllowVPNProfileUpdatesFromAnyServer>false</AllowVPNProfileUpdatesFromAnyServer>
<AllowServiceProfileUpdatesFromAnyServer>false</AllowServiceProfileUpdatesFromAnyServer>
<AllowISEProfileUpdatesFromAnyServer>true</AllowISEProfileUpdatesFromAnyServer>
<AllowComplianceModuleUpdatesFromAnyServer>true</AllowComplianceModuleUpdatesFromAnyServer>
<AllowManagementVPNProfileUpdatesFromAnyServer>true</AllowManagementVPNProfileUpdatesFromAnyServer>
<AuthorizedServerList><ServerName>seattle.example.com</ServerName><ServerName>newyork.example.com</ServerName></AuthorizedServerList></UpdatePolicy>`)
	bypass := xmlPolicy(t, "<BypassDownloader>true</BypassDownloader>")
	scripts := xmlPolicy(t, "<RestrictScriptWebDeploy>true</RestrictScriptWebDeploy>")
	for _, tt := range []struct {
		policy  *local.Policy
		what    Download
		server  string
		setting string // that refuses, or ""
	}{
		{example, Software, "seattle.example.com", ""},
		{example, VPNProfile, "newyork.example.com", ""},
		{example, Software, "raleigh.example.com", "UpdatePolicy/AllowSoftwareUpdatesFromAnyServer"},
		{example, VPNProfile, "raleigh.example.com", "UpdatePolicy/AllowVPNProfileUpdatesFromAnyServer"},
		{example, ServiceProfile, "raleigh.example.com", "UpdatePolicy/AllowServiceProfileUpdatesFromAnyServer"},
		{example, ISEProfile, "raleigh.example.com", ""},
		{example, ComplianceModule, "raleigh.example.com", ""},
		{example, ManagementVPNProfile, "raleigh.example.com", ""},
		{example, Scripts, "raleigh.example.com", "UpdatePolicy/AllowSoftwareUpdatesFromAnyServer"}, // D1207
		{example, Software, "192.0.2.1", "UpdatePolicy/AllowSoftwareUpdatesFromAnyServer"},          // D1206
		{example, "firmware", "raleigh.example.com", "UpdatePolicy"},
		{bypass, VPNProfile, "seattle.example.com", "BypassDownloader"},
		{scripts, Scripts, "seattle.example.com", "RestrictScriptWebDeploy"},
		{scripts, Software, "seattle.example.com", ""},
		{nil, Software, "anything.example", ""},
	} {
		p, err := New("gw.example", Documents{Local: tt.policy, LocalPath: "policy.xml"}, machine())
		if err != nil {
			t.Fatal(err)
		}
		err = p.Accept(tt.what, tt.server)
		var refused *policy.RefusedError
		if errors.As(err, &refused) != (tt.setting != "") || refused != nil && (refused.Setting != tt.setting || refused.Document != "local policy policy.xml" || refused.Line == 0) {
			t.Errorf("%s from %s: %v, want %q", tt.what, tt.server, err, tt.setting)
		}
	}
	if !Software.Required() || !VPNProfile.Required() || ServiceProfile.Required() {
		t.Error("which refusals end a connection")
	}
}

// TestTrust: strict trust leaves no way to continue anyway (D1245), and only authorities of the system count.
func TestTrust(t *testing.T) {
	for _, tt := range []struct {
		element           string
		pins, authorities string // the setting that refuses, or ""
	}{
		{"", "", ""},
		{"<StrictCertificateTrust>true</StrictCertificateTrust>", "StrictCertificateTrust", ""},
		{"<RestrictServerCertStore>true</RestrictServerCertStore>", "", "RestrictServerCertStore"},
	} {
		p, err := New("gw.example", Documents{Local: xmlPolicy(t, tt.element)}, machine())
		if err != nil {
			t.Fatal(err)
		}
		for want, err := range map[*string]error{&tt.pins: p.CheckTrust(true, false), &tt.authorities: p.CheckTrust(false, true)} {
			var refused *policy.RefusedError
			if errors.As(err, &refused) != (*want != "") || refused != nil && (refused.Setting != *want || refused.Line != 2 || refused.Column != 1) {
				t.Errorf("%s: %v, want %q", tt.element, err, *want)
			}
		}
		if p.CheckTrust(false, false) != nil {
			t.Errorf("%s: nothing is refused", tt.element)
		}
	}
}

// TestLocalEffects: every setting of the local policy is named with its state.
func TestLocalEffects(t *testing.T) {
	p, err := New("gw.example", Documents{Local: xmlPolicy(t, "<StrictCertificateTrust>true</StrictCertificateTrust><RestrictWebLaunch>true</RestrictWebLaunch><ExcludeMacNativeCertStore>true</ExcludeMacNativeCertStore>")}, machine())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]State{}
	for _, e := range p.Local {
		if e.Says == "" {
			t.Errorf("nothing is said of %s", e.Path)
		}
		states[e.Path] = e.State
	}
	if len(states) < 27 {
		t.Errorf("%d settings", len(states))
	}
	for path, want := range map[string]State{
		"StrictCertificateTrust": On, "FipsMode": Off, "RestrictWebLaunch": NotApplicable, "ExcludeMacNativeCertStore": NotApplicable, "OCSPRevocation": NotApplicable,
	} {
		if states[path] != want {
			t.Errorf("%s is %s, want %s", path, states[path], want)
		}
	}
}

// TestRest: what is handed on as it is.
func TestRest(t *testing.T) {
	settings := `<AutoReconnect>true<AutoReconnectBehavior>ReconnectAfterResume</AutoReconnectBehavior></AutoReconnect>
<AuthenticationTimeout>60</AuthenticationTimeout><IPProtocolSupport>IPv6,IPv4</IPProtocolSupport>
<ProxySettings>Override<PublicProxyServerAddress>proxy.example:8080</PublicProxyServerAddress></ProxySettings>
<LinuxLogonEnforcement>SingleLogon</LinuxLogonEnforcement><LinuxVPNEstablishment>AllowRemoteUsers</LinuxVPNEstablishment>
<CertificatePinning>true<CertificatePinList><Pin Subject="a" Issuer="b">` + strings.Repeat("ab", 64) + `</Pin></CertificatePinList></CertificatePinning>`
	p, err := New("Office", Documents{Profiles: collection(xmlProfile(t, "corp.xml", settings, office))}, machine())
	if err != nil {
		t.Fatal(err)
	}
	if p.Reconnect != (Reconnect{true, true}) || p.AuthenticationTimeout != time.Minute || !slices.Equal(p.IPProtocols, []string{"IPv6", "IPv4"}) {
		t.Errorf("%+v, %v, %v", p.Reconnect, p.AuthenticationTimeout, p.IPProtocols)
	}
	if p.Proxy.Choice != profile.ProxyOverride || p.Proxy.Public != "proxy.example:8080" {
		t.Errorf("%+v", p.Proxy)
	}
	if p.Logon.Enforcement != logon.SingleLogon || p.Logon.Establishment != logon.AllowRemoteUsers || p.Logon.Document != "profile corp.xml" {
		t.Errorf("%+v", p.Logon)
	}
	if p.Certificates.Pins == nil || len(p.Certificates.Pins.Hashes) != 1 {
		t.Errorf("%+v", p.Certificates.Pins)
	}
	var _ network.Config = p.Network
	if n := len(p.Network.Hosts); n != 2 || p.Network.Hosts[0].Backups[1] != "vpn3.corp.example" {
		t.Errorf("%+v", p.Network.Hosts)
	}
	if err := p.Network.Validate(); err != nil {
		t.Error(err)
	}
}

// TestAutoConnectOnStart: a caller that connects when it is started anyhow need not obey it, unless AutomaticVPNPolicy has a tunnel wait
// for a logon.
func TestAutoConnectOnStart(t *testing.T) {
	for policy, want := range map[string]bool{"": true, "<AutomaticVPNPolicy>true</AutomaticVPNPolicy>": false} {
		env := machine()
		env.Unavailable = map[string]string{"AutoConnectOnStart": "it connects anyhow"}
		settings := "<AutoConnectOnStart>true</AutoConnectOnStart>" + policy
		p, err := New("Office", Documents{Profiles: collection(xmlProfile(t, "corp.xml", settings, office))}, env)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(p.Ignored, func(e Effect) bool { return e.Path == "AutoConnectOnStart" }); got != want {
			t.Errorf("%q: without effect: %v", policy, got)
		}
	}
}
