package main

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
)

// reading returns an app with a home directory, and what it says on standard error.
func reading() (*app, *bytes.Buffer) {
	var stderr bytes.Buffer
	env := map[string]string{"HOME": "/home/anna"}
	return &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &stderr, getenv: func(k string) string { return env[k] }}, &stderr
}

// The directories in which the tests put documents below a root.
const (
	machineProfiles = "opt/cisco/secureclient/vpn/profile/"
	userProfiles    = "home/anna/.config/culvert/profile/"
	machinePolicy   = "etc/culvert/AnyConnectLocalPolicy.xml"
	userPreferences = "home/anna/.config/culvert/preferences.xml"
)

// trustedDir makes a directory that nobody else may write to, nor to any on the way to it, which is not so for every /tmp.
func trustedDir(t *testing.T) string {
	t.Helper()
	home, _ := os.UserHomeDir()
	for _, base := range []string{os.TempDir(), "/var/tmp", home, "/run"} {
		dir, err := os.MkdirTemp(base, "culvert-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if _, err := document.ReadFile(put(t, dir, "probe", "x"), true); err == nil {
			return dir
		}
	}
	t.Fatal("there is no directory that only this user may write to")
	return ""
}

func TestDocuments(t *testing.T) {
	root := trustedDir(t)
	a, stderr := reading()
	f := &documentFlags{root: root}

	// Nothing there: nothing is forbidden, and the features are off.
	p, err := a.documents(f, "gw.example")
	if err != nil {
		t.Fatal(err)
	}
	if p.Documents.LocalPath != "" || p.Profile != nil || len(p.Servers) != 1 || p.Features[0].State != plan.Off {
		t.Errorf("without documents: %+v", p)
	}

	put(t, root, machinePolicy, policyXML)
	put(t, root, machineProfiles+"corp.xml", profileXML)
	put(t, root, machineProfiles+"wrong.xml", strings.Replace(profileXML, "Closed", "Ajar", 1))
	put(t, root, userProfiles+"mine.xml", strings.NewReplacer("Office", "Mine", "<AlwaysOn>true", "<AlwaysOn>false", "vpn.corp", "mine.corp").Replace(profileXML))
	put(t, root, userPreferences, `<AnyConnectPreferences><DefaultHostName>Office</DefaultHostName><ControllablePreferences><LocalLanAccess>true</LocalLanAccess></ControllablePreferences></AnyConnectPreferences>`)
	put(t, root, "etc/culvert/preconnect.txt", "Insert the card.\n")

	p, err = a.documents(f, "")
	if err != nil {
		t.Fatal(err)
	}
	if p.Host.Name != "Office" || p.Group != "staff" || !p.LocalLAN || !p.TLS.Strict || p.Environment.WholeMachine {
		t.Errorf("of a program: %+v", p)
	}
	if !p.Message.Show || p.Message.Text != "Insert the card." {
		t.Errorf("message %+v", p.Message)
	}
	if !strings.Contains(stderr.String(), "wrong.xml:9:") {
		t.Errorf("the profile that is not used is not named with its line:\n%s", stderr)
	}
	if p, err := a.documents(f, "Mine"); err != nil || p.Servers[0] != "mine.corp.example" {
		t.Errorf("the user's own profile: %v", err)
	}

	// A whole machine does not go on without a profile that may demand Always-On, such as one that was readable before.
	f.machine = true
	wrong := filepath.Join(root, machineProfiles+"wrong.xml")
	if _, err := a.documents(f, "Office"); codeOf(err) != exitUsage || !document.Has(err, document.RuleWrongValue) || !strings.Contains(err.Error(), wrong) {
		t.Errorf("of a machine, with a broken profile: %v", err)
	}
	if err := os.Remove(wrong); err != nil {
		t.Fatal(err)
	}

	// A whole machine is not steered by what a user has written.
	p, err = a.documents(f, "Office")
	if err != nil || !p.Environment.WholeMachine || p.Profile == nil {
		t.Errorf("of a machine: %v", err)
	}
	var refused *policy.RefusedError
	if _, err := a.documents(f, "Mine"); !errors.As(err, &refused) || refused.Setting != "AlwaysOn" {
		t.Errorf("the user's own profile for a machine: %v", err)
	}

	// A file that others could have written.
	for _, name := range []string{machinePolicy, machineProfiles + "corp.xml"} {
		file := filepath.Join(root, name)
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
		// They would restrict, so they cannot be passed over.
		if _, err := a.documents(f, "Office"); !errors.Is(err, document.ErrUntrusted) || codeOf(err) != exitUsage || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
		if name != machinePolicy {
			if _, err := a.documents(&documentFlags{root: root, machine: true, profileFile: file}, "Office"); !errors.Is(err, document.ErrUntrusted) {
				t.Errorf("--profile %s: %v", name, err)
			}
		}
		if _, err := a.documents(&documentFlags{root: root}, "Office"); err != nil {
			t.Errorf("%s, of a program: %v", name, err)
		}
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// A policy that cannot be read is never passed over.
	put(t, root, machinePolicy, strings.Replace(policyXML, "Trust>true", "Trust>maybe", 1))
	stderr.Reset()
	if _, err := a.documents(&documentFlags{root: root}, "Office"); err == nil || !document.Has(err, document.RuleWrongValue) || !strings.Contains(stderr.String(), "AnyConnectLocalPolicy.xml:3:") {
		t.Errorf("a wrong policy: %v, %s", err, stderr)
	}

	// Preferences that cannot be read are as good as none.
	put(t, root, machinePolicy, policyXML)
	put(t, root, userPreferences, "<AnyConnectPreferences>")
	stderr.Reset()
	p, err = a.documents(&documentFlags{root: root}, "Office")
	if err != nil || p.LocalLAN || !strings.Contains(stderr.String(), "preferences are not used") {
		t.Errorf("wrong preferences: %v, %s", err, stderr)
	}
	if err := a.savePreferences(&documentFlags{root: root}, p, func(l *preferences.Last) { l.HostName = "Office" }, true); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, userPreferences)); err != nil || string(b) != "<AnyConnectPreferences>" {
		t.Errorf("preferences that could not be read were replaced: %s, %v", b, err)
	}

	put(t, root, "etc/culvert/preconnect.txt", strings.Repeat("x", maxMessage+1))
	if _, err := a.documents(&documentFlags{root: root}, "Office"); err == nil || !strings.Contains(err.Error(), "preconnect.txt") {
		t.Errorf("a message without end: %v", err)
	}
}

