package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
)

// A Report says what became of the changes that were to be undone, in words for people.
type Report struct {
	// Undone were undone.
	Undone []string

	// Gone were not there any more: never made, or gone with their interface or with a start of the machine.
	Gone []string

	// Left were changed by somebody else since, and left as they are.
	Left []string

	// Later can only be undone later, and stay in the journal for that.
	Later []string
}

// Repair undoes what a dead process has left behind, according to its journal, in the network namespace of the calling
// thread, and removes the journal. Without a journal there is nothing to do. It goes on after an error, and what could not be
// undone stays in the journal. Repairing twice does no harm.
//
// Errors match [ErrBusy] if the process is alive, [ErrNotPermitted], [ErrJournal], [ErrNamespace], [ErrNoPart],
// errors.ErrUnsupported on systems other than Linux, or an error of a Part or of the system. A journal that is damaged
// other than at its end is worked through as far as it is legible, and kept under its name with ".damaged" at the end.
func Repair(ctx context.Context, journalPath string, parts Parts) (Report, error) {
	network, err := OpenNetwork(NetworkConfig{})
	if err != nil {
		return Report{}, err
	}
	defer network.Close()
	k, err := network.kernel()
	if err != nil {
		return Report{}, fmt.Errorf("host: %w", err)
	}
	report, err := repair(ctx, journalPath, parts, k)
	if err != nil {
		err = fmt.Errorf("host: %w", err)
	}
	return report, err
}

// Leftovers reports whether a journal has something for Repair to undo, and whether a firewall is among it that was put there since the
// machine was started, alone or not. It changes nothing and waits for nobody. Without a journal there is nothing. The error matches [ErrJournal] if the
// journal cannot be understood, or is that of reading the file.
func Leftovers(journalPath string) (left, walled, alone bool, err error) {
	switch fi, err := os.Stat(journalPath); {
	case errors.Is(err, fs.ErrNotExist):
		return false, false, false, nil
	case err != nil:
		return false, false, false, fmt.Errorf("host: %w", err)
	case !fi.Mode().IsRegular() || fi.Size() > maxJournal:
		return false, false, false, fmt.Errorf("host: %s: %w: it is no file, or larger than %d bytes", journalPath, ErrJournal, maxJournal)
	}
	data, err := os.ReadFile(journalPath)
	if err != nil {
		return false, false, false, fmt.Errorf("host: %w", err)
	}
	l, err := parseJournal(data)
	if err != nil {
		return false, false, false, fmt.Errorf("host: %s: %w", journalPath, err)
	}
	boot, _ := here()
	isWall := func(r record) bool { return r.Part == partFirewall }
	walled = l.header.Boot == boot && slices.ContainsFunc(l.live, isWall)
	alone = walled && len(l.damaged) == 0 && !slices.ContainsFunc(l.live, func(r record) bool { return !isWall(r) })
	return len(l.live)+len(l.damaged) > 0, walled, alone, nil
}

func repair(ctx context.Context, path string, parts Parts, k kernel) (Report, error) {
	j, l, err := openJournal(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return Report{}, nil
	}
	if err != nil {
		return Report{}, err
	}
	u := undoer{k: k, parts: parts, log: slog.New(slog.DiscardHandler)}
	kept, report, err := u.ledger(ctx, path, l)
	return report, errors.Join(err, j.retain(kept, l), j.close())
}

// retain makes the journal of a dead process say only what is left to undo.
func (j *journal) retain(kept []record, l ledger) error {
	if len(kept) == len(l.live) {
		j.live = kept
		return nil
	}
	j.header = l.header
	return j.rewrite(kept)
}

// An undoer undoes claims.
type undoer struct {
	k     kernel
	parts Parts
	log   *slog.Logger
	keep  func(record) bool // claims to leave alone; nil: none
	gone  func(record) bool // claims whose change is known to be gone; nil: none
}

