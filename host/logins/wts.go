package logins

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"
)

// A wtsSession is what the Remote Desktop Services API of Windows says about a session: WTSEnumerateSessions and
// WTSQuerySessionInformation.
type wtsSession struct {
	id           uint32
	state        uint32 // WTS_CONNECTSTATE_CLASS
	user, domain string
	client       string // the name of the machine it came from
	protocol     uint16 // WTSClientProtocolType: 0 the console, 1 and 2 remote ones
	address      []byte // WTS_CLIENT_ADDRESS
	info         []byte // WTSINFOEXW
}

// States of WTS_CONNECTSTATE_CLASS.
const (
	wtsActive       = 0
	wtsConnected    = 1
	wtsDisconnected = 4
)

// session makes a session of it. It is none if nobody is logged on in it, such as that of services, that of the greeter and the listeners.
func (w wtsSession) session() (s Session, ok bool) {
	s = Session{ID: strconv.FormatUint(uint64(w.id), 10), User: clean(w.user), UID: NoUID, Kind: Console, Class: User,
		Active: w.state == wtsActive, Detached: w.state == wtsDisconnected}
	if w.user == "" || w.id == 0 || w.state != wtsActive && w.state != wtsConnected && w.state != wtsDisconnected {
		return s, false
	}
	if w.domain != "" {
		s.User = clean(w.domain) + `\` + s.User
	}
	if w.protocol != 0 {
		s.Kind, s.Remote, s.RemoteHost, s.RemoteAddr = RDP, true, clean(w.client), wtsAddress(w.address)
	}
	s.Locked, s.Since = wtsInfo(w.info)
	return s, true
}

// wtsAddress reads a WTS_CLIENT_ADDRESS: the family, and 20 bytes that hold the address from the third on.
func wtsAddress(b []byte) netip.Addr {
	if len(b) < 24 {
		return netip.Addr{}
	}
	var a netip.Addr
	switch binary.LittleEndian.Uint32(b) {
	case 2: // AF_INET
		a = netip.AddrFrom4([4]byte(b[6:10]))
	case 23: // AF_INET6
		a = netip.AddrFrom16([16]byte(b[6:22])).Unmap()
	}
	if !a.IsValid() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// wtsInfo reads a WTSINFOEXW of level 1: whether the session is locked, and when its user logged on. The level stands before a union
// whose members are aligned to 8 bytes.
func wtsInfo(b []byte) (locked bool, since time.Time) {
	const flags, logon = 16, 168
	if len(b) < logon+8 || binary.LittleEndian.Uint32(b) != 1 {
		return false, time.Time{}
	}
	// Intervals of 100 ns since 1601.
	const epoch = 116444736000000000
	ticks := int64(binary.LittleEndian.Uint64(b[logon:]))
	if ticks > epoch {
		since = moment((ticks - epoch) / 10)
	}
	return binary.LittleEndian.Uint32(b[flags:]) == 0, since
}

// A memory keeps from where the sessions came that were disconnected since: Windows forgets it.
type memory map[string]Session

// recall completes a list by what was known of its sessions while somebody was connected to them.
func (m memory) recall(sessions []Session) {
	present := make(map[string]bool, len(sessions))
	for i, s := range sessions {
		present[s.ID] = true
		before, known := m[s.ID]
		if s.Detached && known && before.User == s.User && before.Remote {
			sessions[i].Remote, sessions[i].RemoteHost, sessions[i].RemoteAddr, sessions[i].Kind = true, before.RemoteHost, before.RemoteAddr, before.Kind
		}
		m[s.ID] = sessions[i]
	}
	for id := range m {
		if !present[id] {
			delete(m, id)
		}
	}
}
