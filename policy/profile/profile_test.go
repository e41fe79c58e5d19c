package profile

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy/document"
)

func load(t testing.TB, name string) *Profile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/corpus", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t testing.TB, settings string) *Profile {
	t.Helper()
	p, err := Parse("test.xml", []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>`+settings+`</ClientInitialization></AnyConnectProfile>`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func prefer(values map[string]string) Lookup {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

// TestDefaults are those of the table of elements of B.1, one line for each.
func TestDefaults(t *testing.T) {
	e := Resolve(parse(t, ""), nil, "linux")
	for path, want := range map[string]string{
		"UseStartBeforeLogon": "false", "AutomaticCertSelection": "true", "ShowPreConnectMessage": "false", "CertificateStore": "All",
		"CertificateStoreMac": "All", "CertificateStoreLinux": "All", "CertificateStoreOverride": "false", "ProxySettings": "Native",
		"ProxySettings/PublicProxyServerAddress": "", "AllowLocalProxyConnections": "true", "AutoConnectOnStart": "false",
		"MinimizeOnConnect": "true", "LocalLanAccess": "false", "DisableCaptivePortalDetection": "false", "AutoReconnect": "true",
		"AutoReconnect/AutoReconnectBehavior": "DisconnectOnSuspend", "SuspendOnConnectedStandby": "false",
		"AutoUpdate":              "true", // D1072
		"RSASecurIDIntegration":   "Automatic",
		"WindowsLogonEnforcement": "SingleLocalLogon", // D175
		"LinuxLogonEnforcement":   "SingleLocalLogon", // D208
		"WindowsVPNEstablishment": "LocalUsersOnly",   // D201
		"LinuxVPNEstablishment":   "LocalUsersOnly",   // D218
		"RetainVpnOnLogoff":       "false", "RetainVpnOnLogoff/UserEnforcement": "SameUserOnly", "AutomaticVPNPolicy": "false",
		"AutomaticVPNPolicy/TrustedDNSDomains": "", "AutomaticVPNPolicy/TrustedDNSServers": "",
		"AutomaticVPNPolicy/TrustedNetworkPolicy": "Disconnect", "AutomaticVPNPolicy/UntrustedNetworkPolicy": "Connect",
		"AutomaticVPNPolicy/BypassConnectUponSessionTimeout": "false", "AutomaticVPNPolicy/AlwaysOn": "false",
		"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy":                                                               "Closed",
		"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/AllowCaptivePortalRemediation":                                 "false",
		"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/AllowCaptivePortalRemediation/CaptivePortalRemediationTimeout": "5",
		"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/ApplyLastVPNLocalResourceRules":                                "false",
		"AutomaticVPNPolicy/AlwaysOn/AllowVPNDisconnect":                                                                 "true",
		"AutomaticVPNPolicy/AlwaysOn/AllowedHosts":                                                                       "",
		"PPPExclusion": "Automatic", "PPPExclusion/PPPExclusionServerIP": "", "EnableScripting": "false",
		"EnableScripting/TerminateScriptOnNextEvent": "false", "EnableScripting/EnablePostSBLOnConnectScript": "true",
		"CertificatePinning": "false", "EnableAutomaticServerSelection": "false",
		"EnableAutomaticServerSelection/AutoServerSelectionImprovement": "20",
		"EnableAutomaticServerSelection/AutoServerSelectionSuspendTime": "4",
		"AuthenticationTimeout": "30", "SafeWordSofTokenIntegration": "false", "AllowIPsecOverSSL": "false", "ClearSmartcardPin": "true",
		"ServiceDisable": "false", "IPProtocolSupport": "IPv4,IPv6", "CaptivePortalRemediationBrowserFailover": "false",
		"AllowManualHostInput": "true",
	} {
		v, ok := e.Get(path)
		if !ok || v.Value != want || v.Origin != FromDefault {
			t.Errorf("%s is %q from %s, want %q", path, v.Value, v.Origin, want)
		}
	}
}

// TestControl holds to B.1 who controls a setting when the profile does not say.
func TestControl(t *testing.T) {
	e := Resolve(parse(t, ""), nil, "linux")
	var got []string
	for _, v := range e.Values {
		if v.UserControllable {
			got = append(got, v.Path)
		}
	}
	want := []string{"UseStartBeforeLogon", "AutomaticCertSelection", "ProxySettings", "ProxySettings/PublicProxyServerAddress", "AutoConnectOnStart",
		"MinimizeOnConnect", "LocalLanAccess", "DisableCaptivePortalDetection", "EnableAutomaticServerSelection", "ClearSmartcardPin"}
	if !slices.Equal(got, want) {
		t.Errorf("the user controls %q, want %q", got, want)
	}
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		name, settings, path string
		preferred            map[string]string
		value                string
		origin               Origin
		note                 string
	}{
		{"default", "", "LocalLanAccess", nil, "false", FromDefault, ""},
		{"profile", "<LocalLanAccess>true</LocalLanAccess>", "LocalLanAccess", nil, "true", FromProfile, ""},
		{"preference over default", "", "LocalLanAccess", map[string]string{"LocalLanAccess": "true"}, "true", FromPreference, ""},
		{"preference over profile", "<LocalLanAccess>true</LocalLanAccess>", "LocalLanAccess", map[string]string{"LocalLanAccess": "false"}, "false", FromPreference, ""},
		{"controllable in so many words", "<AutoUpdate UserControllable='true'>true</AutoUpdate>", "AutoUpdate", map[string]string{"AutoUpdate": "false"}, "false", FromPreference, ""},
		{"not controllable by default", "<AutoUpdate>true</AutoUpdate>", "AutoUpdate", map[string]string{"AutoUpdate": "false"}, "true", FromProfile, "does not let the user choose"},
		{"not controllable in so many words", "<LocalLanAccess UserControllable='false'>false</LocalLanAccess>", "LocalLanAccess", map[string]string{"LocalLanAccess": "true"}, "false", FromProfile, "does not let the user choose"},
		{"controllable by nonsense", "<LocalLanAccess UserControllable='perhaps'>false</LocalLanAccess>", "LocalLanAccess", map[string]string{"LocalLanAccess": "true"}, "false", FromProfile, "does not let the user choose"},
		{"never controllable", "", "ServiceDisable", map[string]string{"ServiceDisable": "true"}, "false", FromDefault, ""},
		{"preference with a wrong value", "", "LocalLanAccess", map[string]string{"LocalLanAccess": "yes"}, "false", FromDefault, "the preference does not count"},
		{"preference in capitals", "", "LocalLanAccess", map[string]string{"LocalLanAccess": "TRUE"}, "true", FromPreference, ""},
		{"profile with a wrong value", "<AutoReconnect>maybe</AutoReconnect>", "AutoReconnect", nil, "true", FromDefault, "the profile's value does not count"},
		{"profile in capitals", "<ServiceDisable>TRUE</ServiceDisable>", "ServiceDisable", nil, "true", FromProfile, ""},
		{"an empty element", "<ServiceDisable/>", "ServiceDisable", nil, "false", FromDefault, ""},
		{"a child", "<AutoReconnect>true<AutoReconnectBehavior UserControllable='true'>DisconnectOnSuspend</AutoReconnectBehavior></AutoReconnect>",
			"AutoReconnect/AutoReconnectBehavior", map[string]string{"AutoReconnectBehavior": "ReconnectAfterResume"}, "ReconnectAfterResume", FromPreference, ""},
		{"a child without its parent's value", "<AutoReconnect>false</AutoReconnect>", "AutoReconnect/AutoReconnectBehavior", nil, "DisconnectOnSuspend", FromDefault, "AutoReconnect is false"},
		{"a grandchild", "<AutomaticVPNPolicy><AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>", "AutomaticVPNPolicy/AlwaysOn/AllowVPNDisconnect", nil, "true", FromDefault, "AutomaticVPNPolicy is false"},
		{"another system", "<CertificateStoreMac>Login</CertificateStoreMac>", "CertificateStoreMac", nil, "Login", FromProfile, "not applicable on linux"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, ok := Resolve(parse(t, tt.settings), prefer(tt.preferred), "linux").Get(tt.path)
			if !ok || v.Value != tt.value || v.Origin != tt.origin || !strings.Contains(v.Note, tt.note) {
				t.Errorf("got %+v, want %q from %s with the note %q", v, tt.value, tt.origin, tt.note)
			}
			if (v.Profile != nil) != (tt.origin == FromProfile || tt.origin == FromPreference && strings.Contains(tt.settings, ">"+*orEmpty(v.Profile)+"<")) {
				t.Errorf("the profile's value is %v", v.Profile)
			}
		})
	}
}

func orEmpty(s *string) *string {
	if s == nil {
		s = new(string)
	}
	return s
}

// TestWithoutProfile: the eighteen features of D1211 to D1220 do not exist without a profile, whatever is preferred.
func TestWithoutProfile(t *testing.T) {
	everything := func(name string) (string, bool) {
		switch name {
		case "PPPExclusion":
			return "Automatic", true
		case "ProxySettings":
			return "IgnoreProxy", true
		}
		return "true", true
	}
	e := Resolve(nil, everything, "windows")
	off := map[string]string{}
	for _, f := range e.Features {
		if f.On || f.Why == "" {
			t.Errorf("%s is on without a profile: %+v", f.Name, f)
		}
		off[f.Name] = f.Value
	}
	want := map[string]string{
		"Service Disable": "false", "Certificate Store Override": "false", "Show Pre-connect Message": "false", // D1211 to D1213
		"Local LAN Access": "false", "Start Before Login": "false", // D1214, D1215
		"Local proxy connections": "false", "PPP Exclusion": "Disable", "Automatic VPN Policy": "false", "Trusted Network Policy": "DoNothing", // D1217 to D1220, left
		"Untrusted Network Policy": "DoNothing", "Trusted DNS Domains": "", "Trusted DNS Servers": "", "Always-On": "false",
		"Captive Portal Remediation": "false", "Scripting": "false", "Retain VPN on Logoff": "false", "Device Lock Required": "false",
		"Automatic Server Selection": "false",
	}
	if !reflect.DeepEqual(off, want) || len(off) != 18 {
		t.Errorf("the features are %v,\nwant %v", off, want)
	}
	s := e.Settings()
	if s.AllowLocalProxyConnections || s.LocalLANAccess || s.StartBeforeLogon || s.AutomaticServerSelection || s.PPPExclusion != PPPDisable {
		t.Errorf("a feature is on without a profile: %+v", s)
	}
	// What is no feature of a profile is the user's to choose.
	if !s.AutoConnectOnStart || s.Proxy != ProxyIgnore || !s.AutoReconnect || !s.AllowManualHostInput || s.AuthenticationTimeout != 30*time.Second {
		t.Errorf("the rest is %+v", s)
	}
}

func TestFeaturesWithProfile(t *testing.T) {
	e := Resolve(load(t, "full.xml"), nil, "linux")
	for _, f := range e.Features {
		// The document switches everything on but these, and the lock of a telephone is for telephones.
		want := !slices.Contains([]string{"Service Disable", "Show Pre-connect Message", "Local proxy connections", "Start Before Login", "Device Lock Required"}, f.Name)
		if f.On != want || f.On == (f.Why != "") {
			t.Errorf("%+v, want on = %v", f, want)
		}
	}
	always := func(p *Profile) bool { return Resolve(p, nil, "linux").Settings().AlwaysOn }
	if always(parse(t, "<AutomaticVPNPolicy>false<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>")) {
		t.Error("AlwaysOn has an effect without AutomaticVPNPolicy")
	}
	if !Resolve(parse(t, ""), nil, "linux").Settings().AllowVPNDisconnect {
		t.Error("without AlwaysOn the user may not disconnect")
	}
}

func TestSettings(t *testing.T) {
	s := Resolve(load(t, "full.xml"), prefer(map[string]string{"LocalLanAccess": "false", "PPPExclusionServerIP": "192.0.2.7"}), "linux").Settings()
	want := Settings{
		AutomaticCertSelection: true, CertificateStore: "Machine", CertificateStoreMac: "Login", CertificateStoreLinux: "All",
		CertificateStoreOverride: true, Proxy: ProxyOverride, PublicProxy: "proxy.example.com:8080", MinimizeOnConnect: true,
		AutoReconnect: true, ReconnectBehavior: "ReconnectAfterResume", AutoUpdate: true, RSASecurIDIntegration: "Automatic",
		WindowsLogonEnforcement: SingleLogonNoRemote, LinuxLogonEnforcement: SingleLogon, WindowsVPNEstablishment: LocalUsersOnly,
		LinuxVPNEstablishment: AllowRemoteUsers, RetainVPNOnLogoff: true, UserEnforcement: "AnyUser", AutomaticVPNPolicy: true,
		TrustedDNSDomains: []string{"corp.example.com", "*.lab.example.com"}, TrustedDNSServers: []string{"192.0.2.53", "2001:db8::*", "198.51.100.*"},
		TrustedNetworkPolicy: Pause, UntrustedNetworkPolicy: Connect, BypassConnectUponSessionTimeout: true, AlwaysOn: true,
		ConnectFailurePolicy: FailClosed, AllowCaptivePortalRemediation: true, CaptivePortalRemediation: 7 * time.Minute,
		ApplyLastLocalResourceRules: true, AllowedHosts: []string{"sso.example.com", "192.0.2.0/28"}, PPPExclusion: PPPOverride,
		PPPExclusionServer: "192.0.2.7", EnableScripting: true, TerminateScriptOnNextEvent: true, CertificatePinning: true,
		DeviceLockMaximumTimeout: 5 * time.Minute, DeviceLockMinimumPasswordLength: 6, DeviceLockPasswordComplexity: "strong",
		AutomaticServerSelection: true, ServerSelectionImprovement: 30, ServerSelectionSuspendTime: 6 * time.Hour,
		AuthenticationTimeout: 45 * time.Second, IPProtocols: []string{"IPv6", "IPv4"}, CaptivePortalBrowserFailover: true,
		CertificateImportStore: "User", CertificateExpirationWarning: 14 * 24 * time.Hour, MatchOnlyCertificatesWithEKU: true, OfferCertificateRequest: true,
		// For another system, so they have their defaults.
		ClearSmartcardPIN: true,
	}
	got, expected := reflect.ValueOf(s), reflect.ValueOf(want)
	for i := range got.NumField() {
		if !reflect.DeepEqual(got.Field(i).Interface(), expected.Field(i).Interface()) {
			t.Errorf("%s = %v, want %v", got.Type().Field(i).Name, got.Field(i), expected.Field(i))
		}
	}
	if logon, establishment := s.Logon("linux"); logon != SingleLogon || establishment != AllowRemoteUsers {
		t.Errorf("Logon(linux) = %v, %v", logon, establishment)
	}
	if logon, _ := s.Logon("windows"); logon != SingleLogonNoRemote {
		t.Errorf("Logon(windows) = %v", logon)
	}
	if logon, _ := s.Logon("darwin"); logon != "" {
		t.Errorf("Logon(darwin) = %v", logon)
	}
}

func TestHosts(t *testing.T) {
	p := load(t, "full.xml")
	hosts := p.Hosts()
	if len(hosts) != 2 {
		t.Fatal(hosts)
	}
	zrh, ber := hosts[0], hosts[1]
	if zrh.Name != "Zürich – main office" || zrh.Protocol != "SSL" || !zrh.OwnBackups || zrh.IKE != nil || zrh.CA.URL != "http://ca.example.com/scep" ||
		!slices.Equal(zrh.LoadBalancing, []string{"zrh-a.example.com", "zrh-b.example.com"}) || len(zrh.Pins) != 1 || zrh.Pins[0].Subject != "CN=zrh.example.com" {
		t.Errorf("%+v", zrh)
	}
	if m := zrh.Mobile; m == nil || m.NetworkRoaming || m.CertificatePolicy != "Manual" || !m.ConnectOnDemand || !m.ActivateOnImport ||
		!slices.Equal(m.ConnectIfNeeded, []string{"needed.example.com", "always.example.com"}) || !slices.Equal(m.NeverConnect, []string{"never.example.com"}) {
		t.Errorf("%+v", m)
	}
	if u, err := zrh.URL(); u != "https://zrh.example.com:8443/staff" || err != nil {
		t.Errorf("URL() = %q, %v", u, err)
	}
	if got := zrh.Servers(); !slices.Equal(got, []string{"zrh.example.com:8443", "zrh2.example.com"}) {
		t.Errorf("Servers() = %q", got)
	}
	// A host without a list of its own has that of the profile.
	if ber.OwnBackups || !slices.Equal(ber.Servers(), []string{"ber.example.com", "backup1.example.com", "192.0.2.9"}) {
		t.Errorf("%+v", ber)
	}
	if ber.IKE == nil || *ber.IKE != (IKE{"EAP-MSCHAPv2", "alice"}) {
		t.Errorf("%+v", ber.IKE)
	}
	for name, want := range map[string]string{"ber.example.com": "ber.example.com", "BER.example.com": "ber.example.com", "zürich – main OFFICE": zrh.Name,
		"zrh.example.com:8443": zrh.Name, "zrh": ""} {
		if h, ok := p.Host(name); h.Name != want || ok != (want != "") {
			t.Errorf("Host(%q) = %q", name, h.Name)
		}
	}
	if pins, on := p.Pins(zrh); !on || len(pins) != 2 {
		t.Errorf("Pins: %v, %v", pins, on)
	}
	if _, on := parse(t, "").Pins(Host{}); on {
		t.Error("pins are checked without CertificatePinning")
	}
	if got := p.TrustedHTTPSServers(); len(got) != 1 || got[0].Address != "inside.example.com" || got[0].Port != 443 || len(got[0].Hash) != 32 {
		t.Errorf("TrustedHTTPSServers() = %+v", got)
	}
	var none *Profile
	if len(none.Hosts()) != 0 {
		t.Error("no profile has hosts")
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"vpn.example.com":               "vpn.example.com https://vpn.example.com/g",
		"vpn.example.com:443":           "vpn.example.com https://vpn.example.com/g",
		"vpn_1.example.com.:8443":       "vpn_1.example.com.:8443 https://vpn_1.example.com.:8443/g",
		"192.0.2.1":                     "192.0.2.1 https://192.0.2.1/g",
		"2001:db8::1":                   "2001:db8::1 https://[2001:db8::1]/g",
		"[2001:db8::1]":                 "2001:db8::1 https://[2001:db8::1]/g",
		"[2001:db8::1]:4443":            "[2001:db8::1]:4443 https://[2001:db8::1]:4443/g",
		"https://vpn.example.com/path":  "vpn.example.com https://vpn.example.com/g",
		"bücher.example":                "bücher.example https://b%C3%BCcher.example/g",
		"":                              "",
		"a b":                           "",
		"vpn.example.com:0":             "",
		"vpn.example.com:x":             "",
		"a..b":                          "",
		"-":                             "- https://-/g",
		strings.Repeat("a", 64) + ".ch": "",
		"user@vpn.example.com":          "",
		"vpn.example.com?x":             "",
	} {
		h := Host{Name: "n", Address: address, UserGroup: "g"}
		s, err := h.Server()
		u, uerr := h.URL()
		if got := strings.TrimSpace(s + " " + u); got != want || (err == nil) != (want != "") || (uerr == nil) != (want != "") {
			t.Errorf("%q: %q, want %q (%v)", address, got, want, err)
		}
	}
}

func TestCertificateMatch(t *testing.T) {
	got := load(t, "full.xml").CertificateMatch()
	want := &CertificateMatch{
		OnlyWithEKU: true, KeyUsage: []string{"Digital_Signature", "Key_Encipherment"},
		ExtendedKeyUsage: []string{"1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.8.2.2", "1.3.6.1.5.5.7.3.11"},
		Names:            []NameRule{{"ISSUER-O", "Example", true, false, true}, {"CN", "test", false, true, false}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if parse(t, "").CertificateMatch() != nil || parse(t, "").Enrollment() != nil {
		t.Error("there is something where nothing is")
	}
	for _, v := range Schema().Root.Find("ClientInitialization/CertificateMatch/ExtendedKeyUsage/ExtendedMatchKey").Type.Values {
		if extendedKeyUsage(v) == "" {
			t.Errorf("%s has no object identifier", v)
		}
	}
	e := load(t, "full.xml").Enrollment()
	if e.WarnDays != 14 || !e.CA.PromptForChallenge || e.ImportStore != "User" || e.Request["City_L"] != "Zürich" || e.Request["Title_T"] != "Dr & Prof" ||
		len(e.Request) != 19 || !slices.Equal(e.Domains, []string{"example", "com"}) {
		t.Errorf("%+v", e)
	}
}

// TestEditsAreSmall: an edit changes the lines that it is about, in every encoding, and what was read back says so.
func TestEditsAreSmall(t *testing.T) {
	for _, name := range []string{"live.xml", "utf8bom-crlf.xml", "utf16le.xml", "utf16be.xml", "windows1252.xml", "latin1.xml", "ascii.xml"} {
		t.Run(name, func(t *testing.T) {
			before := load(t, name)
			p := load(t, name)
			must(t, p.Set("AutomaticVPNPolicy/AlwaysOn", "true"))
			must(t, p.Set("AutoUpdate", "false"))
			must(t, p.SetUserControllable("LocalLanAccess", false))
			must(t, p.SetUserControllable("AutoReconnect", true))
			must(t, p.Unset("RetainVpnOnLogoff"))
			must(t, p.Unset("RetainVpnOnLogoff"))
			must(t, p.AddHost(Host{Name: "Łódź", Address: "lodz.example.com", UserGroup: "g", Backups: []string{"b.example.com"}, Protocol: "IPsec"}))
			must(t, p.SetHost("Łódź", "HostAddress", "lodz2.example.com"))
			again, err := Parse(name, p.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range Diff(before, again) {
				got = append(got, c.String())
			}
			want := []string{
				"~ ClientInitialization/AutoReconnect@UserControllable: false -> true",
				"~ ClientInitialization/AutomaticVPNPolicy/AlwaysOn: false -> true",
				"- ClientInitialization/RetainVpnOnLogoff: false",
				"+ ClientInitialization/AutoUpdate: false",
				"+ ClientInitialization/LocalLanAccess: false",
				"+ ClientInitialization/LocalLanAccess@UserControllable: false",
				"+ ServerList/HostEntry[Łódź]/HostName: Łódź",
				"+ ServerList/HostEntry[Łódź]/HostAddress: lodz2.example.com",
				"+ ServerList/HostEntry[Łódź]/UserGroup: g",
				"+ ServerList/HostEntry[Łódź]/BackupServerList/HostAddress[1]: b.example.com",
				"+ ServerList/HostEntry[Łódź]/PrimaryProtocol: IPsec",
			}
			if !slices.Equal(got, want) {
				t.Errorf("the differences are\n%s", strings.Join(got, "\n"))
			}
			// Taken back, nothing is left of it but the edits that remain.
			must(t, p.RemoveHost("Łódź"))
			must(t, p.Set("AutomaticVPNPolicy/AlwaysOn", "false"))
			must(t, p.SetUserControllable("AutoReconnect", false))
			must(t, p.Unset("AutoUpdate"))
			must(t, p.Unset("LocalLanAccess"))
			if len(Diff(before, p)) != 1 {
				t.Errorf("after taking it back: %v", Diff(before, p))
			}
			_, found := strings.CutPrefix(string(before.Bytes()), string(p.Bytes()[:len(p.Bytes())/2]))
			if !found {
				t.Error("the bytes in front have changed")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRefusedEdits(t *testing.T) {
	p := load(t, "live.xml")
	before := string(p.Bytes())
	for name, edit := range map[string]func() error{
		"wrong value":         func() error { return p.Set("AutoUpdate", "yes") },
		"unknown setting":     func() error { return p.Set("AutoUpdte", "true") },
		"group":               func() error { return p.Set("CertificateMatch", "true") },
		"not the user's":      func() error { return p.SetUserControllable("ServiceDisable", true) },
		"unknown to the user": func() error { return p.SetUserControllable("Nothing", true) },
		"host twice":          func() error { return p.AddHost(Host{Name: "anyplace", Address: "x.example.com"}) },
		"host without name":   func() error { return p.AddHost(Host{Address: "x.example.com"}) },
		"host nowhere":        func() error { return p.AddHost(Host{Name: "Head Office"}) },
		"wrong backup":        func() error { return p.AddHost(Host{Name: "x", Address: "x", Backups: []string{"a b"}}) },
		"wrong protocol":      func() error { return p.AddHost(Host{Name: "x", Address: "x", Protocol: "L2TP"}) },
		"unknown host":        func() error { return p.SetHost("Nowhere", "HostAddress", "x") },
		"remove unknown host": func() error { return p.RemoveHost("Nowhere") },
		"wrong address":       func() error { return p.SetHost("Anyplace", "HostAddress", "a b") },
	} {
		if err := edit(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if string(p.Bytes()) != before {
		t.Error("a refused edit changed the profile")
	}
}

func TestNew(t *testing.T) {
	hosts := []Host{{Name: "Office", Address: "vpn.example.com", UserGroup: "staff"}, {Name: "backup.example.com"}}
	small, err := New(NewOptions{Name: "new.xml", Hosts: hosts, Settings: map[string]string{"AutomaticVPNPolicy/AlwaysOn": "true", "AutomaticVPNPolicy": "true", "LocalLanAccess": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://schemas.xmlsoap.org/encoding/ AnyConnectProfile.xsd">
  <ClientInitialization>
    <LocalLanAccess>true</LocalLanAccess>
    <AutomaticVPNPolicy>true
      <AlwaysOn>true</AlwaysOn>
    </AutomaticVPNPolicy>
  </ClientInitialization>
  <ServerList>
    <HostEntry>
      <HostName>Office</HostName>
      <HostAddress>vpn.example.com</HostAddress>
      <UserGroup>staff</UserGroup>
    </HostEntry>
    <HostEntry>
      <HostName>backup.example.com</HostName>
    </HostEntry>
  </ServerList>
</AnyConnectProfile>
`
	if got := string(small.Bytes()); got != want {
		t.Errorf("got\n%s", got)
	}
	full, err := New(NewOptions{Hosts: hosts, Full: true})
	if err != nil {
		t.Fatal(err)
	}
	agree(t, map[string][]byte{"small.xml": small.Bytes(), "full.xml": full.Bytes(), "none.xml": []byte("<a/>")})
	if errs := document.Errors(full.Findings()); errs != nil {
		t.Error(errs)
	}
	// Written with all its defaults, a profile means what an empty one means.
	a, b := Resolve(full, nil, "linux"), Resolve(parse(t, ""), nil, "linux")
	if !reflect.DeepEqual(a.Settings(), b.Settings()) {
		t.Errorf("%+v\n%+v", a.Settings(), b.Settings())
	}
	for _, o := range []NewOptions{{Settings: map[string]string{"Nothing": "x"}}, {Settings: map[string]string{"AutoUpdate": "x"}}, {Hosts: []Host{{}}}} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v): no error", o)
		}
	}
}

