package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how to open a [Machine].
type Config struct {
	// JournalPath is the file that records what has to be undone. It belongs on a disk if something outlives a start of the
	// machine, such as a resolv.conf, and its directory must exist and not be writable by other users.
	JournalPath string

	// Parts apply [Settings.Resolver], [Settings.Desktop] and [Settings.Firewall].
	Parts Parts

	// KeepFirewall makes Open leave the firewall as a dead process left it, so that what it forbids stays forbidden until
	// the first Apply. It is undone by Undo like everything else.
	KeepFirewall bool

	// Heal makes [Machine.Watch] repair what other programs break. Otherwise it only reports it.
	Heal bool

	// Logger receives what is done and undone. Nil discards it.
	Logger *slog.Logger
}

// A Machine changes the network of this machine. Its methods are safe for concurrent use; they run one after the other.
type Machine struct {
	config  Config
	log     *slog.Logger
	network *Network

	mu       sync.Mutex
	k        kernel
	j        *journal
	closed   bool
	settings *Settings // as last applied, with defaults; nil: none
	have     state     // what the steps so far have made of the kernel

	device          atomic.Pointer[string] // name of the tunnel's interface, whose changes are ours
	heals           limiter
	lost, strangers []string // as last reported by Watch
	mended          []string // was lost when Apply came, which has made it again; for Watch to report
}

// Open opens the machine in the network namespace of the calling thread, for this process alone, and undoes what a dead
// process has left behind according to the journal. The caller closes the Machine; one that is dropped without Close loses
// its lock as if its process had died.
//
// Errors match [ErrBusy], [ErrNotPermitted], [ErrJournal], [ErrNamespace], errors.ErrUnsupported on systems other than
// Linux, or an error of the system. If leftovers could not be undone, the error says which, and the journal keeps them.
func Open(cfg Config) (*Machine, error) {
	network, err := OpenNetwork(NetworkConfig{})
	if err != nil {
		return nil, err
	}
	k, err := network.kernel()
	if err != nil {
		network.Close()
		return nil, fmt.Errorf("host: %w", err)
	}
	m, err := openMachine(cfg, k)
	if err != nil {
		network.Close()
		return nil, fmt.Errorf("host: %w", err)
	}
	m.network = network
	return m, nil
}

// openMachine is Open for any kernel.
func openMachine(cfg Config, k kernel) (*Machine, error) {
	m := &Machine{config: cfg, log: cfg.Logger, k: k, have: newState(), heals: limiter{burst: 10, every: time.Minute}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := k.permitted(); err != nil {
		return nil, err
	}
	j, l, err := openJournal(cfg.JournalPath, true)
	if err != nil {
		return nil, err
	}
	m.j = j
	u := undoer{k: k, parts: cfg.Parts, log: m.log}
	if cfg.KeepFirewall {
		u.keep = func(r record) bool { return r.Kind == kindPart && r.Part == partFirewall }
	}
	kept, report, err := u.ledger(context.Background(), cfg.JournalPath, l)
	if len(l.live) > 0 {
		m.log.Warn("undid what another process left behind", "process", l.header.PID, "program", l.header.Program,
			"undone", len(report.Undone), "gone", len(report.Gone), "left", len(report.Left))
	}
	if err == nil {
		err = j.begin(m.header(), kept)
	} else if e := j.retain(kept, l); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return m, nil
}

// header returns the first record of the journal.
func (m *Machine) header() record {
	r := record{PID: os.Getpid(), Started: time.Now().UTC().Truncate(time.Second)}
	r.Boot, r.Namespace = m.k.place()
	if path, err := os.Executable(); err == nil {
		r.Program = filepath.Base(path)
	}
	return r
}

// Network returns a view of the same network namespace, which belongs to the Machine and is closed with it.
func (m *Machine) Network() *Network { return m.network }

// Close lets go of the machine. It undoes nothing: what was applied and not undone stays, and the journal with it, for
// [Repair] or the next [Open].
func (m *Machine) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	err := m.j.close()
	if m.network != nil {
		err = errors.Join(err, m.network.Close())
	}
	return err
}

// Apply makes the machine as s says, by those steps that differ from how it is. If one fails, or ctx ends, it goes back to how
// the machine was before the call. S must not change during the call.
//
// Errors match [ErrSettings], [ErrNoDevice], [ErrNoIPv6], [ErrCapture], [ErrConflict], [ErrNotPermitted], [ErrNoPart],
// [ErrJournal], [ErrClosed], the error of the context, or one of a [Part] or of the system.
func (m *Machine) Apply(ctx context.Context, s Settings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apply(ctx, s, false)
}

