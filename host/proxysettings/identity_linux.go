package proxysettings

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// as runs f with the identity of a user, on a thread that has it alone: sockets that f connects and files that it opens are those
// of that user. F must not leave its goroutine for that.
func as(uid, gid int, f func() error) error {
	if os.Geteuid() == uid {
		return f()
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root may work on the settings of the user %d", ErrPermission, uid)
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked, so it ends with the goroutine, and nobody else gets that identity. The system calls of
		// package syscall would change all threads.
		runtime.LockOSThread()
		const keep = ^uintptr(0)
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, keep, uintptr(gid), keep}, {unix.SYS_SETRESUID, keep, uintptr(uid), keep}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				done <- fmt.Errorf("%w: becoming the user %d: %w", ErrPermission, uid, errno)
				return
			}
		}
		done <- f()
	}()
	return <-done
}
