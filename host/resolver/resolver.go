// Package resolver tells this machine which DNS servers to ask while a tunnel is up, and puts back what was there before.
//
//	r := resolver.New(resolver.Options{Logger: log})
//	err := r.Apply(ctx, resolver.Config{
//		Device:  "culvert0",
//		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53")},
//		Search:  []string{"corp.example"},
//	}, journal.Append)
//
// On Linux there are two ways, and [Resolver.Detect] says which of them it takes and why:
//
//   - systemd-resolved, where it runs and where programs ask it. It keeps settings for each link and can send the names of some
//     domains to the tunnel and all others elsewhere. It is spoken to over D-Bus. When it starts anew, it is told again.
//   - resolv.conf otherwise. It names servers for all names, so for split DNS there must be a DNS proxy on this machine that
//     knows which name goes where; without one Apply fails with ErrNoSplit rather than send inside names outside.
//
// For macOS and Windows there are [MacPlan] and [WindowsPlan], which only say what to run.
//
// # Undoing
//
// Before each change Apply hands the caller a record of what it takes to undo it, with the former contents of the file in it.
// [Resolver.Undo] with that record works in any process, any number of times, whether or not the change was made. It never
// writes over what somebody else has written since: it says so with ErrChanged. Our resolv.conf begins with a comment that
// holds a checksum of the rest, which tells ours from one that was edited.
package resolver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The kinds of errors, for errors.Is. With each of them from Apply the machine is as it was, as far as it can be.
var (
	// ErrInvalid means that a Config, a file or an undo record cannot be used as it is. The error names the field.
	ErrInvalid = errors.New("resolver: invalid")
	// ErrPermission means that the process may not change the settings.
	ErrPermission = errors.New("resolver: not permitted")
	// ErrNoSplit means that the machine sends all names to the same servers, and the Config wants only some sent to the
	// tunnel. Run a DNS proxy, and name it as the server in a Config with Default.
	ErrNoSplit = errors.New("resolver: resolv.conf cannot tell names apart; use a DNS proxy on this machine")
	// ErrChanged means that somebody else has changed the settings since, so that they were left as they are.
	ErrChanged = errors.New("resolver: changed by another program since, and left as it is")
	// ErrStale means that the file is one of ours from a run that was not undone. Undo that one first.
	ErrStale = errors.New("resolver: an earlier run was not undone; repair it first")
	// ErrUnavailable means that systemd-resolved cannot be reached.
	ErrUnavailable = errors.New("resolver: systemd-resolved cannot be reached")
	// ErrFight means that another program changes the settings back each time, so that they are left to it.
	ErrFight = errors.New("resolver: another program keeps changing the settings back")
)

// A Backend is a way to set DNS servers.
type Backend int

const (
	// Auto is systemd-resolved where programs ask it, else resolv.conf.
	Auto Backend = iota
	// Resolved is systemd-resolved.
	Resolved
	// File is resolv.conf.
	File
)

// String returns the name of the backend.
func (b Backend) String() string {
	switch b {
	case Auto:
		return "auto"
	case Resolved:
		return "systemd-resolved"
	case File:
		return "resolv.conf"
	}
	return fmt.Sprintf("Backend(%d)", int(b))
}

// Options say how a Resolver finds its way. The zero Options suit a Linux machine.
type Options struct {
	// Backend forces one. Auto chooses.
	Backend Backend
	// Bus is the D-Bus address of the system bus, "unix:path=/run/dbus/system_bus_socket" if it is "".
	Bus string
	// Path is resolv.conf, /etc/resolv.conf if it is "". It must be absolute.
	Path string
	// Switch is the file that says how names are looked up, /etc/nsswitch.conf if it is "".
	Switch string
	// Logger is told what is set and why that way. Nil discards it.
	Logger *slog.Logger
}

// A Resolver sets the DNS servers of this machine for one tunnel. Its methods may be called from any goroutine. It holds
// nothing open between calls, so there is nothing to close.
type Resolver struct {
	opts Options
	log  *slog.Logger
	look time.Duration // how often Watch asks systemd-resolved, which does not tell of every change

	mu   sync.Mutex
	id   string // marks the files that this Resolver writes
	link *linkState
	file *fileState
	done map[string]bool // ids of files that Undo has restored

	claiming sync.Mutex // taken after mu
	claims   []Claim
	changed  chan struct{} // closed when claims change
}