// Renew applies the settings that were applied last once more, including those of the Parts, which Apply leaves alone if they
// have not changed. It is for when something other than routes and addresses was changed by somebody else.
func (m *Machine) Renew(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.settings == nil {
		return nil
	}
	return m.apply(ctx, *m.settings, true)
}

// Plan returns the steps that Apply would take now, as commands of iproute2 that would do the same. It changes nothing and
// leaves out the Parts.
func (m *Machine) Plan(ctx context.Context, s Settings) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, want, have, err := m.prepare(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	var lines []string
	for _, step := range plan(have, want) {
		lines = append(lines, step.String())
	}
	return lines, nil
}

// prepare returns s with defaults, how the kernel should be for it, and how it is.
func (m *Machine) prepare(ctx context.Context, s Settings) (_ Settings, want, have state, err error) {
	fail := func(err error) (Settings, state, state, error) { return Settings{}, state{}, state{}, err }
	if m.closed {
		return fail(ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := s.validate(); err != nil {
		return fail(err)
	}
	s = s.withDefaults()
	if err := s.validate(); err != nil { // Mark may lie outside of a default Mask, or the other way round
		return fail(err)
	}
	var dev link
	if s.Device != "" {
		if dev, err = m.k.link(s.Device); err != nil {
			return fail(err)
		}
	}
	ifs, err := m.k.interfaces()
	if err != nil {
		return fail(err)
	}
	if err := m.checkLease(s, ifs); err != nil {
		return fail(err)
	}
	ipv6, err := m.k.hasIPv6()
	if err != nil {
		return fail(err)
	}
	if want, err = s.compile(dev, s.Local.connected(ifs, s.Device), ipv6); err != nil {
		return fail(err)
	}
	if have, err = m.observe(want, dev, ipv6); err != nil {
		return fail(err)
	}
	return s, want, have, nil
}

// checkLease refuses addresses that are somebody else's. The kernel delivers packets for an address of the machine to the
// machine before it looks at any rule, so the gateway could not be reached any more by an address that became ours.
func (m *Machine) checkLease(s Settings, ifs []Interface) error {
	for _, p := range s.Addresses {
		a := p.Addr().WithZone("")
		for _, g := range s.Gateways {
			if g.Unmap().WithZone("") == a {
				return fmt.Errorf("%w: it assigns %v, which is where the gateway is: the gateway's address pool must be changed", ErrCapture, a)
			}
		}
		for _, i := range ifs {
			if i.Name == s.Device || a.IsLinkLocalUnicast() && a.Is6() {
				continue
			}
			for _, p := range i.Addrs {
				if p.Addr().WithZone("") != a || m.j.claimed(addrKey(ifaddr{i.Index, netip.PrefixFrom(a, a.BitLen())})) {
					continue // the last is a former device of ours
				}
				return fmt.Errorf("%w: the lease assigns %v, which is an address of %s", ErrConflict, a, i.Name)
			}
		}
	}
	return nil
}

// observe returns how the part of the kernel is that want is about, or that earlier steps have changed.
func (m *Machine) observe(want state, dev link, ipv6 bool) (state, error) {
	st := newState()
	st.dev = dev
	addrs, err := m.k.addrs()
	if err != nil {
		return st, err
	}
	for _, a := range addrs {
		_, wanted := want.addrs[a]
		if wanted || m.j.claimed(addrKey(a)) {
			st.addrs[a] = struct{}{}
		}
	}
	type table struct {
		number int
		v6     bool
	}
	tables := make(map[table]bool) // whether it is claimed
	for k := range want.routes {
		tables[table{k.table, k.v6()}] = m.j.claimed(tableKey(k.table, k.v6()))
	}
	for _, r := range m.j.live {
		if r.Kind == kindTable {
			tables[table{r.Table, r.IPv6}] = true
		}
	}
	for t, claimed := range tables {
		routes, err := m.k.routes(t.number, t.v6)
		if err != nil {
			return st, err
		}
		if len(routes) > 0 && !claimed {
			return st, fmt.Errorf("%w: routing table %d holds %d routes already, among them %v: choose another table, "+
				"or empty it with: ip route flush table %d", ErrConflict, t.number, len(routes), routes[0].key.prefix, t.number)
		}
		for _, r := range routes {
			if r.ours {
				st.routes[r.key] = r.to
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		if v6 && !ipv6 {
			continue
		}
		rules, err := m.k.rules(v6)
		if err != nil {
			return st, err
		}
		for _, r := range rules {
			if m.j.claimed(ruleKey(r)) {
				st.rules[r] = struct{}{}
			}
		}
	}
	return st, nil
}

// Keys of claims. They hold all that tells a thing from others, so that a second claim of the same thing is none.
func mtuKey(l link) string               { return fmt.Sprintf("mtu %d", l.index) }
func upKey(l link) string                { return fmt.Sprintf("up %d", l.index) }
func addrKey(a ifaddr) string            { return fmt.Sprintf("address %d %v", a.index, a.prefix) }
func ruleKey(r rule) string              { return fmt.Sprintf("rule %v", r) }
func tableKey(table int, v6 bool) string { return fmt.Sprintf("table %d %t", table, v6) }

// claim returns the record to write before a step, or one without a key if nothing has to be undone after it.
func (m *Machine) claim(s step) record {
	switch s.op {
	case opMTU:
		return record{Kind: kindMTU, Key: mtuKey(s.dev), Device: s.dev.name, Index: s.dev.index, MTU: m.have.dev.mtu}
	case opUp:
		return record{Kind: kindUp, Key: upKey(s.dev), Device: s.dev.name, Index: s.dev.index}
	case opAddAddr:
		return record{Kind: kindAddress, Key: addrKey(s.addr), Device: s.dev.name, Index: s.addr.index, Prefix: s.addr.prefix}
	case opSetRoute:
		return record{Kind: kindTable, Key: tableKey(s.key.table, s.key.v6()), Table: s.key.table, IPv6: s.key.v6()}
	case opAddRule:
		return record{Kind: kindRule, Key: ruleKey(s.rule), Rule: s.rule.record()}
	}
	return record{}
}

// run takes steps until one fails or ctx ends, and keeps m.have true.
func (m *Machine) run(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r := m.claim(s); r.Key != "" {
			if err := m.j.claim(r); err != nil {
				return err
			}
		}
		m.log.Debug("step", "command", s.String())
		if err := do(m.k, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		m.have.did(s)
	}
	return nil
}

// maxMended is how much of what was lost is remembered until it is reported.
const maxMended = 100

// apply is Apply. With force, Parts are applied even if their settings have not changed.
func (m *Machine) apply(ctx context.Context, s Settings, force bool) error {
	s, want, have, err := m.prepare(ctx, s)
	if err != nil {
		return fmt.Errorf("host: %w", err)
	}
	m.device.Store(&s.Device)
	before := m.snapshot(have)
	steps := plan(have, want)
	if err := m.change(ctx, s, steps, force); err != nil {
		err = fmt.Errorf("host: %w", err)
		if e := m.back(context.WithoutCancel(ctx), before, s); e != nil {
			err = fmt.Errorf("%w; and going back failed, so that Undo is needed: %w", err, e)
		}
		return err
	}
	for _, s := range steps {
		if line := s.String(); before.was.had(s) && len(m.mended) < maxMended && !slices.Contains(m.lost, line) {
			m.mended = append(m.mended, line)
		}
	}
	m.settings = &s
	m.log.Info("applied settings", "device", s.Device, "steps", len(steps), "routes", len(want.routes))

	// All is as it should be. What remains is to let go of what only the former settings needed.
	if err := m.letGo(ctx, s); err != nil {
		return fmt.Errorf("host: giving up what is needed no more: %w", err)
	}
	return nil
}

// change makes the changes of an Apply that can fail it.
func (m *Machine) change(ctx context.Context, s Settings, steps []step, force bool) error {
	var was Settings
	if m.settings != nil {
		was = *m.settings
	}
	if s.Firewall != nil && (force || !reflect.DeepEqual(was.Firewall, s.Firewall)) {
		if err := m.applyPart(ctx, partFirewall, s.Firewall); err != nil {
			return err
		}
	}
	if err := m.run(ctx, steps); err != nil {
		return err
	}
	if s.Resolver != nil && (force || !reflect.DeepEqual(was.Resolver, s.Resolver)) {
		if err := m.applyPart(ctx, partResolver, s.Resolver); err != nil {
			return err
		}
	}
	// What is force for others would be against the will of a user here, who has chosen something else meanwhile.
	if s.Desktop != nil && !reflect.DeepEqual(was.Desktop, s.Desktop) {
		if err := m.applyPart(ctx, partDesktop, s.Desktop); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *Machine) applyPart(ctx context.Context, name string, settings any) error {
	p, err := m.config.Parts.named(name)
	if err != nil {
		return err
	}
	err = p.Apply(ctx, settings, func(undo []byte) error {
		return m.j.claim(record{Kind: kindPart, Key: m.j.partKey(name), Part: name, Undo: slices.Clone(undo)})
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// A point is how things were at some moment.
type point struct {
	was  state // what the steps before had made of the kernel
	have state
	keys []string // of the claims
}

// snapshot begins an Apply: it takes what the kernel was observed to be for the truth, and remembers it.
func (m *Machine) snapshot(have state) point {
	was := m.have
	m.have = have
	p := point{was: was, have: state{dev: have.dev, addrs: maps.Clone(have.addrs), routes: maps.Clone(have.routes), rules: maps.Clone(have.rules)}}
	for _, r := range m.j.live {
		p.keys = append(p.keys, r.Key)
	}
	return p
}

// back goes back to how things were before an Apply of the settings that failed.
func (m *Machine) back(ctx context.Context, to point, failed Settings) error {
	var errs []error
	for _, s := range plan(m.have, to.have) {
		if err := do(m.k, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
			continue
		}
		m.have.did(s)
	}
	// A Part that was at work already knows how to go back to its former settings, which undoing its latest changes does not
	// have to amount to.
	former := make(map[string]bool)
	for _, r := range m.j.live {
		if r.Kind == kindPart && slices.Contains(to.keys, r.Key) {
			former[r.Part] = true // perhaps the firewall of a dead process, which must not open for a moment
		}
	}
	if was := m.settings; was != nil {
		for name, settings := range map[string][2]any{
			partFirewall: {was.Firewall, failed.Firewall},
			partResolver: {was.Resolver, failed.Resolver},
			partDesktop:  {was.Desktop, failed.Desktop},
		} {
			if settings[0] == nil {
				continue
			}
			if !reflect.DeepEqual(settings[0], settings[1]) {
				errs = append(errs, m.applyPart(ctx, name, settings[0]))
			}
		}
	}
	errs = append(errs, m.release(ctx, func(r record) bool {
		return !slices.Contains(to.keys, r.Key) && !(r.Kind == kindPart && former[r.Part])
	}))
	return errors.Join(errs...)
}

// letGo gives up the claims that settings s, which are in force, have no use for.
func (m *Machine) letGo(ctx context.Context, s Settings) error {
	tables := make(map[string]bool)
	for k := range m.have.routes {
		tables[tableKey(k.table, k.v6())] = true
	}
	return m.release(ctx, func(r record) bool {
		switch r.Kind {
		case kindPart:
			return r.Part == partResolver && s.Resolver == nil || r.Part == partDesktop && s.Desktop == nil || r.Part == partFirewall && s.Firewall == nil
		case kindMTU, kindUp:
			return r.Index != m.have.dev.index
		case kindAddress:
			_, used := m.have.addrs[ifaddr{r.Index, r.Prefix}]
			return !used
		case kindTable:
			return !tables[r.Key]
		case kindRule:
			_, used := m.have.rules[r.Rule.rule()]
			return !used
		}
		return false
	})
}

// release undoes and gives up the claims that match, the latest first.
func (m *Machine) release(ctx context.Context, match func(record) bool) error {
	u := undoer{k: m.k, parts: m.config.Parts, log: m.log, keep: func(r record) bool { return !match(r) }}
	kept, _, err := u.all(ctx, m.j.live)
	var gone []string
	for _, r := range m.j.live {
		if !slices.ContainsFunc(kept, func(k record) bool { return k.Key == r.Key }) {
			gone = append(gone, r.Key)
		}
	}
	return errors.Join(err, m.j.forget(gone...))
}

// Undo takes back everything that Apply has changed, the latest first. It goes on after an error; what could not be undone
// stays in the journal for another Undo or [Repair].
func (m *Machine) Undo(ctx context.Context) (Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Report{}, fmt.Errorf("host: %w", ErrClosed)
	}
	u := undoer{k: m.k, parts: m.config.Parts, log: m.log}
	kept, report, err := u.all(ctx, m.j.live)
	m.settings, m.have, m.mended = nil, newState(), nil
	err = errors.Join(err, m.j.begin(m.header(), kept))
	if err != nil {
		return report, fmt.Errorf("host: %w", err)
	}
	return report, nil
}
