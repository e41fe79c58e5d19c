package owner

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A place is where a socket was found: a file descriptor of a process.
type place struct{ pid, fd int }

// A proc reads the file system of processes.
type proc struct {
	root     string
	maxFiles int
	self     string // the mount namespace of this process, "" if it cannot be told
}

func newProc(root string, maxFiles int) *proc {
	p := &proc{root: root, maxFiles: maxFiles}
	p.self, _ = os.Readlink(filepath.Join(root, "self/ns/mnt"))
	return p
}

func (p *proc) path(pid int, file string) string {
	return p.root + "/" + strconv.Itoa(pid) + "/" + file
}

// socketName is what the link of an open socket says.
func socketName(inode uint32) string { return "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]" }

// inodeOf is the reverse of socketName.
func inodeOf(link string) (uint32, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	s, ok = strings.CutSuffix(s, "]")
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), ok && err == nil
}

// has reports whether the process still has the socket open where it had it.
func (p *proc) has(at place, inode uint32) bool {
	link, err := os.Readlink(p.path(at.pid, "fd/"+strconv.Itoa(at.fd)))
	return err == nil && link == socketName(inode)
}

// errTooMany ends a search that takes too long.
var errTooMany = errors.New("too many open files to look through")

// search looks through the open files of all processes until it finds the socket. It tells seen of every socket that it
// meets.
func (p *proc) search(ctx context.Context, inode uint32, seen func(uint32, place)) (place, bool, error) {
	pids, err := p.processes()
	if err != nil {
		return place{}, false, err
	}
	left := p.maxFiles
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return place{}, false, err
		}
		at, found, err := p.searchProcess(pid, inode, &left, seen)
		if found || err != nil {
			return at, found, err
		}
	}
	return place{}, false, nil
}

// processes returns the ids of all processes, the highest first: whoever opens a socket that is not known yet has often just been
// started.
func (p *proc) processes() ([]int, error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var pids []int
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		switch {
		case err == io.EOF:
			slices.SortFunc(pids, func(a, b int) int { return b - a })
			return pids, nil
		case err != nil:
			return nil, err
		}
	}
}

// searchProcess is search in one process. One that has ended or may not be looked at has nothing.
func (p *proc) searchProcess(pid int, inode uint32, left *int, seen func(uint32, place)) (place, bool, error) {
	fds := p.path(pid, "fd")
	dir, err := os.Open(fds)
	if err != nil {
		return place{}, false, nil
	}
	defer dir.Close()
	// A program that opens files without end must not hide the others.
	share := p.maxFiles/8 + 1
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if *left--; *left < 0 {
				return place{}, false, errTooMany
			}
			if share--; share < 0 {
				return place{}, false, nil
			}
			link, err := os.Readlink(fds + "/" + name)
			if err != nil {
				continue
			}
			found, ok := inodeOf(link)
			if !ok {
				continue
			}
			fd, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			at := place{pid, fd}
			seen(found, at)
			if found == inode {
				return at, true, nil
			}
		}
		if err != nil {
			return place{}, false, nil
		}
	}
}

// program returns the path of the executable file of a process, "" if it cannot be told, and whether something else lies at that path
// in our view of the file system.
func (p *proc) program(pid int) (path string, contained bool) {
	exe := p.path(pid, "exe")
	path, err := os.Readlink(exe)
	if err != nil {
		return "", false
	}
	// An update has replaced the file while the program was running.
	path = strings.TrimSuffix(path, " (deleted)")
	view, err := os.Readlink(p.path(pid, "ns/mnt"))
	if err == nil && view == p.self {
		return path, false
	}
	// Another view may differ only elsewhere: the file counts.
	theirs, err := os.Stat(exe)
	if err != nil {
		return path, true
	}
	ours, err := os.Stat(path)
	return path, err != nil || !os.SameFile(theirs, ours)
}
