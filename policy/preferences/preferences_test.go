package preferences

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/profile"
)

var update = flag.Bool("update", false, "write the files that are made from the table")

func TestMadeFromTheTable(t *testing.T) {
	for name, data := range map[string][]byte{"AnyConnectPreferences.xsd": Schema().XSD(), "elements.md": Schema().Markdown()} {
		if *update {
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if want, err := os.ReadFile(name); err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s is not what the table makes; run go test ./policy/... -update (%v)", name, err)
		}
	}
	if !*update && XSD() != string(Schema().XSD()) {
		t.Error("the schema in the program is not that of the table")
	}
	// Every element but the one around the choices is a field, in the order of the table.
	var l Last
	var fields, elements []string
	for _, f := range l.fields() {
		fields = append(fields, f.name)
	}
	for _, e := range Schema().Root.Children {
		if e.Content == document.Value {
			elements = append(elements, e.Name)
		}
	}
	if !slices.Equal(fields, elements) {
		t.Errorf("the fields are %q and the elements %q", fields, elements)
	}
}

// seen is what a client has left behind, in its manner.
const seen = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectPreferences>
<DefaultUser>alice</DefaultUser>
<DefaultSecondUser></DefaultSecondUser>
<ClientCertificateThumbprint>AB12</ClientCertificateThumbprint>
<MultipleClientCertificateThumbprints></MultipleClientCertificateThumbprints>
<ServerCertificateThumbprint>CD34</ServerCertificateThumbprint>
<DefaultHostName>Head &amp; Office</DefaultHostName>
<DefaultHostAddress>vpn.example.com:443</DefaultHostAddress>
<DefaultGroup>Default</DefaultGroup>
<ProxyHost></ProxyHost>
<ProxyPort></ProxyPort>
<SDITokenType>none</SDITokenType>
<ControllablePreferences>
<AutoConnectOnStart>true</AutoConnectOnStart>
<LocalLanAccess>true</LocalLanAccess>
<BlockUntrustedServers>false</BlockUntrustedServers></ControllablePreferences>
</AnyConnectPreferences>
`

func parse(t testing.TB, text string) *Preferences {
	t.Helper()
	p, err := Parse("preferences.xml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	p := parse(t, seen)
	if len(p.Findings()) != 0 || p.Changed() || string(p.Bytes()) != seen {
		t.Errorf("%v %v", p.Findings(), p.Changed())
	}
	want := Last{User: "alice", ClientCertificateThumbprint: "AB12", ServerCertificateThumbprint: "CD34", HostName: "Head & Office",
		HostAddress: "vpn.example.com:443", Group: "Default", TokenType: "none"}
	if got := p.Last(); got != want {
		t.Errorf("got %+v", got)
	}
	if got, want := p.Controls(), map[string]string{"AutoConnectOnStart": "true", "LocalLanAccess": "true", "BlockUntrustedServers": "false"}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if v, ok := p.Control("AutoUpdate"); ok {
		t.Errorf("AutoUpdate = %q", v)
	}
	small := parse(t, "<AnyConnectPreferences><DefaultHostName>vpn.example.com</DefaultHostName></AnyConnectPreferences>")
	if small.Last() != (Last{HostName: "vpn.example.com"}) || len(small.Controls()) != 0 {
		t.Errorf("%+v", small.Last())
	}
	for _, name := range slices.Sorted(maps.Keys(p.Controls())) {
		if _, err := profile.CheckPreference(name, p.Controls()[name]); err != nil {
			t.Errorf("no profile leaves %s to the user: %v", name, err)
		}
	}
	if profile.BlockUntrustedServers != BlockUntrustedServers {
		t.Error("the two packages disagree about a name")
	}
}

// TestChangesAreSmall: what is not changed stays as it was, byte for byte, also what is not known.
func TestChangesAreSmall(t *testing.T) {
	text := strings.Replace(seen, "<SDITokenType>", "<OGSCache a='1'><Entry>x</Entry></OGSCache>\n<SDITokenType>", 1)
	p := parse(t, text)
	l := p.Last()
	must(t, p.SetLast(l))
	must(t, p.SetControl("LocalLanAccess", "true"))
	must(t, p.SetControl("Nothing", ""))
	if p.Changed() || string(p.Bytes()) != text {
		t.Error("setting what is set already is a change")
	}
	l.User, l.Group = "bob <b>", ""
	must(t, p.SetLast(l))
	must(t, p.SetControl("LocalLanAccess", "false"))
	must(t, p.SetControl("AutoUpdate", "true"))
	must(t, p.SetControl("AutoConnectOnStart", ""))
	want := strings.NewReplacer("<DefaultUser>alice<", "<DefaultUser>bob &lt;b&gt;<", "<DefaultGroup>Default<", "<DefaultGroup><",
		"<LocalLanAccess>true<", "<LocalLanAccess>false<", "<AutoConnectOnStart>true</AutoConnectOnStart>\n", "",
		"</BlockUntrustedServers>", "</BlockUntrustedServers>\n<AutoUpdate>true</AutoUpdate>").Replace(text)
	if got := string(p.Bytes()); got != want || !p.Changed() {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if parse(t, string(p.Bytes())).Last() != l {
		t.Error("read back, it is something else")
	}
}

func TestNew(t *testing.T) {
	p := New()
	must(t, p.SetLast(Last{HostName: "vpn.example.com", User: "alice"}))
	must(t, p.SetControl("LocalLanAccess", "true"))
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectPreferences>
  <DefaultUser>alice</DefaultUser>
  <DefaultHostName>vpn.example.com</DefaultHostName>
  <ControllablePreferences>
    <LocalLanAccess>true</LocalLanAccess>
  </ControllablePreferences>
</AnyConnectPreferences>
`
	if got := string(p.Bytes()); got != want {
		t.Errorf("got\n%s", got)
	}
	for name, err := range map[string]error{"bad name": p.SetControl("a b", "x"), "bad value": p.SetControl("A", "\x00"), "bad user": p.SetLast(Last{User: "\x01"})} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := string(p.Bytes()); !strings.Contains(got, "alice") {
		t.Errorf("a refused change changed\n%s", got)
	}
}