func TestDiff(t *testing.T) {
	if d := Diff(load(t, "live.xml"), load(t, "live.xml")); len(d) != 0 {
		t.Errorf("a profile differs from itself: %v", d)
	}
	a := parse(t, "\n<LocalLanAccess> true </LocalLanAccess><!-- c --><AutoReconnect>TRUE</AutoReconnect>")
	b := parse(t, "<AutoReconnect>true</AutoReconnect><LocalLanAccess>true</LocalLanAccess>")
	if d := Diff(a, b); len(d) != 0 {
		t.Errorf("profiles that mean the same differ: %v", d)
	}
	hosts := func(names ...string) *Profile {
		p := parse(t, "<Odd/>")
		for _, n := range names {
			must(t, p.AddHost(Host{Name: n}))
		}
		return p
	}
	d := Diff(hosts("a", "b", "c"), hosts("c", "a", "d"))
	if len(d) != 3 || d[0].String() != "- ServerList/HostEntry[b]/HostName: b" || d[1].String() != "+ ServerList/HostEntry[d]/HostName: d" ||
		d[2].String() != "~ ServerList: a, c -> c, a" || d[0].OldPosition.Line != 1 || d[0].NewPosition.Line != 0 {
		t.Errorf("%+v", d)
	}
	if d := Diff(parse(t, "<Odd/>"), parse(t, "<Odd>x</Odd><Odd/>")); len(d) != 2 {
		t.Errorf("elements that are not known: %v", d)
	}
}

