package main

import (
	"testing"
	"time"
)

// judgeOne makes samples of one test with two contenders, and judges them.
func judgeOne(n number, ours, peer map[metric]float64) (judgement, bool) {
	n.pair = "x"
	return n.judge([]sample{
		{"x", "t", "we", 1, ours}, {"x", "t", "they", 1, peer},
		{"y", "t", "we", 1, map[metric]float64{n.metric: 1e9}}, // of another pair
	}, "t", "we", "they")
}

func TestJudge(t *testing.T) {
	faster := number{metric: rate, bar: 1.2, stretch: 1.6}
	cheaper := number{metric: client, bar: 0.8, stretch: 0.5, atMost: true}
	for _, tt := range []struct {
		name       string
		number     number
		ours, peer map[metric]float64
		want       verdict
	}{
		{"stretch", faster, map[metric]float64{rate: 160}, map[metric]float64{rate: 100}, stretched},
		{"bar", faster, map[metric]float64{rate: 120}, map[metric]float64{rate: 100}, passed},
		{"missed", faster, map[metric]float64{rate: 119}, map[metric]float64{rate: 100}, missed},
		{
			"the gateway is the limit", faster, map[metric]float64{rate: 100, client: 0.8, gateCore: 95},
			map[metric]float64{rate: 100, client: 1}, byCPU,
		},
		{
			"it is, but we cost more", faster, map[metric]float64{rate: 100, client: 0.9, gateCore: 95},
			map[metric]float64{rate: 100, client: 1}, missed,
		},
		{
			"we cost less, but it is not", faster, map[metric]float64{rate: 100, client: 0.1, gateCore: 80},
			map[metric]float64{rate: 100, client: 1}, missed,
		},
		{"CPU stretch", cheaper, map[metric]float64{client: 1}, map[metric]float64{client: 2}, stretched},
		{"CPU bar", cheaper, map[metric]float64{client: 0.8}, map[metric]float64{client: 1}, passed},
		{
			"CPU missed", cheaper, map[metric]float64{client: 1, gateCore: 100}, map[metric]float64{client: 1, gateCore: 100}, missed,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j, ok := judgeOne(tt.number, tt.ours, tt.peer)
			if !ok || j.Verdict != tt.want {
				t.Errorf("%v, %q with %+v, want %q", ok, j.Verdict, j.Ratio, tt.want)
			}
		})
	}
	if _, ok := judgeOne(faster, map[metric]float64{rate: 1}, nil); ok {
		t.Error("a number is judged without the peer")
	}
}

// TestNumbersExist finds numbers that no measurement could ever reach, because of a wrong name.
func TestNumbersExist(t *testing.T) {
	for _, n := range numbers {
		chosen, err := choosePairs(n.pair)
		if err != nil {
			t.Error(err)
			continue
		}
		known := map[string]bool{startTrial: true}
		for _, x := range chosen[0].trials {
			known[x.name] = true
		}
		for _, test := range n.tests {
			if !known[test] {
				t.Errorf("%s: pair %s has no test %q", n.title, n.pair, test)
			}
		}
		if n.atMost != (n.stretch < n.bar) {
			t.Errorf("%s: the stretch %v is not beyond the bar %v", n.title, n.stretch, n.bar)
		}
	}
}

func TestChoosePairs(t *testing.T) {
	if all, err := choosePairs(""); err != nil || len(all) != len(pairs) {
		t.Errorf("%d pairs, %v", len(all), err)
	}
	if some, err := choosePairs("d, b-tls"); err != nil || len(some) != 2 || some[0].name != "d" || some[1].name != "b-tls" {
		t.Errorf("%v", err)
	}
	if _, err := choosePairs("a,z"); err == nil {
		t.Error("z is a pair")
	}
}

func TestComplete(t *testing.T) {
	full := func() *report {
		r := &report{Pairs: []pairReport{{Name: "d", Contenders: []string{"we", "they"}}}}
		for _, c := range []string{"we", "they"} {
			r.Samples = append(r.Samples, sample{"d", loads[0], c, 1, map[metric]float64{rate: 1}})
		}
		return r
	}
	for _, tt := range []struct {
		name   string
		change func(r *report)
		want   bool
	}{
		{"all", func(*report) {}, true},
		{"the peer fails", func(r *report) { r.Failures = []failure{{Peer: true}} }, true},
		{"we fail", func(r *report) { r.Failures = []failure{{}} }, false},
		{"the peer always fails", func(r *report) { r.Samples = r.Samples[:1] }, false},
	} {
		r := full()
		tt.change(r)
		r.finish(time.Now())
		if r.complete() != tt.want {
			t.Errorf("%s: complete is %v", tt.name, !tt.want)
		}
	}
}
