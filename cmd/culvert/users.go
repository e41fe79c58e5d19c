package main

import (
	"context"
	"maps"
	"os"
	"slices"

	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
)

// logonsKept reports whether this machine keeps account of who is logged on, as sd_login_monitor(3) finds out: a machine that does not,
// such as a container, never has a first logon to wait for.
func logonsKept() bool {
	_, err := os.Stat("/run/systemd/seats")
	return err == nil
}

// loggedOn reports whether a session is that of a person who is there.
func loggedOn(s logon.Session) bool { return s.Class == logon.Person && !s.Closing }

// account tells users apart. A session without an account is a user of its own.
func account(s logon.Session) string {
	if s.Account == "" {
		return "session " + s.ID
	}
	return s.Account
}

// owner returns the user who asked for the tunnel, "" if that is nobody who is logged on.
func (d *doorkeeper) owner() string {
	if d == nil {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		if loggedOn(s) && (s.ID == d.request.Session || d.request.Session == "" && account(s) == d.request.Account) {
			return account(s)
		}
	}
	return ""
}

// watchLogons tells the manager who logs on and off, until ctx ends. While that is not known, everybody is taken to be where they were.
func (m *automat) watchLogons(ctx context.Context) {
	known := map[string]bool{}
	_ = m.usage.keeper.source.Watch(ctx, func(sessions []logins.Session, err error) {
		if err != nil {
			return
		}
		for _, e := range logonEvents(known, logonSessions(sessions)) {
			m.post(e)
		}
	})
}

// logonEvents returns what a list of all sessions tells a manager: who is gone, and then who is there. Known are those who were
// there before, with whether only over a network, and becomes those who are.
func logonEvents(known map[string]bool, sessions []logon.Session) (events []network.Event) {
	now := map[string]bool{}
	for _, s := range sessions {
		if loggedOn(s) {
			remote, more := now[account(s)]
			now[account(s)] = s.Remote && (remote || !more)
		}
	}
	for _, user := range slices.Sorted(maps.Keys(known)) {
		if _, here := now[user]; !here {
			events = append(events, network.Event{Kind: network.Logoff, User: user})
			delete(known, user)
		}
	}
	for _, user := range slices.Sorted(maps.Keys(now)) {
		events = append(events, network.Event{Kind: network.Logon, User: user, Remote: now[user]})
		known[user] = now[user]
	}
	return events
}
