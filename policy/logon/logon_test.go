package logon

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// one makes a session of the word for it: a user, for a remote one an @ and an address, then flags after colons.
func one(t testing.TB, word string) Session {
	t.Helper()
	parts := strings.Split(word, ":")
	user, from, remote := strings.Cut(parts[0], "@")
	s := Session{ID: parts[0], Account: "uid " + user, User: user, Remote: remote, Host: from, Active: true}
	if a, err := netip.ParseAddr(from); err == nil {
		s.Origin = a
	}
	for _, flag := range parts[1:] {
		switch flag {
		case "greeter":
			s.Class = Greeter
		case "lock":
			s.Class = LockScreen
		case "background":
			s.Class = Background
		case "closing":
			s.Closing = true
		case "detached":
			s.Detached = true
		case "locked":
			s.Locked = true
		case "inactive":
			s.Active = false
		default:
			s.ID = flag // another session of the same user at the same place
		}
	}
	return s
}

func some(t testing.TB, words string) []Session {
	t.Helper()
	var all []Session
	for _, w := range strings.Fields(words) {
		all = append(all, one(t, w))
	}
	return all
}

// capture returns a function for the addresses of prefixes.
func capture(prefixes ...string) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		for _, p := range prefixes {
			if netip.MustParsePrefix(p).Contains(a) {
				return true
			}
		}
		return false
	}
}

var (
	fullTunnel  = capture("0.0.0.0/0", "::/0")
	splitTunnel = capture("10.20.0.0/16", "fd00:20::/32")
)

