package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/profile"
)

const profileXML = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
  <ClientInitialization>
    <LocalLanAccess UserControllable="true">false</LocalLanAccess>
    <ShowPreConnectMessage>true</ShowPreConnectMessage>
    <AutomaticVPNPolicy>true
      <TrustedDNSDomains>corp.example</TrustedDNSDomains>
      <AlwaysOn>true
        <ConnectFailurePolicy>Closed</ConnectFailurePolicy>
        <AllowedHosts>updates.example</AllowedHosts>
      </AlwaysOn>
    </AutomaticVPNPolicy>
  </ClientInitialization>
  <ServerList>
    <HostEntry>
      <HostName>Office</HostName>
      <HostAddress>vpn.corp.example</HostAddress>
      <UserGroup>staff</UserGroup>
    </HostEntry>
  </ServerList>
</AnyConnectProfile>
`

const policyXML = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/" acversion="4.10.08029">
  <StrictCertificateTrust>true</StrictCertificateTrust>
  <UpdatePolicy>
    <AuthorizedServerList>
      <ServerName>*.corp.example</ServerName>
    </AuthorizedServerList>
  </UpdatePolicy>
</AnyConnectLocalPolicy>
`

// put writes a file below a directory.
func put(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProfile(t *testing.T) {
	dir := t.TempDir()
	good := put(t, dir, "good.xml", profileXML)
	bad := put(t, dir, "bad.xml", strings.Replace(profileXML, "<ConnectFailurePolicy>Closed", "<ConnectFailurePolicy>Ajar", 1))
	broken := put(t, dir, "broken.xml", strings.Replace(profileXML, "</HostEntry>", "", 1))
	noted := put(t, dir, "noted.xml", `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ServerList><HostEntry><HostName>a</HostName></HostEntry></ServerList></AnyConnectProfile>`)
	chosen := put(t, dir, "preferences.xml", `<AnyConnectPreferences><ControllablePreferences><LocalLanAccess>true</LocalLanAccess></ControllablePreferences></AnyConnectPreferences>`)
	image := t.TempDir()
	put(t, image, "opt/cisco/secureclient/vpn/profile/corp.xml", profileXML)
	put(t, image, "opt/cisco/secureclient/vpn/profile/wrong.xml", "<AnyConnectProfile>")
	for _, tt := range []struct {
		args, stdin string
		code        exitCode
		out, err    string // expressions that must match
	}{
		{"profile list --document-root " + dir, "", exitOK, `(?s)^There is no profile.*Looked for in .*/opt/cisco/secureclient/vpn/profile`, "^$"},
		{"profile list --document-root " + image, "", exitOK, `(?s)^\S*corp\.xml: Office\n\S*wrong\.xml: not used: .*Looked for in`, "^$"},
		{"connect --authenticate --non-inter --document-root " + dir + " nowhere", "", exitUnreachable, "^$", `(?s)no VPN profile .*nowhere was taken for a host.*/opt/cisco/secureclient/vpn/profile`},
		{"profile lint", "", exitUsage, "", "FILE is missing"},
		{"profile lint - -", "", exitUsage, "", "only once"},
		{"profile lint " + filepath.Join(dir, "none.xml"), "", exitUsage, "", "none.xml"},
		{"profile lint " + dir, "", exitUsage, "", "not a regular file"},
		{"profile lint " + noted, "", exitOK, "^$", "^$"},
		{"profile lint " + bad, "", exitFailed, `(?m)^\S*/bad\.xml:9:\d+: error: .*"Ajar".*Open, Closed.*\(wrong-value\)$`, "found 1 error and"},
		{"profile lint " + broken, "", exitFailed, `(?m)^\S*/broken\.xml:\d+:\d+: error: .*HostEntry.*\(malformed\)$`, "found"},
		{"profile lint -", strings.Repeat(" ", document.MaxSize+1), exitFailed, "", "too large"},
		{"profile lint -", strings.Replace(profileXML, "<AlwaysOn>", "<AlwaysOff>", 1), exitFailed, `(?m)^\(standard input\):\d+:\d+: error: `, "found"},
		{"profile show " + good, "", exitOK, `(?s)good\.xml: UTF-8.*6 +AutomaticVPNPolicy +true.*15 +Office +vpn\.corp\.example +staff +SSL`, "^$"},
		{"profile show " + broken, "", exitFailed, "^$", `broken\.xml:\d+:\d+: error`},
		{"profile effective", "", exitOK, `(?s)LocalLanAccess +false +no profile.*Always-On .*there is no profile`, "^$"},
		{"profile effective --changed " + good, "", exitOK, `(?s)^SETTING.*AutomaticVPNPolicy/AlwaysOn +true +profile +8`, "^$"},
		{"profile effective --preferences " + chosen + " " + good, "", exitOK, `LocalLanAccess +true +preference`, "^$"},
		{"profile effective --system windows -", profileXML, exitOK, "WindowsLogonEnforcement +SingleLocalLogon", "^$"},
		{"profile effective --preferences nothing " + good, "", exitUsage, "", "--preferences"},
		{"profile effective a b", "", exitUsage, "", "unexpected argument"},
		{"profile effective " + bad, "", exitFailed, "SETTING", "Ajar"},
		{"profile hash -", "abc", exitOK, `(?s)standard input.*A9993E364706816ABA3E25717850C26C9CD0D89D.*ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad`, "^$"},
		{"connect --authenticate --profile " + good + " Ofice/staff", "", exitUsage, "^$", `"Ofice" is no entry of \S*good\.xml, whose entries are Office\nDid you mean "Office"\? .*https://Ofice`},
		{"connect --authenticate --profile " + good + " branch", "", exitUsage, "^$", `entries are Office\nFor a host`},
		{"connect --authenticate --profile " + good + " https://ofice", "", exitFailed, "^$", "AlwaysOn .*ofice is not in the list of gateways"},
		{"connect --authenticate --profile " + good + " vpn.example", "", exitFailed, "^$", "AlwaysOn .*vpn.example is not in the list of gateways"},
		{"profile diff " + good, "", exitUsage, "", "NEW is missing"},
		{"profile diff " + good + " -", strings.ReplaceAll(profileXML, "  ", "\t"), exitOK, "^$", "^$"},
		{"profile diff " + good + " " + bad, "", exitFailed, `ConnectFailurePolicy.*"?Closed"?.*"?Ajar"?`, "1 change"},
		{"profile new --host x", "", exitUsage, "", "NAME=ADDRESS"},
		{"profile new --host a=b --backup c=d", "", exitUsage, "", "--backup"},
		{"profile new --set AutoReconnect", "", exitUsage, "", "SETTING=VALUE"},
		{"profile new --set autoreconect=false", "", exitUsage, "", "did you mean AutoReconnect"},
		{"profile new --set AutoReconnect=perhaps", "", exitUsage, "", "AutoReconnect"},
		{"profile new --host a=vpn.example/staff --backup a=b.example --set AutoReconnect=false", "", exitOK, `(?s)<AutoReconnect>false.*<HostAddress>vpn\.example</HostAddress>\s*<UserGroup>staff.*b\.example`, "^$"},
		{"profile new", "", exitOK, "<AnyConnectProfile", "^culvert: warning: .*no gateway.*--host NAME=ADDRESS\n$"},
		{"profile lint -", `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"/>`, exitOK, `^\(standard input\):1:1: note: .*ServerList.*\(no-host\)\n$`, "^$"},
		{"profile new --full --host a=vpn.example -o " + filepath.Join(dir, "new.xml"), "", exitOK, "^$", "^$"},
		{"profile new --host a=vpn.example -o " + good, "", exitUsage, "", "--output"},
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
	if got := culvert(t, "", "profile", "lint", filepath.Join(dir, "new.xml")); got.code != exitOK {
		t.Errorf("a new profile has faults: %s", got.out)
	}
}

func TestProfileJSON(t *testing.T) {
	dir := t.TempDir()
	good := put(t, dir, "good.xml", profileXML)
	bad := put(t, dir, "bad.xml", strings.Replace(profileXML, "<ConnectFailurePolicy>Closed", "<ConnectFailurePolicy>Ajar", 1))
	read := func(v any, args ...string) {
		t.Helper()
		got := culvert(t, "", append(args, "--json")...)
		if err := json.Unmarshal([]byte(got.out), v); err != nil {
			t.Errorf("%q: %v in %s", args, err, got.out)
		}
	}
	var findings []document.Finding
	read(&findings, "profile", "lint", bad)
	if len(findings) != 2 || findings[1].Line != 9 || findings[1].Column == 0 || findings[1].Rule != document.RuleWrongValue {
		t.Errorf("findings %+v", findings)
	}
	read(&findings, "profile", "lint", good)
	for _, f := range findings {
		if f.Severity == document.SeverityError {
			t.Errorf("finding %v", f)
		}
	}
	var views []struct {
		Hosts []profile.Host `json:"hosts"`
	}
	read(&views, "profile", "show", good)
	if len(views) != 1 || len(views[0].Hosts) != 1 || views[0].Hosts[0].Line != 15 {
		t.Errorf("views %+v", views)
	}
	var effective struct {
		Features []profile.Feature `json:"features"`
	}
	read(&effective, "profile", "effective", good)
	if len(effective.Features) != 18 {
		t.Errorf("%d features", len(effective.Features))
	}
	var changes []profile.Change
	read(&changes, "profile", "diff", good, bad)
	if len(changes) != 1 || changes[0].New != "Ajar" {
		t.Errorf("changes %+v", changes)
	}
	read(&changes, "profile", "diff", good, good)
	if len(changes) != 0 {
		t.Errorf("changes %+v", changes)
	}
	var hashes []struct{ File, SHA1 string }
	read(&hashes, "profile", "hash", good, bad)
	if len(hashes) != 2 || hashes[0].File != good || len(hashes[1].SHA1) != 40 {
		t.Errorf("hashes %+v", hashes)
	}
}
