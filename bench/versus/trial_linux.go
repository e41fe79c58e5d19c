package main

import (
	"fmt"
	"time"

	"culvert.example/vpn/internal/netns"
)

// A trial is one thing that is measured of every contender of a pair.
type trial struct {
	name string
	// direction and streams are those of a load. Without a direction it is requests over HTTP.
	direction string
	streams   int
	// time is how long it runs, if not as long as usual.
	time time.Duration
	// impairment is what the cables do meanwhile.
	impairment netns.Impairment
	// every is for trials that are not made in each round, but only in each so manieth.
	every int
}

const (
	latencyTrial = "latency"
	startTrial   = "start"
	endTrial     = "end"
)

// loadName names a load.
func loadName(direction string, streams int) string { return fmt.Sprintf("%s, %d", direction, streams) }

// usualTrials are the trials of most pairs.
func usualTrials() []trial {
	var ts []trial
	for _, streams := range []int{1, 8} {
		for _, d := range []string{up, down, both} {
			ts = append(ts, trial{name: loadName(d, streams), direction: d, streams: streams})
		}
	}
	return append(ts, trial{name: latencyTrial})
}

const (
	// impairedTime is how long a load runs on a bad cable, where TCP takes some seconds to find its rate, and judgedTime where a
	// number is set.
	impairedTime, judgedTime = 4 * time.Second, 5 * time.Second
	// sparse is how seldom the trials on a bad cable are made that no number is set for.
	sparse = 3
)

// A condition is a bad cable.
type condition struct {
	rtt           time.Duration
	loss, reorder float64 // from 0 to 1
}

// String returns such as "100 ms, 0.1 % loss".
func (c condition) String() string {
	s := fmt.Sprintf("%d ms", c.rtt.Milliseconds())
	if c.loss > 0 {
		s += fmt.Sprintf(", %g %% loss", c.loss*100)
	}
	if c.reorder > 0 {
		s += fmt.Sprintf(", %g %% reordered", c.reorder*100)
	}
	return s
}

func (c condition) impairment() netns.Impairment {
	return netns.Impairment{Delay: c.rtt / 2, Loss: c.loss, Reorder: c.reorder}
}

// judged is the condition that a number is set for.
var judged = condition{rtt: 100 * time.Millisecond, loss: 0.001}

// conditions are those that are tried.
var conditions = []condition{
	{},
	{loss: 0.01},
	{rtt: 30 * time.Millisecond},
	{rtt: 30 * time.Millisecond, loss: 0.001},
	{rtt: 30 * time.Millisecond, loss: 0.01},
	{rtt: 30 * time.Millisecond, reorder: 0.03},
	{rtt: 100 * time.Millisecond},
	judged,
	{rtt: 100 * time.Millisecond, loss: 0.01},
	{rtt: 100 * time.Millisecond, reorder: 0.03},
}

// impairedTrials are the trials on bad cables, with one stream.
func impairedTrials() []trial {
	var ts []trial
	for _, c := range conditions {
		for _, d := range []string{up, down} {
			t := trial{name: impairedName(c, d), direction: d, streams: 1, time: impairedTime, impairment: c.impairment(), every: sparse}
			if c == judged {
				t.every, t.time = 1, judgedTime
			}
			ts = append(ts, t)
		}
	}
	return ts
}

func impairedName(c condition, direction string) string { return c.String() + ", " + direction }
