package main

import (
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	tab := &table{head: []string{"test", "µs", "bar"}}
	tab.add("up", "7.00", "≥ 2.00")
	tab.add("down, 8", "1234", "")
	var b strings.Builder
	tab.write(&b)
	want := `
| test    |   µs |    bar |
|---------|-----:|-------:|
| up      | 7.00 | ≥ 2.00 |
| down, 8 | 1234 |        |
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("it prints%swant%s", got, want)
	}
	b.Reset()
	(&table{head: []string{"x"}}).write(&b)
	if b.Len() != 0 {
		t.Errorf("a table without rows prints %q", b.String())
	}
}

func TestFormat(t *testing.T) {
	for x, want := range map[float64]string{0.126: "0.13", 9.99: "9.99", 12.34: "12.3", 1234.5: "1234"} {
		if got := format(x); got != want {
			t.Errorf("%v is %s, want %s", x, got, want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	r := &report{
		Machine: machineReport{Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Commit: "abc", Versions: map[string]string{"ocserv": "1.1"}},
		Rounds:  2, Duration: 2,
		Pairs: []pairReport{{Name: "b", Title: "the title", Contenders: []string{"we", "they"}, Details: map[string]string{"we": "dtls"}}},
		Samples: []sample{
			{"b", "up, 1", "we", 1, map[metric]float64{rate: 200, client: 1}}, {"b", "up, 1", "they", 1, map[metric]float64{rate: 100, client: 4}},
			{"b", "up, 1", "we", 2, map[metric]float64{rate: 400, client: 1}}, {"b", "up, 1", "they", 2, map[metric]float64{rate: 100, client: 2}},
		},
		Failures: []failure{{"b", "down, 1", "they", 2, true, "it broke\nbadly"}},
	}
	r.finish(time.Now())
	var b strings.Builder
	r.markdown(&b)
	for _, want := range []string{
		"2026-01-02", "commit abc", "ocserv 1.1", "### b) the title", "- we: dtls",
		"3.00 | 2.00–4.00 | 2 |", // the rates
		"| stretch |", "2 of 2 numbers reached; 1 measurements failed",
		"- b, round 2, down, 1, they: it broke\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}