// New returns a Resolver.
func New(o Options) *Resolver {
	if o.Bus == "" {
		o.Bus = "unix:path=/run/dbus/system_bus_socket"
	}
	if o.Path == "" {
		o.Path = "/etc/resolv.conf"
	}
	if o.Switch == "" {
		o.Switch = "/etc/nsswitch.conf"
	}
	const look = 10 * time.Second
	r := &Resolver{opts: o, log: o.Logger, look: look, done: make(map[string]bool), changed: make(chan struct{})}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	var b [8]byte
	rand.Read(b[:])
	r.id = hex.EncodeToString(b[:])
	return r
}

// A Policy says what Watch does when another program changes the settings.
type Policy int

const (
	// Report leaves the change, and tells. Undo will leave it, too.
	Report Policy = iota
	// Repair applies the Config again, and tells. What the other program has written to resolv.conf is what Undo puts back,
	// since it is newer than what stood there before.
	Repair
)

// An Event says that somebody else has changed the settings in force, or that systemd-resolved was started anew.
type Event struct {
	Time    time.Time
	Backend Backend
	// What happened, for a person to read.
	What string
	// Repaired says that the Config is in force again.
	Repaired bool
	// Err is why it is not, if it was tried.
	Err error
}

// Detect says which backend Apply would take, and the reason for a person to read. The error is that of a backend that was
// asked for and is not there.
func (r *Resolver) Detect(ctx context.Context) (Backend, string, error) {
	switch r.opts.Backend {
	case File:
		return File, "it was asked for", nil
	case Resolved:
		if err := resolvedRuns(ctx, r.opts.Bus); err != nil {
			return Resolved, "it was asked for", err
		}
		return Resolved, "it was asked for", nil
	}
	if err := resolvedRuns(ctx, r.opts.Bus); err != nil {
		return File, err.Error(), nil
	}
	used, reason := r.asksResolved()
	if !used {
		return File, "systemd-resolved runs, but " + reason, nil
	}
	return Resolved, "systemd-resolved runs, and " + reason, nil
}

