//go:build unix

package bench

import (
	"syscall"
	"time"
)

// processorTime returns how long processors have worked for this process, in its own code and in the kernel.
func processorTime() (time.Duration, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
