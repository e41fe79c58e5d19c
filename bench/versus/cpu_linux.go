package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc. It is the same on all architectures that Go knows.
const tick = 10 * time.Millisecond

// A stopwatch measures what a piece of work costs: its wall time, and CPU times of processes and of the machine.
type stopwatch struct {
	client, gateway []int // process ids
	at              time.Time
	before          cpuTimes
}

// cpuTimes are CPU times since the beginning.
type cpuTimes struct {
	client  time.Duration
	gateway []time.Duration // of each process
	machine time.Duration
}

// A cost is what a piece of work has cost.
type cost struct {
	wall, client, machine time.Duration
	gatewayShare          float64 // of one core, of the busiest process of the gateway
}

// startStopwatch begins to measure.
func startStopwatch(client, gateway []int) (*stopwatch, error) {
	w := &stopwatch{client: client, gateway: gateway}
	var err error
	if w.before, err = w.read(); err != nil {
		return nil, err
	}
	w.at = time.Now()
	return w, nil
}

// stop returns the cost since the start.
func (w *stopwatch) stop() (cost, error) {
	c := cost{wall: time.Since(w.at)}
	after, err := w.read()
	if err != nil {
		return c, err
	}
	c.client, c.machine = after.client-w.before.client, after.machine-w.before.machine
	for i, t := range after.gateway {
		c.gatewayShare = max(c.gatewayShare, (t-w.before.gateway[i]).Seconds()/c.wall.Seconds())
	}
	return c, nil
}

func (w *stopwatch) read() (t cpuTimes, err error) {
	for _, pid := range w.client {
		d, err := processTime(pid)
		if err != nil {
			return t, err
		}
		t.client += d
	}
	for _, pid := range w.gateway {
		d, err := processTime(pid)
		if errors.Is(err, os.ErrNotExist) {
			d, err = 0, nil // a worker that has ended has nothing to do with this client
		}
		if err != nil {
			return t, err
		}
		t.gateway = append(t.gateway, d)
	}
	t.machine, err = machineTime()
	return t, err
}

// processTime returns the CPU time of a process with all its threads, in the kernel too.
func processTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f, err := statFields(b)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, i := range []int{14, 15} { // utime, stime
		n, err := strconv.ParseUint(f[i], 10, 63)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// statFields returns the fields of /proc/PID/stat, numbered from 1 as in proc(5). The second, the name of the program, is left
// empty: it may have spaces and brackets.
func statFields(b []byte) ([]string, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return nil, errors.New("/proc/PID/stat without a name")
	}
	f := append([]string{"", "", ""}, strings.Fields(string(b[i+1:]))...)
	if len(f) < 45 {
		return nil, fmt.Errorf("/proc/PID/stat has %d fields", len(f)-1)
	}
	return f, nil
}

// machineTime returns the time in which the processors were not idle.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachineTime(string(b))
}

func parseMachineTime(s string) (time.Duration, error) {
	line, _, _ := strings.Cut(s, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var sum time.Duration
	// user, nice, system, idle, iowait, irq, softirq; what follows is time of others, or is in user already.
	for i, v := range f[1:8] {
		if i == 3 || i == 4 {
			continue
		}
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// family returns a process and all that descend from it.
func family(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		f, err := statFields(b)
		if err != nil {
			return nil, err
		}
		if parent, err := strconv.Atoi(f[4]); err == nil {
			children[parent] = append(children[parent], id)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// peakMemory returns the largest resident memory that the processes have had, added up, in bytes.
func peakMemory(pids []int) (uint64, error) {
	var sum uint64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		n, err := parsePeak(string(b))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// parsePeak returns VmHWM of /proc/PID/status in bytes.
func parsePeak(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 53)
			return n << 10, err
		}
	}
	return 0, errors.New("/proc/PID/status has no VmHWM")
}
