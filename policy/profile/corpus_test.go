package profile

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/policy/document"
)

// corpus returns the files of the corpus by their names.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/corpus/*.xml")
	if err != nil || len(paths) < 25 {
		t.Fatalf("%d files in the corpus: %v", len(paths), err)
	}
	files := map[string][]byte{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = data
	}
	return files
}

// TestCorpusFindings compares what is found in each document, line by line, with a file beside it.
func TestCorpusFindings(t *testing.T) {
	for name, data := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			for _, f := range Lint(name, data) {
				mark := ""
				if f.Schema {
					mark = " [schema]"
				}
				fmt.Fprintf(&b, "%s%s\n", f, mark)
			}
			p, err := Parse(name, data)
			switch {
			case err != nil:
				b.WriteString("=> not read\n")
			case p.Err() != nil:
				b.WriteString("=> not acted upon\n")
			default:
				b.WriteString("=> in force\n")
			}
			golden(t, filepath.Join("testdata/corpus", strings.TrimSuffix(name, ".xml")+".lint"), b.Bytes())
		})
	}
}

// TestCorpusRoundTrip: a profile that is not changed is written as it was, to the byte.
func TestCorpusRoundTrip(t *testing.T) {
	read := 0
	for name, data := range corpus(t) {
		p, err := Parse(name, data)
		if err != nil {
			continue
		}
		read++
		if got := p.Bytes(); !bytes.Equal(got, data) {
			t.Errorf("%s is not written as it was read", name)
		}
	}
	if read < 18 {
		t.Errorf("only %d documents of the corpus were read", read)
	}
}

// xmllint returns which of the documents the schema accepts.
func xmllint(t *testing.T, schema []byte, files map[string][]byte) map[string]bool {
	t.Helper()
	if _, err := exec.LookPath("xmllint"); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatal("CULVERT_INTEROP=1, but xmllint is not installed (Debian: libxml2-utils)")
		}
		t.Skip("xmllint is not installed (Debian: libxml2-utils)")
	}
	dir := t.TempDir()
	xsd := filepath.Join(dir, "schema.xsd")
	if err := os.WriteFile(xsd, schema, 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	accepted := map[string]bool{}
	for chunk := range slices.Chunk(names, 500) {
		cmd := exec.CommandContext(t.Context(), "xmllint", append([]string{"--nonet", "--noout", "--schema", xsd}, chunk...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if bytes.Contains(out, []byte("failed to compile")) {
			t.Fatalf("xmllint: %v\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if name, ok := strings.CutSuffix(strings.TrimSpace(line), " validates"); ok {
				accepted[name] = true
			}
		}
	}
	return accepted
}

// schemaErrors returns the errors that an XML Schema sees too.
func schemaErrors(findings []document.Finding) []document.Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f document.Finding) bool {
		return f.Severity != document.SeverityError || !f.Schema
	})
}

// agree fails for every document that xmllint and Lint judge differently.
func agree(t *testing.T, files map[string][]byte) {
	t.Helper()
	accepted := xmllint(t, Schema().XSD(), files)
	good := 0
	for name, data := range files {
		findings := schemaErrors(Lint(name, data))
		if ours := len(findings) == 0; ours != accepted[name] {
			t.Errorf("%s: xmllint accepts it: %v; we find %v\n%.400s", name, accepted[name], findings, data)
		}
		if accepted[name] {
			good++
		}
	}
	t.Logf("xmllint and Lint agree on %d documents, %d of which are valid", len(files), good)
	if good == 0 || good == len(files) {
		t.Error("all documents are judged alike, so nothing has been compared")
	}
}

func TestCorpusAgreesWithXMLLint(t *testing.T) {
	files := corpus(t)
	// xmllint knows document types, which are refused here on purpose.
	delete(files, "bomb.xml")
	agree(t, files)
}

// TestMutationsAgreeWithXMLLint breaks a document with every element there is in many ways, and compares the verdicts.
func TestMutationsAgreeWithXMLLint(t *testing.T) {
	full := corpus(t)["full.xml"]
	doc, err := document.Parse("full.xml", full)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"full.xml": full}
	made := 0
	add := func(n *document.Node, what string, data []byte) {
		// A detector of races makes this slow, and there is nothing here to detect.
		if made++; testing.Short() && made%10 != 0 {
			return
		}
		files[fmt.Sprintf("%04d-%s-%s.xml", len(files), strings.ReplaceAll(n.Path(), "/", "."), what)] = data
	}
	edit := func(n *document.Node, what string, f func(d *document.Document, n *document.Node) error) {
		d, err := document.Parse("", full)
		if err != nil {
			t.Fatal(err)
		}
		same := d.Root()
		for _, i := range indexes(n) {
			same = same.Children[i]
		}
		if err := f(d, same); err != nil {
			t.Fatalf("%s: %s: %v", n.Path(), what, err)
		}
		add(n, what, d.Bytes())
	}
	schema := Schema()
	seen := map[string]bool{}
	var walk func(n *document.Node)
	walk = func(n *document.Node) {
		for _, c := range n.Children {
			walk(c)
		}
		if n.Parent == nil || seen[n.Path()] {
			return
		}
		seen[n.Path()] = true
		edit(n, "removed", func(d *document.Document, n *document.Node) error { return d.Remove(n) })
		edit(n, "twice", func(d *document.Document, n *document.Node) error {
			return d.Insert(schema, n.Parent, document.Part{Name: n.Name, Value: n.Value()})
		})
		for _, value := range []string{"", "true", "TRUE", "x", "17", "-17", "99999999999999999999", strings.Repeat("long ", 10)} {
			edit(n, "value", func(d *document.Document, n *document.Node) error { return d.SetValue(n, value) })
		}
		for _, attribute := range [][2]string{{"UserControllable", "true"}, {"UserControllable", "no"}, {"Other", ""}, {"Wildcard", "Enabled"}} {
			edit(n, "attribute", func(d *document.Document, n *document.Node) error {
				return d.SetAttribute(n, attribute[0], attribute[1])
			})
		}
	}
	walk(doc.Root())
	if made < 1500 {
		t.Fatalf("only %d documents", made)
	}
	agree(t, files)
}

// indexes returns the way from the outermost element to n.
func indexes(n *document.Node) []int {
	if n.Parent == nil {
		return nil
	}
	return append(indexes(n.Parent), slices.Index(n.Parent.Children, n))
}
