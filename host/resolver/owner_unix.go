//go:build unix

package resolver

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// noFollow makes opening a symbolic link fail.
const noFollow = syscall.O_NOFOLLOW

// ownership returns who owns a file, and how many names it has.
func ownership(info fs.FileInfo) (uid, gid, links int) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 1
	}
	return int(st.Uid), int(st.Gid), int(st.Nlink)
}

func chown(f *os.File, uid, gid int) error { return f.Chown(uid, gid) }

func readOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// syncDir makes the names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot, and say so in this way.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
