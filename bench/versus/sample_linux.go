package main

import (
	"maps"
	"runtime"
	"slices"
	"time"
)

// A metric is one kind of measured value.
type metric string

// The metrics, with their units.
const (
	rate     metric = "Mbit/s"
	client   metric = "client CPU s/GB"
	machine  metric = "machine CPU s/GB"
	busy     metric = "machine % busy"
	gateCore metric = "gateway % of a core"
	p50      metric = "p50 µs"
	p99      metric = "p99 µs"
	first    metric = "start to first byte ms"
	dialed   metric = "dial to first byte ms" // of a peer: from its start
	memory   metric = "peak memory MiB"
)

// metrics are all of them, in the order of tables.
var metrics = []metric{rate, client, machine, busy, gateCore, p50, p99, queries, queryCPU, queryTime, first, dialed, memory}

// A sample is what one run of one test of one contender has given.
type sample struct {
	Pair      string             `json:"pair"`
	Test      string             `json:"test"`
	Contender string             `json:"contender"`
	Round     int                `json:"round"` // from 1
	Values    map[metric]float64 `json:"values"`
}

// A failure is a run that gave nothing.
type failure struct {
	Pair      string `json:"pair"`
	Test      string `json:"test"`
	Contender string `json:"contender"`
	Round     int    `json:"round"`
	Peer      bool   `json:"peer"` // it is the peer that failed
	Error     string `json:"error"`
}

// values returns the values of a load.
func (r result) values() map[metric]float64 {
	gb := r.bytes / 1e9
	return map[metric]float64{
		rate: r.rate / 1e6, client: r.cost.client.Seconds() / gb, machine: r.cost.machine.Seconds() / gb,
		gateCore: 100 * r.cost.gatewayShare, busy: 100 * r.cost.machine.Seconds() / (r.cost.wall.Seconds() * float64(runtime.NumCPU())),
	}
}

// values returns the values of requests.
func (l latencies) values() map[metric]float64 {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return map[metric]float64{p50: us(l.P50), p99: us(l.P99)}
}

// A series is the values of one metric, by round.
type series map[int]float64

// pick returns the values of a contender in a test.
func pick(samples []sample, pair, test, contender string, m metric) series {
	s := make(series)
	for _, x := range samples {
		if v, ok := x.Values[m]; ok && x.Pair == pair && x.Test == test && x.Contender == contender {
			s[x.Round] = v
		}
	}
	return s
}

// over returns the ratios of s to t in the rounds that both have.
func (s series) over(t series) series {
	q := make(series)
	for round, v := range s {
		if w, ok := t[round]; ok && w > 0 {
			q[round] = v / w
		}
	}
	return q
}

// A spread is the median of some values with the least and the greatest. N is how many there are.
type spread struct {
	N        int     `json:"n"`
	Median   float64 `json:"median"`
	Least    float64 `json:"least"`
	Greatest float64 `json:"greatest"`
}

// spread summarizes the values.
func (s series) spread() spread {
	v := slices.Sorted(maps.Values(s))
	n := len(v)
	if n == 0 {
		return spread{}
	}
	return spread{N: n, Median: (v[(n-1)/2] + v[n/2]) / 2, Least: v[0], Greatest: v[n-1]}
}