// Apply sets the DNS servers of cfg, in place of those of an earlier Apply. It returns when the machine uses them.
//
// Before each change it calls record with what Undo needs to undo it, and changes nothing if that fails. If nothing changes,
// nothing is recorded. Records are to be undone from the last one to the first, all with the same Resolver.
func (r *Resolver) Apply(ctx context.Context, cfg Config, record func(undo []byte) error) error {
	cfg, err := cfg.normal()
	if err != nil {
		return err
	}
	backend, reason, err := r.Detect(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.backend() != backend {
		r.log.Info("setting DNS servers", "backend", backend, "reason", reason, "device", cfg.Device)
	}
	if backend == Resolved {
		err = r.applyLink(ctx, cfg, record)
	} else {
		err = r.applyFile(cfg, record)
	}
	if err != nil {
		return err
	}
	// Where the way has changed, the new one is in force by now, and the old one goes. If it does not, its record remains.
	if old := r.file; old != nil && backend == Resolved {
		r.file = nil
		err = r.undoFile(old.undo())
	}
	if old := r.link; old != nil && backend == File {
		r.link = nil
		r.claimedBy(nil)
		err = r.undoLink(ctx, old.undo())
	}
	if err != nil {
		r.log.Warn("undoing the settings of the former backend failed", "err", err)
	}
	return nil
}

// backend is the one in force, or Auto if none is. It is called with r.mu held.
func (r *Resolver) backend() Backend {
	switch {
	case r.link != nil:
		return Resolved
	case r.file != nil:
		return File
	}
	return Auto
}

// Undo undoes one change that Apply has recorded, whichever process made it. It does nothing if the change was not made, or
// was undone before. If somebody else has changed the settings since, it leaves them and the error matches ErrChanged. One that
// matches ErrUnavailable means that it should be tried again when systemd-resolved runs.
func (r *Resolver) Undo(ctx context.Context, undo []byte) error {
	rec, err := decode(undo)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// What somebody else has set is left to them, and no longer looked after.
	if rec.Link != nil {
		err = r.undoLink(ctx, *rec.Link)
		if (err == nil || errors.Is(err, ErrChanged)) && r.link != nil && r.link.Index == rec.Link.Index {
			r.link = nil
			r.claimedBy(nil)
		}
		return err
	}
	err = r.undoFile(*rec.File)
	if (err == nil || errors.Is(err, ErrChanged)) && r.id == rec.File.Owner {
		r.file = nil
	}
	return err
}

// A Claim is a domain of the tunnel, or one below such a domain, that another link of systemd-resolved has as well. That asks the servers
// of the link for the names there: in the place of ours for a domain below, and beside ours for the same one. No setting of our
// link prevents it, since the longest suffix of a name decides, and all links that have it are asked; a firewall does, or whoever has
// set the domain.
type Claim struct {
	// Domain is the domain, "." for all names.
	Domain string `json:"domain"`
	// Link is the interface that has it. It is empty for the servers of the machine as a whole (resolved.conf(5)).
	Link string `json:"link,omitempty"`
}

// Claims returns what other links claimed of the Config in force when that was last looked at: in Apply, in Upstream, and in Watch
// whenever systemd-resolved tells of a change, and every ten seconds. The channel is closed when it has changed.
func (r *Resolver) Claims() (claims []Claim, changed <-chan struct{}) {
	r.claiming.Lock()
	defer r.claiming.Unlock()
	return slices.Clone(r.claims), r.changed
}

// claimedBy takes in what other links claim.
func (r *Resolver) claimedBy(claims []Claim) {
	r.claiming.Lock()
	defer r.claiming.Unlock()
	if slices.Equal(claims, r.claims) {
		return
	}
	if len(claims) > 0 {
		r.log.Warn("other links claim domains of the tunnel, so that others are asked for names there", "claims", claims)
	}
	r.claims = claims
	close(r.changed)
	r.changed = make(chan struct{})
}

// Upstream is what this machine would ask without the tunnel.
type Upstream struct {
	// Servers are the DNS servers, the preferred one first. Link-local ones have a zone.
	Servers []netip.AddrPort
	// Search is the search list, without what is no domain: a resolv.conf that is to have none says "search .", as those of containers do.
	Search []string
}

// Upstream returns the servers of the machine that are not ours: those of the links other than the device in force, or of
// resolv.conf as it was before. A DNS proxy asks them for the names that belong outside.
func (r *Resolver) Upstream(ctx context.Context) (Upstream, error) {
	backend, _, err := r.Detect(ctx)
	if err != nil {
		return Upstream{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if backend == Resolved {
		return r.upstreamLinks(ctx)
	}
	var b []byte
	if r.file != nil {
		b = r.file.original.content
	} else if b, err = r.current(); err != nil {
		return Upstream{}, err
	}
	conf, err := ParseConf(b)
	if err != nil {
		return Upstream{}, err
	}
	u := Upstream{Search: searchable(conf.Search)}
	for _, a := range conf.Servers {
		u.Servers = append(u.Servers, netip.AddrPortFrom(a, 53))
	}
	return u, nil
}

// searchable returns those of the words of a search list that are domains.
func searchable(words []string) (search []string) {
	for _, w := range words {
		if d, err := domain(w); err == nil && !slices.Contains(search, d) {
			search = append(search, d)
		}
	}
	return search
}

// Watch tells report when another program changes the settings in force, and puts them back if the policy is Repair; it is also
// what tells systemd-resolved again when that was started anew, whatever the policy. Record has the meaning that it has for
// Apply. Both are called from goroutines of Watch, one call at a time, and must not call r. Watch returns when ctx is done and
// its goroutines have ended, with nil, or when it cannot watch.
//
// Systemd-resolved tells of new servers at once, but not of new domains; it is asked for these every ten seconds.
//
// A program that changes the settings back more than five times in a minute is left to have its way, with ErrFight, until
// the next Apply.
func (r *Resolver) Watch(ctx context.Context, policy Policy, record func(undo []byte) error, report func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var one sync.Mutex
	serial := func(e Event) {
		one.Lock()
		defer one.Unlock()
		r.log.Warn("DNS settings changed", "backend", e.Backend, "what", e.What, "repaired", e.Repaired, "err", e.Err)
		report(e)
	}
	var both sync.WaitGroup
	both.Go(func() { r.watchLink(ctx, policy, serial) })
	err := r.watchFile(ctx, policy, record, serial)
	if err != nil {
		cancel()
	}
	both.Wait()
	return err
}

// A pacer stops a fight: it allows five repairs in a minute.
type pacer struct{ times []time.Time }

func (p *pacer) allow(now time.Time) bool {
	const most, span = 5, time.Minute
	for len(p.times) > 0 && now.Sub(p.times[0]) >= span {
		p.times = p.times[1:]
	}
	if len(p.times) >= most {
		return false
	}
	p.times = append(p.times, now)
	return true
}
