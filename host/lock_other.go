//go:build !linux

package host

import (
	"errors"
	"fmt"
	"os"
)

func lockFile(path string, create bool) (*os.File, error) {
	return nil, fmt.Errorf("a journal: %w", errors.ErrUnsupported)
}

func flock(f *os.File) error { return errors.ErrUnsupported }

func unlock(f *os.File) error { return f.Close() }

func syncDir(dir string) error { return errors.ErrUnsupported }
