package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport"
)

// A doorkeeper applies the rules of a profile about who is logged on to this machine. A nil one lets everything be.
type doorkeeper struct {
	source *logins.Source
	rules  logon.Rules
	before bool        // the tunnel may come up before anybody has logged on (UseStartBeforeLogon)
	user   split.Rules // the user's own, which are part of what a tunnel captures

	// Of the tunnel that comes up, or is up.
	mu       sync.Mutex
	sessions []logon.Session
	request  logon.Request
}

// newDoorkeeper returns the one of a plan, nil if no profile is in force: without one nobody is judged.
func newDoorkeeper(p *plan.Plan, user split.Rules, log *slog.Logger) *doorkeeper {
	if p == nil || p.Profile == nil {
		return nil
	}
	d := &doorkeeper{source: logins.New(logins.Options{Logger: log}), rules: p.Logon, before: p.BeforeLogon, user: user}
	if p.Network.Automatic {
		// What becomes of the tunnel of a user who logs off is up to the network.Manager, which goes on with the next user.
		d.rules.RetainOnLogoff, d.rules.UserEnforcement = true, logon.AnyUser
	}
	return d
}

// admit decides whether this process may bring a tunnel up.
func (d *doorkeeper) admit(ctx context.Context) error {
	if d == nil {
		return nil
	}
	sessions, request := d.ask(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions, d.request = sessions, request
	return logon.Decide(d.rules, sessions, request, time.Now()).Err()
}

// service reports whether nobody in particular has asked for the tunnel that was to be admitted last.
func (d *doorkeeper) service() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.request.Session == "" && d.request.Account == ""
}

// ask finds out who is logged on, and who of them asks.
func (d *doorkeeper) ask(ctx context.Context) ([]logon.Session, logon.Request) {
	found, err := d.source.List(ctx)
	if err != nil {
		return nil, logon.Request{Unknown: err}
	}
	asker, err := d.source.Asker(ctx, os.Getpid())
	if err != nil {
		return nil, logon.Request{Unknown: err}
	}
	sessions, request := logonSessions(found), logon.Request{Account: asker.Account()}
	request.BeforeLogon = d.before && beforeLogon(found, asker)
	if asker.Found {
		request.Session = asker.Session.ID
		if !slices.ContainsFunc(sessions, func(s logon.Session) bool { return s.ID == request.Session }) {
			sessions = append(sessions, logonSessions([]logins.Session{asker.Session})...)
		}
	}
	return sessions, request
}

// beforeLogon reports whether a service asks, for nobody, while nobody is logged on.
func beforeLogon(sessions []logins.Session, asker logins.Asker) bool {
	return !asker.Found && asker.UID == logins.NoUID &&
		!slices.ContainsFunc(sessions, func(s logins.Session) bool { return s.Class == logins.User && !s.Closing })
}

// logonSessions returns sessions in the words of the rules.
func logonSessions(sessions []logins.Session) []logon.Session {
	class := map[logins.Class]logon.Class{logins.Greeter: logon.Greeter, logins.LockScreen: logon.LockScreen, logins.Background: logon.Background}
	all := make([]logon.Session, len(sessions))
	for i, s := range sessions {
		all[i] = logon.Session{
			ID: s.ID, Account: s.Account(), User: s.User, Class: class[s.Class], Remote: s.Remote, Origin: s.RemoteAddr, Host: s.RemoteHost,
			Active: s.Active, Locked: s.Locked, Detached: s.Detached, Closing: s.Closing, Since: s.Since,
		}
	}
	return all
}

// A guarded system asks the doorkeeper again when the lease is known and no route has been changed.
type guarded struct {
	vpn.System
	keeper *doorkeeper
}

// Attach implements vpn.System.
func (g guarded) Attach(ctx context.Context, link vpn.SystemLink) (vpn.SystemDevice, error) {
	if err := g.keeper.routes(link.Lease); err != nil {
		return nil, err
	}
	return g.System.Attach(ctx, link)
}

// routes decides whether what a tunnel captures cuts off who asks for it.
func (d *doorkeeper) routes(lease *transport.Lease) error {
	captured, err := captures(lease, d.user)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.request.Captured = captured
	return logon.Decide(d.rules, d.sessions, d.request, time.Now()).Err()
}

// captures returns what reports whether a tunnel takes the packets to an address. Connected networks count as taken, since it is not
// known yet whether they will stay outside.
func captures(lease *transport.Lease, user split.Rules) (func(netip.Addr) bool, error) {
	table, err := split.New(split.Config{
		Addresses: lease.Addresses, Include: lease.Include, Exclude: slices.DeleteFunc(slices.Clone(lease.Exclude), split.IsLocalLAN),
		DNS: lease.DNS, Gateway: []netip.Addr{lease.Gateway.Addr().Unmap()}, User: user,
	})
	if err != nil {
		return nil, err
	}
	return func(a netip.Addr) bool { return table.Why("", a.Unmap().WithZone("")).Way != split.Direct }, nil
}

// watch tells once why the rules end a tunnel that has come up, until ctx ends. It returns when everything is over.
func (d *doorkeeper) watch(ctx context.Context, over chan<- error) {
	if d == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	m := logon.NewMachine(d.rules, d.sessions, d.request, time.Now())
	d.mu.Unlock()
	var mu sync.Mutex // of the machine and the timer
	var timer *time.Timer
	var take func(c logon.Change)
	take = func(c logon.Change) {
		if timer != nil {
			timer.Stop()
		}
		switch {
		case c.Action == logon.Disconnect:
			offer(over, c.Reason)
			cancel()
		case !c.Deadline.IsZero() && ctx.Err() == nil:
			timer = time.AfterFunc(time.Until(c.Deadline), func() {
				mu.Lock()
				defer mu.Unlock()
				take(m.At(time.Now()))
			})
		}
	}
	locked := func(change func() logon.Change) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			take(change())
		}
	}
	locked(func() logon.Change { return m.At(time.Now()) })
	d.source.Watch(ctx, func(sessions []logins.Session, err error) {
		locked(func() logon.Change {
			if err != nil {
				return m.Unknown(time.Now(), err)
			}
			return m.Sessions(time.Now(), logonSessions(sessions))
		})
	})
	mu.Lock()
	defer mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
}
