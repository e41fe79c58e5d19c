package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"culvert.example/vpn/policy/preferences"
)

// TestPreferences chooses settings and takes the choices back, in the files that the next connection reads.
func TestPreferences(t *testing.T) {
	root := t.TempDir()
	put(t, root, machineProfiles+"corp.xml", `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>
<UseStartBeforeLogon UserControllable="true">false</UseStartBeforeLogon>
<MinimizeOnConnect UserControllable="true">true</MinimizeOnConnect>
<LocalLanAccess UserControllable="true">false</LocalLanAccess>
<AutoReconnect UserControllable="false">true</AutoReconnect>
</ClientInitialization><ServerList><HostEntry><HostName>Office</HostName></HostEntry></ServerList></AnyConnectProfile>`)
	const global = "etc/culvert/preferences_global.xml"
	effective := func() (localLAN, beforeLogon bool) {
		t.Helper()
		a, stderr := reading()
		p, err := a.documents(&documentFlags{root: root}, "Office")
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%v, %s", err, stderr)
		}
		return p.LocalLAN, p.BeforeLogon
	}
	home := map[string]string{"HOME": "/home/anna"}
	for _, tt := range []struct {
		args string
		env  map[string]string
		code exitCode
		want string // in the output or the error
	}{
		{"", home, exitOK, `(?s)MinimizeOnConnect +true +profile +this client has no window\nLocalLanAccess +false +profile .*BlockUntrustedServers +false +default`},
		{"set LocalLanAccess true", home, exitOK, "^LocalLanAccess is true .*by your choice"},
		{"set MinimizeOnConnect False", home, exitOK, "^MinimizeOnConnect is false, but: this client has no window"},
		{"set PublicProxyServerAddress ftp://x", home, exitUsage, "PublicProxyServerAddress: "},
		{"unset LocalLANAccess", home, exitUsage, "LocalLANAccess is no setting"},
		{"unset DisableCaptivePortalDetection", home, exitOK, "is false from the next connection on .nothing was chosen"},
		{"--gateway Offcie", home, exitUsage, "--gateway: no profile lists Offcie"},
		{"set UseStartBeforeLogon true", home, exitOK, "^UseStartBeforeLogon is true .*" + global},
		{"set BlockUntrustedServers true", home, exitOK, "^BlockUntrustedServers is true"},
		{"set AutoReconnect false", home, exitFailed, `AutoReconnect \(profile \S*corp\.xml:5:1\): the profile does not leave it`},
		{"set LocalLanAccess perhaps", home, exitUsage, "allowed are true, false"},
		{"set AutomaticVPNPolicy/AlwaysOn true", home, exitUsage, "no setting that a profile can leave to the user"},
		{"set locallanacces true", home, exitUsage, "did you mean LocalLanAccess"},
		{"set LocalLanAccess", home, exitUsage, "VALUE is missing"},
		{"unset", home, exitUsage, "SETTING is missing"},
		{"set LocalLanAccess true", map[string]string{}, exitFailed, "HOME is not set"},
	} {
		args := append(append([]string{"preferences"}, strings.Fields(tt.args)...), "--document-root", root)
		got := culvertEnv(t, "", tt.env, args...)
		if got.code != tt.code || !regexp.MustCompile(tt.want).MatchString(got.out+strings.TrimPrefix(got.stderr, "culvert: error: ")) {
			t.Errorf("%s: exit status %d\n%s%s", tt.args, got.code, got.out, got.stderr)
		}
	}
	if lan, before := effective(); !lan || !before {
		t.Errorf("chosen: local LAN %v, before the logon %v", lan, before)
	}
	for name, mode := range map[string]os.FileMode{userPreferences: 0o600, global: 0o644, "etc/culvert": 0o755} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	var v preferencesView
	got := culvertEnv(t, "", home, "preferences", "--json", "--document-root", root)
	if err := json.Unmarshal([]byte(got.out), &v); err != nil || len(v.Choices) < 4 || !strings.HasSuffix(v.GlobalFile, global) {
		t.Errorf("%v: %s%s", err, got.out, got.stderr)
	}
	// A choice is taken back from whichever file has it, also a setting that nobody knows any more.
	for file, setting := range map[string]string{global: "LocalLanAccess", userPreferences: "NeverHeardOf"} {
		if err := preferences.Edit(filepath.Join(root, file), 0, false, func(p *preferences.Preferences) error { return p.SetControl(setting, "true") }); err != nil {
			t.Fatal(err)
		}
	}
	for setting, want := range map[string]string{
		"LocalLanAccess": userPreferences + " and " + filepath.Join(root, global), "UseStartBeforeLogon": global, "BlockUntrustedServers": "is false", "NeverHeardOf": "not the user's to choose",
	} {
		if got := culvertEnv(t, "", home, "preferences", "unset", setting, "--document-root", root); got.code != exitOK || !strings.Contains(got.out, want) {
			t.Errorf("unset %s: %s%s", setting, got.out, got.stderr)
		}
	}
	if lan, before := effective(); lan || before {
		t.Errorf("taken back: local LAN %v, before the logon %v", lan, before)
	}

	// A file that cannot be read stays as it is.
	put(t, root, userPreferences, "<AnyConnectPreferences>")
	if got := culvertEnv(t, "", home, "preferences", "set", "LocalLanAccess", "true", "--document-root", root); got.code != exitFailed || !strings.Contains(got.stderr, "mend the file") {
		t.Errorf("exit status %d: %s", got.code, got.stderr)
	}
	if b, _ := os.ReadFile(filepath.Join(root, userPreferences)); string(b) != "<AnyConnectPreferences>" {
		t.Errorf("the file is now %s", b)
	}
}

// TestBlockUntrusted: the choice needs no other document, and counts however it is written.
func TestBlockUntrusted(t *testing.T) {
	root := t.TempDir()
	home := map[string]string{"HOME": "/home/anna"}
	connect := []string{"connect", "--cookieonly", "--non-inter", "--servercert", "pin-sha256:" + strings.Repeat("A", 43) + "=", "--document-root", root, "https://127.0.0.1:1"}
	if got := culvertEnv(t, "", home, connect...); got.code != exitUnreachable {
		t.Errorf("without a choice: %+v", got)
	}
	for _, value := range []string{"true", "True", "1", "yes"} {
		put(t, root, userPreferences, "<AnyConnectPreferences><ControllablePreferences><BlockUntrustedServers>"+value+"</BlockUntrustedServers></ControllablePreferences></AnyConnectPreferences>")
		if got := culvertEnv(t, "", home, connect...); got.code != exitFailed || !strings.Contains(got.stderr, "BlockUntrustedServers (preferences)") {
			t.Errorf("%s: %+v", value, got)
		}
		if got := culvertEnv(t, "", home, "preferences", "--document-root", root); !strings.Contains(got.out, "BlockUntrustedServers          true") {
			t.Errorf("%s is shown as:\n%s", value, got.out)
		}
	}
}