func TestHash(t *testing.T) {
	h := Hash([]byte("abc"))
	if h.SHA1 != "A9993E364706816ABA3E25717850C26C9CD0D89D" || h.SHA256[:8] != "ba7816bf" || h.Size != 3 {
		t.Errorf("%+v", h)
	}
	if !SameDocument([]byte("a"), []byte("a")) || SameDocument([]byte("a"), []byte("a ")) {
		t.Error("SameDocument")
	}
}

func TestViewJSON(t *testing.T) {
	p := load(t, "full.xml")
	for name, v := range map[string]any{"view": p.View(), "effective": Resolve(p, nil, "linux"), "findings": Lint("x", p.Bytes()), "table": Schema().Describe(),
		"diff": Diff(p, load(t, "live.xml")), "places": Places()} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, bad := range []string{`"Path"`, `"Value"`, `"Line"`, "null"} {
			if strings.Contains(string(data), bad) {
				t.Errorf("%s: the JSON has %s", name, bad)
			}
		}
	}
	data, err := json.Marshal(Resolve(p, nil, "linux"))
	must(t, err)
	var back struct {
		Values   []Value
		Settings struct{ AlwaysOn bool }
	}
	if err := json.Unmarshal(data, &back); err != nil || !back.Settings.AlwaysOn || len(back.Values) == 0 {
		t.Errorf("%+v %v", back, err)
	}
	v := p.View()
	if len(v.Settings) < 60 || v.Settings[0].Path != "UseStartBeforeLogon" || v.Settings[0].Line != 4 || len(v.Hosts) != 2 || v.Encoding.Name != "UTF-8" {
		t.Errorf("%+v", v.Settings)
	}
}