// Both columns of the first table of logon rules, on both systems: who may be logged on when the tunnel comes up, and when it ends
// because of who is. A local user asks, named first. D175 etc. are lines of the administrator's guide.
func TestLogonEnforcement(t *testing.T) {
	for _, c := range []struct {
		rule     Enforcement
		sessions string
		want     error
		row      string
	}{
		// SingleLocalLogon: L > 1
		{SingleLocalLogon, "alice", nil, "D175 (Local: 1)"},
		{SingleLocalLogon, "alice bob@10.1.2.3 carol@10.1.2.4 dave@10.1.2.5", nil, "D175 (Remote: no limit)"},
		{SingleLocalLogon, "alice bob", ErrTooManyLogons, "D175 only one local user"},
		{SingleLocalLogon, "alice bob carol@10.1.2.3", ErrTooManyLogons, "D175 only one local user"},
		{SingleLocalLogon, "alice bob@10.20.0.9", nil, "D175 no effect on remote logons from the enterprise network over the VPN"},
		{"", "alice bob@10.1.2.3", nil, "D173, D208 it is the default"},
		{"", "alice bob", ErrTooManyLogons, "D173, D208 it is the default"},
		// SingleLogon: L + R > 1
		{SingleLogon, "alice", nil, "D186, D214 (Local + Remote: 1)"},
		{SingleLogon, "alice bob", ErrTooManyLogons, "D186, D214 more than one user, locally"},
		{SingleLogon, "alice bob@10.1.2.3", ErrTooManyLogons, "D186, D214 more than one user, remotely"},
		{SingleLogon, "alice alice@10.1.2.3", ErrTooManyLogons, "D186 no additional logons are allowed"},
		{SingleLogon, "alice bob@10.20.0.9", ErrTooManyLogons, "D186, D214 a remote logon over the VPN is not possible"},
		// SingleLogonNoRemote: L > 1 or R > 0
		{SingleLogonNoRemote, "alice", nil, "D197 (Local: 1, Remote: 0)"},
		{SingleLogonNoRemote, "alice bob", ErrTooManyLogons, "D197 more than one local user"},
		{SingleLogonNoRemote, "alice bob@10.1.2.3", ErrRemoteLogon, "D197 any remote user"},
		{SingleLogonNoRemote, "alice bob@10.20.0.9", ErrRemoteLogon, "D197 any remote user, over the VPN too"},
		{SingleLogonNoRemote, "alice alice@10.1.2.3", ErrRemoteLogon, "D197 any remote user"},
		// What the guide leaves open: what a logon is.
		{SingleLogon, "alice alice:tty2 alice:tty3", nil, "a user with several consoles is one user"},
		{SingleLogon, "alice@10.1.2.3 alice@10.1.2.3:c2", nil, "several windows of SSH from one address are one logon"},
		{SingleLogon, "alice@10.1.2.3 alice@10.1.2.4", ErrTooManyLogons, "the same user from two addresses"},
		{SingleLogon, "alice@ alice@:c2", ErrTooManyLogons, "who comes from nowhere known is counted each time"},
		{SingleLogon, "alice@pc alice@pc:c2", nil, "a name of a host is a place too"},
		{SingleLogon, "alice gdm:greeter", nil, "a greeter is no logon"},
		{SingleLogon, "alice bob:lock", nil, "a lock screen is no logon"},
		{SingleLogon, "alice bob:background", nil, "a cron job is no logon"},
		{SingleLogonNoRemote, "alice bob@10.1.2.3:closing", nil, "a session that is closing is no logon"},
		{SingleLocalLogon, "alice bob:detached", ErrTooManyLogons, "a user who was switched away is logged on"},
		{SingleLocalLogon, "alice bob:inactive:locked", ErrTooManyLogons, "and so is one whose screen is locked"},
		{SingleLogonNoRemote, "", nil, "nobody at all"},
	} {
		for _, system := range []string{"windows", "linux"} {
			t.Run(fmt.Sprintf("%s/%s/%s", system, c.rule, c.sessions), func(t *testing.T) {
				rules := Rules{System: system, Enforcement: c.rule, Establishment: AllowRemoteUsers, Document: "corp.xml"}
				sessions := some(t, c.sessions)
				req := Request{}
				if len(sessions) > 0 {
					req.Session = sessions[0].ID
				}
				v := Decide(rules, sessions, req, t0)
				if v.Allow != (c.want == nil) || !errors.Is(v.Err(), c.want) {
					t.Errorf("%s: at the start %+v, %v; want %v", c.row, v.Allow, v.Err(), c.want)
				}
				if c.want != nil {
					if setting := map[string]string{"windows": "WindowsLogonEnforcement", "linux": "LinuxLogonEnforcement"}[system]; v.Reason.Setting != setting ||
						v.Reason.Document != "corp.xml" || !strings.Contains(v.Reason.Error(), setting+"="+string(rules.effective().Enforcement)+" in corp.xml") {
						t.Errorf("%s: the reason is %v, which names %s", c.row, v.Reason, v.Reason.Setting)
					}
				}
				// The same in the course of the session: only the first was there at the start.
				m := NewMachine(rules, sessions[:min(1, len(sessions))], req, t0)
				if got := m.At(t0); got.Action != Keep {
					t.Fatalf("%s: with one logon %v, %v", c.row, got.Action, got.Reason)
				}
				got := m.Sessions(t0.Add(time.Hour), sessions)
				if (got.Action == Disconnect) != (c.want != nil) || c.want != nil && !errors.Is(got.Reason, c.want) {
					t.Errorf("%s: in its course %v, %v; want %v", c.row, got.Action, got.Reason, c.want)
				}
				// What has ended does not come back when the others leave.
				if again := m.Sessions(t0.Add(2*time.Hour), sessions[:min(1, len(sessions))]); again.Action != got.Action {
					t.Errorf("%s: first %v, then %v", c.row, got.Action, again.Action)
				}
			})
		}
	}
}

