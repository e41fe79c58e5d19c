package proxysettings

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	// directory is where dconf keeps the schema org.gnome.system.proxy.
	directory = "/system/proxy/"
	// lockDatabase is the database that an administrator makes room for, for lockdown.
	lockDatabase = "culvert"
)

// Options say whose settings to change. Session must be set.
type Options struct {
	Session Session
	// Profile is the file that lists the databases, /etc/dconf/profile/user if it is "".
	Profile string
	// SystemBus is the address of the system bus, unix:path=/run/dbus/system_bus_socket if it is "".
	SystemBus string
	// Logger is told what is set. Nil discards it.
	Logger *slog.Logger
}

// A Desktop changes the proxy settings of one user. Its methods may be called from any goroutine. It holds nothing open between
// calls, so there is nothing to close.
type Desktop struct {
	opts Options
	log  *slog.Logger

	mu     sync.Mutex
	lock   *lockUndo          // that is in force
	origin map[string]variant // of the keys that were changed
	status Status
}

// A Status says what became of the last Apply.
type Status struct {
	// Applied says that the settings are those of the gateway.
	Applied bool
	// Lockdown says that the user cannot change them. If that was asked for and is not so, NotLocked says why.
	Lockdown  bool
	NotLocked string
	// Notes say what else could not be done, for a person to read.
	Notes []string
}

// Open returns a Desktop.
func Open(o Options) *Desktop {
	o.Profile = cmp.Or(o.Profile, "/etc/dconf/profile/user")
	o.SystemBus = cmp.Or(o.SystemBus, "unix:path=/run/dbus/system_bus_socket")
	d := &Desktop{opts: o, log: o.Logger, origin: make(map[string]variant)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Status returns what became of the last Apply. The zero Status means that nothing is applied.
func (d *Desktop) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	s.Notes = slices.Clone(s.Notes)
	return s
}

// keys returns what the settings are to hold. A nil value is the default of the schema.
func (c Config) keys() map[string]variant {
	k := make(map[string]variant)
	set := func(name string, v variant) { k[directory+name] = v }
	switch c.Method {
	case None:
		set("mode", variantString("none"))
	case Auto:
		set("mode", variantString("auto"))
		set("autoconfig-url", variantString(c.PAC))
	case Manual:
		set("mode", variantString("manual"))
		for name, server := range map[string]string{"http": c.HTTP, "https": c.HTTPS, "socks": c.SOCKS} {
			host, port := hostPort(server)
			set(name+"/host", variantString(host))
			set(name+"/port", variantInt(port))
		}
		// The user's password is for the user's proxy.
		set("http/use-authentication", variantBool(false))
		// This machine is never reached through a proxy elsewhere.
		set("ignore-hosts", variantStrings(append([]string{"localhost", "127.0.0.0/8", "::1"}, c.Exceptions...)))
	}
	return k
}

// Apply gives the desktop the settings of cfg, in place of those of an earlier Apply. Before each change it calls record with
// what Undo needs to undo it, and changes nothing if that fails. If nothing changes, nothing is recorded. Records are to be
// undone from the last one to the first. NoModify changes nothing.
//
// What the administrator of the machine has locked stays, with ErrLocked.
func (d *Desktop) Apply(ctx context.Context, cfg Config, record func(undo []byte) error) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if err := d.opts.Session.check(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cfg.Method == NoModify {
		d.status = Status{}
		if cfg.Lockdown {
			d.status.NotLocked = "the gateway wants the settings to stay as they are, so there is nothing of its own to lock"
		}
		return nil
	}
	name, system, err := d.databases()
	if err != nil {
		return err
	}
	wanted := cfg.keys()
	for _, s := range system {
		// The locks are for all users, and those of another one may be there before.
		if s.ours && (d.lock != nil || s.sum == checksum(lockContent(wanted))) {
			continue
		}
		for key := range wanted {
			if s.locked(key) {
				return fmt.Errorf("%w: %s in %s", ErrLocked, key, s.file)
			}
		}
	}
	was, err := d.opts.Session.readUser(name)
	if err != nil {
		return err
	}
	undo := &keysUndo{Session: d.opts.Session, Database: name, Before: make(map[string]variant), Set: make(map[string]variant),
		Origin: make(map[string]variant)}
	for key, v := range wanted {
		if now := was.values[key]; !bytes.Equal(now, v) {
			undo.Before[key], undo.Set[key] = now, v
			if first, ok := d.origin[key]; ok {
				undo.Origin[key] = first
			}
		}
	}
	if len(undo.Set) > 0 {
		b, err := encode(undoRecord{Keys: undo})
		if err != nil {
			return err
		}
		if err := record(b); err != nil {
			return err
		}
		if err := d.opts.Session.write(ctx, name, undo.Set); err != nil {
			return err
		}
		for key, v := range undo.Before {
			if _, ok := d.origin[key]; !ok {
				d.origin[key] = v
			}
		}
		d.log.Info("proxy settings of the desktop", "method", cfg.Method.String(), "user", d.opts.Session.UID)
	}
	d.status = Status{Applied: true}
	if cfg.Short && cfg.Method == Manual {
		d.status.Notes = append(d.status.Notes, "this desktop has no exception for all names without a dot (<local>)")
	}
	if !cfg.Lockdown {
		return d.unlock(ctx)
	}
	if err := d.lockdown(ctx, wanted, system, record); err != nil {
		if !errors.Is(err, errNotLocked) {
			return err
		}
		d.status.NotLocked = err.Error()
		d.log.Warn("the gateway wants the proxy settings to be locked, which is not done", "reason", err)
		return nil
	}
	d.status.Lockdown = true
	return nil
}

// errNotLocked is matched by the reasons why lockdown is not applicable.
var errNotLocked = errors.New("lockdown is not applicable on this machine")

// lockContent returns the database that locks keys at values.
func lockContent(wanted map[string]variant) []byte {
	locks := map[string]bool{}
	for key := range wanted {
		locks[key] = true
	}
	// The user must not turn to another kind of proxy either.
	for _, key := range []string{"mode", "autoconfig-url", "ignore-hosts", "http/host", "http/port", "https/host", "https/port", "socks/host", "socks/port"} {
		locks[directory+key] = true
	}
	return database{values: wanted, locks: locks}.bytes()
}

// lockdown writes the database with the locks. It is called with d.mu held.
func (d *Desktop) lockdown(ctx context.Context, wanted map[string]variant, system []source, record func([]byte) error) error {
	i := slices.IndexFunc(system, func(s source) bool { return s.ours })
	if i < 0 {
		return fmt.Errorf("%w: %s has no line system-db:%s", errNotLocked, d.opts.Profile, lockDatabase)
	}
	file := system[i].file
	content := lockContent(wanted)
	next := &lockUndo{File: file, Sum: checksum(content)}
	now, err := readFile(file)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotLocked, err)
	}
	if now != nil && checksum(now) == next.Sum {
		d.lock = next
		return nil
	}
	if now != nil && (d.lock == nil || checksum(now) != d.lock.Sum) {
		return fmt.Errorf("%w: %s is there already, and not made by this program", errNotLocked, file)
	}
	if err := writable(filepath.Dir(file)); err != nil {
		return fmt.Errorf("%w: %w", errNotLocked, err)
	}
	b, err := encode(undoRecord{Lock: next})
	if err != nil {
		return err
	}
	if err := record(b); err != nil {
		return err
	}
	if err := replace(file, content); err != nil {
		return fmt.Errorf("%w: %w", errNotLocked, err)
	}
	d.lock = next
	d.tell(ctx)
	return nil
}

