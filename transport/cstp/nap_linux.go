package cstp

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps for less than the timers of the runtime can tell apart.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&t, nil)
}
