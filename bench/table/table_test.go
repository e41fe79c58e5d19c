package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite what is in testdata")

func TestPage(t *testing.T) {
	var got bytes.Buffer
	if err := run(&got, "The ladder", []string{"testdata/bench.txt"}); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "page.md")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the page is\n%s\nwant\n%s", &got, want)
	}
	// Every line of a table has as many columns as the one before it.
	columns := 0
	for line := range strings.Lines(got.String()) {
		n := strings.Count(line, "|")
		if n > 0 && columns > 0 && n != columns {
			t.Errorf("%d bars after a line with %d: %s", n, columns, line)
		}
		columns = n
	}
}

func TestParseName(t *testing.T) {
	for name, want := range map[string]key{
		"rung=0/load=raw64":                          {rung: "0", load: "raw64"},
		"rung=0/load=raw64-2":                        {rung: "0", load: "raw64"},
		"rung=2-tls/load=tcp/way=up/ip=4/flows=1-16": {"2-tls", "tcp", "up", "4", "1"},
		"rung=2-tls/load=tcp/way=up/ip=4/flows=16":   {"2-tls", "tcp", "up", "4", "16"},
		"rung=5-tun-dtls/load=udp64/way=down/ip=6":   {rung: "5-tun-dtls", load: "udp64", way: "down", ip: "6"},
	} {
		if got, err := parseName(name); got != want || err != nil {
			t.Errorf("parseName(%q) = %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "rung=1", "load=tcp", "rung=/load=tcp", "rung=1/load=tcp/rung=2", "rung=1/load=tcp/color=red", "x/y"} {
		if got, err := parseName(name); err == nil {
			t.Errorf("parseName(%q) = %+v", name, got)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
		ok     bool
	}{
		{nil, 0, false},
		{[]float64{3}, 3, true},
		{[]float64{3, 1}, 2, true},
		{[]float64{9, 1, 2}, 2, true},
		{[]float64{4, 1, 3, 2}, 2.5, true},
	} {
		in := append([]float64(nil), tt.values...)
		if got, ok := median(in); got != tt.want || ok != tt.ok {
			t.Errorf("median(%v) = %v, %v", tt.values, got, ok)
		}
		for i := range in {
			if in[i] != tt.values[i] {
				t.Errorf("median changed its argument to %v", in)
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	const ok = "BenchmarkLadder/rung=1/load=tcp 1 2 MB/s\n"
	for name, text := range map[string]string{
		"empty":        "",
		"nothing":      "PASS\nBenchmarkOther-2 1 2 ns/op\n",
		"no unit":      ok + "BenchmarkLadder/rung=1/load=tcp 1 2 MB/s 3\n",
		"no number":    ok + "BenchmarkLadder/rung=1/load=tcp 1 two MB/s\n",
		"not finite":   ok + "BenchmarkLadder/rung=1/load=tcp 1 NaN MB/s\n",
		"strange name": ok + "BenchmarkLadder/what 1 2 MB/s\n",
		"long line":    ok + strings.Repeat("x", 2<<20),
	} {
		file := filepath.Join(t.TempDir(), "bench.txt")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(&out, "x", []string{file}); err == nil {
			t.Errorf("%s: no error, but\n%s", name, &out)
		}
	}
	if err := run(new(bytes.Buffer), "x", []string{"testdata/missing"}); err == nil {
		t.Error("no error for a file that does not exist")
	}
}

// Values of several files are of one measurement; what was not measured is not 0.
func TestSeveralFiles(t *testing.T) {
	var files []string
	for _, text := range []string{
		"cpu: a\nBenchmarkLadder/rung=1/load=tcp/way=up/ip=4/flows=1 1 10 MB/s\n",
		"cpu: b\nBenchmarkLadder/rung=1/load=tcp/way=up/ip=4/flows=1 1 30 MB/s\n",
	} {
		files = append(files, filepath.Join(t.TempDir(), "bench.txt"))
		if err := os.WriteFile(files[len(files)-1], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := run(&out, "x", files); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- cpu: a, b\n", "Medians of 2 values.", "| 1 | tcp | up | 1 | 20.0 | 10.0–30.0 | – | – | – | – | – | – |\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