// unlock removes the database with the locks, if there is one of ours. It is called with d.mu held.
func (d *Desktop) unlock(ctx context.Context) error {
	if d.lock == nil {
		return nil
	}
	l := *d.lock
	d.lock = nil
	return d.undoLock(ctx, l)
}

func (d *Desktop) tell(ctx context.Context) {
	if err := tellAll(ctx, d.opts.SystemBus, lockDatabase); err != nil {
		d.log.Debug("running programs were not told of the locks", "err", err)
	}
}

func (d *Desktop) undoLock(ctx context.Context, l lockUndo) error {
	now, err := readFile(l.File)
	if err != nil {
		return err
	}
	if now == nil {
		return nil
	}
	if checksum(now) != l.Sum {
		return fmt.Errorf("%w: %s", ErrChanged, l.File)
	}
	if err := replace(l.File, nil); err != nil {
		return fmt.Errorf("proxysettings: %w", err)
	}
	d.tell(ctx)
	return nil
}

// Undo undoes one change that Apply has recorded, whichever process made it. It does nothing if the change was not made, or
// was undone before. What somebody else has changed since is left, and the error matches ErrChanged then. One that matches
// ErrUnavailable means that it should be tried again when the user has a session.
func (d *Desktop) Undo(ctx context.Context, undo []byte) error {
	r, err := decode(undo)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Lock != nil {
		if d.lock != nil && *d.lock == *r.Lock {
			d.lock, d.status.Lockdown = nil, false
		}
		return d.undoLock(ctx, *r.Lock)
	}
	k := r.Keys
	now, err := k.Session.readUser(k.Database)
	if err != nil {
		return err
	}
	back := make(map[string]variant)
	var foreign []string
	for _, key := range slices.Sorted(maps.Keys(k.Set)) {
		switch v := now.values[key]; {
		case bytes.Equal(v, k.Before[key]):
		case bytes.Equal(v, k.Set[key]):
			back[key] = nil
			if before := k.Before[key]; len(before) > 0 {
				back[key] = before
			}
		default:
			if first, ok := k.Origin[key]; ok && bytes.Equal(v, first) {
				continue
			}
			foreign = append(foreign, key)
		}
	}
	if len(back) > 0 {
		if err := k.Session.write(ctx, k.Database, back); err != nil {
			return err
		}
	}
	d.status = Status{}
	clear(d.origin)
	if len(foreign) > 0 {
		return fmt.Errorf("%w: %s", ErrChanged, strings.Join(foreign, ", "))
	}
	return nil
}

