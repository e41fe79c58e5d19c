package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// print writes the page: what it is of, the cost of a packet on each rung side by side, and then everything.
func (r *results) print(w io.Writer, title string) {
	fmt.Fprintf(w, "# %s\n\n", title)
	for _, name := range aboutKeys {
		if values := r.about[name]; len(values) > 0 {
			fmt.Fprintf(w, "- %s: %s\n", name, strings.Join(values, ", "))
		}
	}
	fmt.Fprintf(w, "\nMedians of %s. The rungs and the units are explained in bench/doc.go.\n", r.rounds())
	r.printCosts(w)
	r.printRows(w)
}

// rounds says how many values there are for a row.
func (r *results) rounds() string {
	least, most := 0, 0
	for _, k := range r.order {
		n := 0
		for _, values := range r.rows[k] {
			n = max(n, len(values))
		}
		if least == 0 || n < least {
			least = n
		}
		most = max(most, n)
	}
	switch {
	case least != most:
		return fmt.Sprintf("%d to %d values", least, most)
	case most == 1:
		return "1 value"
	}
	return fmt.Sprintf("%d values", most)
}

// printCosts sets the rungs side by side, one row for each, with the processor time of a packet. Columns are the loads and ways
// of IPv4; rung 0, which has none, is left out.
func (r *results) printCosts(w io.Writer) {
	const unit = "cpu-ns/pkt"
	var rungs []string
	var columns []key
	for _, k := range r.order {
		if k.ip != "4" || len(r.rows[k][unit]) == 0 {
			continue
		}
		if !slices.Contains(rungs, k.rung) {
			rungs = append(rungs, k.rung)
		}
		k.rung = ""
		if !slices.Contains(columns, k) {
			columns = append(columns, k)
		}
	}
	if len(rungs) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## Processor time of a packet over IPv4, in ns\n\n| rung |")
	for _, c := range columns {
		fmt.Fprintf(w, " %s %s × %s |", c.load, c.way, c.flows)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---:|", len(columns)))
	for _, rung := range rungs {
		fmt.Fprintf(w, "| %s |", rung)
		for _, c := range columns {
			c.rung = rung
			fmt.Fprintf(w, " %s |", r.rows[c].median(unit, whole))
		}
		fmt.Fprintln(w)
	}
}

// printRows prints a table for each load and family, with everything that was measured.
func (r *results) printRows(w io.Writer) {
	var headings []string
	for _, k := range r.order {
		if h := k.heading(); !slices.Contains(headings, h) {
			headings = append(headings, h)
		}
	}
	for _, h := range headings {
		fmt.Fprintf(w, "\n## %s\n\n", h)
		fmt.Fprintln(w, "| rung | load | way | flows | MB/s | range | 1000 pkts/s | ns/pkt | cpu-ns/pkt | range | allocs/pkt | loss % |")
		fmt.Fprintln(w, "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
		for _, k := range r.order {
			if k.heading() != h {
				continue
			}
			v := r.rows[k]
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", k.rung, k.load, or(k.way), or(k.flows),
				v.median("MB/s", rate), v.spread("MB/s", rate),
				v.median("pkts/s", thousands),
				v.median("ns/pkt", whole),
				v.median("cpu-ns/pkt", whole), v.spread("cpu-ns/pkt", whole),
				v.median("allocs/pkt", hundredths),
				v.median("loss-%", hundredths))
		}
	}
}

// heading is that of the table which the row belongs to.
func (k key) heading() string {
	if k.ip == "" {
		return "Without IP"
	}
	return k.load + " over IPv" + k.ip
}

// none stands where there is no value.
const none = "–"

func or(s string) string {
	if s == "" {
		return none
	}
	return s
}

func (v row) median(unit string, format func(float64) string) string {
	m, ok := median(v[unit])
	if !ok {
		return none
	}
	return format(m)
}

// spread returns the least and the greatest value.
func (v row) spread(unit string, format func(float64) string) string {
	if len(v[unit]) < 2 {
		return none
	}
	return format(slices.Min(v[unit])) + none + format(slices.Max(v[unit]))
}

func whole(v float64) string      { return fmt.Sprintf("%.0f", v) }
func thousands(v float64) string  { return fmt.Sprintf("%.0f", v/1000) }
func hundredths(v float64) string { return fmt.Sprintf("%.2f", v) }

// rate has a digit behind the point where the number is small.
func rate(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return whole(v)
}
