package main

import (
	"encoding/json"
	"os"
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
