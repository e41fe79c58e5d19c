package logon

import (
	"net/netip"
	"time"
)

// An Action says what becomes of a tunnel.
type Action uint8

const (
	// Keep: nothing.
	Keep Action = iota
	// Wait: nothing yet; ask again at the deadline.
	Wait
	// Disconnect: it ends, and stays so.
	Disconnect
)

// String returns the name of the action.
func (a Action) String() string {
	switch a {
	case Keep:
		return "keep"
	case Wait:
		return "wait"
	case Disconnect:
		return "disconnect"
	}
	return "unknown"
}

// A Change is what a [Machine] says about the tunnel.
type Change struct {
	Action Action
	// Reason says why it ends, or why one waits. It is nil for Keep.
	Reason *Reason
	// Deadline is when to ask again by [Machine.At], since the answer will be another; the zero time for never. With Keep it is
	// until when the remote user who brought the tunnel up must not leave.
	Deadline time.Time
}

// A Machine watches over a tunnel that is up.
//
//	           owner logs off,              another user logs on,
//	           retained                     SameUserOnly
//	┌──────┐ ───────────────────▶ ┌──────┐ ──────────────────────▶ ┌───────┐
//	│ kept │                      │ away │                         │ ended │
//	└──────┘ ◀─────────────────── └──────┘                         └───────┘
//	  │  ▲     owner logs on                                           ▲
//	  │  └────────────────┐                                            │
//	  │ sessions unknown  │ sessions known                             │
//	  ▼                   │           Patience is over                 │
//	┌─────────┐ ──────────┘ ───────────────────────────────────────────┤
//	│ waiting │                                                        │
//	└─────────┘    any state: limits exceeded, remote user cut off, ───┘
//	               left within RemoteHold, owner logs off, not retained
//
// It has no clock and does no I/O. Its methods are for one goroutine at a time.
type Machine struct {
	rules       Rules
	inForce     bool // enforcement and establishment
	established time.Time
	beforeLogon bool
	asker       Session // the remote session that brought the tunnel up; zero if none did
	hold        bool    // asker must not leave before established + RemoteHold
	inside      bool    // asker has come back through the tunnel, which cannot cut it off
	owner       string  // who of the user of the tunnel; "" if it has none
	captured    func(netip.Addr) bool

	known   map[string]bool // the sessions of the last list
	away    bool            // owner has logged off
	blind   *Reason         // the sessions are unknown, since
	blindAt time.Time
	ended   *Reason
}

// NewMachine returns the machine of a tunnel that came up now, which Decide allowed. Its first answer is that of [Machine.At].
func NewMachine(rules Rules, sessions []Session, req Request, now time.Time) *Machine {
	m := &Machine{rules: rules.effective(), established: now, beforeLogon: req.BeforeLogon, captured: req.Captured}
	m.inForce = m.rules.prefix() != ""
	if !req.BeforeLogon {
		if s, ok := req.asker(sessions); ok {
			if m.inForce && s.Remote {
				m.asker, m.hold = s, rules.System == "windows"
			}
			if s.counts() {
				m.owner = s.who()
			}
		}
	}
	m.known = identities(sessions)
	switch err := rules.Check(); {
	case err != nil:
		m.ended = invalid(err)
	case req.Unknown != nil:
		m.Unknown(now, req.Unknown)
	default:
		m.Sessions(now, sessions)
	}
	return m
}

func identities(sessions []Session) map[string]bool {
	ids := make(map[string]bool, len(sessions))
	for _, s := range sessions {
		if s.counts() {
			ids[s.ID] = true
		}
	}
	return ids
}

// Sessions tells the machine all sessions that there are, after one was added, removed or changed.
func (m *Machine) Sessions(now time.Time, sessions []Session) Change {
	if m.ended != nil {
		return m.At(now)
	}
	m.blind = nil
	before := m.known
	m.known = identities(sessions)
	if m.inForce {
		m.ended = m.rules.crowded(sessions)
	}
	if m.ended == nil {
		m.ended = m.remoteLeft(now, sessions)
	}
	m.follow(sessions)
	if m.ended == nil {
		m.ended = m.cutOff()
	}
	if m.ended == nil {
		m.ended = m.ownerLeft(sessions, before)
	}
	return m.At(now)
}

