package resolver

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
)

// applyLink gives the link of cfg its settings. It is called with r.mu held.
func (r *Resolver) applyLink(ctx context.Context, cfg Config, record func([]byte) error) error {
	if cfg.Index == 0 {
		ifi, err := net.InterfaceByName(cfg.Device)
		if err != nil {
			return invalid("Device: %s: %v", cfg.Device, err)
		}
		cfg.Index = ifi.Index
	}
	b, err := connect(ctx, r.opts.Bus)
	if err != nil {
		return err
	}
	defer b.close()
	now, err := b.settings(ctx, cfg.Index)
	if err != nil {
		return err
	}
	next := &linkState{linkUndo: linkUndo{Device: cfg.Device, Index: cfg.Index, Before: now}, config: cfg, want: settingsOf(cfg)}
	if old := r.link; old != nil && old.Index == cfg.Index && old.Device == cfg.Device {
		next.linkUndo = old.linkUndo
		if now.equal(next.want) {
			r.link = next
			r.lookAtOthers(ctx, b)
			return nil
		}
	}
	next.remember(next.want)
	undo := next.undo()
	rec, err := encode(undoRecord{Link: &undo})
	if err != nil {
		return err
	}
	if err := record(rec); err != nil {
		return err
	}
	if err := b.set(ctx, cfg.Index, next.want); err != nil {
		// The context may be what failed, and half of it is worse than nothing.
		b.restore(context.WithoutCancel(ctx), cfg.Index, now)
		return err
	}
	old := r.link
	r.link = next
	r.lookAtOthers(ctx, b)
	if old != nil && old.Index != cfg.Index {
		if err := r.undoLink(ctx, old.undo()); err != nil {
			r.log.Warn("undoing the settings of the former device failed", "device", old.Device, "err", err)
		}
	}
	return nil
}

// undoLink gives a link back what it had. It is called with r.mu held.
func (r *Resolver) undoLink(ctx context.Context, u linkUndo) error {
	// A link that is gone has taken its settings along, and another one may have its number.
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	if !slices.ContainsFunc(all, func(i net.Interface) bool { return i.Index == u.Index && i.Name == u.Device }) {
		return nil
	}
	b, err := connect(ctx, r.opts.Bus)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.runs(ctx); err != nil {
		return err
	}
	now, err := b.settings(ctx, u.Index)
	switch {
	case noSuchLink(err):
		return nil
	case err != nil:
		return err
	case now.equal(u.Before):
		return nil
	case !u.ours(now):
		return fmt.Errorf("%w: %s has %s", ErrChanged, u.Device, now.describe())
	}
	if err := b.restore(ctx, u.Index, u.Before); err != nil {
		return err
	}
	r.log.Info("the link has its former DNS settings", "device", u.Device)
	return nil
}

// watchLink looks after the link until ctx is done.
func (r *Resolver) watchLink(ctx context.Context, policy Policy, report func(Event)) {
	const pause = 3 * time.Second
	for lost := false; ctx.Err() == nil; {
		b, err := connect(ctx, r.opts.Bus)
		if err == nil {
			r.listen(ctx, b, policy, report, lost)
			b.close()
			lost = true // what happened while the bus was gone is not known
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// listen follows the signals of one connection until it breaks or ctx is done.
func (r *Resolver) listen(ctx context.Context, b *bus, policy Policy, report func(Event), lost bool) {
	const backlog = 64
	signals := make(chan *dbus.Signal, backlog)
	b.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
			dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolvedName)},
		{dbus.WithMatchSender(resolvedName), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchPathNamespace(resolvedPath)},
	} {
		if err := b.AddMatchSignalContext(ctx, match...); err != nil {
			return
		}
	}
	restarted := lost && b.runs(ctx) == nil
	again := time.NewTicker(r.look)
	defer again.Stop()
	for {
		if e, changed := r.inspectLink(ctx, b, policy, restarted); changed {
			report(e)
		}
		restarted = false
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case s, ok := <-signals:
			if !ok {
				return
			}
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) == 3 {
				owner, _ := s.Body[2].(string)
				if owner == "" {
					r.log.Warn("systemd-resolved has ended")
					continue
				}
				restarted = true
			}
		}
	}
}

// inspectLink compares the link with what was set. If systemd-resolved was started anew it is told again in any case.
func (r *Resolver) inspectLink(ctx context.Context, b *bus, policy Policy, restarted bool) (Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.link
	if s == nil || b.runs(ctx) != nil {
		return Event{}, false
	}
	r.lookAtOthers(ctx, b)
	e := Event{Time: time.Now(), Backend: Resolved}
	now, err := b.settings(ctx, s.Index)
	switch {
	case noSuchLink(err):
		return e, false // the device is gone, which others notice
	case err != nil:
		e.What, e.Err = "asking systemd-resolved", err
		return e, ctx.Err() == nil
	case restarted:
		e.What = "systemd-resolved was started anew"
		e.Err = b.set(ctx, s.Index, s.want)
		e.Repaired = e.Err == nil
		return e, true
	case now.agrees(s.want):
		s.reported = ""
		return e, false
	}
	e.What = fmt.Sprintf("%s has %s", s.Device, now.describe())
	found := now.serverKey() + now.domainKey() + fmt.Sprint(now.Default)
	told := s.reported == found
	s.reported = found
	if policy == Report {
		return e, !told
	}
	if !s.pace.allow(e.Time) {
		e.Err = ErrFight
		return e, !told
	}
	e.Err = b.set(ctx, s.Index, s.want)
	e.Repaired = e.Err == nil
	return e, true
}