// TestForget is the local policy's RestrictPreferenceCaching of B.8.
func TestForget(t *testing.T) {
	for _, tt := range []struct {
		name string
		keep Keep
		want Last
	}{
		{"false", Keep{true, true, true}, Last{User: "alice", ClientCertificateThumbprint: "AB12", ServerCertificateThumbprint: "CD34",
			HostName: "Head & Office", HostAddress: "vpn.example.com:443", Group: "Default", TokenType: "none"}},
		{"Credentials", Keep{false, true, true}, Last{ClientCertificateThumbprint: "AB12", ServerCertificateThumbprint: "CD34",
			HostName: "Head & Office", HostAddress: "vpn.example.com:443", Group: "Default", TokenType: "none"}},
		{"Thumbprints", Keep{true, false, true}, Last{User: "alice", HostName: "Head & Office", HostAddress: "vpn.example.com:443", Group: "Default", TokenType: "none"}},
		{"CredentialsAndThumbprints", Keep{false, false, true}, Last{HostName: "Head & Office", HostAddress: "vpn.example.com:443", Group: "Default", TokenType: "none"}},
		{"All", Keep{}, Last{}},
	} {
		p := parse(t, seen)
		must(t, p.Forget(tt.keep))
		if p.Last() != tt.want || len(p.Controls()) != 3 {
			t.Errorf("%s: %+v, %v", tt.name, p.Last(), p.Controls())
		}
		for word, kept := range map[string]bool{"alice": tt.keep.Credentials, "AB12": tt.keep.Thumbprints, "CD34": tt.keep.Thumbprints, "vpn.example.com": tt.keep.Anything} {
			if strings.Contains(string(p.Bytes()), word) != kept {
				t.Errorf("%s: %q is kept: %v", tt.name, word, !kept)
			}
		}
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert", "preferences.xml")
	set := func(name, value string) func(*Preferences) error {
		return func(p *Preferences) error { return p.SetControl(name, value) }
	}
	must(t, Edit(path, UserMode, false, set("AutoConnectOnStart", "")))
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made although nothing has changed: %v", err)
	}
	must(t, Edit(path, UserMode, false, set("AutoConnectOnStart", "true")))
	global := filepath.Join(t.TempDir(), "etc", "preferences_global.xml")
	must(t, Edit(global, GlobalMode, false, set("AutoConnectOnStart", "true")))
	for file, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700, global: 0o644, filepath.Dir(global): 0o755} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	p, err := Load(path, false)
	must(t, err)
	if v, _ := p.Control("AutoConnectOnStart"); v != "true" {
		t.Errorf("read %q", v)
	}
	if err := Edit(filepath.Join(path, "none"), UserMode, false, set("AutoConnectOnStart", "false")); err == nil {
		t.Error("written into a file as if it were a directory")
	}
	refused := errors.New("refused")
	if err := Edit(path, UserMode, false, func(p *Preferences) error { return errors.Join(p.SetControl("AutoConnectOnStart", "false"), refused) }); !errors.Is(err, refused) {
		t.Errorf("a change that was given up: %v", err)
	}
	// Of many who change different things at the same time none undoes what another one has done.
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			if err := Edit(path, UserMode, false, set(fmt.Sprintf("Setting%d", i), "true")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	p, err = Load(path, false)
	must(t, err)
	if n := len(p.Controls()); n != 21 || p.Controls()["AutoConnectOnStart"] != "true" {
		t.Errorf("%d choices are left: %v", n, p.Controls())
	}
	must(t, os.WriteFile(path, []byte("<AnyConnectPreferences>"), 0o600))
	if _, err := Load(path, false); !document.Has(err, document.RuleMalformed) || !strings.Contains(err.Error(), path+":1:1") {
		t.Errorf("a broken file: %v", err)
	}
	must(t, os.WriteFile(path, []byte("<AnyConnectProfile/>"), 0o600))
	if _, err := Load(path, false); !document.Has(err, document.RuleRoot) {
		t.Errorf("another document: %v", err)
	}
	must(t, os.Chmod(path, 0o666))
	if _, err := Load(path, true); !errors.Is(err, document.ErrUntrusted) {
		t.Errorf("a global file that everybody can write: %v", err)
	}
	paths := []string{filepath.Join(filepath.Dir(path), "a"), path, path + ".none"}
	if got := First(paths); got != path {
		t.Errorf("First = %q", got)
	}
	if First(paths[2:]) != paths[2] || First(nil) != "" {
		t.Error("First")
	}
}

