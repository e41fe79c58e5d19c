package resolver

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long a file must rest before it is looked at: other programs write theirs in several steps. patience is how long
// it is waited for that at most.
const quiet, patience = 50 * time.Millisecond, time.Second

// watchFile looks after resolv.conf until ctx is done.
func (r *Resolver) watchFile(ctx context.Context, policy Policy, record func([]byte) error, report func(Event)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(r.opts.Path)); err != nil {
		return fmt.Errorf("resolver: watching %s: %w", filepath.Dir(r.opts.Path), err)
	}
	for {
		// A directory tells of files that come and go in it; a file that something else is mounted on does not show there, and
		// is watched itself. What is watched already is not watched twice.
		target, err := follow(r.opts.Path)
		if err == nil {
			w.Add(filepath.Dir(target))
			w.Add(target)
		}
		if e, changed := r.inspectFile(policy, record); changed {
			report(e)
		}
		if !settle(ctx, w, r.opts.Path, target) {
			return nil
		}
	}
}

// settle waits until one of the files is touched and rests again. It returns false when ctx is done.
func settle(ctx context.Context, w *fsnotify.Watcher, names ...string) bool {
	var rest, latest <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-rest:
			return true
		case <-latest:
			return true
		case err, ok := <-w.Errors:
			if !ok {
				return false
			}
			_ = err // events were lost, so the file is looked at
			return true
		case e, ok := <-w.Events:
			if !ok {
				return false
			}
			for _, n := range names {
				if e.Name != n {
					continue
				}
				rest = time.After(quiet)
				if latest == nil {
					latest = time.After(patience)
				}
			}
		}
	}
}

// inspectFile compares resolv.conf with what was written, and repairs it if the policy says so.
func (r *Resolver) inspectFile(policy Policy, record func([]byte) error) (Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.file
	if s == nil {
		return Event{}, false
	}
	e := Event{Time: time.Now(), Backend: File}
	target, err := follow(r.opts.Path)
	if err != nil {
		e.What, e.Err = r.opts.Path+" leads nowhere", err
		return e, !s.told([]byte(err.Error()))
	}
	now, err := readFile(target)
	if err != nil {
		e.What, e.Err = "reading "+target, err
		return e, !s.told([]byte(err.Error()))
	}
	owner, intact := ownerOf(now.content)
	switch {
	case target == s.target && bytes.Equal(now.content, s.written):
		s.reported = nil
		return e, false
	case target != s.target:
		e.What = r.opts.Path + " leads to another file, " + target
	case !now.existed:
		e.What = target + " was removed"
	case owner == r.id && !intact:
		e.What = target + " was edited"
	default:
		e.What = target + " was rewritten by another program"
	}
	if policy == Report {
		return e, !s.told(now.content)
	}
	if !s.pace.allow(e.Time) {
		e.Err = ErrFight
		return e, !s.told([]byte(ErrFight.Error()))
	}
	cfg, pace := s.config, s.pace
	if !now.existed {
		// There is nothing newer to put back, so what was there before stays the one.
		e.Err = r.rewrite(s, record)
	} else {
		e.Err = r.applyFile(cfg, record)
	}
	e.Repaired = e.Err == nil
	r.file.pace = pace
	return e, true
}

// rewrite writes a file of ours again that was removed.
func (r *Resolver) rewrite(s *fileState, record func([]byte) error) error {
	like := s.original
	like.existed, like.links = false, 1
	undo := s.undo()
	b, err := encode(undoRecord{File: &undo})
	if err != nil {
		return err
	}
	if err := record(b); err != nil {
		return err
	}
	return writeFile(s.target, s.written, like)
}

// told remembers that what is found was told of, and reports whether it was before.
func (s *fileState) told(found []byte) bool {
	if s.reported != nil && bytes.Equal(s.reported, found) {
		return true
	}
	s.reported = append([]byte{}, found...)
	return false
}
