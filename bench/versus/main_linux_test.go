package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
	}{
		{"--list", exitOK},
		{"--help", exitOK},
		{"--pairs a,nothing", exitUsage},
		{"--rounds 0", exitUsage},
		{"--duration 1500ms", exitUsage},
		{"--tests (", exitUsage},
		{"a", exitUsage},
		{"--no-such-flag", exitUsage},
	} {
		var log strings.Builder
		if status := run(t.Context(), strings.Fields(tt.args), io.Discard, &log); status != tt.status {
			t.Errorf("%s: status %d, want %d: %s", tt.args, status, tt.status, log.String())
		}
	}
}

// TestMissingTool fails with the package that has the tool.
func TestMissingTool(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var log strings.Builder
	if status := run(t.Context(), nil, io.Discard, &log); status != exitMissing || !strings.Contains(log.String(), "apt-get install dnsmasq-base dnsperf iperf3 iproute2 ocproxy ocserv") {
		t.Errorf("status %d: %s", status, log.String())
	}
}

// need skips the test where the tools of a pair are missing, and fails it if they must not be.
func need(t *testing.T, pair string) {
	t.Helper()
	chosen, err := choosePairs(pair)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkTools(chosen); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatalf("CULVERT_INTEROP=1, but %v", err)
		}
		t.Skip(err)
	}
}

// TestSmoke measures a little of everything that needs ocserv.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs other programs for several seconds")
	}
	leak.Check(t)
	need(t, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "raw.json")
	var out, log strings.Builder
	args := []string{"--pairs", "a", "--rounds", "1", "--duration", "1s", "--tests", "^up, 1|latency", "--json", file}
	if status := run(ctx, args, &out, &log); status != exitOK {
		t.Fatalf("status %d:\n%s", status, log.String())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	// One load, the latency, the start and the end, of three contenders.
	if len(r.Samples) != 4*3 || len(r.Numbers) != 2+1 {
		t.Errorf("%d samples, %d numbers", len(r.Samples), len(r.Numbers))
	}
	for _, s := range r.Samples {
		for m, v := range s.Values {
			if v <= 0 && m != client && m != gateCore {
				t.Errorf("%s, %s: %v is %v", s.Contender, s.Test, m, v)
			}
		}
	}
	for _, p := range r.Pairs {
		for _, c := range p.Contenders {
			if !strings.Contains(strings.ToLower(p.Details[c]), "dtls") {
				t.Errorf("%s is not over DTLS but %q", c, p.Details[c])
			}
		}
	}
	if !strings.Contains(out.String(), "numbers reached") {
		t.Errorf("it prints %s", out.String())
	}
}

// TestInterrupt ends early and leaves nothing behind.
func TestInterrupt(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs for several seconds")
	}
	leak.Check(t)
	need(t, "d")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var log strings.Builder
	begin := time.Now()
	if status := run(ctx, []string{"--pairs", "d", "--culvert", "unused"}, io.Discard, &log); status != exitInterrupted {
		t.Errorf("status %d:\n%s", status, log.String())
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v to end", took)
	}
	children, err := family(os.Getpid())
	if err != nil || len(children) != 1 {
		t.Errorf("processes %v are left, error %v", children[1:], err)
	}
	names, err := filepath.Glob("/run/netns/culvert-" + strconv.Itoa(os.Getpid()) + "-*")
	if err != nil || len(names) != 0 {
		t.Errorf("namespaces %v are left, error %v", names, err)
	}
}
