package proxysettings

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

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
	groups, err := os.Getgroups()
	if err != nil {
		return fmt.Errorf("proxysettings: %w", err)
	}
	group := os.Getegid() // of this thread, so not to be asked of the other one
	done := make(chan error, 1)
	go func() {
		// The system calls of package syscall would change all threads. Only the effective ids are changed, so that the thread can
		// turn back into what it was. If that should fail it is never unlocked, and ends with the goroutine. It does not end
		// otherwise, since children that it has started may be told to die with it (PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		err := become(uid, gid, nil)
		if err == nil {
			err = f()
		}
		if become(0, group, groups) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// become changes the effective identity of this thread.
func become(uid, gid int, groups []int) error {
	const keep = ^uintptr(0)
	setUser := func() syscall.Errno {
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep)
		return errno
	}
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	setGroups := func() syscall.Errno {
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0)
		if errno != 0 {
			return errno
		}
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep)
		return errno
	}
	// Only root may change groups: it is the first thing to become again, and the last to be no more.
	steps := []func() syscall.Errno{setGroups, setUser}
	if uid == 0 {
		steps = []func() syscall.Errno{setUser, setGroups}
	}
	for _, step := range steps {
		if errno := step(); errno != 0 {
			return fmt.Errorf("%w: becoming the user %d: %w", ErrPermission, uid, errno)
		}
	}
	return nil
}
