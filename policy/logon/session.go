package logon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Class says what a session is for.
type Class uint8

const (
	// Person is the session of somebody who has logged on.
	Person Class = iota
	// Greeter asks who wants to log on.
	Greeter
	// LockScreen asks for the password of somebody who has.
	LockScreen
	// Background is work without anybody, such as a cron job or a service manager.
	Background
)

// A Session is somebody, or something, logged on to the machine.
type Session struct {
	// ID is what the system calls it; no two sessions share one.
	ID string
	// Account is what tells users apart, such as "uid 1000"; User is the name to show.
	Account, User string
	Class         Class
	// Remote says that it came over a network, and Origin from where, if that is known. Host is what the system says about
	// that, which may be a name.
	Remote bool
	Origin netip.Addr
	Host   string
	// Active says that it is the one in front at its place, Locked that it asks for a password.
	Active, Locked bool
	// Detached says that nobody is connected to it, but its user is still logged on.
	Detached bool
	// Closing says that its user has left, while some of its programs have not ended.
	Closing bool
	// Since is when it began, if that is known.
	Since time.Time
}

// String shows the session in one line, with nothing in it that could be taken for more than a name.
func (s Session) String() string {
	name := s.User
	if name == "" {
		name = s.Account
	}
	text := show(name)
	switch {
	case s.Remote && s.Origin.IsValid():
		text += " from " + s.Origin.String()
	case s.Remote && s.Host != "":
		text += " from " + show(s.Host)
	case s.Remote:
		text += " from elsewhere"
	}
	return text + " (session " + show(s.ID) + ")"
}

// show quotes what is not a plain word, and shortens it.
func show(s string) string {
	if len(s) > 0 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"'(),`+"`", r)
	}) {
		return s
	}
	return fmt.Sprintf("%.64q", s)
}

// counts reports whether a session is a logon.
func (s Session) counts() bool { return s.Class == Person && !s.Closing }

// place tells logons of the same user apart.
func (s Session) place() string {
	switch {
	case !s.Remote:
		return "local"
	case s.Origin.IsValid():
		return "from " + s.Origin.Unmap().String()
	case s.Host != "":
		return "at " + s.Host
	}
	return "session " + s.ID
}

// who tells users apart: a session without an account is a user of its own.
func (s Session) who() string {
	if s.Account == "" {
		return "session " + s.ID
	}
	return "account " + s.Account
}

// logons returns a session for each logon, in the order in which they are given: one for each user and place.
func logons(sessions []Session) (local, remote []Session) {
	seen := make(map[[2]string]bool, len(sessions))
	for _, s := range sessions {
		key := [2]string{s.who(), s.place()}
		if !s.counts() || seen[key] {
			continue
		}
		seen[key] = true
		if s.Remote {
			remote = append(remote, s)
		} else {
			local = append(local, s)
		}
	}
	return local, remote
}

func byID(sessions []Session, id string) (Session, bool) {
	i := slices.IndexFunc(sessions, func(s Session) bool { return s.ID == id })
	if id == "" || i < 0 {
		return Session{}, false
	}
	return sessions[i], true
}
