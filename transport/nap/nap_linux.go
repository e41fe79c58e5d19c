package nap

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// For sleeps for d, or less if a signal comes. It should be far below a millisecond: the thread of the caller sleeps too.
func For(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	if runtime.GOMAXPROCS(0) == 1 {
		unix.Nanosleep(&t, nil)
		return
	}
	// Without a word to the scheduler: it would hand the goroutines that wait to another thread, and take them back at once, which costs
	// more than the nap saves. The other threads may steal them.
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