// Both columns of the second table of logon rules, at the start.
func TestVPNEstablishment(t *testing.T) {
	for _, c := range []struct {
		rule     Establishment
		sessions string // the first asks
		captured func(netip.Addr) bool
		want     error
		row      string
	}{
		{LocalUsersOnly, "alice", nil, nil, "D201, D218 U = false"},
		{LocalUsersOnly, "alice@10.1.2.3", nil, ErrRemoteUser, "D201, D218 U = true"},
		{"", "alice@10.1.2.3", nil, ErrRemoteUser, "D171, D206 by default users connected by RDP or SSH are not able to"},
		{"", "alice bob@10.1.2.3", fullTunnel, nil, "D175 a local user may while remote users are logged on"},
		{AllowRemoteUsers, "alice", fullTunnel, nil, "D202, D219 U = false"},
		{AllowRemoteUsers, "alice@10.1.2.3", nil, nil, "D202, D219 U = true, and the routes are not known yet"},
		{AllowRemoteUsers, "alice@10.1.2.3", splitTunnel, nil, "D202, D219 U = true, and the routes leave the user alone"},
		{AllowRemoteUsers, "alice@10.1.2.3", fullTunnel, ErrCutOff, "D202, D182 all-or-nothing tunnelling"},
		{AllowRemoteUsers, "alice@10.20.1.2", splitTunnel, ErrCutOff, "D202, D182 split tunnelling that takes the user's network"},
		{AllowRemoteUsers, "alice@fd00-20--1", splitTunnel, ErrOriginUnknown, "a name is not an address"},
		{AllowRemoteUsers, "alice@", fullTunnel, ErrOriginUnknown, "an unknown address might be cut off"},
		{AllowRemoteUsers, "alice@", nil, nil, "but there is nothing to fear before there are routes"},
		{AllowRemoteUsers, "alice@10.1.2.3 bob@10.20.1.2", splitTunnel, nil, "D202 who is cut off did not ask"},
		{LocalUsersOnly, "alice@10.1.2.3:closing", nil, ErrRemoteUser, "tmux after the end of SSH is remote"},
		{LocalUsersOnly, "alice:locked", nil, nil, "a program behind a locked screen is local"},
	} {
		for _, system := range []string{"windows", "linux"} {
			t.Run(fmt.Sprintf("%s/%s/%s/%s", system, c.rule, c.sessions, c.row), func(t *testing.T) {
				rules := Rules{System: system, Establishment: c.rule, Document: "corp.xml"}
				sessions := some(t, c.sessions)
				v := Decide(rules, sessions, Request{Session: sessions[0].ID, Captured: c.captured}, t0)
				if v.Allow != (c.want == nil) || !errors.Is(v.Err(), c.want) {
					t.Fatalf("%s: %v, %v; want %v", c.row, v.Allow, v.Err(), c.want)
				}
				if setting := rules.establishmentName(); c.want != nil && (v.Reason.Setting != setting || !strings.Contains(v.Reason.Error(), setting+"=")) {
					t.Errorf("%s: the reason is %v, which names %s", c.row, v.Reason, v.Reason.Setting)
				}
				// D202: the 90 seconds, which are said of Windows only.
				hold := v.Allow && system == "windows" && sessions[0].Remote
				if got := v.Deadline.Equal(t0.Add(90 * time.Second)); got != hold {
					t.Errorf("%s: the deadline is %v", c.row, v.Deadline)
				}
			})
		}
	}
}

// A process that belongs to no session is judged by its user.
func TestAskerWithoutSession(t *testing.T) {
	for _, c := range []struct {
		sessions, account string
		want              error
		row               string
	}{
		{"alice@10.1.2.3", "", nil, "a service acts for nobody"},
		{"alice@10.1.2.3", "uid cron", nil, "a user who is not logged on is not remote"},
		{"alice@10.1.2.3", "uid alice", ErrRemoteUser, "systemd-run over SSH"},
		{"alice", "uid alice", nil, "a desktop program that the user's service manager started"},
		{"alice alice@10.1.2.3", "uid alice", nil, "at the machine, and over SSH as well"},
		{"alice:locked alice@10.1.2.3", "uid alice", ErrRemoteUser, "but not at a locked one"},
		{"alice:inactive alice@10.1.2.3", "uid alice", ErrRemoteUser, "nor at one in the background"},
		{"alice:locked", "uid alice", nil, "locked, but nowhere else"},
		{"alice@10.1.2.3:closing", "uid alice", nil, "left, with programs behind"},
		{"alice@10.1.2.3:background", "uid alice", nil, "a service manager"},
		{"bob@10.1.2.3", "uid alice", nil, "somebody else is remote"},
	} {
		v := Decide(Rules{System: "linux"}, some(t, c.sessions), Request{Account: c.account}, t0)
		if v.Allow != (c.want == nil) || !errors.Is(v.Err(), c.want) {
			t.Errorf("%s: %v, %v; want %v", c.row, v.Allow, v.Err(), c.want)
		}
	}
	// A session that nobody knows is not local, unless its user says something better.
	if v := Decide(Rules{System: "linux"}, some(t, "alice"), Request{Session: "c9"}, t0); !errors.Is(v.Err(), ErrSessionsUnknown) {
		t.Errorf("an unknown session: %v", v.Err())
	}
	if v := Decide(Rules{System: "linux"}, some(t, "alice"), Request{Session: "c9", Account: "uid alice"}, t0); !v.Allow {
		t.Errorf("an unknown session of a local user: %v", v.Err())
	}
}