// Current is what the settings say now.
type Current struct {
	// Mode is none, manual or auto.
	Mode string
	// HTTP, HTTPS and SOCKS are host:port, or empty.
	HTTP, HTTPS, SOCKS string
	// PAC is the URL of the PAC file with auto, or empty.
	PAC string
	// Except are the hosts that are reached without a proxy.
	Except []string
}

// Current returns the settings as programs of the user see them. It asks no bus.
func (d *Desktop) Current(ctx context.Context) (Current, error) {
	var c Current
	if err := d.opts.Session.check(); err != nil {
		return c, err
	}
	name, system, err := d.databases()
	if err != nil {
		return c, err
	}
	own, err := d.opts.Session.readUser(name)
	if err != nil {
		return c, err
	}
	get := func(key string) variant {
		key = directory + key
		all := append([]source{{database: own}}, system...)
		first := 0
		for i, s := range all {
			if i > 0 && s.locked(key) {
				first = i
			}
		}
		for _, s := range all[first:] {
			if v := s.values[key]; v != nil {
				return v
			}
		}
		return nil
	}
	server := func(name string) string {
		host, port := get(name+"/host").text(), get(name+"/port").number()
		if host == "" || port <= 0 || port > 65535 {
			return ""
		}
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
	c.Mode = cmp.Or(get("mode").text(), "none")
	c.HTTP, c.HTTPS, c.SOCKS, c.PAC, c.Except = server("http"), server("https"), server("socks"), get("autoconfig-url").text(), get("ignore-hosts").list()
	return c, nil
}

// A source is a database of the administrator's.
type source struct {
	database
	file string
	ours bool   // the one for lockdown
	sum  string // its checksum
}

// databases reads the profile: the name of the user's database, and those of the administrator in their order, which is that of
// precedence (dconf(7)).
func (d *Desktop) databases() (name string, system []source, err error) {
	b, err := readFile(d.opts.Profile)
	if err != nil {
		return "", nil, err
	}
	name = "user"
	if b == nil {
		return name, nil, nil
	}
	const most = 32
	lines := bufio.NewScanner(bytes.NewReader(b))
	for first := true; lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		kind, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		switch {
		case kind == "user-db" && first:
			if !databaseName(rest) {
				return "", nil, invalid("%s: the user-db %.64q is not supported", d.opts.Profile, rest)
			}
			name = rest
		case first:
			return "", nil, fmt.Errorf("%w: %s has no database of the user first, so nobody can change anything", ErrLocked, d.opts.Profile)
		case len(system) == most:
			return "", nil, invalid("%s: more than %d databases", d.opts.Profile, most)
		case kind == "system-db" || kind == "file-db":
			s := source{file: rest}
			if kind == "system-db" {
				if !databaseName(rest) {
					return "", nil, invalid("%s: the system-db %.64q is not supported", d.opts.Profile, rest)
				}
				s.file = filepath.Join("/etc/dconf/db", rest)
			} else if !filepath.IsAbs(rest) {
				continue
			}
			s.file = filepath.Clean(s.file)
			s.ours = filepath.Base(s.file) == lockDatabase
			b, err := readFile(s.file)
			if err == nil {
				s.sum = checksum(b)
				s.database, err = parseDatabase(b, directory)
			}
			if err != nil {
				return "", nil, err
			}
			system = append(system, s)
		}
		first = false
	}
	return name, system, nil
}

func checksum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// writable reports whether files can be made in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".culvert-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// replace puts a file in the place of another, or none if content is nil, in one step. Programs that have the old one
// mapped look at its first bytes to see whether they have to open it anew.
func replace(file string, content []byte) error {
	old, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != nil {
		defer old.Close()
	}
	if content == nil {
		err = os.Remove(file)
	} else {
		err = write(file, content)
	}
	if err != nil || old == nil {
		return err
	}
	_, err = old.WriteAt(make([]byte, 8), 0)
	return err
}

func write(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".culvert-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