// TestPair: what matters before the logon is global, and the rest the user's (D1280).
func TestPair(t *testing.T) {
	user, global := New(), New()
	for p, v := range map[*Preferences]string{user: "user", global: "global"} {
		for _, name := range []string{"UseStartBeforeLogon", "AutoConnectOnStart", "LocalLanAccess"} {
			must(t, p.SetControl(name, v))
		}
	}
	must(t, global.SetControl("AutoUpdate", "global"))
	pair := Pair{user, global}
	for name, want := range map[string]string{"UseStartBeforeLogon": "global", "AutoConnectOnStart": "global", "LocalLanAccess": "user", "AutoUpdate": "global", "Nothing": ""} {
		if v, ok := pair.Control(name); v != want || ok != (want != "") {
			t.Errorf("%s: %q", name, v)
		}
	}
	if v, _ := (Pair{User: user}).Control("AutoConnectOnStart"); v != "user" {
		t.Errorf("without global preferences: %q", v)
	}
	if _, ok := (Pair{}).Control("x"); ok {
		t.Error("without preferences there is one")
	}
	// It is what a profile is resolved with.
	must(t, user.SetControl("LocalLanAccess", "true"))
	prof, err := profile.New(profile.NewOptions{})
	must(t, err)
	if !profile.Resolve(prof, pair.Control, "linux").Settings().LocalLANAccess {
		t.Error("the preference has no effect")
	}
}

// TestPaths are D1285 to D1290, and where newer clients have their files.
func TestPaths(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"HOME": "/home/alice", "LOCALAPPDATA": `C:\Users\alice\AppData\Local`, "ProgramData": `C:\ProgramData`}[name]
	}
	w := Paths("windows", env, "")
	for _, want := range []string{
		`C:\Users\alice\AppData\Local\Cisco\Cisco AnyConnect VPN Client\preferences.xml`, // D1285
		`C:\Users\alice\AppData\Local\Cisco\Cisco AnyConnect Secure Mobility Client\preferences.xml`,
		`C:\Users\alice\AppData\Local\Cisco\Cisco Secure Client\VPN\preferences.xml`,
	} {
		if !slices.Contains(w.User, want) {
			t.Errorf("%s is not in %q", want, w.User)
		}
	}
	if want := `C:\ProgramData\Cisco\Cisco AnyConnect VPN Client\preferences_global.xml`; !slices.Contains(w.Global, want) { // D1286
		t.Errorf("%q", w.Global)
	}
	for system, want := range map[string]Files{
		"darwin": {[]string{"/home/alice/.vpn/.anyconnect", "/home/alice/.anyconnect"}, // D1287
			[]string{"/opt/cisco/secureclient/vpn/.anyconnect_global", "/opt/cisco/anyconnect/.anyconnect_global"}}, // D1288
		"linux": {[]string{"/home/alice/.config/culvert/preferences.xml", "/home/alice/.vpn/.anyconnect", "/home/alice/.anyconnect"}, // D1289
			[]string{"/etc/culvert/preferences_global.xml", "/opt/cisco/secureclient/vpn/.anyconnect_global", "/opt/cisco/anyconnect/.anyconnect_global"}}, // D1290
		"plan9": {},
	} {
		if got := Paths(system, env, ""); !slices.Equal(got.User, want.User) || !slices.Equal(got.Global, want.Global) {
			t.Errorf("%s: %q, want %q", system, got, want)
		}
	}
	xdg := func(name string) string { return map[string]string{"XDG_CONFIG_HOME": "/c"}[name] }
	if got := Paths("linux", xdg, "/img").User; !slices.Equal(got, []string{"/img/c/culvert/preferences.xml"}) {
		t.Errorf("%q", got)
	}
	if got := Paths("windows", func(string) string { return "" }, ""); got.User != nil || got.Global != nil {
		t.Errorf("without variables: %q", got)
	}
}

