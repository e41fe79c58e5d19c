package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A key names one row of the ladder. The fields are those of the names of the benchmarks; what does not apply is empty.
type key struct{ rung, load, way, ip, flows string }

// A row is all that was measured for a key: by unit, a value for each round.
type row map[string][]float64

// results are rows in the order in which they were first seen.
type results struct {
	order []key
	rows  map[key]row
	// about are the lines that say where the measurement was made, such as "cpu: ...", each value once.
	about map[string][]string
}

func newResults() *results { return &results{rows: map[key]row{}, about: map[string][]string{}} }

// aboutKeys are the lines that count as such, in the order of printing.
var aboutKeys = []string{"commit", "date", "goversion", "goos", "goarch", "cpu", "procs", "kernel", "benchtime"}

const benchmark = "BenchmarkLadder/"

// read adds the output of a run. Lines that belong to something else are passed over.
func (r *results) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if name, value, ok := strings.Cut(line, ": "); ok && slices.Contains(aboutKeys, name) {
			if value = strings.TrimSpace(value); !slices.Contains(r.about[name], value) {
				r.about[name] = append(r.about[name], value)
			}
			continue
		}
		if !strings.HasPrefix(line, benchmark) {
			continue
		}
		if err := r.add(strings.Fields(strings.TrimPrefix(line, benchmark))); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// add takes the fields of a line: the name, how many iterations there were, and pairs of value and unit. A line without values is
// one of a benchmark that was skipped or had parts.
func (r *results) add(fields []string) error {
	if len(fields) < 4 {
		return nil
	}
	k, err := parseName(fields[0])
	if err != nil {
		return err
	}
	values := row{}
	for f := fields[2:]; len(f) > 0; f = f[2:] {
		if len(f) < 2 {
			return fmt.Errorf("%s: value %q without a unit", fields[0], f[0])
		}
		v, err := strconv.ParseFloat(f[0], 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %q is no number", fields[0], f[0])
		}
		values[f[1]] = append(values[f[1]], v)
	}
	if r.rows[k] == nil {
		r.rows[k] = row{}
		r.order = append(r.order, k)
	}
	for _, unit := range slices.Sorted(maps.Keys(values)) {
		r.rows[k][unit] = append(r.rows[k][unit], values[unit]...)
	}
	return nil
}

// parseName takes a name such as rung=2-tls/load=tcp/way=up/ip=4/flows=16-2 apart, where the last number is GOMAXPROCS; it is
// left out where that is 1.
func parseName(name string) (k key, err error) {
	parts := strings.Split(name, "/")
	last := &parts[len(parts)-1]
	if head, tail, ok := cutLast(*last, "-"); ok {
		if _, err := strconv.ParseUint(tail, 10, 16); err == nil {
			*last = head
		}
	}
	fields := map[string]*string{"rung": &k.rung, "load": &k.load, "way": &k.way, "ip": &k.ip, "flows": &k.flows}
	for _, p := range parts {
		name, value, _ := strings.Cut(p, "=")
		f := fields[name]
		if f == nil || value == "" || *f != "" {
			return k, fmt.Errorf("%q is no name of the ladder: %q", strings.Join(parts, "/"), p)
		}
		*f = value
	}
	if k.rung == "" || k.load == "" {
		return k, fmt.Errorf("%q names no rung or no load", name)
	}
	return k, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// median returns the middle of the values, and false if there is none.
func median(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	v := slices.Sorted(slices.Values(values))
	if mid := len(v) / 2; len(v)%2 == 1 {
		return v[mid], true
	} else {
		return (v[mid-1] + v[mid]) / 2, true
	}
}