// TestPrintFeatures: without a profile the eighteen features are off (D1209–D1220), and a person is told so.
func TestPrintFeatures(t *testing.T) {
	var b bytes.Buffer
	p, err := plan.New("gw.example", plan.Documents{}, plan.Environment{System: "linux", WholeMachine: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := printFeatures(&b, p.Features); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 19 {
		t.Errorf("%d lines:\n%s", len(lines), &b)
	}
	for _, line := range lines[1:] {
		if !strings.Contains(line, "  off  ") || !strings.HasSuffix(line, "there is no profile") {
			t.Errorf("line %q", line)
		}
	}
}

// TestSavePreferences: what was used last is written down, as far as the local policy lets it (D1246).
func TestSavePreferences(t *testing.T) {
	for caching, want := range map[string][]string{
		"false":       {"anna", "0123ABCD", "Office", "PreConnectMessageShown"},
		"Credentials": {"0123ABCD", "Office", "PreConnectMessageShown"},
		"Thumbprints": {"anna", "Office", "PreConnectMessageShown"},
		"All":         nil,
	} {
		root := t.TempDir()
		a, stderr := reading()
		f := &documentFlags{root: root}
		put(t, root, machineProfiles+"corp.xml", profileXML)
		put(t, root, machinePolicy, strings.Replace(policyXML, "<StrictCertificateTrust>true</StrictCertificateTrust>", "<RestrictPreferenceCaching>"+caching+"</RestrictPreferenceCaching>", 1))
		p, err := a.documents(f, "Office")
		if err != nil {
			t.Fatal(err)
		}
		// Somebody chooses something while the tunnel comes up.
		if got := culvertEnv(t, "", map[string]string{"HOME": "/home/anna"}, "preferences", "set", "BlockUntrustedServers", "true", "--document-root", root); got.code != exitOK {
			t.Fatal(got.stderr)
		}
		last := func(l *preferences.Last) {
			l.User, l.HostName, l.ClientCertificateThumbprint = "anna", "Office", "0123ABCD"
		}
		if err := a.savePreferences(f, p, last, true); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root, userPreferences)
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "<BlockUntrustedServers>true<") {
			t.Errorf("%s: the choice is gone\n%s", caching, b)
		}
		for _, word := range []string{"anna", "0123ABCD", "Office", "PreConnectMessageShown"} {
			if got := strings.Contains(string(b), word); got != slices.Contains(want, word) {
				t.Errorf("%s: %s is written: %v\n%s", caching, word, got, b)
			}
		}
		p, err = a.documents(f, "")
		if err != nil {
			t.Fatal(err)
		}
		if p.Message.Show != (caching == "All") {
			t.Errorf("%s: the message is shown again: %v", caching, p.Message.Show)
		}
		if stderr.Len() > 0 {
			t.Errorf("%s: %s", caching, stderr)
		}
		// A second time changes nothing.
		before, _ := os.Stat(file)
		if err := a.savePreferences(f, p, last, p.Message.Show); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.Stat(file); before != nil && !os.SameFile(before, after) {
			t.Errorf("%s: the file was written again", caching)
		}
	}
}

