package system

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/host/resolver"
	"culvert.example/vpn/split"
)

// normal returns c with its defaults, or says which field is wrong.
func (c Config) normal() (Config, error) {
	if c.Device == "" {
		c.Device = DefaultDevice
	}
	if c.Journal == "" {
		c.Journal = DefaultJournal
	}
	if !c.DNS.Listen.IsValid() {
		c.DNS.Listen = netip.MustParseAddrPort(DefaultListen)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case len(c.Device) > 15 || strings.ContainsAny(c.Device, "/ %:\x00") || c.Device == "." || c.Device == "..":
		return c, invalid("Device: %.40q is not a name for a network interface: want at most 15 letters and digits", c.Device)
	case !filepath.IsAbs(c.Journal):
		return c, invalid("Journal: %.200q is not an absolute path", c.Journal)
	case c.DataPath > Flow:
		return c, invalid("DataPath: %d", c.DataPath)
	case c.LocalLAN > No || c.Bypass > No:
		return c, invalid("LocalLAN and Bypass: want gateway, yes or no")
	case c.Heal > HealNothing:
		return c, invalid("Heal: %d", c.Heal)
	case !c.DNS.Listen.Addr().IsLoopback() || c.DNS.Listen.Port() == 0:
		return c, invalid("DNS.Listen: %v is not a loopback address with a port", c.DNS.Listen)
	case len(c.DNS.Upstreams) > maxInside:
		return c, invalid("DNS.Upstreams: %d of them, at most %d", len(c.DNS.Upstreams), maxInside)
	case len(c.DNS.Upstreams) > 0 && (c.DNS.Off || c.DNS.NoProxy || c.Configurator != nil):
		return c, invalid("DNS.Upstreams: they are asked by the DNS proxy, and there is none")
	case c.Configurator != nil && c.DataPath == Flow:
		return c, invalid("DataPath: the flow path needs this program's own routes, which a Configurator replaces")
	case c.Configurator != nil && c.Filter != nil:
		return c, invalid("Filter: the content filter needs the flow path, which is not possible with a Configurator")
	case c.Filter != nil && c.DataPath == Packet:
		return c, invalid("Filter: the content filter needs the flow path, and DataPath is packet")
	}
	for _, u := range c.DNS.Upstreams {
		if _, err := dns.ParseUpstream(u, nil, c.DNS.Verify); err != nil {
			return c, invalid("DNS.Upstreams: %v", err)
		}
	}
	// Whatever is wrong with the user's rules shall be said now, and not when there is a lease.
	if _, err := split.New(split.Config{User: c.User}); err != nil {
		return c, invalid("User: %v", err)
	}
	if k := c.KillSwitch; k != nil {
		if k.Lease == 0 {
			own := *k
			own.Lease = 30 * time.Second
			k, c.KillSwitch = &own, &own
		}
		if k.Lease < firewall.MinLease || k.Lease > firewall.MaxLease {
			return c, invalid("KillSwitch.Lease: %v: want from %v to %v", k.Lease, firewall.MinLease, firewall.MaxLease)
		}
		if len(k.AllowedHosts) > maxAllowedHosts {
			return c, invalid("KillSwitch.AllowedHosts: %d prefixes, at most %d", len(k.AllowedHosts), maxAllowedHosts)
		}
		for _, p := range k.AllowedHosts {
			if !p.IsValid() || !narrow(p) {
				return c, invalid("KillSwitch.AllowedHosts: %v is not a prefix of at least /8 (IPv4) or /16 (IPv6)", p)
			}
		}
		if len(k.AllowedNames) > MaxAllowedNames {
			return c, invalid("KillSwitch.AllowedNames: %d names, at most %d", len(k.AllowedNames), MaxAllowedNames)
		}
		for _, name := range k.AllowedNames {
			if name == "" || len(name) > 254 {
				return c, invalid("KillSwitch.AllowedNames: %.40q is no name", name)
			}
		}
	}
	return c, nil
}

// parts returns what changes the resolver, the desktops and the firewall of the machine at a place.
func (c Config) parts(inner *place) (*resolver.Resolver, *firewall.Firewall, *desktops, host.Parts) {
	r := resolver.New(c.resolverOptions(inner))
	f := &firewall.Firewall{NetNS: inner.file(), Logger: c.Logger}
	d := newDesktops(c.Desktop, c.Logger)
	return r, f, d, host.Parts{
		Resolver: host.PartOf(r.Apply, r.Undo, resolver.ErrChanged),
		Firewall: host.PartOf(f.Apply, f.Undo, firewall.ErrChanged),
		Desktop:  d,
	}
}

// resolverOptions returns how the resolver of the machine is found. Programs in a named namespace see a resolv.conf of their own
// (ip-netns(8)), and the systemd-resolved of the machine is not theirs.
func (c Config) resolverOptions(inner *place) resolver.Options {
	o := resolver.Options{Backend: c.DNS.Backend, Bus: c.DNS.Bus, Path: c.DNS.ResolvConf, Logger: c.Logger}
	if c.Namespace != "" {
		if o.Path == "" {
			o.Path = filepath.Join("/etc/netns", inner.name, "resolv.conf")
		}
		if o.Backend == resolver.Auto {
			o.Backend = resolver.File
		}
	}
	return o
}

