package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A table is rows of cells below a header. It is printed as Markdown, which is legible as it is.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write prints the table with columns of equal width, the first left-justified and those of numbers right-justified.
func (t *table) write(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	right := make([]bool, len(t.head))
	for i := range right {
		right[i] = !slices.ContainsFunc(t.rows, func(row []string) bool { return i < len(row) && !numeric(row[i]) })
	}
	line := func(cells []string) {
		fmt.Fprint(w, "|")
		for i, c := range cells {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if right[i] {
				fmt.Fprintf(w, " %s%s |", pad, c)
			} else {
				fmt.Fprintf(w, " %s%s |", c, pad)
			}
		}
		fmt.Fprintln(w)
	}
	line(t.head)
	fmt.Fprint(w, "|")
	for i, n := range widths {
		if right[i] {
			fmt.Fprint(w, strings.Repeat("-", n+1)+":|")
		} else {
			fmt.Fprint(w, strings.Repeat("-", n+2)+"|")
		}
	}
	fmt.Fprintln(w)
	for _, row := range t.rows {
		line(row)
	}
}

// numeric reports whether a cell begins like a number, or says nothing.
func numeric(s string) bool {
	s = strings.TrimLeft(s, "≤≥ ")
	return s == "" || s[0] >= '0' && s[0] <= '9'
}

// format returns x with three digits or more.
func format(x float64) string {
	switch {
	case x >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// String returns the median with the range.
func (s spread) String() string {
	if s.N == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", s.Median)
}

func (s spread) limits() string {
	if s.N == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f–%.2f", s.Least, s.Greatest)
}

// numbersTable is the table of the numbers to reach.
func (r *report) numbersTable() *table {
	t := &table{head: []string{"pair", "number", "test", "ours", "value", "peer", "ratio", "range", "n", "bar", "stretch", "reached", "CPU ratio", "gateway % of a core", "machine % busy"}}
	for _, j := range r.Numbers {
		sign := "≥ "
		if j.AtMost {
			sign = "≤ "
		}
		gateway, machine := "", ""
		if j.Busy > 0 {
			gateway, machine = format(j.Gateway), format(j.Busy)
		}
		t.add(j.Pair, j.Number, j.Test, j.Ours, format(j.OurValue), format(j.PeerValue), j.Ratio.String(), j.Ratio.limits(),
			strconv.Itoa(j.Ratio.N), sign+format(j.Bar), sign+format(j.Stretch), string(j.Verdict), j.CPU.String(), gateway, machine)
	}
	return t
}

// pairTable is the table of all medians of a pair.
func (r *report) pairTable(p pairReport) *table {
	t := &table{head: []string{"test", "value"}}
	peer := p.Contenders[len(p.Contenders)-1]
	t.head = append(t.head, p.Contenders...)
	for _, c := range p.Contenders[:len(p.Contenders)-1] {
		t.head = append(t.head, c+" / peer", "range", "n")
	}
	for _, test := range r.tests(p.Name) {
		for _, m := range metrics {
			row := []string{test, string(m)}
			found := false
			for _, c := range p.Contenders {
				cell := ""
				if s := pick(r.Samples, p.Name, test, c, m).spread(); s.N > 0 {
					found = true
					cell = format(s.Median)
				}
				row = append(row, cell)
			}
			for _, c := range p.Contenders[:len(p.Contenders)-1] {
				q := pick(r.Samples, p.Name, test, c, m).over(pick(r.Samples, p.Name, test, peer, m)).spread()
				n := ""
				if q.N > 0 {
					n = strconv.Itoa(q.N)
				}
				row = append(row, q.String(), q.limits(), n)
			}
			if found {
				t.add(row...)
			}
		}
	}
	return t
}

// tests returns the tests of a pair in the order in which they were made.
func (r *report) tests(pair string) []string {
	var names []string
	for _, s := range r.Samples {
		if s.Pair == pair && !slices.Contains(names, s.Test) {
			names = append(names, s.Test)
		}
	}
	return names
}

// summary says how many numbers were reached.
func (r *report) summary() string {
	reached := 0
	for _, j := range r.Numbers {
		if j.Verdict != missed {
			reached++
		}
	}
	s := fmt.Sprintf("%d of %d numbers reached", reached, len(r.Numbers))
	if n := len(r.Failures); n > 0 {
		s += fmt.Sprintf("; %d measurements failed", n)
	}
	return s
}

// print writes the numbers.
func (r *report) print(w io.Writer) {
	r.numbersTable().write(w)
	fmt.Fprintf(w, "\n%s\n", r.summary())
}

// markdown writes everything, as sections of bench/RESULTS.md.
func (r *report) markdown(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "## Beside other programs\n\nMeasured on %s, at commit %s, in %.0f minutes, by `%s`.\n\n", m.Date.Format("2006-01-02"), m.Commit, r.Took/60, strings.Join(r.Command, " "))
	fmt.Fprintf(w, "- Machine: %d × %s, %s of memory, %s, Linux %s; the load average at the beginning was %s.\n", m.Processors, m.Processor, m.Memory, m.System, m.Kernel, m.LoadBefore)
	fmt.Fprintf(w, "- Versions: %s", m.Go)
	for _, tool := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(w, ", %s %s", tool, m.Versions[tool])
	}
	fmt.Fprintf(w, ".\n- Rounds: %d, in which the contenders take turns; a usual load takes %.0f s. A ratio is ours divided by the peer's in the same round. "+
		"The tables have medians, and of the ratios the range. Where the busiest process of the gateway takes %d %% of a core or more, "+
		"the gateway is the limit of the rate, and CPU time for each gigabyte decides: at most %.1f of the peer's. "+
		"These shares are with our client. Where the machine is 100 %% busy, all that works on it shares what there is, iperf3 too.\n\n", r.Rounds, r.Duration, full, cpuBar)
	fmt.Fprintf(w, "### Numbers to reach\n\n")
	r.print(w)
	for _, p := range r.Pairs {
		fmt.Fprintf(w, "\n### %s) %s\n\n", p.Name, p.Title)
		r.pairTable(p).write(w)
		fmt.Fprintln(w)
		for _, c := range p.Contenders {
			if d := p.Details[c]; d != "" {
				fmt.Fprintf(w, "- %s: %s\n", c, d)
			}
		}
	}
	if len(r.Failures) > 0 {
		fmt.Fprintf(w, "\n### What could not be measured\n\n")
		for _, f := range r.Failures {
			line, _, _ := strings.Cut(f.Error, "\n")
			fmt.Fprintf(w, "- %s, round %d, %s, %s: %s\n", f.Pair, f.Round, f.Test, f.Contender, line)
		}
	}
}