func TestAgreesWithXMLLint(t *testing.T) {
	if _, err := exec.LookPath("xmllint"); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatal("CULVERT_INTEROP=1, but xmllint is not installed (Debian: libxml2-utils)")
		}
		t.Skip("xmllint is not installed (Debian: libxml2-utils)")
	}
	dir := t.TempDir()
	documents := map[string]string{"seen.xml": seen, "new.xml": string(New().Bytes()),
		"namespace.xml": strings.Replace(seen, "<AnyConnectPreferences>", "<AnyConnectPreferences xmlns='urn:x'>", 1),
		"stray.xml":     strings.Replace(seen, "<AutoConnectOnStart>", "text<AutoConnectOnStart>", 1),
		"odd.xml":       strings.Replace(seen, "<AutoConnectOnStart>", "<x:Odd xmlns:x='urn:x' y='z'><b/>text</x:Odd><AutoConnectOnStart>", 1)}
	for i, line := range strings.SplitAfter(seen, "\n") {
		documents[fmt.Sprintf("%d-without.xml", i)] = strings.Replace(seen, line, "", 1)
		documents[fmt.Sprintf("%d-twice.xml", i)] = strings.Replace(seen, line, line+line, 1)
		documents[fmt.Sprintf("%d-odd.xml", i)] = strings.Replace(seen, line, line+"<Odd/>", 1)
	}
	must(t, os.WriteFile(filepath.Join(dir, "preferences.xsd"), Schema().XSD(), 0o600))
	args := []string{"--nonet", "--noout", "--schema", "preferences.xsd"}
	for name, text := range documents {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		args = append(args, name)
	}
	cmd := exec.CommandContext(t.Context(), "xmllint", args...)
	cmd.Dir = dir
	// The exit status says that some document is not valid, which is wanted.
	out, _ := cmd.CombinedOutput()
	good := 0
	for name, text := range documents {
		theirs := strings.Contains("\n"+string(out), "\n"+name+" validates\n")
		ours := !slices.ContainsFunc(Lint(name, []byte(text)), func(f document.Finding) bool { return f.Severity == document.SeverityError && f.Schema })
		if ours != theirs {
			t.Errorf("%s: xmllint accepts it: %v; we: %v\n%s", name, theirs, Lint(name, []byte(text)), text)
		}
		if theirs {
			good++
		}
	}
	if good < 10 || good > len(documents)-10 {
		t.Errorf("%d of %d documents are valid, so little has been compared", good, len(documents))
	}
}

func FuzzPreferences(f *testing.F) {
	f.Add([]byte(seen), "LocalLanAccess", "true")
	f.Add([]byte("<AnyConnectPreferences/>"), "A", "<&>")
	f.Add([]byte("<AnyConnectPreferences><ControllablePreferences/><ControllablePreferences>x</ControllablePreferences></AnyConnectPreferences>"), "A", " b ")
	f.Fuzz(func(t *testing.T, data []byte, name, value string) {
		Lint("", data)
		p, err := Parse("", data)
		if err != nil {
			return
		}
		if err := p.SetControl(name, value); err != nil {
			return
		}
		last := p.Last()
		again, err := Parse("", p.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Bytes())
		}
		got, _ := again.Control(name)
		if want := strings.Join(strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }), " "); got != want {
			t.Fatalf("wrote %q and read %q\n%s", want, got, p.Bytes())
		}
		if again.Last() != last {
			t.Fatalf("%+v became %+v", last, again.Last())
		}
	})
}
