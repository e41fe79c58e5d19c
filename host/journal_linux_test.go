package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func mustOpen(t *testing.T, path string) *journal {
	t.Helper()
	j, _, err := openJournal(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if j.header.Kind == "" {
		if err := j.begin(header(), nil); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// TestJournalForked: a child that has been forked to start a program, and still has all files of this process, keeps nobody out.
func TestJournalForked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, path)
	if err := j.claim(sample()[0]); err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(j.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j, l, err := openJournal(path, false)
	if err != nil || len(l.live) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

func TestJournalFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if _, _, err := openJournal(path, false); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("opening none: %v", err)
	}
	j := mustOpen(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	for _, r := range sample() {
		if err := j.claim(r); err != nil {
			t.Fatal(err)
		}
		if err := j.claim(r); err != nil { // the second time it is there already
			t.Fatal(err)
		}
	}
	if err := j.forget("up 7", "unheard of"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := parseJournal(data); err != nil || !reflect.DeepEqual(l.live, j.live) || len(l.live) != len(sample())-1 {
		t.Fatalf("the file says %+v, %v", l, err)
	}

	// Nobody else gets in, and is told who is there.
	_, _, err = openJournal(path, true)
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), `"culvert" (process 4711`) {
		t.Errorf("a second one: %v", err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, path)
	if len(j.live) != len(sample())-1 {
		t.Errorf("%d claims came back", len(j.live))
	}
	var keys []string
	for _, r := range j.live {
		keys = append(keys, r.Key)
	}
	if err := j.forget(keys...); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty journal is still there: %v", err)
	}
}

// TestJournalStaysSmall claims and gives up for longer than anybody is connected.
func TestJournalStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, path)
	defer j.close()
	for _, r := range sample() {
		if err := j.claim(r); err != nil {
			t.Fatal(err)
		}
	}
	largest := int64(0)
	for i := range 300 {
		r := record{Kind: kindPart, Key: fmt.Sprintf("part resolver %d", i+10), Part: partResolver, Undo: make([]byte, 100)}
		if err := j.claim(r); err != nil {
			t.Fatal(err)
		}
		if err := j.forget(r.Key); err != nil {
			t.Fatal(err)
		}
		largest = max(largest, j.size)
	}
	if largest > 100<<10 {
		t.Errorf("it grew to %d bytes", largest)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := parseJournal(data); err != nil || !reflect.DeepEqual(l.live, sample()) || int64(len(data)) != j.size {
		t.Errorf("after all that it says %+v, %v", l, err)
	}
	if _, _, err := openJournal(path, true); !errors.Is(err, ErrBusy) {
		t.Errorf("after the file was replaced it is not locked: %v", err)
	}
}

func TestUntrustedJournal(t *testing.T) {
	journal := text(t, append([]record{header()}, sample()...)...)
	for name, prepare := range map[string]func(dir, path string) error{
		"writable by all":       func(_, path string) error { return os.Chmod(path, 0o666) },
		"writable by the group": func(_, path string) error { return os.Chmod(path, 0o620) },
		"of another user":       func(_, path string) error { return os.Chown(path, 4242, 4242) },
		"a second name":         func(dir, path string) error { return os.Link(path, filepath.Join(dir, "other")) },
		"a symbolic link": func(dir, path string) error {
			return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
		},
		"a directory":             func(_, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"in a directory for all":  func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"something else":          func(_, path string) error { return os.WriteFile(path, text(t, sample()[0]), 0o600) },
		"larger than any journal": func(_, path string) error { return os.Truncate(path, maxJournal+1) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "of another user" && os.Geteuid() != 0 {
				return // nobody else can give files away
			}
			dir := filepath.Join(t.TempDir(), "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "journal")
			if err := os.WriteFile(path, journal, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := prepare(dir, path); err != nil {
				t.Fatal(err)
			}
			_, _, err := openJournal(path, true)
			if name == "a directory" {
				if err == nil {
					t.Error("a directory was opened as a journal")
				}
			} else if !errors.Is(err, ErrJournal) {
				t.Errorf("%v", err)
			}
			k := newFake()
			before := k.picture()
			if _, err := repair(t.Context(), path, Parts{}, k); err == nil || !k.picture().equal(before) {
				t.Errorf("repaired with it: %v, %v", err, k.changes)
			}
		})
	}
	// Readable by others is no danger, and is put right.
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, journal, 0o644); err != nil {
		t.Fatal(err)
	}
	j, _, err := openJournal(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
