package logins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemState is what a Source remembers on Linux.
type systemState struct {
	// logind has answered before, so that its absence is a fault.
	logind bool
	uids   map[string]uint32
}

const (
	systemBus = "unix:path=/run/dbus/system_bus_socket"
	// settle is how long signals are gathered before the sessions are listed again: they come in bundles.
	settle = 20 * time.Millisecond
	// resync is how often the sessions are listed though nothing was heard of them.
	resync = time.Minute
	// lookForLogind is how long utmp is looked at before logind is asked for again.
	lookForLogind = 30 * time.Second
	// maxProc bounds what is read of one file of /proc.
	maxProc = 16 << 20
	// maxDescriptors bounds the descriptors of a process that are looked at.
	maxDescriptors = 4096
)

func (s *Source) connect(ctx context.Context) (*bus, error) {
	address := s.opts.Bus
	if address == "" {
		address = systemBus
	}
	return connect(ctx, address, s.answer)
}

// seen remembers that logind has answered, and turns its later absence into an error of its own.
func (s *Source) seen(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.system.logind = true
	case errors.Is(err, errNoLogind) && s.system.logind:
		return fmt.Errorf("%w: %v", ErrUnavailable, err) // not errNoLogind any more
	}
	return err
}

func (s *Source) list(ctx context.Context) ([]Session, error) {
	sessions, _, err := s.listFor(ctx, 0)
	return sessions, err
}

// listFor lists the sessions, and says which of them logind thinks a process to be of, unless pid is 0.
func (s *Source) listFor(ctx context.Context, pid int) (sessions []Session, told string, err error) {
	b, err := s.connect(ctx)
	if err == nil {
		defer b.close()
		sessions, err = s.listLogind(ctx, b)
		if err == nil && pid != 0 {
			told, err = b.of(ctx, pid)
		}
	}
	if err = s.seen(err); errors.Is(err, errNoLogind) {
		sessions, err = s.listUtmp(ctx)
	}
	return sessions, told, err
}

