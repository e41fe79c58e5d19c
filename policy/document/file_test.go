//go:build unix

package document

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// trustedDir returns a new directory that nobody but this user can write to, and the way to it neither. That of the tests may
// lie where everybody can.
func trustedDir(t *testing.T) string {
	t.Helper()
	home, _ := os.UserHomeDir()
	for _, base := range []string{os.TempDir(), "/var/tmp", home, "/run"} {
		if base == "" || checkTrust(base) != nil {
			continue
		}
		dir, err := os.MkdirTemp(base, "culvert-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	t.Fatal("no directory on this machine is safe from others")
	return ""
}

func TestTrust(t *testing.T) {
	dir := trustedDir(t)
	path := filepath.Join(dir, "policy.xml")
	write(t, path, "<a/>", 0o644)
	if _, err := ReadFile(path, true); err != nil {
		t.Fatalf("a file of our own: %v", err)
	}
	for _, tt := range []struct {
		name string
		make func(t *testing.T)
		want string
	}{
		{"writable by everybody", func(t *testing.T) { write(t, path, "<a/>", 0o646) }, "run chmod o-w"},
		{"directory writable by everybody", func(t *testing.T) { os.Chmod(dir, 0o777) }, "move the file, as root"},
		{"of another user, in a directory like /tmp", func(t *testing.T) { os.Chmod(dir, 0o777|os.ModeSticky); chown(t, path, 12345, 0) }, "move the file, as root"},
		{"of another user", func(t *testing.T) { chown(t, path, 12345, 0) }, "belongs to user 12345"},
		{"directory of another user", func(t *testing.T) { chown(t, dir, 12345, 0) }, "belongs to user 12345"},
		{"writable by another group", func(t *testing.T) { chown(t, path, os.Getuid(), 12345); os.Chmod(path, 0o664) }, "writable by group 12345"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				os.Chmod(dir, 0o755)
				os.Chmod(path, 0o644)
				if os.Getuid() == 0 {
					chown(t, dir, 0, 0)
					chown(t, path, 0, 0)
				}
			}()
			tt.make(t)
			if _, err := ReadFile(path, false); err != nil {
				t.Errorf("not trusted: %v", err)
			}
			if _, err := ReadFile(path, true); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("trusted: %v, want %q", err, tt.want)
			}
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadFile(link, true); !errors.Is(err, ErrUntrusted) {
				t.Errorf("through a link: %v", err)
			}
		})
	}
}

// chown needs root, without which what it makes cannot be.
func chown(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatal("CULVERT_INTEROP=1, but this is not root")
		}
		t.Skip("only root can give files away")
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedWhileRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile.xml")
	write(t, path, "<old/>", 0o600)
	times := 0
	data, err := readFile(path, false, func() {
		if times++; times == 1 {
			write(t, path+".new", "<new/>", 0o600)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err != nil || string(data) != "<new/>" || times != 2 {
		t.Errorf("read %q after %d attempts: %v", data, times, err)
	}
	_, err = readFile(path, false, func() {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
	})
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that grows all the time: %v", err)
	}
}

func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, "/dev/zero"} {
		if _, err := ReadFile(path, false); !errors.Is(err, ErrNotRegular) {
			t.Errorf("ReadFile(%s): %v", path, err)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := WriteFile(dir, nil, 0o600); err == nil {
		t.Error("a directory was written to")
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "preferences.xml")
	if err := WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil || before.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", before.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		chown(t, path, 123, 456)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Error("the file was written into and not replaced, so that a reader could see half of it")
	}
	if after.Mode().Perm() != 0o640 {
		t.Errorf("the permissions are %v", after.Mode())
	}
	if s := after.Sys().(*syscall.Stat_t); os.Getuid() == 0 && (s.Uid != 123 || s.Gid != 456) {
		t.Errorf("the owner is %d:%d", s.Uid, s.Gid)
	}
	b := make([]byte, 10)
	if n, _ := old.Read(b); !bytes.Equal(b[:n], []byte("one")) {
		t.Errorf("who had the file open reads %q", b[:n])
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("files are left behind: %v %v", entries, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	err = WriteFile(link, []byte("three"), 0o600)
	data, readErr := os.ReadFile(path)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if os.Geteuid() == 0 {
		if err == nil || string(data) != "two" {
			t.Errorf("root followed a link: %v, %q", err, data)
		}
	} else if err != nil || string(data) != "three" {
		t.Errorf("a link was not followed: %v, %q", err, data)
	}
}
