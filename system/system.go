package system

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/host/resolver"
)

// applyTime is how long a change of the machine may take that nobody has given a time for.
const applyTime = 10 * time.Second

var _ vpn.System = (*System)(nil)

// A System makes this machine use tunnels, one after the other. It is given to them as [vpn.Config.System]. Its methods may
// be called from several goroutines.
type System struct {
	cfg    Config
	log    *slog.Logger
	rules  *filter.Rules // of the content filter; nil allows everything
	outer  *place        // of the connections to the gateway
	inner  *place        // of the device
	shared bool          // both are the same namespace
	made   []string      // directories that were not there before, the innermost first

	interpose func(flow.Decider) flow.Decider // by tests, in front of the content filter
	applyTime time.Duration                   // applyTime, or what tests make of it

	machine  *host.Machine
	surface  *host.Network // of the connections to the gateway; the machine's if shared
	resolver *resolver.Resolver
	firewall *firewall.Firewall
	desktops *desktops

	stop         context.CancelFunc
	running      sync.WaitGroup
	life         context.Context // until Close begins
	end          context.CancelFunc
	attach       sync.Mutex // held by Attach, which Close waits for
	events       events
	surroundings surroundings // belongs to the goroutine that watches

	// applying is held while the machine is being changed, so that the latest state is what remains. It is taken before mu.
	applying  sync.Mutex
	uncertain bool // the last change failed; guarded by applying

	mu            sync.Mutex
	tunnel        *tunnel // nil while there is none
	closed        bool
	since         time.Time // when a tunnel came or went
	lifted        bool      // the kill switch was, until the next tunnel
	policy        Enforcement
	searching     bool      // the tunnel looks for its gateway elsewhere
	portal        time.Time // when the window closes
	portalServers []netip.AddrPort
	endpoints     []firewall.Endpoint // what sockets of the tunnel have connected to, the latest at the end
	applied       host.Settings       // in force
	inForce       *firewall.Config    // of applied
	carrier       host.Exit           // by which the tunnel was connected last; of index 0 if that is not known
	roams         int                 // how often it was moved
	stayed        string              // why the last move failed
	learned       int                 // of the prefixes of applied
	allowed       allowed             // the addresses of AllowedNames
	last          lastRules           // of the tunnel before
}

// settings returns how the machine should be. The lock is held.
func (s *System) settings(networks []netip.Prefix) (set host.Settings, learned int) {
	if w := s.wall(networks); w != nil {
		set.Firewall = *w
	}
	t := s.tunnel
	if t == nil || s.cfg.Configurator != nil {
		return set, 0
	}
	learned = t.routes(&set)
	if t.names != nil {
		if c, ok := t.names.resolverConfig(); ok {
			set.Resolver = c
		}
	}
	if d, ok := t.desktop(); ok {
		set.Desktop = d
	}
	return set, learned
}

// apply makes the machine as it should be now.
func (s *System) apply(ctx context.Context) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	var networks []netip.Prefix
	if k := s.cfg.KillSwitch; k != nil && (k.LocalLAN || k.SessionLAN) {
		networks = s.connected()
	}
	s.mu.Lock()
	set, learned := s.settings(networks)
	same := !s.uncertain && set.Device != "" && reflect.DeepEqual(set, s.applied)
	s.mu.Unlock()
	var err error
	if same {
		// What others have broken meanwhile is the business of the watch, which knows what to do about it.
		err = ctx.Err()
	} else if set.Firewall == nil && set.Device == "" {
		var report host.Report
		if report, err = s.machine.Undo(ctx); len(report.Left) > 0 {
			s.log.Warn("left as other programs have made it", "what", report.Left)
		}
	} else {
		err = s.machine.Apply(ctx, set)
	}
	s.uncertain = err != nil
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.learned, s.inForce = set, learned, nil
	if w, ok := set.Firewall.(firewall.Config); ok {
		s.inForce = &w
	}
	return nil
}

// Close undoes all changes of the machine, except that a kill switch stays that is locked or that policy demands; see
// [System.Enforce]. Tunnels that use the System fail. It returns what could not be undone; that stays in the journal. When that is
// done, it waits for OnEvent, but for no longer than 3 seconds.
func (s *System) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.lifted = !s.stays()
	s.mu.Unlock()
	s.end()
	s.attach.Lock()
	t := s.current()
	s.attach.Unlock()
	var errs []error
	if t != nil {
		// The device stays until nothing leads to it.
		t.blame(ErrClosed)
		errs = append(errs, t.detach())
	}
	s.stop()
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), s.applyTime)
	defer cancel()
	errs = append(errs, s.apply(ctx), s.machine.Close())
	if !s.shared {
		errs = append(errs, s.surface.Close())
	}
	s.closePlaces()
	if left := s.events.close(tellTime); left > 0 {
		s.log.Warn("events were not told, since those before them were not taken in time", "events", left)
	}
	return errors.Join(errs...)
}