// listLogind lists what logind has, with addresses that it does not know.
func (s *Source) listLogind(ctx context.Context, b *bus) ([]Session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.answer)
	defer cancel()
	sessions, err := b.sessions(ctx)
	for i := range sessions {
		if l := sessions[i]; l.Remote && !l.RemoteAddr.IsValid() && l.Leader > 1 && !l.Closing {
			sessions[i].RemoteAddr = s.peerOf(s.chain(l.Leader))
		}
	}
	// Logind has no order of its own, and what is in another order has not changed.
	slices.SortFunc(sessions, func(a, b Session) int {
		return cmp.Or(cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	return sessions, err
}

// watch reports changes until something fails.
func (s *Source) watch(ctx context.Context, w *watch) error {
	err := s.seen(s.watchLogind(ctx, w))
	if !errors.Is(err, errNoLogind) {
		return err
	}
	s.log.Debug("without systemd-logind, utmp says who is logged on", "why", err)
	// Logind may come later, as it does when the machine starts.
	ctx, cancel := context.WithTimeout(ctx, lookForLogind)
	defer cancel()
	return s.pollList(ctx, w, s.listUtmp)
}

func (s *Source) watchLogind(ctx context.Context, w *watch) error {
	b, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.subscribe(ctx); err != nil {
		return err
	}
	for {
		sessions, err := s.listLogind(ctx, b)
		if err != nil {
			return err
		}
		s.seen(nil)
		w.list(sessions)
		timer := time.NewTimer(resync)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-b.Context().Done():
			timer.Stop()
			return fmt.Errorf("%w: the system bus has closed the connection", ErrUnavailable)
		case <-b.wake:
			timer.Stop()
			if !pause(ctx, settle) {
				return nil
			}
			// What came meanwhile is in the next list.
			select {
			case <-b.wake:
			default:
			}
		case <-timer.C:
		}
	}
}

// subscribe asks for signals of logind, and for news of its coming and going.
func (b *bus) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.answer)
	defer cancel()
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(logindName), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("SessionNew")},
		{dbus.WithMatchSender(logindName), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("SessionRemoved")},
		{dbus.WithMatchSender(logindName), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchPathNamespace(logindPath + "/session")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"),
			dbus.WithMatchArg(0, logindName)},
	} {
		if err := b.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("%w: the system bus: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// listUtmp lists the logons of utmp whose processes live. A machine without the file has none.
func (s *Source) listUtmp(context.Context) ([]Session, error) {
	names := []string{"/run/utmp", "/var/run/utmp"}
	if s.opts.Utmp != "" {
		names = []string{s.opts.Utmp}
	}
	var file []byte
	var err error
	for _, name := range names {
		if file, err = readBounded(name, maxUtmp); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	records, err := parseUtmp(file, nativeLayout())
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, r := range records {
		l, ok := r.session("")
		if !ok || l.Leader <= 1 || !s.lives(l.Leader) {
			continue
		}
		l.UID = s.uid(l.User)
		if l.Remote && !l.RemoteAddr.IsValid() {
			l.RemoteAddr = s.peerOf(s.chain(l.Leader))
		}
		all = append(all, l)
	}
	return all, nil
}

// readBounded reads a file that must not be longer than limit.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = invalid("%s is longer than %d bytes", name, limit)
	}
	return b, err
}

func (s *Source) proc(pid int, name string) string {
	root := s.opts.Proc
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(root, strconv.Itoa(pid), name)
}

func (s *Source) lives(pid int) bool {
	_, err := os.Stat(s.proc(pid, "stat"))
	return err == nil
}

// uid returns the number of a user by the name, or NoUID.
func (s *Source) uid(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.system.uids[name]; ok {
		return id
	}
	u, err := user.Lookup(name)
	if err != nil {
		return NoUID // it may be known later
	}
	n, ok := parseNumber([]byte(u.Uid))
	if !ok {
		return NoUID
	}
	if s.system.uids == nil || len(s.system.uids) > maxSessions {
		s.system.uids = make(map[string]uint32)
	}
	s.system.uids[name] = n
	return n
}

// process reads what /proc says about one.
func (s *Source) process(pid int) (p process, ok bool) {
	stat, err := readBounded(s.proc(pid, "stat"), maxProc)
	if err != nil {
		return p, false
	}
	p = process{pid: pid, uid: NoUID, loginUID: NoUID}
	if p.name, p.parent, ok = parseStat(stat); !ok {
		return p, false
	}
	if b, err := readBounded(s.proc(pid, "status"), maxProc); err == nil {
		p.uid, _ = parseStatus(b)
	}
	if b, err := readBounded(s.proc(pid, "loginuid"), maxProc); err == nil {
		p.loginUID, _ = parseNumber(b)
	}
	if b, err := readBounded(s.proc(pid, "sessionid"), maxProc); err == nil {
		if n, ok := parseNumber(b); ok && n != NoUID {
			p.audit = strconv.FormatUint(uint64(n), 10)
		}
	}
	if b, err := readBounded(s.proc(pid, "cgroup"), maxProc); err == nil {
		p.cgroup = parseCgroup(b)
	}
	return p, true
}

// chain returns a process and its ancestors, as far as they can be seen.
func (s *Source) chain(pid int) []process {
	var chain []process
	for pid > 0 && len(chain) < maxAncestors {
		p, ok := s.process(pid)
		if !ok {
			break
		}
		chain = append(chain, p)
		pid = p.parent
	}
	return chain
}

// peerOf returns the address at the other end of the connection of the remote shell among the processes, if there is one.
func (s *Source) peerOf(chain []process) netip.Addr {
	var held [][]socket
	for _, p := range chain {
		if isShell(p) {
			held = append(held, s.sockets(p.pid))
		}
	}
	return peer(held)
}

// sockets returns the TCP sockets of a process, in the order of its descriptors. It takes the rights of the process or of root.
func (s *Source) sockets(pid int) []socket {
	dir, err := os.Open(s.proc(pid, "fd"))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxDescriptors)
	inodes := make(map[uint64]bool)
	for _, name := range names {
		link, err := os.Readlink(filepath.Join(dir.Name(), name))
		if err != nil {
			continue
		}
		if inode, ok := parseSocketLink(link); ok {
			inodes[inode] = true
		}
	}
	var all []socket
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		b, err := readBounded(s.proc(pid, table), maxProc)
		if err != nil {
			continue
		}
		parseTCP(b, func(inode uint64, k socket) {
			if inodes[inode] {
				all = append(all, k)
			}
		})
	}
	return all
}

// Asker finds out who is behind a process of this machine. It fails with ErrNoProcess if there is none, else as List does; that
// a process belongs to no logon is no error.
func (s *Source) Asker(ctx context.Context, pid int) (Asker, error) {
	ctx, cancel := context.WithTimeout(ctx, s.answer)
	defer cancel()
	chain := s.chain(pid)
	if len(chain) == 0 {
		return Asker{UID: NoUID}, fmt.Errorf("%w: %d", ErrNoProcess, pid)
	}
	sessions, told, err := s.listFor(ctx, pid)
	if err != nil {
		return Asker{UID: NoUID}, err
	}
	a := identify(chain, sessions, told)
	if a.Found && a.Session.Remote && !a.Session.RemoteAddr.IsValid() {
		a.Session.RemoteAddr = s.peerOf(chain)
	}
	a.User = nameOf(a.UID)
	if a.Found && a.Session.User == "" {
		a.Session.User = nameOf(a.Session.UID)
	}
	return a, nil
}

// nameOf returns the name of a user, or "".
func nameOf(uid uint32) string {
	if uid == NoUID {
		return ""
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return clean(u.Username)
}