// Which setting is in force when: D173 says that enforcement is available before the first logon, D199 that establishment is not.
func TestValidity(t *testing.T) {
	for _, c := range []struct {
		system      string
		beforeLogon bool
		want        string
		row         string
	}{
		{"windows", false, "WindowsLogonEnforcement WindowsVPNEstablishment", "D173, D199"},
		{"windows", true, "WindowsLogonEnforcement", "D173 available in SBL mode, D199 not available in SBL mode"},
		{"linux", false, "LinuxLogonEnforcement LinuxVPNEstablishment", "D208, D216"},
		{"linux", true, "LinuxLogonEnforcement", "the same before the logon on Linux"},
		{"darwin", false, "", "D171, D206 there are settings for Windows and Linux"},
		{"", false, "", "no system, no limits"},
	} {
		rules := Rules{System: c.system}
		var in []string
		for _, s := range rules.Settings(c.beforeLogon) {
			if s.InForce != (s.Why == "") {
				t.Errorf("%s: %+v", c.row, s)
			}
			if s.InForce && !strings.HasPrefix(s.Name, "Retain") {
				in = append(in, s.Name)
			}
		}
		if got := strings.Join(in, " "); got != c.want {
			t.Errorf("%s: %s; want %s", c.row, got, c.want)
		}
		// What is in force is what decides.
		enforced := !Decide(rules, some(t, "alice bob"), Request{BeforeLogon: c.beforeLogon, Session: "alice"}, t0).Allow
		established := !Decide(rules, some(t, "alice@10.1.2.3"), Request{BeforeLogon: c.beforeLogon, Session: "alice@10.1.2.3"}, t0).Allow
		if enforced != strings.Contains(c.want, "Enforcement") || established != strings.Contains(c.want, "Establishment") {
			t.Errorf("%s: enforced %v, established %v", c.row, enforced, established)
		}
	}
}

// Values that do not exist refuse every tunnel and are named.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		rules Rules
		want  string
	}{
		{Rules{System: "linux", Enforcement: "singlelogon"}, `LinuxLogonEnforcement=singlelogon in p.xml: the value does not exist; it must be SingleLocalLogon, SingleLogon or SingleLogonNoRemote`},
		{Rules{System: "windows", Establishment: "Everybody\x1b[2J"}, `WindowsVPNEstablishment="Everybody\x1b[2J" in p.xml: the value does not exist; it must be LocalUsersOnly or AllowRemoteUsers`},
		{Rules{System: "darwin", UserEnforcement: "x"}, `RetainVpnOnLogoff/UserEnforcement=x in p.xml: the value does not exist; it must be SameUserOnly or AnyUser`},
	} {
		c.rules.Document = "p.xml"
		err := c.rules.Check()
		v := Decide(c.rules, nil, Request{}, t0)
		if err == nil || err.Error() != c.want || v.Allow || v.Reason.Error() != c.want || !errors.Is(err, ErrSetting) {
			t.Errorf("%v, %v; want %s", err, v.Err(), c.want)
		}
		if got := NewMachine(c.rules, nil, Request{}, t0).At(t0); got.Action != Disconnect {
			t.Errorf("a machine of wrong rules says %v", got.Action)
		}
	}
	for _, r := range []Rules{{}, {System: "plan9", Enforcement: "x"}, {System: "linux"}, {System: "windows", UserEnforcement: AnyUser}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestReason(t *testing.T) {
	sessions := some(t, "alice@10.1.2.3")
	sessions[0].User = "ali\x1bce"
	v := Decide(Rules{System: "linux", Document: "/etc/corp.xml"}, sessions, Request{Session: "alice@10.1.2.3"}, t0)
	want := `LinuxVPNEstablishment=LocalUsersOnly in /etc/corp.xml: VPN establishment capability for a remote user is disabled; a VPN connection will not be established: ` +
		`"ali\x1bce" from 10.1.2.3 (session alice@10.1.2.3); connect from a session at the machine itself, or have LinuxVPNEstablishment set to AllowRemoteUsers`
	if got := v.Reason.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	cause := errors.New("the bus is gone")
	v = Decide(Rules{System: "linux"}, nil, Request{Unknown: cause}, t0)
	if !errors.Is(v.Err(), ErrSessionsUnknown) || !errors.Is(v.Err(), cause) {
		t.Errorf("an unknown list: %v", v.Err())
	}
	if v := (Verdict{}); v.Allow || v.Err() != nil {
		t.Error("the zero Verdict allows")
	}
	many := make([]Session, 1000)
	for i := range many {
		many[i] = Session{ID: fmt.Sprint(i), User: strings.Repeat("x", 1000)}
	}
	v = Decide(Rules{System: "linux"}, many, Request{}, t0)
	if len(v.Reason.Sessions) != maxShown || len(v.Reason.Error()) > 2000 {
		t.Errorf("a reason of %d sessions and %d bytes", len(v.Reason.Sessions), len(v.Reason.Error()))
	}
}
