package main

import (
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A sample is what a process uses at one moment. Zero stands for what the system does not tell.
type sample struct {
	At time.Time `json:"at"`
	// RSS is the resident memory in bytes. Settled is the same after all garbage was given back to the system, Heap what is
	// live and Stacks the memory for stacks; these are only in deep samples.
	RSS     uint64 `json:"rss"`
	Settled uint64 `json:"settled,omitempty"`
	Heap    uint64 `json:"heap,omitempty"`
	Stacks  uint64 `json:"stacks,omitempty"`

	Goroutines  int `json:"goroutines"`
	Descriptors int `json:"descriptors"`
	// CPU is the processor time used so far, Switches how often a thread went to sleep.
	CPU      time.Duration `json:"cpu"`
	Switches uint64        `json:"switches"`
}

// A pair is a sample of each process.
type pair struct {
	Tunnels sample `json:"tunnels"`
	Gateway sample `json:"gateway"`
}

// take samples this process. A deep sample collects garbage, which costs time, so it comes at the end of a phase; profiles are
// written to the directory, if there is one.
func take(name string, deep bool, profiles string) (sample, error) {
	s := sample{At: time.Now(), Goroutines: runtime.NumGoroutine()}
	s.RSS = resident()
	s.Descriptors = descriptors()
	s.CPU, s.Switches = usage()
	if !deep {
		return s, nil
	}
	if profiles != "" {
		// Heap profiles are those of the last collection but one.
		runtime.GC()
	}
	// Twice, since what has a finalizer goes with the second.
	runtime.GC()
	debug.FreeOSMemory()
	m := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(m)
	s.Heap, s.Stacks = m[0].Value.Uint64(), m[1].Value.Uint64()
	s.Settled = resident()
	if profiles != "" {
		return s, writeProfiles(profiles, filepath.Base(name))
	}
	return s, nil
}
