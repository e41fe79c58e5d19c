package logins

import (
	"net/netip"
	"slices"
	"strconv"
)

// An Asker is who is behind a process.
type Asker struct {
	// Found says that the process belongs to a logon, which Session is. It need not be one of those that List returns: a remote
	// shell that only its processes show is not.
	Found   bool
	Session Session
	// UID is the user who logged on, even if the process has become another one since; NoUID if that is not known, and for a
	// process of root that nobody's logon led to, such as a service. User is the name, if that is known.
	UID  uint32
	User string
	// Evidence says in a few words how it was found, for logs.
	Evidence string
}

// Account is what tells users apart, as [Session.Account] has it; "" if the process belongs to nobody known.
func (a Asker) Account() string {
	if a.Found {
		return a.Session.Account()
	}
	return account(a.UID, a.User)
}

// A process is what is known about one, from sources that it cannot change, but for its name.
type process struct {
	pid, parent int
	name        string
	uid         uint32
	loginUID    uint32 // of the audit system; NoUID if it was never set
	audit       string // its session there, or ""
	cgroup      string // the session that its cgroup is of, or ""
}

// maxAncestors bounds how far up a process's ancestors are followed.
const maxAncestors = 64

// shells are the names of the programs that let remote shells in.
var shells = []string{"sshd", "sshd-session", "dropbear"}

// identify finds out to which of the sessions the first process of a chain belongs. The others are its ancestors, from its parent
// up. told is the session that the system's login manager names for it, or "".
func identify(chain []process, sessions []Session, told string) Asker {
	if len(chain) == 0 {
		return Asker{UID: NoUID}
	}
	a := Asker{UID: chain[0].uid}
	switch {
	case chain[0].loginUID != NoUID:
		a.UID = chain[0].loginUID
	case a.UID == 0:
		a.UID = NoUID
	}
	find := func(id, evidence string) bool {
		i := slices.IndexFunc(sessions, func(s Session) bool { return s.ID == id })
		if id == "" || i < 0 {
			return false
		}
		a.Found, a.Session, a.Evidence = true, sessions[i], evidence
		return true
	}
	if !find(told, "login manager") && !find(chain[0].audit, "audit session") && !find(chain[0].cgroup, "cgroup") {
		for _, p := range chain {
			if i := slices.IndexFunc(sessions, func(s Session) bool { return s.Leader == p.pid && p.pid > 1 }); i >= 0 {
				a.Found, a.Session, a.Evidence = true, sessions[i], "leader "+strconv.Itoa(p.pid)
				break
			}
		}
	}
	if a.Found && a.Session.Remote {
		return a
	}
	// A remote shell that nobody wrote down, or one inside a local session. A process may give itself the name of one, and is
	// remote then, which wins it nothing.
	if i := slices.IndexFunc(chain[1:], isShell); i >= 0 {
		p := chain[1+i]
		s := Session{ID: "process " + strconv.Itoa(p.pid), UID: a.UID, Kind: SSH, Class: User, Remote: true, Active: true, Leader: p.pid, Service: p.name}
		switch {
		case a.Found:
			s.User, s.UID = a.Session.User, a.Session.UID
		case a.UID == NoUID:
			s.UID = chain[0].uid
		}
		a.Found, a.Session, a.Evidence = true, s, "ancestor "+p.name+" "+strconv.Itoa(p.pid)
	}
	return a
}

func isShell(p process) bool { return slices.Contains(shells, p.name) }

// A socket is one TCP socket of a process.
type socket struct {
	listening, established bool
	peer                   netip.Addr
}

// peer returns the address of the other end of the connection of a remote shell: of the sockets of each of its processes, from the
// nearest to the user's up. Servers divide themselves: the process for the user holds what the user forwards, the one
// above it the connection, the topmost the listening socket.
func peer(processes [][]socket) netip.Addr {
	var any netip.Addr
	for _, sockets := range slices.Backward(processes) {
		if i := slices.IndexFunc(sockets, func(s socket) bool { return s.established && s.peer.IsValid() }); i >= 0 {
			if !slices.ContainsFunc(sockets, func(s socket) bool { return s.listening }) {
				return sockets[i].peer
			}
			any = sockets[i].peer
		}
	}
	return any
}
