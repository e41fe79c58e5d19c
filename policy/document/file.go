package document

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

var (
	// ErrTooLarge reports a file that is larger than [MaxSize].
	ErrTooLarge = errors.New("the file is too large")
	// ErrChanged reports a file that was replaced or written to each time that it was read.
	ErrChanged = errors.New("the file changed while it was read")
	// ErrUntrusted reports a file that somebody else than the administrator could have written.
	ErrUntrusted = errors.New("the file could have been written by others than the administrator")
	// ErrNotRegular reports a directory, device or pipe where a file was expected.
	ErrNotRegular = errors.New("not a regular file")
)

// ReadFile reads a file of at most [MaxSize] bytes as a whole and as it was at one moment: if the file is written to or replaced
// meanwhile, it is read again, three times at most, and then the error matches [ErrChanged].
//
// With trusted, the file must be one that nobody but the administrator can write: on Unix it and every directory on the way to
// it belong to root, or to the user that this process runs as, and are not writable by others; a directory that is must have
// its sticky bit, as /tmp has. Otherwise the error matches [ErrUntrusted] and says how to mend it. Elsewhere than on Unix the
// access lists of the system are not looked at.
func ReadFile(path string, trusted bool) ([]byte, error) { return readFile(path, trusted, func() {}) }

// readFile is ReadFile, and calls between in the middle of each attempt.
func readFile(path string, trusted bool, between func()) ([]byte, error) {
	if trusted {
		if err := checkTrust(path); err != nil {
			return nil, err
		}
	}
	for range 3 {
		data, same, err := readOnce(path, trusted, between)
		if err != nil {
			return nil, err
		}
		if same {
			return data, nil
		}
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: ErrChanged}
}

func readOnce(path string, trusted bool, between func()) (data []byte, same bool, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !before.Mode().IsRegular() {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	if trusted {
		// What was checked by name may have been exchanged since; this is what is read.
		if err := checkOwner(path, before); err != nil {
			return nil, false, err
		}
	}
	if before.Size() > MaxSize {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: it has %d bytes, and no more than %d are read", ErrTooLarge, before.Size(), MaxSize)}
	}
	data, err = io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, false, err
	}
	between()
	after, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	now, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	same = int64(len(data)) == before.Size() && after.Size() == before.Size() && after.ModTime().Equal(before.ModTime()) && os.SameFile(before, now)
	return data, same, nil
}

// makeDir makes the directory of a file with such permissions, and those around it. Its umask is that of the process.
func makeDir(dir string, perm fs.FileMode) error {
	if perm&0o044 != 0 {
		return os.MkdirAll(dir, 0o755)
	}
	return os.MkdirAll(dir, 0o700)
}

// ErrBusy says that another process has been changing a file for too long.
var ErrBusy = errors.New("another process is changing it")

// EditFile has edit change a file while no other process does so by EditFile, so that of two that change different things none undoes
// what the other has done. Edit gets what the file holds, nil if there is none, and returns what it is to hold; with nil it stays as it
// is, and so does it with an error. It may be called twice. For perm see [WriteFile], for trusted [ReadFile].
func EditFile(path string, perm fs.FileMode, trusted bool, edit func(old []byte) ([]byte, error)) error {
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		// Whoever wants nothing to change need not find a directory that he has not made.
		if data, err := edit(nil); err != nil || data == nil {
			return err
		}
		if err := makeDir(filepath.Dir(path), perm); err != nil {
			return err
		}
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	old, err := ReadFile(path, trusted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := edit(old)
	if err != nil || data == nil {
		return err
	}
	return WriteFile(path, data, perm)
}

// WriteFile replaces a file as a whole or not at all: the content goes into a new file beside it, which is written to the disk
// and then takes its name. A file that exists keeps its permissions and owner, and perm is for a new one. Missing directories
// are made, for everybody if perm lets everybody read the file, and else for their owner alone.
//
// A symbolic link is followed, but not by root, whom whoever owns the directory could lead anywhere with it.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if privileged() {
			return &fs.PathError{Op: "write", Path: path, Err: errors.New("root follows no symbolic link here")}
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir, perm); err != nil {
		return err
	}
	var owner fs.FileInfo
	if info, err := os.Lstat(path); err == nil {
		if !info.Mode().IsRegular() {
			return &fs.PathError{Op: "write", Path: path, Err: ErrNotRegular}
		}
		owner, perm = info, info.Mode().Perm()
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if owner != nil {
		if err := giveTo(f, owner); err != nil {
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
