package logins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// systemState is what a Source remembers on macOS: nothing.
type systemState struct{}

func (s *Source) list(context.Context) ([]Session, error) {
	name := s.opts.Utmp
	if name == "" {
		name = "/var/run/utmpx"
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUtmp+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	records, err := parseUtmpx(b)
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, r := range records {
		l, ok := r.session("console")
		if !ok || l.Leader <= 1 || errors.Is(unix.Kill(l.Leader, 0), unix.ESRCH) {
			continue
		}
		if u, err := user.Lookup(l.User); err == nil {
			l.UID, _ = parseNumber([]byte(u.Uid))
		}
		all = append(all, l)
	}
	return all, nil
}

func (s *Source) watch(ctx context.Context, w *watch) error { return s.pollList(ctx, w, s.list) }

// Asker finds out who is behind a process of this machine. It fails with ErrNoProcess if there is none, else as List does; that
// a process belongs to no logon is no error.
func (s *Source) Asker(ctx context.Context, pid int) (Asker, error) {
	var chain []process
	for at := pid; at > 0 && len(chain) < maxAncestors; {
		info, err := unix.SysctlKinfoProc("kern.proc.pid", at)
		if err != nil || info.Proc.P_pid != int32(at) {
			break
		}
		p := process{pid: at, parent: int(info.Eproc.Ppid), uid: info.Eproc.Pcred.P_ruid, loginUID: NoUID,
			name: text(info.Proc.P_comm[:])}
		chain = append(chain, p)
		at = p.parent
	}
	if len(chain) == 0 {
		return Asker{UID: NoUID}, fmt.Errorf("%w: %d", ErrNoProcess, pid)
	}
	sessions, err := s.List(ctx)
	if err != nil {
		return Asker{UID: NoUID}, err
	}
	a := identify(chain, sessions, "")
	if u, err := user.LookupId(strconv.FormatUint(uint64(a.UID), 10)); err == nil && a.UID != NoUID {
		a.User = clean(u.Username)
	}
	if a.Found && a.Session.User == "" {
		a.Session.User = a.User
	}
	return a, nil
}
