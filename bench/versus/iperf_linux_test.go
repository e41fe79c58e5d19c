package main

import (
	"errors"
	"math"
	"os"
	"slices"
	"testing"
	"time"
)

func TestParseIperf(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name        string
		input       []byte
		bytes, rate float64
		ok          bool
	}{
		{"one way", read("iperf3-up.json"), 1057619968, 8459792292, true},
		{"both ways", read("iperf3-bidir.json"), 613548032 + 1046478848, 4853112161 + 8277557680, true},
		{"busy", []byte(`{"start":{},"error":"error - the server is busy running a test. try again later"}`), 0, 0, false},
		{"nothing received", []byte(`{"end":{"sum_received":{"seconds":1,"bytes":0,"bits_per_second":0}}}`), 0, 0, false},
		{"cut off", []byte(`{"end":{"sum_received":`), 0, 0, false},
		{"empty", nil, 0, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bytes, rate, err := parseIperf(tt.input)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, errIperf) {
				t.Fatalf("error %v", err)
			}
			if bytes != tt.bytes || math.Abs(rate-tt.rate) > 2 {
				t.Errorf("%.0f bytes at %.0f bit/s, want %.0f at %.0f", bytes, rate, tt.bytes, tt.rate)
			}
		})
	}
}

func TestIperfArgs(t *testing.T) {
	for direction, flag := range map[string]string{up: "", down: "--reverse", both: "--bidir"} {
		args := iperfArgs("172.31.0.1", 5202, direction, 8, 2*time.Second)
		for _, f := range []string{"--reverse", "--bidir"} {
			if slices.Contains(args, f) != (f == flag) {
				t.Errorf("%s: %v", direction, args)
			}
		}
		for _, pair := range [][2]string{{"--parallel", "8"}, {"--time", "2"}, {"--port", "5202"}} {
			if i := slices.Index(args, pair[0]); i < 0 || args[i+1] != pair[1] {
				t.Errorf("%s: %v does not have %v", direction, args, pair)
			}
		}
	}
}
