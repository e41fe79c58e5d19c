package owner

import (
	"context"
	"errors"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Finder finds the owners of flows. Its methods may be called by several goroutines.
type Finder struct {
	cfg  Config
	diag *diag

	proc *proc

	// searching is held while processes are looked through. Who waits for it may find that the other search has met its socket.
	searching sync.Mutex

	mu      sync.Mutex
	sockets map[uint32]place // where sockets were found
	order   []uint32         // the keys of sockets in the order in which they came, as a ring
	next    int
	users   map[int]username

	recent [8]int // processes that sockets were found in last; guarded by searching

	found, notFound, failed        atomic.Uint64
	remembered, searched, nobodies atomic.Uint64
}

// A username is a name with the time at which it was looked up.
type username struct {
	name string
	at   time.Time
}

const (
	// userLife is how long the name of a user is believed, and maxUsers how many are remembered.
	userLife = time.Minute
	maxUsers = 1024
)

// New returns a Finder for the sockets in the network namespace of the calling thread. Its owner closes it. Errors match
// [ErrUnsupported] where the kernel does not tell.
func New(cfg Config) (*Finder, error) {
	if cfg.MaxSockets <= 0 {
		cfg.MaxSockets = defaultMaxSockets
	}
	if cfg.MaxFiles <= 0 {
		cfg.MaxFiles = defaultMaxFiles
	}
	if cfg.Proc == "" {
		cfg.Proc = defaultProc
	}
	d, err := openDiag()
	if err != nil {
		return nil, err
	}
	return &Finder{
		cfg: cfg, diag: d, proc: newProc(cfg.Proc, cfg.MaxFiles),
		sockets: make(map[uint32]place), users: make(map[int]username),
	}, nil
}

// Close ends the Finder.
func (f *Finder) Close() error {
	f.diag.close()
	return nil
}

// Stats returns what was counted so far.
func (f *Finder) Stats() Stats {
	return Stats{
		Found: f.found.Load(), NotFound: f.notFound.Load(), Errors: f.failed.Load(),
		Remembered: f.remembered.Load(), Searched: f.searched.Load(), Nobody: f.nobodies.Load(),
	}
}

// Find returns the owner of a flow. Errors match [ErrNotFound], [ErrUnsupported] or [ErrClosed], or are those of the system; then the
// Owner is [Unknown]. Where only the program cannot be found, there is no error and no program. Looking through all processes takes
// as long as there are open files, within [Config.MaxFiles] and ctx.
func (f *Finder) Find(ctx context.Context, flow Flow) (Owner, error) {
	if err := ctx.Err(); err != nil {
		return Unknown, err
	}
	uid, inode, err := f.diag.find(flow)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			f.notFound.Add(1)
		} else {
			f.failed.Add(1)
		}
		return Unknown, err
	}
	f.found.Add(1)
	o := Owner{UID: int(uid), User: f.username(int(uid))}
	if at, ok := f.locate(ctx, inode); ok {
		o.PID = at.pid
		o.Program, o.Contained = f.proc.program(at.pid)
		if !f.proc.has(at, inode) {
			// The process has ended or given the socket away since, and what was read may be of another one.
			o.PID, o.Program, o.Contained = 0, "", false
		}
	}
	return o, nil
}

// locate returns where the socket is.
func (f *Finder) locate(ctx context.Context, inode uint32) (place, bool) {
	if at, ok := f.recall(inode); ok {
		return at, true
	}
	f.searching.Lock()
	defer f.searching.Unlock()
	if at, ok := f.recall(inode); ok {
		return at, true
	}
	f.searched.Add(1)
	left := f.cfg.MaxFiles
	for _, pid := range f.recent {
		if pid == 0 {
			break
		}
		if at, ok, _ := f.proc.searchProcess(pid, inode, &left, f.remember); ok {
			return at, true
		}
	}
	at, ok, _ := f.proc.search(ctx, inode, f.remember)
	if !ok {
		f.nobodies.Add(1)
		return at, false
	}
	copy(f.recent[1:], f.recent[:len(f.recent)-1])
	f.recent[0] = at.pid
	return at, true
}

// recall returns where the socket was, if it is still there.
func (f *Finder) recall(inode uint32) (place, bool) {
	f.mu.Lock()
	at, ok := f.sockets[inode]
	f.mu.Unlock()
	if !ok || !f.proc.has(at, inode) {
		return place{}, false
	}
	f.remembered.Add(1)
	return at, true
}

// remember notes where a socket is, and forgets the one that was noted first if there are too many.
func (f *Finder) remember(inode uint32, at place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.sockets[inode]; !ok {
		if len(f.order) < f.cfg.MaxSockets {
			f.order = append(f.order, inode)
		} else {
			delete(f.sockets, f.order[f.next])
			f.order[f.next] = inode
			f.next = (f.next + 1) % len(f.order)
		}
	}
	f.sockets[inode] = at
}

// username returns the name of a user, "" if there is none.
func (f *Finder) username(uid int) string {
	now := time.Now()
	f.mu.Lock()
	u, ok := f.users[uid]
	f.mu.Unlock()
	if ok && now.Sub(u.at) < userLife {
		return u.name
	}
	u = username{at: now}
	if found, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		u.name = found.Username
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.users) >= maxUsers {
		clear(f.users)
	}
	f.users[uid] = u
	return u.name
}
