package main

import (
	"math"
	"runtime"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{1, 3, 3, 3}},
		{[]float64{4, 2}, spread{2, 3, 2, 4}},
		{[]float64{9, 1, 5}, spread{3, 5, 1, 9}},
		{[]float64{1, 100, 2, 3}, spread{4, 2.5, 1, 100}},
	} {
		s := make(series)
		for i, v := range tt.values {
			s[i+1] = v
		}
		if got := s.spread(); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.values, got, tt.want)
		}
	}
}

// TestOver has ratios only of rounds that both have.
func TestOver(t *testing.T) {
	q := series{1: 10, 2: 30, 3: 40, 5: 1}.over(series{1: 5, 2: 10, 4: 7, 5: 0})
	if len(q) != 2 || q[1] != 2 || q[2] != 3 {
		t.Errorf("%v", q)
	}
}

func TestValues(t *testing.T) {
	r := result{bytes: 2e9, rate: 8e9, cost: cost{wall: 2 * time.Second, client: 3 * time.Second, machine: 4 * time.Second, gatewayShare: 0.95}}
	want := map[metric]float64{rate: 8000, client: 1.5, machine: 2, gateCore: 95, busy: 200 / float64(runtime.NumCPU())}
	got := r.values()
	for m, v := range want {
		if math.Abs(got[m]-v) > 1e-9 {
			t.Errorf("%s is %v, want %v", m, got[m], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
}

func TestSummarize(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(100-i)*time.Microsecond)
	}
	l, err := summarize(took)
	if err != nil || l.Requests != 100 || l.P50 != 51*time.Microsecond || l.P99 != 100*time.Microsecond {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := summarize(nil); err == nil {
		t.Error("no requests have quantiles")
	}
}
