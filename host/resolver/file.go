package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// A contents is a file, or the absence of one.
type contents struct {
	existed  bool
	content  []byte
	mode     fs.FileMode
	uid, gid int
	links    int // names that the file has
}

// A fileState is what is in force.
type fileState struct {
	owner    string
	target   string
	original contents
	previous []byte
	written  []byte
	config   Config
	reported []byte // what was found instead of written, and told of
	pace     pacer
}

// undo is what it takes to undo the state.
func (s *fileState) undo() fileUndo {
	return fileUndo{Target: s.target, Owner: s.owner, Existed: s.original.existed, Original: s.original.content,
		Mode: uint32(s.original.mode), UID: s.original.uid, GID: s.original.gid, Previous: s.previous, Written: s.written}
}

// follow returns the file that a path leads to. It need not exist, but its directory must.
func follow(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", invalid("Path: %q is not absolute", path)
	}
	const maxLinks = 40
	name := path
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return "", fmt.Errorf("resolver: %s leads to %s, whose directory cannot be used: %w", path, name, err)
		}
		name = filepath.Join(dir, filepath.Base(name))
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("resolver: %w", err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return name, nil
		}
		to, err := os.Readlink(name)
		if err != nil {
			return "", fmt.Errorf("resolver: %w", err)
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		name = to
	}
	return "", invalid("Path: %s leads in a circle", path)
}

// readFile reads a file that is no symbolic link.
func readFile(target string) (contents, error) {
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return contents{mode: 0o644}, nil
	}
	if err != nil {
		return contents{}, denied(err)
	}
	if !info.Mode().IsRegular() {
		return contents{}, invalid("%s is not a regular file", target)
	}
	f, err := os.Open(target)
	if err != nil {
		return contents{}, denied(err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return contents{}, denied(err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err != nil {
		return contents{}, denied(err)
	}
	if len(b) > maxConf {
		return contents{}, invalid("%s is longer than %d bytes; make it shorter", target, maxConf)
	}
	c := contents{existed: true, content: b, mode: permissions(info.Mode())}
	c.uid, c.gid, c.links = ownership(info)
	return c, nil
}

// permissions are the twelve bits of chmod(2).
func permissions(m fs.FileMode) fs.FileMode {
	p := m.Perm()
	for bit, to := range map[fs.FileMode]fs.FileMode{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			p |= to
		}
	}
	return p
}

// fileMode is the other way round.
func fileMode(p fs.FileMode) fs.FileMode {
	m := p & 0o777
	for bit, from := range map[fs.FileMode]fs.FileMode{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if p&from != 0 {
			m |= bit
		}
	}
	return m
}

// denied makes an error of the system match ErrPermission if it is one.
func denied(err error) error {
	if errors.Is(err, fs.ErrPermission) || readOnly(err) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return fmt.Errorf("resolver: %w", err)
}

// writeFile makes target hold content, with the permissions and the owner of like. Readers see the old file or the new one. Where the
// file cannot be exchanged, because something is mounted on it or it has several names, it is written over.
func writeFile(target string, content []byte, like contents) error {
	if like.links <= 1 {
		err := exchange(target, content, like)
		if err == nil {
			return nil
		}
		if !like.existed {
			return denied(err)
		}
	}
	return writeInPlace(target, content, like)
}

// besides names the file that is written before it gets the name of target.
func besides(target string) string {
	return filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".culvert")
}

// exchange writes a new file beside target and gives it its name.
func exchange(target string, content []byte, like contents) (err error) {
	dir := filepath.Dir(target)
	tmp := besides(target)
	// One may be there from a run that was killed.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if like.existed {
		// The owner goes first, since changing it takes the bits away that run programs as the owner.
		if err := chown(f, like.uid, like.gid); err != nil {
			return err
		}
		if err := copyAttributes(target, f); err != nil {
			return err
		}
	}
	if err := f.Chmod(fileMode(like.mode)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, target); err != nil {
		return err
	}
	return syncDir(dir)
}

