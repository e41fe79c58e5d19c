package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// directions are the ways that data goes, as seen from the client.
const (
	up   = "up"
	down = "down"
	both = "both"
)

// An iperfReport is what is used of the JSON that iperf3 prints.
type iperfReport struct {
	End struct {
		Received iperfSum `json:"sum_received"`
		Reverse  iperfSum `json:"sum_received_bidir_reverse"`
	}
	Error string
}

// An iperfSum is what all streams of one direction have received.
type iperfSum struct {
	Seconds       float64
	Bytes         float64
	BitsPerSecond float64 `json:"bits_per_second"`
}

// hungTime is how much longer than it should a run may take: what is on its way has to arrive before it ends.
const hungTime = 12 * time.Second

// errIperf is a run that iperf3 itself calls failed.
var errIperf = errors.New("iperf3 failed")

// parseIperf returns how many bytes were received in all, and at which rate in bit/s.
func parseIperf(b []byte) (bytes, rate float64, err error) {
	var r iperfReport
	if err := json.Unmarshal(b, &r); err != nil {
		return 0, 0, fmt.Errorf("%w: %w: %.300s", errIperf, err, b)
	}
	if r.Error != "" {
		return 0, 0, fmt.Errorf("%w: %s", errIperf, r.Error)
	}
	bytes, rate = r.End.Received.Bytes+r.End.Reverse.Bytes, r.End.Received.BitsPerSecond+r.End.Reverse.BitsPerSecond
	if bytes <= 0 || rate <= 0 {
		return 0, 0, fmt.Errorf("%w: nothing was received", errIperf)
	}
	return bytes, rate, nil
}

// iperfArgs returns the arguments for a run.
func iperfArgs(host string, port int, direction string, streams int, d time.Duration) []string {
	args := []string{"--json", "--client", host, "--port", strconv.Itoa(port), "--parallel", strconv.Itoa(streams),
		"--time", strconv.FormatFloat(max(d.Seconds(), 1), 'f', 0, 64), "--connect-timeout", "5000", "--interval", "0"}
	switch direction {
	case down:
		args = append(args, "--reverse")
	case both:
		args = append(args, "--bidir")
	}
	return args
}

// iperf runs iperf3 on the host of a client.
func (v *visit) iperf(ctx context.Context, direction string, streams int, d time.Duration) (result, error) {
	var last error
	for range 5 { // the server is busy for a moment after a run
		r, err := v.iperfOnce(ctx, direction, streams, d)
		if err == nil {
			return r, nil
		}
		last = err
		if ctx.Err() != nil || !errors.Is(err, errIperf) {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	return result{}, last
}

func (v *visit) iperfOnce(ctx context.Context, direction string, streams int, d time.Duration) (result, error) {
	// A run that hangs must not hold up the others.
	ctx, cancel := context.WithTimeout(ctx, d+hungTime)
	defer cancel()
	w, err := v.stopwatch()
	if err != nil {
		return result{}, err
	}
	cmd := v.at.host.Command(ctx, "iperf3", iperfArgs(v.target.String(), v.iperfPort, direction, streams, d)...)
	out, runErr := cmd.Output()
	c, err := w.stop()
	if err != nil {
		return result{}, err
	}
	bytes, rate, err := parseIperf(out)
	if ctx.Err() != nil {
		return result{}, fmt.Errorf("iperf3 did not end: %w", ctx.Err())
	}
	if err != nil {
		return result{}, errors.Join(err, runErr)
	}
	return result{bytes: bytes, rate: rate, cost: c}, nil
}
