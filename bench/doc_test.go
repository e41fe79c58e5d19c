package bench

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestParts looks for the benchmarks and tests that the package comment names.
func TestParts(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, parts, ok := strings.Cut(string(doc), "# The parts by themselves")
	if !ok {
		t.Fatal("no section about the parts")
	}
	line := regexp.MustCompile(`(?m)^//\t.*  ([a-z/]+): (.*)$`)
	name := regexp.MustCompile(`(Benchmark|Test)[A-Z]\w+`)
	found := 0
	for _, m := range line.FindAllStringSubmatch(parts, -1) {
		files, err := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var code strings.Builder
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
		for _, want := range name.FindAllString(m[2], -1) {
			found++
			if !strings.Contains(code.String(), "\nfunc "+want+"(") {
				t.Errorf("there is no %s in package %s", want, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d names found", found)
	}
}
