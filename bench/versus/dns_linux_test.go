package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

// perfOutput is what dnsperf 2.10 prints.
const perfOutput = `[Status] Testing complete (time limit)

Statistics:

  Queries sent:         238312
  Queries completed:    238312 (100.00%)
  Queries lost:         0 (0.00%)

  Response codes:       NOERROR 238312 (100.00%)
  Average packet size:  request 48, response 64
  Run time (s):         2.000812
  Queries per second:   119107.642297

  Average Latency (s):  0.000734 (min 0.000023, max 0.012217)
  Latency StdDev (s):   0.000353
`

func TestParseDNSPerf(t *testing.T) {
	r, err := parseDNSPerf(perfOutput)
	if err != nil || r.completed != 238312 || r.rate != 119107.642297 || r.mean != 734*time.Microsecond {
		t.Errorf("%+v, %v", r, err)
	}
	for _, change := range [][2]string{
		{"Queries lost:         0", "Queries lost:         2000"}, {"NOERROR 238312 (100.00%)", "NOERROR 200000 (83.92%), SERVFAIL 38312 (16.08%)"},
		{"NOERROR", "NXDOMAIN"}, {"Queries per second", "Rate"}, {"completed:    238312", "completed:    0"},
	} {
		if _, err := parseDNSPerf(strings.Replace(perfOutput, change[0], change[1], 1)); err == nil {
			t.Errorf("no error with %q", change[1])
		}
	}
}

// TestDNS measures a little of both DNS servers.
func TestDNS(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs other programs for several seconds")
	}
	leak.Check(t)
	need(t, "dns")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "tables.md")
	var out, log strings.Builder
	args := []string{"--pairs", "dns", "--rounds", "1", "--duration", "1s", "--tests", ", 16$", "--culvert", "unused", "--markdown", file}
	if status := run(ctx, args, &out, &log); status != exitOK {
		t.Fatalf("status %d:\n%s", status, log.String())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| DNS proxy vs dnsmasq | cached answers over UDP, 16 | dns.Server |", string(queries), string(queryCPU), string(queryTime)} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in\n%s", want, b)
		}
	}
}