// Routes tells the machine which addresses the tunnel captures from now on.
func (m *Machine) Routes(now time.Time, captured func(netip.Addr) bool) Change {
	m.captured = captured
	if m.ended == nil {
		m.ended = m.cutOff()
	}
	return m.At(now)
}

// Unknown tells the machine that the sessions cannot be listed any more. Sessions makes up for it.
func (m *Machine) Unknown(now time.Time, cause error) Change {
	if m.blind == nil && (m.inForce || m.owner != "") {
		m.blind, m.blindAt = m.rules.unknown(cause), now
		if !m.inForce {
			m.blind.Setting, m.blind.Value = retainName, m.retained()
		}
	}
	return m.At(now)
}

// At says what becomes of the tunnel at a time.
func (m *Machine) At(now time.Time) Change {
	if m.ended == nil && m.blind != nil && !now.Before(m.blindAt.Add(Patience)) {
		m.ended = m.blind
	}
	switch {
	case m.ended != nil:
		return Change{Action: Disconnect, Reason: m.ended}
	case m.blind != nil:
		return Change{Action: Wait, Reason: m.blind, Deadline: m.blindAt.Add(Patience)}
	}
	if end := m.established.Add(RemoteHold); m.hold && now.Before(end) {
		return Change{Deadline: end}
	}
	return Change{}
}

// remoteLeft is the rule of the 90 seconds.
func (m *Machine) remoteLeft(now time.Time, sessions []Session) *Reason {
	if !m.hold || !now.Before(m.established.Add(RemoteHold)) {
		return nil
	}
	if s, ok := byID(sessions, m.asker.ID); ok && !s.Detached && !s.Closing {
		return nil
	}
	return m.rules.establishment(ErrLeftTooSoon, m.asker,
		"leave the session not before "+RemoteHold.String()+" have passed")
}

// follow notices that the remote user who asked for the tunnel left and came back from another address, as RDP allows. An address
// that the tunnel captures is then one that it leads to.
func (m *Machine) follow(sessions []Session) {
	s, ok := byID(sessions, m.asker.ID)
	if !ok {
		return
	}
	moved := s.Origin.IsValid() && s.Origin != m.asker.Origin
	switch {
	case !s.Remote:
		m.inside = true // it is at the machine itself now
	case moved:
		m.inside = m.captured != nil && m.captured(s.Origin.Unmap().WithZone(""))
	}
	m.asker.Remote, m.asker.Detached, m.asker.Closing = s.Remote, s.Detached, s.Closing
	if moved {
		m.asker.Origin, m.asker.Host = s.Origin, s.Host
	}
}

// cutOff looks whether the remote user who asked for the tunnel, and is still there, loses the way.
func (m *Machine) cutOff() *Reason {
	if m.asker.ID == "" || !m.known[m.asker.ID] || m.asker.Detached || m.inside {
		return nil
	}
	return m.rules.cutOff(m.asker, m.captured)
}

func (m *Machine) retained() string {
	if m.rules.RetainOnLogoff {
		return "true"
	}
	return "false"
}

// ownerLeft applies RetainVpnOnLogoff. before are the sessions that there were until now.
func (m *Machine) ownerLeft(sessions []Session, before map[string]bool) *Reason {
	var here bool
	var others []Session
	for _, s := range sessions {
		switch {
		case !s.counts():
		case m.owner == "" && m.beforeLogon && !s.Remote:
			// Who logs on first after the tunnel came up is whom it was for.
			m.owner, here = s.who(), true
		case s.who() == m.owner:
			here = true
		case !before[s.ID]:
			others = append(others, s)
		}
	}
	if m.owner == "" {
		return nil
	}
	m.away = !here
	switch {
	case here:
		return nil
	case !m.rules.RetainOnLogoff:
		return &Reason{Kind: ErrLoggedOff, Setting: retainName, Value: m.retained(), Document: m.rules.Document,
			Detail: "set it to true to keep the tunnel"}
	case m.rules.UserEnforcement == SameUserOnly && len(others) > 0:
		return &Reason{Kind: ErrOtherUser, Setting: userName, Value: string(m.rules.UserEnforcement), Document: m.rules.Document,
			Sessions: shown(others...)}
	}
	return nil
}

// Away reports whether the user of the tunnel has logged off and the tunnel was retained.
func (m *Machine) Away() bool { return m.away }