func TestFIPSEnvironment(t *testing.T) {
	for _, tt := range []struct {
		env, want string
		ok        bool
	}{
		{"A=b", "A=b GODEBUG=fips140=on", true},
		{"GODEBUG= A=b", "A=b GODEBUG=fips140=on", true},
		{"GODEBUG=http2debug=1 A=b", "A=b GODEBUG=http2debug=1,fips140=on", true},
		{"GODEBUG=fips140=off", "", false},
		{"GODEBUG=x=1,fips140=only", "", false},
	} {
		got, ok := fipsEnvironment(strings.Fields(tt.env))
		if strings.Join(got, " ") != tt.want || ok != tt.ok {
			t.Errorf("%s: %q, %v", tt.env, got, ok)
		}
	}
}

// TestFIPSChild is the process of TestFIPS, and says whether it is in FIPS 140-3 mode.
func TestFIPSChild(t *testing.T) {
	if os.Getenv("CULVERT_TEST_FIPS") == "" {
		return // it has nothing to test by itself
	}
	demands, _, err := local.Parse("policy.xml", []byte(localPolicy("<FipsMode>true</FipsMode>")))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := plan.New("gw.example", plan.Documents{Local: demands, LocalPath: "policy.xml"}, plan.Environment{System: runtime.GOOS})
	if err := enterFIPS(p, self(t), os.Args, os.Environ()); err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Println("enabled:", fips140.Enabled())
}

// TestFIPS: a process starts again in FIPS 140-3 mode where the local policy demands it (D1243).
func TestFIPS(t *testing.T) {
	child := func(debug string) string {
		cmd := exec.Command(self(t), "-test.run=^TestFIPSChild$", "-test.v")
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GODEBUG=") }), "CULVERT_TEST_FIPS=1")
		if debug != "" {
			cmd.Env = append(cmd.Env, "GODEBUG="+debug)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := child(""); !strings.Contains(out, "enabled: true") {
		t.Errorf("it is not in FIPS mode: %s", out)
	}
	if out := child("fips140=off"); !strings.Contains(out, "error: FipsMode (local policy policy.xml:2:1): ") {
		t.Errorf("it was switched off: %s", out)
	}
	p, _ := plan.New("gw.example", plan.Documents{}, plan.Environment{System: runtime.GOOS})
	if err := enterFIPS(p, "/nonexistent", nil, nil); err != nil {
		t.Errorf("without FipsMode: %v", err)
	}
}
