//go:build unix

package document

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// openFile opens a file for reading and does not wait for the other end of a pipe.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// privileged reports whether the process may write in directories of others.
func privileged() bool { return os.Geteuid() == 0 }

// checkTrust checks the owner and permissions of a file and of all directories on the way to it.
func checkTrust(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if err := checkOwner(at, info); err != nil {
			return err
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// checkOwner checks the owner and permissions of one file or directory.
func checkOwner(path string, info fs.FileInfo) error {
	untrusted := func(why, mend string) error {
		return &fs.PathError{Op: "trust", Path: path, Err: fmt.Errorf("%w: it %s; %s", ErrUntrusted, why, mend)}
	}
	run := func(command string) string {
		dir := info
		if !info.IsDir() {
			dir, _ = os.Lstat(filepath.Dir(path))
		}
		if dir != nil && dir.Mode().Perm()&0o002 != 0 {
			// A directory such as /tmp has to be as it is.
			return "move the file, as root, into a directory that belongs to root, and have it belong to root"
		}
		return "run " + command
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return &fs.PathError{Op: "trust", Path: path, Err: fmt.Errorf("%w: its owner cannot be told", ErrUntrusted)}
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return untrusted(fmt.Sprintf("belongs to user %d", stat.Uid), run("chown root"))
	}
	if info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	if info.Mode().Perm()&0o002 != 0 {
		return untrusted("is writable by everybody", run("chmod o-w"))
	}
	if info.Mode().Perm()&0o020 != 0 && stat.Gid != 0 {
		return untrusted(fmt.Sprintf("is writable by group %d", stat.Gid), run("chmod g-w"))
	}
	return nil
}

// patience is how long a process waits for another one that changes a file.
const patience = 5 * time.Second

// lockDir keeps other processes from the same until unlock is called.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return func() {
				// A child that is only about to run a program has the lock as well, unless it is undone.
				_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
				f.Close()
			}, nil
		case err != syscall.EWOULDBLOCK && err != syscall.EINTR:
			f.Close()
			return func() {}, nil // a file system without locks
		case time.Now().After(end):
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: dir, Err: ErrBusy}
		}
	}
}

// giveTo makes the owner of f that of the file that it replaces.
func giveTo(f *os.File, owner fs.FileInfo) error {
	stat, ok := owner.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() && int(stat.Gid) == os.Getegid() {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// syncDir makes a change of names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
