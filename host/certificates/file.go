package certificates

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

var (
	// ErrTooLarge reports a file that is larger than is read.
	ErrTooLarge = errors.New("the file is too large")
	// ErrChanged reports a file that was written to each time that it was read, or that a crashed program left half written.
	ErrChanged = errors.New("the file is being written to")
	// ErrNotRegular reports a directory, device or pipe in the place of a file.
	ErrNotRegular = errors.New("not a regular file")
)

// readFile reads a file of at most size bytes as it was at one moment: if it is written to meanwhile, it is read again, three
// times at most. It does not wait for the other end of a pipe.
func readFile(path string, size int64) ([]byte, error) {
	for range 3 {
		data, same, err := readOnce(path, size)
		if err != nil {
			return nil, err
		}
		if same {
			return data, nil
		}
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: ErrChanged}
}

func readOnce(path string, size int64) (data []byte, same bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
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
	if before.Size() > size {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: it has %d bytes, and no more than %d are read", ErrTooLarge, before.Size(), size)}
	}
	if data, err = io.ReadAll(io.LimitReader(f, size+1)); err != nil {
		return nil, false, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	return data, int64(len(data)) == before.Size() && after.Size() == before.Size() && after.ModTime().Equal(before.ModTime()), nil
}

// names returns the names of what is in a directory, in alphabetical order.
func names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(all) > maxEntries {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: fmt.Errorf("it has more than %d files", maxEntries)}
	}
	slices.Sort(all)
	return all, nil
}
