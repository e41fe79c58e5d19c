package main

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestStatFields(t *testing.T) {
	line := "12 (a) b (c) S 7 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 1 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 1 0 0 0 0 0"
	f, err := statFields([]byte(line))
	if err != nil || f[3] != "S" || f[4] != "7" || f[14] != "250" || f[15] != "50" {
		t.Errorf("%v, %v", f, err)
	}
	for _, bad := range []string{"", "12 (x S 7", "12 (x) S 7"} {
		if _, err := statFields([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseMachineTime(t *testing.T) {
	d, err := parseMachineTime("cpu  100 10 50 9999 777 5 35 12 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	if err != nil || d != 2*time.Second {
		t.Errorf("%v, %v, want 2s", d, err)
	}
	for _, bad := range []string{"", "intr 5", "cpu 1 2 3", "cpu a b c d e f g h"} {
		if _, err := parseMachineTime(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParsePeak(t *testing.T) {
	if n, err := parsePeak("Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"); err != nil || n != 2<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := parsePeak("Name: kthreadd\n"); err == nil {
		t.Error("a kernel thread has memory")
	}
}

// TestStopwatch burns time in this process and in a child, and finds it in the sum.
func TestStopwatch(t *testing.T) {
	child := exec.Command("sh", "-c", "while :; do :; done")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	pids, err := family(os.Getpid())
	if err != nil || !slices.Contains(pids, child.Process.Pid) {
		t.Fatalf("%v, %v do not have %d", pids, err, child.Process.Pid)
	}
	w, err := startStopwatch(pids, []int{child.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 500*time.Millisecond; {
	}
	c, err := w.stop()
	if err != nil {
		t.Fatal(err)
	}
	// The machine may be busy with other work, so that both get much less than all.
	if c.wall < 500*time.Millisecond || c.client < 50*time.Millisecond || c.machine < c.client-50*time.Millisecond || c.gatewayShare <= 0 || c.gatewayShare > 1.2 {
		t.Errorf("%+v", c)
	}
	if n, err := peakMemory(pids); err != nil || n < 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
