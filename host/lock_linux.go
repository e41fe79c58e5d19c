package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile opens the file of a journal, makes sure that nobody else could have written it, and locks it.
func lockFile(path string, create bool) (*os.File, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: no path", ErrJournal)
	}
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	flags := os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if create {
		flags |= os.O_CREATE
	}
	for range 10 {
		f, err := os.OpenFile(path, flags, 0o600)
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%w: %s is a symbolic link", ErrJournal, path)
		}
		if err != nil {
			return nil, err
		}
		if err := checkFile(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("%w: %s %w", ErrJournal, path, err)
		}
		if err := flock(f); err != nil {
			if errors.Is(err, ErrBusy) {
				err = fmt.Errorf("%w: %s has %s open: end it first", ErrBusy, owner(f), path)
			}
			f.Close()
			return nil, err
		}
		// Its former owner may have removed or replaced it between our opening and locking it.
		mine, err1 := f.Stat()
		named, err2 := os.Lstat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, named) {
			return f, nil
		}
		f.Close()
		if err := errors.Join(err1, err2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %s is replaced all the time", ErrBusy, path)
}

// flock locks a file for this process, which the kernel undoes when the process ends, however it does.
func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrBusy
		default:
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// unlock unlocks a file and closes it. Closing alone would not do: the child that this process forks to start a program has all
// its files, with their locks, until that program runs.
func unlock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return errors.Join(err, f.Close())
}

// checkFile refuses what another user could have written: a program with all rights acts on it.
func checkFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a file")
	case st.Mode&0o022 != 0:
		return fmt.Errorf("may be written by others (mode %#o): if they have not done so, chmod 600", st.Mode&0o777)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d", st.Uid)
	case st.Nlink > 1:
		return errors.New("has more than one name")
	}
	if st.Mode&0o777 != 0o600 {
		return f.Chmod(0o600)
	}
	return nil
}

// checkDir refuses a directory in which another user could replace the file.
func checkDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("%w: the directory %s may be written by others (mode %#o)", ErrJournal, dir, st.Mode&0o777)
	}
	return nil
}

// owner says which process has a journal, from its first record.
func owner(f *os.File) string {
	line, err := bufio.NewReader(io.LimitReader(f, maxLine)).ReadBytes('\n')
	if err != nil {
		return "a process that has just started"
	}
	r, err := parseLine(bytes.TrimSuffix(line, []byte{'\n'}))
	if err != nil || r.Kind != kindOpen {
		return "an unknown process"
	}
	return fmt.Sprintf("%q (process %d, since %s)", r.Program, r.PID, r.Started.Format("2006-01-02 15:04:05"))
}

// syncDir waits until the names in a directory are on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
