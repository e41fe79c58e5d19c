package profile

import (
	"bytes"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
)

var update = flag.Bool("update", false, "write the files that are made from the table")

// golden compares data with a file, or writes it.
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

func TestMadeFromTheTable(t *testing.T) {
	golden(t, "AnyConnectProfile.xsd", Schema().XSD())
	golden(t, "elements.md", Schema().Markdown())
	if !*update && XSD() != string(Schema().XSD()) {
		t.Error("the schema in the program is not that of the table")
	}
}

// TestTable holds the table to what its users rely on.
func TestTable(t *testing.T) {
	controllable := map[string]string{}
	types := map[string]document.Type{}
	check := func(path string, e *document.Element) {
		if e.Effect == "" || e.Systems == 0 {
			t.Errorf("%s: no effect, or no system", path)
		}
		if e.Default != "" {
			if v, err := e.Type.Validate(e.Default); err != nil || v != e.Default {
				t.Errorf("%s: the default %q: %v", path, e.Default, err)
			}
		}
		if e.Without != "" {
			if _, err := e.Type.Validate(e.Without); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if e.When != "" && !slices.Contains(e.Type.Values, e.When) {
			t.Errorf("%s: its children wait for %q, which it cannot be", path, e.When)
		}
		if e.Content == document.Mixed && e.When == "" {
			t.Errorf("%s: nothing says when its children have an effect", path)
		}
		if e.Content == document.Mixed && slices.ContainsFunc(e.Children, func(c *document.Element) bool { return c.Min > 0 }) {
			t.Errorf("%s: an XML Schema allows a default only where all children may be missing", path)
		}
		if e.Order == document.AnyOrder && slices.ContainsFunc(e.Children, (*document.Element).Repeated) {
			t.Errorf("%s: XML Schema 1.0 has no elements that stand several times in any order", path)
		}
		if e.Type.Kind != document.KindText && e.Type.Name == "" {
			t.Errorf("%s: its type has no name", path)
		}
		if e.Type.Name != "" {
			if other, ok := types[e.Type.Name]; ok && (!slices.Equal(other.Values, e.Type.Values) || other.Min != e.Type.Min || other.Max != e.Type.Max) {
				t.Errorf("%s: there are two types %s", path, e.Type.Name)
			}
			types[e.Type.Name] = e.Type
		}
		if e.Control != document.Fixed {
			if other, ok := controllable[e.Name]; ok {
				t.Errorf("%s and %s have the same name for preferences", path, other)
			}
			controllable[e.Name] = path
		}
	}
	check("", Schema().Root)
	Schema().Root.Walk(check)
}

// TestSettingsFields holds the struct and the table to each other.
func TestSettingsFields(t *testing.T) {
	paths := map[string]document.Element{}
	walkSettings(Schema(), func(path string, e *document.Element) { paths[path] = *e })
	s := reflect.TypeFor[Settings]()
	seen := map[string]bool{}
	for i := range s.NumField() {
		f := s.Field(i)
		path := f.Tag.Get("setting")
		e, ok := paths[path]
		if !ok || seen[path] {
			t.Errorf("%s: %q is no setting, or has two fields", f.Name, path)
		}
		seen[path] = true
		if f.Tag.Get("json") == "" {
			t.Errorf("%s has no name in JSON", f.Name)
		}
		if boolean := e.Type.Kind == document.KindBoolean; boolean != (f.Type.Kind() == reflect.Bool) {
			t.Errorf("%s is a %s and %s is %s", f.Name, f.Type, path, e.Type.Describe())
		}
		if duration := e.Type.Unit != 0; duration != (f.Type.String() == "time.Duration") {
			t.Errorf("%s is a %s and the unit of %s is %s", f.Name, f.Type, path, e.Type.Unit)
		}
	}
	for path := range paths {
		// What a request for a certificate says are texts that nobody acts on; Enrollment has them.
		if !seen[path] && !strings.HasPrefix(path, "CertificateEnrollment/") {
			t.Errorf("%s has no field in Settings", path)
		}
	}
}

// TestLocalPolicyNames holds the list of names to the table of the other document.
func TestLocalPolicyNames(t *testing.T) {
	var want []string
	local.Schema().Root.Walk(func(_ string, e *document.Element) { want = append(want, e.Name) })
	got := LocalPolicyNames()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("LocalPolicyNames() = %q, want %q", got, want)
	}
	Schema().Root.Walk(func(path string, e *document.Element) {
		if slices.Contains(got, e.Name) {
			t.Errorf("%s is in both documents", path)
		}
	})
}