// Open undoes what a dead process has left behind, takes the journal's lock, and checks that the machine can be changed. With
// a [KillSwitch] that is not open, it is in force when Open returns. Otherwise nothing is changed before there is a tunnel. The
// context bounds only the opening. The caller closes the System.
//
// Errors match [ErrConfig], [ErrNoTUN], [ErrNotPermitted], [ErrBusy], errors.ErrUnsupported on systems other than
// Linux, or others of the package host.
func Open(ctx context.Context, cfg Config) (*System, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	s := &System{cfg: cfg, log: cfg.Logger, since: time.Now(), applyTime: applyTime, events: events{tell: cfg.OnEvent}}
	s.allowed.byName, s.allowed.wake = map[string][]netip.Prefix{}, make(chan struct{}, 1)
	s.life, s.end = context.WithCancel(context.Background())
	if cfg.Filter != nil {
		if s.rules, err = filter.Compile(*cfg.Filter); err != nil {
			return nil, invalid("Filter: %v", err)
		}
	}
	if s.outer, s.inner, err = cfg.places(); err != nil {
		return nil, err
	}
	s.shared = s.inner.is(s.outer)
	if err := s.open(ctx); err != nil {
		s.closePlaces()
		return nil, err
	}
	return s, nil
}

// places returns where the connections to the gateway are made, and where the device is.
func (c Config) places() (outer, inner *place, err error) {
	if outer, err = here(); err != nil {
		return nil, nil, err
	}
	if c.Namespace == "" {
		return outer, outer, nil
	}
	if inner, err = named(c.Namespace); err != nil {
		outer.close()
		return nil, nil, err
	}
	return outer, inner, nil
}

func (s *System) closePlaces() {
	removeEmpty(s.made)
	s.outer.close()
	if s.inner != s.outer {
		s.inner.close()
	}
}

func (s *System) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := probe(); err != nil {
		return err
	}
	if s.cfg.Namespace != "" && s.manageNames() && !s.cfg.DNS.NoProxy {
		if err := s.inner.loopback(); err != nil {
			return err
		}
	}
	if err := prepareJournal(s.cfg.Journal); err != nil {
		return err
	}
	if s.cfg.Namespace != "" && s.cfg.DNS.ResolvConf == "" && s.manageNames() {
		if err := s.makeDir(filepath.Dir(s.cfg.resolverOptions(s.inner).Path)); err != nil {
			return fmt.Errorf("system: the directory for the resolv.conf of namespace %s: %w", s.cfg.Namespace, err)
		}
	}
	var parts host.Parts
	s.resolver, s.firewall, s.desktops, parts = s.cfg.parts(s.inner)
	err := s.inner.do(func() (err error) {
		s.machine, err = host.Open(host.Config{
			JournalPath: s.cfg.Journal, Parts: parts, KeepFirewall: s.cfg.KillSwitch != nil && !s.cfg.KillSwitch.Open,
			Heal: s.cfg.Heal != HealNothing, Logger: s.log,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("system: %w", err)
	}
	s.surface = s.machine.Network()
	if !s.shared {
		err = s.outer.do(func() (err error) {
			s.surface, err = host.OpenNetwork(host.NetworkConfig{})
			return err
		})
		if err != nil {
			return errors.Join(fmt.Errorf("system: %w", err), s.machine.Close())
		}
	}
	if k := s.cfg.KillSwitch; k != nil && k.LastRules {
		s.recall()
	}
	if err := s.apply(ctx); err != nil {
		// What a dead process has closed stays closed.
		err = errors.Join(fmt.Errorf("system: %w", err), s.machine.Close())
		if !s.shared {
			err = errors.Join(err, s.surface.Close())
		}
		return err
	}
	s.watch()
	return nil
}

// makeDir makes a directory with those above it, and remembers which were not there.
func (s *System) makeDir(dir string) error {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil {
			return os.MkdirAll(dir, 0o755)
		}
		s.made = append(s.made, d)
	}
}

// removeEmpty removes the directories of a list that are empty.
func removeEmpty(dirs []string) {
	for _, d := range dirs {
		_ = os.Remove(d)
	}
}

// manageNames reports whether the resolver of the machine is this package's business.
func (s *System) manageNames() bool { return !s.cfg.DNS.Off && s.cfg.Configurator == nil }

// prepareJournal makes the directory of the journal.
func prepareJournal(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%w: the journal needs the directory %s: %w", ErrNotPermitted, dir, err)
		}
		return fmt.Errorf("system: the directory of the journal: %w", err)
	}
	return nil
}

// Repair undoes what a dead process has left behind. Of the Config it needs only Journal, Namespace and DNS as they were then;
// a KillSwitch that is Locked stays in force, and the error then matches [ErrLocked]. Without a journal there is nothing to do.
// Other errors match [ErrBusy] if the process is alive, or others of the package host.
func Repair(ctx context.Context, cfg Config) (host.Report, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return host.Report{}, err
	}
	outer, inner, err := cfg.places()
	if err != nil {
		return host.Report{}, err
	}
	defer outer.close()
	if inner != outer {
		defer inner.close()
	}
	_, _, _, parts := cfg.parts(inner)
	if cfg.KillSwitch != nil && cfg.KillSwitch.Locked {
		parts.Firewall = host.PartOf(
			func(context.Context, firewall.Config, func([]byte) error) error { return ErrLocked },
			func(context.Context, []byte) error { return ErrLocked }, nil)
	}
	var report host.Report
	err = inner.do(func() (err error) {
		report, err = host.Repair(ctx, cfg.Journal, parts)
		return err
	})
	if cfg.Namespace != "" && cfg.DNS.ResolvConf == "" && len(report.Undone) > 0 {
		// An empty directory means nothing to ip-netns(8), whoever made it.
		dir := filepath.Dir(cfg.resolverOptions(inner).Path)
		removeEmpty([]string{dir, filepath.Dir(dir)})
	}
	return report, err
}