// TestPlaces are the rows of A.5: module by module, where its files are.
func TestPlaces(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"ProgramData": `C:\ProgramData`, "ALLUSERSPROFILE": `C:\ProgramData\`, "PROGRAMFILES": `C:\Program Files`, "HOME": "/home/alice",
			"XDG_CONFIG_DIRS": "/etc/xdg:relative:/usr/etc"}[name]
	}
	const win = `C:\ProgramData\Cisco\Cisco AnyConnect Secure Mobility Client\`
	for _, tt := range []struct {
		system string
		kind   Kind
		want   []string
	}{
		{"windows", VPN, []string{`C:\ProgramData\Cisco\Cisco Secure Client\VPN\Profile`, win + `Profile`}}, // D356
		{"windows", NAM, []string{win + `Network Access Manager\newConfigFiles`}},                           // D357
		{"windows", Feedback, []string{win + `CustomerExperienceFeedback`}},                                 // D358
		{"windows", ISEPosture, []string{win + `ISE Posture`}},                                              // D359
		{"windows", AMPEnabler, []string{win + `AMP Enabler`, win + `AMPEnabler`}},                          // D360
		{"windows", NVM, []string{win + `NVM`}},                                                             // D361
		{"windows", Umbrella, []string{win + `Umbrella`}},                                                   // D362
		{"darwin", ISEPosture, []string{"/opt/cisco/anyconnect/iseposture"}},                                // D364
		{"darwin", AMPEnabler, []string{"/opt/cisco/anyconnect/AMPEnabler"}},                                // D365
		{"darwin", NVM, []string{"/opt/cisco/anyconnect/NVM"}},                                              // D366
		{"darwin", Umbrella, []string{"/opt/cisco/anyconnect/umbrella"}},                                    // D367
		{"darwin", VPN, []string{"/opt/cisco/secureclient/vpn/profile", "/opt/cisco/anyconnect/profile"}},   // D370
		{"linux", NVM, []string{"/opt/cisco/anyconnect/NVM"}},                                               // D372
		{"linux", VPN, []string{"/home/alice/.config/culvert/profile", "/etc/xdg/culvert/profile", "/usr/etc/culvert/profile", // D373
			"/opt/cisco/secureclient/vpn/profile", "/opt/cisco/anyconnect/profile"}},
		{"windows", Localization, []string{win + `l10n`}},                                                      // D380
		{"windows", Resources, []string{`C:\Program Files\Cisco\Cisco AnyConnect Secure Mobility Client\res`}}, // D382
		{"linux", Localization, []string{"/opt/cisco/anyconnect/l10n"}},                                        // D387
		{"linux", Resources, []string{"/opt/cisco/secureclient/resources", "/opt/cisco/anyconnect/resources"}}, // D389
		{"darwin", Binaries, []string{"/opt/cisco/anyconnect/bin"}},                                            // D396
		{"darwin", Libraries, []string{"/opt/cisco/anyconnect/lib"}},                                           // D398
		{"windows", Help, []string{win + `Help`}},                                                              // D403
		{"darwin", Help, []string{"/opt/cisco/anyconnect/help"}},                                               // D406
		{"windows", OPSWAT, []string{`C:\Program Files\Cisco\Cisco AnyConnect Secure Mobility Client\OPSWAT`}}, // D413
		{"darwin", OPSWAT, []string{"/opt/cisco/anyconnect/lib/opswat"}},                                       // D415
		{"linux", Scripts, []string{"/opt/cisco/secureclient/vpn/script", "/opt/cisco/anyconnect/script"}},
		{"plan9", VPN, nil},
	} {
		if got := Directories(tt.system, tt.kind, env, "", false); !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.system, tt.kind, got, tt.want)
		}
	}
	none := func(string) string { return "" }
	if got := Directories("windows", VPN, none, "", false); got != nil {
		t.Errorf("without variables: %q", got)
	}
	if got, want := Directories("linux", VPN, none, "/img", true), []string{"/img/etc/xdg/culvert/profile", "/img/opt/cisco/secureclient/vpn/profile", "/img/opt/cisco/anyconnect/profile"}; !slices.Equal(got, want) {
		t.Errorf("for a service in an image: %q, want %q", got, want)
	}
	if got := Directories("windows", NVM, env, "/img", false); !slices.Equal(got, []string{"/img/C/ProgramData/Cisco/Cisco AnyConnect Secure Mobility Client/NVM"}) {
		t.Errorf("in an image: %q", got)
	}
}

func TestLoadDirectories(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	put := func(dir, name, text string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	profile := func(name, address string) string {
		p, err := New(NewOptions{Hosts: []Host{{Name: name, Address: address}, {Name: "Shared", Address: address}}})
		must(t, err)
		return string(p.Bytes())
	}
	put(first, "b.xml", profile("B", "b.example.com"))
	put(first, "a.XML", profile("A", "a.example.com"))
	put(first, "AnyConnectProfile.xsd", "no profile")
	put(first, ".hidden.xml", "no profile")
	put(first, "broken.xml", "<AnyConnectProfile>")
	put(first, "wrong.xml", `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization><ServiceDisable>perhaps</ServiceDisable></ClientInitialization></AnyConnectProfile>`)
	put(second, "c.xml", profile("C", "c.example.com"))
	must(t, os.Mkdir(filepath.Join(second, "d.xml"), 0o700))
	c, err := LoadDirectories([]string{first, filepath.Join(second, "none"), second}, false)
	must(t, err)
	var hosts []string
	for _, h := range c.Hosts() {
		hosts = append(hosts, h.Name+" "+h.Address)
	}
	if want := []string{"A a.example.com", "Shared a.example.com", "B b.example.com", "C c.example.com"}; !slices.Equal(hosts, want) {
		t.Errorf("the hosts are %q, want %q", hosts, want)
	}
	if len(c.Rejected) != 2 || !document.Has(c.Rejected[0].Err, document.RuleMalformed) || !document.Has(c.Rejected[1].Err, document.RuleWrongValue) {
		t.Errorf("rejected: %+v", c.Rejected)
	}
	if _, p, ok := c.Host("b.example.com"); !ok || filepath.Base(p.Name()) != "b.xml" {
		t.Errorf("Host: %v", p)
	}
	if _, _, ok := c.Host("nowhere"); ok {
		t.Error("a host was found that is not there")
	}
	if c.AlwaysOn("linux") != nil {
		t.Error("AlwaysOn")
	}
	must(t, os.WriteFile(filepath.Join(second, "e.xml"), load(t, "full.xml").Bytes(), 0o600))
	if c, err = LoadDirectories([]string{second}, false); err != nil || c.AlwaysOn("linux") == nil {
		t.Errorf("AlwaysOn: %v", err)
	}
	if _, err := Load(filepath.Join(first, "none.xml"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(first, "saved.xml")
	must(t, load(t, "utf16le.xml").Save(path))
	if data, err := os.ReadFile(path); err != nil || string(data) != string(load(t, "utf16le.xml").Bytes()) {
		t.Errorf("Save: %v", err)
	}
}

func TestCheckPreference(t *testing.T) {
	for _, tt := range []struct {
		name, value, want string
		ok                bool
	}{
		{"LocalLanAccess", "true", "true", true}, {"LocalLanAccess", "True", "true", true}, {"LocalLanAccess", "x", "", false},
		{"AutoReconnectBehavior", "ReconnectAfterResume", "ReconnectAfterResume", true}, {"ServiceDisable", "true", "", false},
		{"BlockUntrustedServers", "false", "false", true}, {"Nothing", "true", "", false}, {"PPPExclusionServerIP", "x", "", false},
	} {
		if v, err := CheckPreference(tt.name, tt.value); v != tt.want || (err == nil) != tt.ok {
			t.Errorf("CheckPreference(%q, %q) = %q, %v", tt.name, tt.value, v, err)
		}
	}
}

func FuzzProfile(f *testing.F) {
	for _, data := range corpus(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		Lint("", data)
		p, err := Parse("", data)
		if err != nil {
			return
		}
		if string(p.Bytes()) != string(data) {
			t.Fatal("not written as it was read")
		}
		e := Resolve(p, nil, "linux")
		for _, v := range e.Values {
			row := p.schema.Root.Find(settings + "/" + v.Path)
			if _, err := row.Type.Validate(v.Value); err != nil && v.Value != "" {
				t.Fatalf("%s is %q", v.Path, v.Value)
			}
		}
		for _, h := range p.Hosts() {
			h.Servers()
			if s, err := h.Server(); err == nil && s == "" {
				t.Fatalf("%+v has an empty address", h)
			}
		}
		p.View()
		if d := Diff(p, p); len(d) != 0 {
			t.Fatalf("differs from itself: %v", d)
		}
		if err := p.Set("AutomaticVPNPolicy/AlwaysOn", "true"); err == nil {
			if v, ok := p.Get("AutomaticVPNPolicy/AlwaysOn"); v != "true" || !ok {
				t.Fatalf("set to true, it is %q", v)
			}
		}
	})
}

// TestLoadRefuses: what leaves a doubt keeps a profile from being acted upon, with its place; the rest does not.
func TestLoadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile.xml")
	for name, want := range map[string]document.Rule{
		"values.xml": document.RuleWrongValue, "duplicates.xml": document.RuleDuplicateElement, "contradictions.xml": RuleContradiction,
		"hosts.xml": document.RuleMissingElement, "malformed.xml": document.RuleMalformed, "bomb.xml": document.RuleDoctype,
		"notutf8.xml": document.RuleEncoding, "policy.xml": document.RuleRoot, "certificates.xml": document.RuleWrongValue,
		"ocserv.xml": "", "full.xml": "", "commented.xml": "", "nonamespace.xml": "", "mislabelled-utf8.xml": "",
	} {
		data, err := os.ReadFile(filepath.Join("testdata/corpus", name))
		must(t, err)
		must(t, os.WriteFile(path, data, 0o600))
		_, err = Load(path, false)
		if want == "" && err != nil || want != "" && !document.Has(err, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if want != "" && err != nil && !strings.Contains(err.Error(), path+":") {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
	}
	must(t, os.Chmod(path, 0o666))
	if _, err := Load(path, true); !errors.Is(err, document.ErrUntrusted) {
		t.Errorf("a profile that everybody can write: %v", err)
	}
}

// TestLocalPolicyElementsHaveNoEffect: they are in half of the profiles in use.
func TestLocalPolicyElementsHaveNoEffect(t *testing.T) {
	with, without := load(t, "ocserv.xml"), load(t, "ocserv.xml")
	for _, name := range []string{"StrictCertificateTrust", "RestrictPreferenceCaching", "RestrictTunnelProtocols", "BypassDownloader", "CertEnrollmentPin"} {
		if _, ok := with.Get(name); ok {
			t.Errorf("%s has a value", name)
		}
		must(t, without.Unset(name))
	}
	if a, b := Resolve(with, nil, "linux").Settings(), Resolve(without, nil, "linux").Settings(); !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	if len(without.Findings()) != 0 {
		t.Errorf("%v", without.Findings())
	}
}