// writeInPlace writes over what target holds. At no moment is the file empty: the new contents are padded to the length of the old
// ones, written at once, and then cut.
func writeInPlace(target string, content []byte, like contents) error {
	f, err := os.OpenFile(target, os.O_RDWR|noFollow, 0)
	if err != nil {
		return denied(err)
	}
	defer f.Close()
	was, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err != nil {
		return denied(err)
	}
	err = overwrite(f, content, len(was))
	if err == nil {
		if info, e := f.Stat(); e == nil && permissions(info.Mode()) != like.mode {
			err = f.Chmod(fileMode(like.mode))
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		overwrite(f, was, len(content)) // the machine stays as it is
		return denied(err)
	}
	return nil
}

func overwrite(f *os.File, content []byte, old int) error {
	if _, err := f.WriteAt(pad(content, old), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// current returns what resolv.conf holds, nothing if there is none.
func (r *Resolver) current() ([]byte, error) {
	target, err := follow(r.opts.Path)
	if err != nil {
		return nil, err
	}
	c, err := readFile(target)
	return c.content, err
}

// applyFile writes resolv.conf for cfg. It is called with r.mu held.
func (r *Resolver) applyFile(cfg Config, record func([]byte) error) error {
	if !cfg.Default {
		return fmt.Errorf("%w (%d domains are to go through %s, and all others not)", ErrNoSplit, len(cfg.Routes)+len(cfg.Search), cfg.Device)
	}
	target, err := follow(r.opts.Path)
	if err != nil {
		return err
	}
	now, err := readFile(target)
	if err != nil {
		return err
	}
	next := &fileState{owner: r.id, target: target, config: cfg}
	owner, intact := ownerOf(now.content)
	switch old := r.file; {
	case owner == r.id && old != nil:
		// It is still ours, perhaps with an edit, which is lost.
		next.original = old.original
		if intact {
			next.previous = now.content
		}
	case owner != "":
		return fmt.Errorf("%w (%s)", ErrStale, target)
	default:
		next.original = now
	}
	before, err := ParseConf(next.original.content)
	if err != nil {
		return err
	}
	var left []string
	if next.written, left, err = compose(r.id, cfg, before); err != nil {
		return err
	}
	if len(left) > 0 {
		r.log.Warn("resolv.conf has room for three servers only", "left out", strings.Join(left, " "))
	}
	if bytes.Equal(now.content, next.written) {
		r.file = next
		return nil
	}
	undo := next.undo()
	b, err := encode(undoRecord{File: &undo})
	if err != nil {
		return err
	}
	if err := record(b); err != nil {
		return err
	}
	like := now
	like.mode, like.uid, like.gid = next.original.mode, next.original.uid, next.original.gid
	if err := writeFile(target, next.written, like); err != nil {
		return err
	}
	delete(r.done, r.id)
	r.file = next
	return nil
}

// undoFile puts a file back. It is called with r.mu held.
func (r *Resolver) undoFile(u fileUndo) error {
	// A process that was killed may have left its half of the work.
	os.Remove(besides(u.Target))
	now, err := readFile(u.Target)
	theirs := errors.Is(err, ErrInvalid) // a link or a directory stands there, or a file longer than any of ours
	if err != nil && !theirs {
		return err
	}
	owner, intact := ownerOf(now.content)
	same := !theirs && now.existed == u.Existed && bytes.Equal(now.content, u.Original)
	ours := now.existed && (owner == u.Owner && intact ||
		torn(now.content, u.Original, u.Written) || torn(now.content, u.Previous, u.Written) ||
		torn(now.content, u.Written, u.Original))
	switch {
	case same:
	case !ours && r.done[u.Owner]:
		// A later record of the same Resolver was undone, which put back what is newer than this.
		return nil
	case !ours && !theirs && !now.existed:
		return fmt.Errorf("%w: %s was removed", ErrChanged, u.Target)
	case !ours:
		return fmt.Errorf("%w: %s", ErrChanged, u.Target)
	case !u.Existed:
		if err := os.Remove(u.Target); err != nil {
			return denied(err)
		}
		if err := syncDir(filepath.Dir(u.Target)); err != nil {
			return denied(err)
		}
	default:
		like := now
		like.mode, like.uid, like.gid = fs.FileMode(u.Mode), u.UID, u.GID
		if err := writeFile(u.Target, u.Original, like); err != nil {
			return err
		}
	}
	if ours && !same {
		r.log.Info("resolv.conf is back as it was", "file", u.Target)
	}
	r.done[u.Owner] = true
	return nil
}

// asksResolved says whether programs on this machine ask systemd-resolved, and how one sees that.
func (r *Resolver) asksResolved() (bool, string) {
	var b []byte
	r.mu.Lock()
	if r.file != nil {
		b = r.file.original.content // what stands there now is ours
	}
	r.mu.Unlock()
	target, err := follow(r.opts.Path)
	if err == nil && (strings.HasPrefix(target, "/run/systemd/resolve/") || target == "/usr/lib/systemd/resolv.conf" ||
		target == "/lib/systemd/resolv.conf") {
		return true, r.opts.Path + " leads to " + target
	}
	if b == nil && err == nil {
		if c, err := readFile(target); err == nil {
			b = c.content
		}
	}
	if conf, err := ParseConf(b); err == nil {
		for _, s := range conf.Servers {
			if s == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || s == netip.AddrFrom4([4]byte{127, 0, 0, 54}) {
				return true, r.opts.Path + " names " + s.String()
			}
		}
	}
	const maxSwitch = 64 << 10
	if f, err := os.Open(r.opts.Switch); err == nil {
		defer f.Close()
		if b, err := io.ReadAll(io.LimitReader(f, maxSwitch)); err == nil && switched(b) {
			return true, r.opts.Switch + " looks names up with resolve"
		}
	}
	return false, r.opts.Path + " names other servers and " + r.opts.Switch + " does not use it"
}

// switched reports whether a nsswitch.conf looks hosts up with the module of systemd-resolved.
func switched(b []byte) bool {
	for line := range bytes.Lines(b) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		if hosts, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "hosts:"); ok {
			for _, w := range strings.Fields(hosts) {
				if w == "resolve" {
					return true
				}
			}
		}
	}
	return false
}
