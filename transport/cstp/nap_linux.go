package cstp

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nap sleeps for less than the timers of the runtime can tell apart.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	if runtime.GOMAXPROCS(0) == 1 {
		unix.Nanosleep(&t, nil)
		return
	}
	// Without a word to the scheduler: it would hand the goroutines that wait to another thread, and take them back at once, which costs
	// more than the nap saves. The other threads may steal them.
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
