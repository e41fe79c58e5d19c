package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy/document"
)

var update = flag.Bool("update", false, "write the files that are made from the table")

func golden(t *testing.T, path string, data []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s is not what the table makes; run go test ./policy/... -update", path)
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMadeFromTheTable(t *testing.T) {
	golden(t, "AnyConnectLocalPolicy.xsd", Schema().XSD())
	golden(t, "elements.md", Schema().Markdown())
	if !*update && XSD() != string(Schema().XSD()) {
		t.Error("the schema in the program is not that of the table")
	}
	Schema().Root.Walk(func(path string, e *document.Element) {
		if e.Effect == "" || e.Systems == 0 {
			t.Errorf("%s: no effect, or no system", path)
		}
		if e.Default != "" {
			if _, err := e.Type.Validate(e.Default); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

// TestFieldsAndElements holds the struct and the table to each other.
func TestFieldsAndElements(t *testing.T) {
	fields := map[string]bool{}
	for _, s := range []reflect.Type{reflect.TypeFor[Policy](), reflect.TypeFor[UpdatePolicy]()} {
		for i := range s.NumField() {
			if path, ok := s.Field(i).Tag.Lookup("element"); ok {
				e := Schema().Root.Find(path)
				if e == nil || fields[path] || (e.Type.Kind == document.KindBoolean) != (s.Field(i).Type.Kind() == reflect.Bool) {
					t.Errorf("%s: %q", s.Field(i).Name, path)
				}
				fields[path] = true
			}
		}
	}
	Schema().Root.Walk(func(path string, e *document.Element) {
		if e.Content == document.Value && !e.Repeated() && !fields[path] {
			t.Errorf("%s has no field", path)
		}
	})
}

// TestSample: the sample policy of D1237 to D1261 is refused, and every fault is named with its line. The namespaces are not
// in quotation marks, which is no XML, and each of its values but those of the list has a character too many, which is.
func TestSample(t *testing.T) {
	_, findings, err := Parse("sample.xml", read(t, "sample.xml"))
	if err == nil {
		t.Fatal("the sample was read")
	}
	type fault struct {
		line int
		rule document.Rule
		what string
	}
	want := []fault{{3, document.RuleMalformed, "xmlns"}, {4, document.RuleMalformed, "xmlns:xsi"}}
	for i, line := range strings.Split(string(read(t, "sample.xml")), "\n") {
		for part := range strings.SplitSeq(line, "<") {
			if name, _, ok := strings.Cut(part, ">>"); ok {
				want = append(want, fault{i + 1, document.RuleWrongValue, name})
			}
		}
	}
	if len(want) != 14 {
		t.Fatalf("the sample has %d faults", len(want))
	}
	if len(findings) != len(want) {
		t.Errorf("%d findings, want %d: %v", len(findings), len(want), findings)
	}
	for i, f := range findings {
		if i < len(want) && (f.Line != want[i].line || f.Rule != want[i].rule || !strings.Contains(f.Message, want[i].what)) {
			t.Errorf("%v, want %v", f, want[i])
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("sample.xml:%d:", f.Line)) {
			t.Errorf("the error does not name line %d", f.Line)
		}
	}
	for _, hint := range []string{`write xmlns="http://schemas.xmlsoap.org/encoding/"`, "there is a character too many"} {
		if !strings.Contains(err.Error(), hint) {
			t.Errorf("the error does not say %q:\n%v", hint, err)
		}
	}
}

// bare returns a policy without the places of its elements.
func bare(p *Policy) *Policy {
	if p == nil {
		return nil
	}
	q := *p
	q.where = nil
	return &q
}

// TestWhere: every element that the document has is found again, with its place.
func TestWhere(t *testing.T) {
	p, _, err := Parse("p.xml", []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/">
  <FipsMode>true</FipsMode>
  <UpdatePolicy>
    <AllowScriptUpdatesFromAnyServer>false</AllowScriptUpdatesFromAnyServer>
  </UpdatePolicy>
</AnyConnectLocalPolicy>`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]document.Position{
		"FipsMode": {Line: 2, Column: 3}, "UpdatePolicy": {Line: 3, Column: 3}, "StrictCertificateTrust": {},
		"UpdatePolicy/AllowScriptUpdatesFromAnyServer": {Line: 4, Column: 5},
	} {
		if got := p.Where(path); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
	if Default().Where("FipsMode") != (document.Position{}) {
		t.Error("an element of no document has a place")
	}
}

// TestMendedSample is the same policy without its faults.
func TestMendedSample(t *testing.T) {
	got, findings, err := Parse("mended.xml", read(t, "mended.xml"))
	if err != nil || len(findings) != 0 {
		t.Fatalf("%v %v", findings, err)
	}
	want := Default()
	want.Version = "2.4.140"
	want.Update.Software, want.Update.VPNProfile, want.Update.ServiceProfile = false, false, false
	want.Update.AuthorizedServers = []string{"seattle.example.com", "newyork.example.com"}
	if !reflect.DeepEqual(bare(got), want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestDefault: without a policy everything is allowed (D1146).
func TestDefault(t *testing.T) {
	d := Default()
	if d.FIPSMode || d.BypassDownloader || d.StrictCertificateTrust || !d.Caching.Credentials() || !d.Caching.Thumbprints() || !d.Caching.Anything() ||
		!d.Protocols.TLS() || !d.Protocols.IPsec() {
		t.Errorf("%+v", d)
	}
	u := reflect.ValueOf(d.Update)
	for i := range u.NumField() {
		if f := u.Field(i); f.Kind() == reflect.Bool && !f.Bool() {
			t.Errorf("%s is forbidden", u.Type().Field(i).Name)
		}
	}
	empty, _, err := Parse("", []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/"/>`))
	if err != nil || !reflect.DeepEqual(bare(empty), d) {
		t.Errorf("an empty policy is %+v: %v", empty, err)
	}
	generated, findings, err := Parse("", read(t, "generated.xml"))
	d.BypassDownloader, d.Version = true, "5.1.2.42"
	if err != nil || document.Errors(findings) != nil || !reflect.DeepEqual(bare(generated), d) {
		t.Errorf("the policy that an installer makes is %+v: %v", generated, err)
	}
}

func TestValues(t *testing.T) {
	for value, want := range map[PreferenceCaching][3]bool{
		CacheEverything: {true, true, true}, NoCredentials: {false, true, true}, NoThumbprints: {true, false, true},
		NoCredentialsAndThumbprints: {false, false, true}, CacheNothing: {false, false, false},
	} {
		p, _, err := Parse("", []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/"><RestrictPreferenceCaching>`+string(value)+`</RestrictPreferenceCaching></AnyConnectLocalPolicy>`))
		if err != nil || [3]bool{p.Caching.Credentials(), p.Caching.Thumbprints(), p.Caching.Anything()} != want {
			t.Errorf("%s: %+v %v", value, p, err)
		}
	}
	for value, want := range map[TunnelProtocols][2]bool{AllProtocols: {true, true}, NoTLS: {false, true}, NoIPsec: {true, false}} {
		p, _, err := Parse("", []byte(`<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/"><RestrictTunnelProtocols>`+strings.ToLower(string(value))+`</RestrictTunnelProtocols></AnyConnectLocalPolicy>`))
		if err != nil || [2]bool{p.Protocols.TLS(), p.Protocols.IPsec()} != want {
			t.Errorf("%s: %+v %v", value, p, err)
		}
	}
}

// TestFindings compares what is found in each document with a file beside it.
func TestFindings(t *testing.T) {
	for _, name := range []string{"wrong.xml", "sample.xml", "generated.xml"} {
		var b bytes.Buffer
		for _, f := range Lint(name, read(t, name)) {
			fmt.Fprintln(&b, f)
		}
		golden(t, filepath.Join("testdata", strings.TrimSuffix(name, ".xml")+".lint"), b.Bytes())
	}
}

// TestTolerance: what could be meant otherwise keeps a policy from being read, since reading past it would allow what it
// forbids.
func TestTolerance(t *testing.T) {
	for text, rule := range map[string]document.Rule{
		"<FipsMode>True</FipsMode>":                "",
		"<Fipsmode>true</Fipsmode>":                document.RuleMisspelledElement,
		"<Unheard>true</Unheard>":                  "",
		"<FipsMode a='b'>true</FipsMode>":          "",
		"<FipsMode>yes</FipsMode>":                 document.RuleWrongValue,
		"<FipsMode>true</FipsMode><FipsMode/>":     document.RuleDuplicateElement,
		"<UpdatePolicy><FipsMode/></UpdatePolicy>": document.RuleMisplacedElement,
		"true":                                      document.RuleStrayText,
		"<FipsMode>true</FipsMod>":                  document.RuleMalformed,
		"<!DOCTYPE x><FipsMode>true</FipsMode>":     document.RuleDoctype,
		"<BypassDownloader>\x00</BypassDownloader>": document.RuleMalformed,
	} {
		_, _, err := Parse("", []byte("<AnyConnectLocalPolicy xmlns='http://schemas.xmlsoap.org/encoding/'>"+text+"</AnyConnectLocalPolicy>"))
		if rule == "" && err != nil || rule != "" && !document.Has(err, rule) {
			t.Errorf("%s: %v, want %q", text, err, rule)
		}
	}
	if _, _, err := Parse("", []byte("<AnyConnectProfile/>")); !document.Has(err, document.RuleRoot) {
		t.Errorf("a profile: %v", err)
	}
}

// TestAuthorized is the matcher of B.4.
// TestManyFaults: a document with one fault many times over is judged soon and in few words, and other faults in it are not lost.
func TestManyFaults(t *testing.T) {
	const head, tail = `<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/">`, `</AnyConnectLocalPolicy>`
	start := time.Now()
	equal := head + "<!-- " + strings.Repeat("é", document.MaxSize/8) + " --><UpdatePolicy><AuthorizedServerList>" +
		strings.Repeat("<ServerName>a</ServerName>", 49000) + "</AuthorizedServerList></UpdatePolicy>" + tail
	p, findings, err := Parse("", []byte(equal))
	if err != nil || len(p.Update.AuthorizedServers) != 49000 || len(findings) > 210 {
		t.Fatalf("%d findings, %v", len(findings), err)
	}
	if last := findings[len(findings)-1]; last.Rule != document.RuleMoreFindings || !strings.HasPrefix(last.Message, "48799 more") {
		t.Errorf("the last finding is %v", last)
	}
	// If each finding counted the characters in front of it, this would take minutes.
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("that took %v", took)
	}
	for fault, rule := range map[string]document.Rule{
		"<FipsMode>perhaps</FipsMode>":       document.RuleWrongValue,
		"<FipsMod>true</FipsMod>":            document.RuleMisspelledElement,
		"<ServerName>a</ServerName>":         document.RuleMisplacedElement,
		"<UpdatePolicy>text</UpdatePolicy>":  document.RuleStrayText,
		"<FipsMode/><FipsMode>x</FipsMode>1": document.RuleDuplicateElement,
	} {
		if _, _, err := Parse("", []byte(head+strings.Repeat("<Zebra/>", 1000)+fault+tail)); !document.Has(err, rule) {
			t.Errorf("%s behind a thousand elements that are not known: %v, want %s", fault, err, rule)
		}
	}
}

func TestAuthorized(t *testing.T) {
	u := UpdatePolicy{AuthorizedServers: []string{"seattle.example.com", "*.example.net", "192.0.2.7", "[2001:DB8::0001]", "*.7"}}
	for server, want := range map[string]bool{
		"seattle.example.com":  true,  // D1166
		"SEATTLE.example.com.": true,  // a name is a name
		"newyork.example.com":  false, // D1274
		"a.example.net":        true,  // D1150
		"a.b.example.net":      true,
		"example.net":          false,
		".example.net":         false,
		"badexample.net":       false,
		"192.0.2.7":            true, // D1206: an address only by its address
		"198.51.100.7":         false,
		"2001:db8::1":          true,
		"[2001:db8:0::1]":      true,
		"::ffff:192.0.2.7":     true,
		"":                     false,
		"*.example.net":        true, // is no name of a host, and under the domain
	} {
		if got := u.Authorized(server); got != want {
			t.Errorf("Authorized(%q) = %v", server, got)
		}
	}
	if (UpdatePolicy{}).Authorized("a") || (UpdatePolicy{AuthorizedServers: []string{""}}).Authorized("") {
		t.Error("nothing authorizes something")
	}
}

func TestNew(t *testing.T) {
	p := Default()
	p.Version, p.FIPSMode, p.Caching, p.Update.Script = "5.1", true, CacheNothing, false
	p.Update.AuthorizedServers = []string{"*.example.com"}
	for _, full := range []bool{false, true} {
		data, err := New(p, full)
		if err != nil {
			t.Fatal(err)
		}
		again, findings, err := Parse("", data)
		if err != nil || len(findings) != 0 || !reflect.DeepEqual(bare(again), bare(p)) {
			t.Errorf("full %v: %+v %v %v", full, again, findings, err)
		}
		if short := bytes.Count(data, []byte("\n")) < 16; short == full {
			t.Errorf("full %v:\n%s", full, data)
		}
	}
	for _, change := range []func(*Policy){
		func(p *Policy) { p.Caching = "Passwords" },
		func(p *Policy) { p.Update.AuthorizedServers = []string{"a/b"} },
		func(p *Policy) { p.Version = "\x00" },
	} {
		p := Default()
		change(p)
		if _, err := New(p, true); err == nil {
			t.Errorf("New(%+v): no error", p)
		}
	}
}

func TestRows(t *testing.T) {
	p := Default()
	p.StrictCertificateTrust = true
	rows := p.Rows("linux")
	if len(rows) != 28 {
		t.Errorf("%d rows", len(rows))
	}
	for _, r := range rows {
		if applies := r.Path != "ExcludeMacNativeCertStore" && r.Path != "ExcludeWinNativeCertStore"; r.Applies != applies || r.Effect == "" {
			t.Errorf("%+v", r)
		}
		if r.Path == "StrictCertificateTrust" && (r.Value != "true" || r.Default != "false") {
			t.Errorf("%+v", r)
		}
	}
	if data, err := json.Marshal(struct {
		P *Policy
		R []Row
	}{p, rows}); err != nil || bytes.Contains(data, []byte("null")) || bytes.Contains(data, []byte(`"Path"`)) {
		t.Errorf("%s %v", data, err)
	}
}

func TestPaths(t *testing.T) {
	env := func(name string) string { return map[string]string{"ProgramData": `C:\ProgramData`}[name] }
	for system, want := range map[string][]string{
		"windows": {`C:\ProgramData\Cisco\Cisco Secure Client\VPN\AnyConnectLocalPolicy.xml`, `C:\ProgramData\Cisco\Cisco AnyConnect Secure Mobility Client\AnyConnectLocalPolicy.xml`},
		"darwin":  {"/opt/cisco/secureclient/vpn/AnyConnectLocalPolicy.xml", "/opt/cisco/secureclient/AnyConnectLocalPolicy.xml", "/opt/cisco/anyconnect/AnyConnectLocalPolicy.xml"},
		"linux": {"/etc/culvert/AnyConnectLocalPolicy.xml", "/opt/cisco/secureclient/vpn/AnyConnectLocalPolicy.xml", "/opt/cisco/secureclient/AnyConnectLocalPolicy.xml",
			"/opt/cisco/anyconnect/AnyConnectLocalPolicy.xml"},
		"plan9": nil,
	} {
		if got := Paths(system, env, ""); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", system, got, want)
		}
	}
	if got := Paths("windows", env, "/img"); got[0] != "/img/C/ProgramData/Cisco/Cisco Secure Client/VPN/AnyConnectLocalPolicy.xml" {
		t.Errorf("in an image: %q", got)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if _, _, err := Load(path, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, read(t, "generated.xml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, _, err := Load(path, false); err != nil || !p.BypassDownloader {
		t.Errorf("%+v %v", p, err)
	}
	if p, from, _, err := LoadFirst([]string{path + ".none", path}, false); err != nil || from != path || !p.BypassDownloader {
		t.Errorf("LoadFirst: %+v %q %v", p, from, err)
	}
	if p, from, _, err := LoadFirst([]string{path + ".none"}, true); err != nil || from != "" || !reflect.DeepEqual(p, Default()) {
		t.Errorf("LoadFirst without a file: %+v %q %v", p, from, err)
	}
	if _, _, _, err := LoadFirst([]string{filepath.Dir(path), path}, false); !errors.Is(err, document.ErrNotRegular) {
		t.Errorf("LoadFirst passed over what it could not read: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(path, true); !errors.Is(err, document.ErrUntrusted) {
		t.Errorf("a policy that everybody can write: %v", err)
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
	documents := map[string][]byte{}
	for _, name := range []string{"sample.xml", "mended.xml", "generated.xml", "wrong.xml"} {
		documents[name] = read(t, name)
	}
	generated := string(documents["generated.xml"])
	for i, line := range strings.Split(generated, "\n") {
		documents[fmt.Sprintf("%d-without.xml", i)] = []byte(strings.Replace(generated, line+"\n", "", 1))
		documents[fmt.Sprintf("%d-twice.xml", i)] = []byte(strings.Replace(generated, line+"\n", line+"\n"+line+"\n", 1))
		documents[fmt.Sprintf("%d-value.xml", i)] = []byte(strings.Replace(generated, line, strings.Replace(line, "false<", "TLS<", 1), 1))
		documents[fmt.Sprintf("%d-case.xml", i)] = []byte(strings.Replace(generated, line, strings.Replace(line, "false<", "False<", 1), 1))
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.xsd"), Schema().XSD(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--nonet", "--noout", "--schema", "policy.xsd"}
	for name, data := range documents {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	cmd := exec.CommandContext(t.Context(), "xmllint", args...)
	cmd.Dir = dir
	// The exit status says that some document is not valid, which is wanted.
	out, _ := cmd.CombinedOutput()
	good := 0
	for name, data := range documents {
		theirs := bytes.Contains(out, []byte("\n"+name+" validates\n")) || bytes.HasPrefix(out, []byte(name+" validates\n"))
		ours := true
		for _, f := range Lint(name, data) {
			ours = ours && (f.Severity != document.SeverityError || !f.Schema)
		}
		if ours != theirs {
			t.Errorf("%s: xmllint accepts it: %v; we: %v", name, theirs, Lint(name, data))
		}
		if theirs {
			good++
		}
	}
	if good < 10 || good > len(documents)-10 {
		t.Errorf("%d of %d documents are valid, so little has been compared", good, len(documents))
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"sample.xml", "mended.xml", "generated.xml", "wrong.xml"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, findings, err := Parse("", data)
		if err != nil {
			if p != nil || len(findings) == 0 {
				t.Fatalf("refused without a reason, or not at all: %v", err)
			}
			return
		}
		// What is read can be written, and read again as the same, unless a server has a name that none can have.
		out, err := New(p, true)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse("", out)
		if err != nil || !reflect.DeepEqual(bare(again), bare(p)) {
			t.Fatalf("%+v became %+v: %v", p, again, err)
		}
	})
}
