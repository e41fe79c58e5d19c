package main

import (
	"encoding/json"
	"os"
	"slices"
	"time"
)

// A report is all that a run has found.
type report struct {
	Machine  machineReport `json:"machine"`
	Command  []string      `json:"command"`
	Rounds   int           `json:"rounds"`
	Duration float64       `json:"duration_s"` // of a usual load
	Took     float64       `json:"took_s"`
	Pairs    []pairReport  `json:"pairs"`
	Numbers  []judgement   `json:"numbers"`
	Samples  []sample      `json:"samples"`
	Failures []failure     `json:"failures,omitempty"`
}

// A pairReport describes a pair. The last contender is the peer; Details say how their tunnels were carried.
type pairReport struct {
	Name       string            `json:"name"`
	Title      string            `json:"title"`
	Contenders []string          `json:"contenders"`
	Details    map[string]string `json:"details"`
}

// write writes the report as JSON.
func (r *report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// finish completes the report.
func (r *report) finish(begun time.Time) {
	r.Took = time.Since(begun).Round(time.Second).Seconds()
	r.Numbers = r.judge()
}

// complete reports whether all of our own runs gave something, and every number of the pairs that a test was made for could be
// judged. A peer may fail: that is told, but there is nothing to be done about it.
func (r *report) complete() bool {
	for _, f := range r.Failures {
		if !f.Peer {
			return false
		}
	}
	for _, n := range numbers {
		for _, test := range n.tests {
			made := func(s sample) bool { return s.Pair == n.pair && s.Test == test }
			judged := func(j judgement) bool { return j.Pair == n.pair && j.Test == test && j.Metric == n.metric }
			if slices.ContainsFunc(r.Samples, made) && !slices.ContainsFunc(r.Numbers, judged) {
				return false
			}
		}
	}
	return true
}