// ledger undoes what the journal of a dead process says, and returns the claims that are still to be undone.
func (u undoer) ledger(ctx context.Context, path string, l ledger) ([]record, Report, error) {
	if len(l.live) == 0 && len(l.damaged) == 0 {
		return nil, Report{}, nil
	}
	boot, namespace := u.k.place()
	elsewhere := l.header.Boot != boot
	if !elsewhere && l.header.Namespace != namespace {
		if namespaceExists(l.header.Namespace) {
			return l.live, Report{}, fmt.Errorf("%w: %s: it was net:[%d] and this is net:[%d]: run it there (ip netns exec, nsenter)",
				ErrNamespace, path, l.header.Namespace, namespace)
		}
		elsewhere = true
	}
	if elsewhere {
		u.gone = record.kernel
	} else if slices.ContainsFunc(l.live, record.kernel) {
		if err := u.k.permitted(); err != nil {
			return l.live, Report{}, err
		}
	}
	kept, report, err := u.all(ctx, l.live)
	if len(l.damaged) > 0 {
		damage := fmt.Errorf("%w: %s is damaged, so something may not have been undone: %v", ErrJournal, path, l.damaged)
		// The damaged file goes aside, so that it does not stand in the way for ever.
		if e := copyFile(path, path+".damaged"); e != nil {
			damage = errors.Join(damage, e)
		}
		err = errors.Join(err, damage)
	}
	return kept, report, err
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// An outcome is what became of a claim.
type outcome uint8

const (
	undone outcome = iota
	gone
	left
)

// all undoes claims, the latest first but those of the firewall last, and returns those that are kept or failed, in the order
// given.
func (u undoer) all(ctx context.Context, live []record) (kept []record, report Report, err error) {
	var order []record
	for _, firewall := range []bool{false, true} {
		for _, r := range slices.Backward(live) {
			if firewall == (r.Kind == kindPart && r.Part == partFirewall) {
				order = append(order, r)
			}
		}
	}
	keep := make(map[string]bool)
	var errs []error
	for _, r := range order {
		if u.keep != nil && u.keep(r) {
			keep[r.Key] = true
			continue
		}
		if ctx.Err() != nil {
			keep[r.Key] = true
			continue
		}
		what, err := u.one(ctx, r)
		if errors.Is(err, ErrLater) {
			keep[r.Key] = true
			report.Later = append(report.Later, r.String())
			u.log.Warn("to be undone later", "what", r.String(), "reason", err)
			continue
		}
		if err != nil {
			keep[r.Key] = true
			errs = append(errs, fmt.Errorf("undoing %s: %w", r, err))
			u.log.Error("could not undo", "what", r.String(), "error", err)
			continue
		}
		switch what {
		case undone:
			report.Undone = append(report.Undone, r.String())
		case gone:
			report.Gone = append(report.Gone, r.String())
		case left:
			report.Left = append(report.Left, r.String())
		}
		u.log.Debug("undone", "what", r.String())
	}
	if len(keep) > 0 {
		errs = append(errs, ctx.Err())
	}
	for _, r := range live {
		if keep[r.Key] {
			kept = append(kept, r)
		}
	}
	return kept, report, errors.Join(errs...)
}

// one undoes one claim. It must do no harm if the change was never made or is undone already.
func (u undoer) one(ctx context.Context, r record) (outcome, error) {
	if u.gone != nil && u.gone(r) {
		return gone, nil
	}
	switch r.Kind {
	case kindMTU, kindUp:
		l, err := u.k.link(r.Device)
		if errors.Is(err, ErrNoDevice) {
			return gone, nil
		}
		if err != nil {
			return 0, err
		}
		// The name may have gone to another interface.
		if l.index != r.Index || r.Kind == kindMTU && l.mtu == r.MTU || r.Kind == kindUp && !l.up {
			return gone, nil
		}
		if r.Kind == kindMTU {
			return undone, u.k.setMTU(l, r.MTU)
		}
		return undone, u.k.setUp(l, false)
	case kindAddress:
		addrs, err := u.k.addrs()
		if err != nil {
			return 0, err
		}
		a := ifaddr{r.Index, r.Prefix}
		if !slices.Contains(addrs, a) {
			return gone, nil
		}
		return undone, u.k.delAddr(a)
	case kindTable:
		routes, err := u.k.routes(r.Table, r.IPv6)
		if err != nil {
			return 0, err
		}
		what := gone
		for _, route := range routes {
			if !route.ours {
				continue
			}
			what = undone
			if err := u.k.delRoute(route.key, route.to); err != nil {
				return 0, err
			}
		}
		return what, nil
	case kindRule:
		rules, err := u.k.rules(r.Rule.IPv6)
		if err != nil {
			return 0, err
		}
		if !slices.Contains(rules, r.Rule.rule()) {
			return gone, nil
		}
		return undone, u.k.delRule(r.Rule.rule())
	case kindPart:
		p, err := u.parts.named(r.Part)
		if err != nil {
			return 0, err
		}
		err = p.Undo(ctx, r.Undo)
		if errors.Is(err, ErrForeign) {
			u.log.Warn("left alone", "what", r.String(), "reason", err)
			return left, nil
		}
		return undone, err
	}
	return 0, fmt.Errorf("%w: unknown kind %q", ErrJournal, r.Kind)
}
