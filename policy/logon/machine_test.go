package logon

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// A step is something that happens to a tunnel that is up: the sessions are those of the words from then on.
type step struct {
	at       time.Duration
	sessions string
	routes   func(netip.Addr) bool // not nil: the routes change instead
	unknown  error                 // not nil: the sessions cannot be listed instead
	tick     bool                  // nothing happens but time
	want     Action
	reason   error
	deadline time.Duration // -1 for none
}

func keep(at time.Duration, sessions string) step {
	return step{at: at, sessions: sessions, deadline: -1}
}

func end(at time.Duration, sessions string, reason error) step {
	return step{at: at, sessions: sessions, want: Disconnect, reason: reason, deadline: -1}
}

const sec = time.Second

// What happens while the tunnel is up, row by row. The first session asks unless the request says otherwise.
func TestMachine(t *testing.T) {
	gone := errors.New("no bus")
	retain := Rules{RetainOnLogoff: true, Establishment: AllowRemoteUsers}
	retainAny := Rules{RetainOnLogoff: true, UserEnforcement: AnyUser, Establishment: AllowRemoteUsers}
	remote := Rules{Establishment: AllowRemoteUsers, RetainOnLogoff: true, UserEnforcement: AnyUser}
	for _, c := range []struct {
		row     string
		systems string
		rules   Rules
		start   string
		req     Request
		steps   []step
	}{
		// The logon enforcement in the course of time; TestLogonEnforcement has each row at once.
		{"D175 a second local logon ends it", "windows linux", Rules{}, "alice", Request{}, []step{
			keep(sec, "alice"), keep(2*sec, "alice bob@10.1.2.3"), end(3*sec, "alice bob carol", ErrTooManyLogons)}},
		{"D186 a second logon ends it", "windows linux", Rules{Enforcement: SingleLogon}, "alice", Request{}, []step{
			keep(sec, "alice alice:tty2"), end(2*sec, "alice bob@10.20.0.1", ErrTooManyLogons), end(3*sec, "alice", ErrTooManyLogons)}},
		{"D197 a session that becomes remote ends it", "windows", Rules{Enforcement: SingleLogonNoRemote}, "alice:1", Request{}, []step{
			keep(sec, "alice:1:locked"), end(2*sec, "alice@10.1.2.3:1", ErrRemoteLogon)}},
		{"D175 a session that becomes remote does not", "windows", Rules{}, "alice:1", Request{}, []step{keep(2*sec, "alice@10.1.2.3:1")}},
		{"D186 one logon after another is one at a time", "windows linux", Rules{Enforcement: SingleLogon, RetainOnLogoff: true, UserEnforcement: AnyUser}, "alice",
			Request{}, []step{keep(sec, ""), keep(2*sec, "bob")}},
		{"a greeter while nobody is logged on", "linux", retain, "alice", Request{}, []step{keep(sec, "gdm:greeter"), keep(2*sec, "alice")}},

		// The 90 seconds.
		{"D202 leaving before 90 s", "windows", remote, "alice@10.1.2.3", Request{}, []step{
			{at: 10 * sec, sessions: "alice@10.1.2.3", deadline: 90 * sec},
			{at: 89*sec + 999*time.Millisecond, sessions: "alice@10.1.2.3:detached", want: Disconnect, reason: ErrLeftTooSoon, deadline: -1}}},
		{"D202 closing before 90 s", "windows", remote, "alice@10.1.2.3", Request{}, []step{end(89*sec, "", ErrLeftTooSoon)}},
		{"D202 leaving after 90 s", "windows", remote, "alice@10.1.2.3", Request{}, []step{
			{at: 89 * sec, tick: true, deadline: 90 * sec}, {at: 90 * sec, tick: true, deadline: -1}, keep(90*sec, "alice@10.1.2.3:detached")}},
		{"D202 closing after 90 s", "windows", remote, "alice@10.1.2.3", Request{}, []step{keep(91*sec, "")}},
		{"D202 and logging off is RetainVpnOnLogoff", "windows", Rules{Establishment: AllowRemoteUsers}, "alice@10.1.2.3", Request{}, []step{
			keep(91*sec, "alice@10.1.2.3:detached"), end(92*sec, "", ErrLoggedOff)}},
		{"D219 no such rule on Linux", "linux", remote, "alice@10.1.2.3", Request{}, []step{keep(sec, "alice@10.1.2.3:detached"), keep(2*sec, "")}},
		{"D202 another remote user may leave", "windows", remote, "alice@10.1.2.3 bob@10.1.2.4", Request{}, []step{
			{at: 10 * sec, sessions: "alice@10.1.2.3", deadline: 90 * sec}}},
		{"D202 a local user may leave", "windows", remote, "alice", Request{}, []step{keep(sec, "alice:detached")}},

		// Routes that cut the remote user off.
		{"D202 routes come that cut off", "windows linux", remote, "alice@10.1.2.3", Request{}, []step{
			{at: 100 * sec, routes: splitTunnel, deadline: -1}, {at: 101 * sec, routes: fullTunnel, want: Disconnect, reason: ErrCutOff, deadline: -1}}},
		{"D202 they did from the first", "windows linux", remote, "alice@10.1.2.3", Request{Captured: fullTunnel}, []step{
			{at: 0, tick: true, want: Disconnect, reason: ErrCutOff, deadline: -1}}},
		{"D182 routes that cut off who did not ask", "windows linux", remote, "alice bob@10.1.2.3", Request{}, []step{{at: sec, routes: fullTunnel, deadline: -1}}},
		{"who has left is not cut off", "windows linux", remote, "alice@10.1.2.3", Request{}, []step{
			keep(100*sec, "alice@10.1.2.3:detached"), {at: 101 * sec, routes: fullTunnel, deadline: -1}}},
		{"who comes back through the tunnel is not cut off", "windows", remote, "alice@10.1.2.3:1", Request{Captured: splitTunnel}, []step{
			keep(100*sec, "alice@10.1.2.3:1:detached"), keep(101*sec, "alice@10.20.3.4:1"), {at: 102 * sec, routes: fullTunnel, deadline: -1}}},
		{"who comes back beside the tunnel can be", "windows", remote, "alice@10.1.2.3:1", Request{Captured: splitTunnel}, []step{
			keep(101*sec, "alice@10.1.9.9:1"), {at: 102 * sec, routes: capture("10.1.9.0/24"), want: Disconnect, reason: ErrCutOff, deadline: -1}}},
		{"who sits down at the machine is not", "windows", remote, "alice@10.1.2.3:1", Request{Captured: splitTunnel}, []step{
			keep(101*sec, "alice:1"), {at: 102 * sec, routes: fullTunnel, deadline: -1}}},

		// Retain VPN on logoff.
		{"RetainVpnOnLogoff=false", "windows linux darwin", Rules{}, "alice", Request{}, []step{end(sec, "", ErrLoggedOff)}},
		{"RetainVpnOnLogoff=false, with programs left behind", "linux", Rules{}, "alice", Request{}, []step{end(sec, "alice:closing", ErrLoggedOff)}},
		{"RetainVpnOnLogoff=false, with another session of the user", "linux", Rules{}, "alice alice:tty2", Request{}, []step{
			keep(sec, "alice:tty2"), end(2*sec, "bob@10.1.2.3", ErrLoggedOff)}},
		{"RetainVpnOnLogoff=false, somebody else logs off", "linux", Rules{}, "alice bob@10.1.2.3", Request{}, []step{keep(sec, "alice")}},
		{"RetainVpnOnLogoff=false, over SSH", "linux", Rules{Establishment: AllowRemoteUsers}, "alice@10.1.2.3", Request{}, []step{end(sec, "", ErrLoggedOff)}},
		{"RetainVpnOnLogoff=true, SameUserOnly, the same user returns", "windows linux darwin", retain, "alice", Request{}, []step{
			keep(sec, ""), keep(2*sec, "alice:2"), keep(3*sec, "alice:2 bob@10.1.2.3"), keep(4*sec, "")}},
		{"RetainVpnOnLogoff=true, SameUserOnly, another logs on", "windows linux darwin", retain, "alice", Request{}, []step{
			keep(sec, ""), end(2*sec, "bob", ErrOtherUser)}},
		{"RetainVpnOnLogoff=true, SameUserOnly, another logs on over SSH", "linux", retain, "alice", Request{}, []step{
			keep(sec, ""), end(2*sec, "bob@10.1.2.3", ErrOtherUser)}},
		{"RetainVpnOnLogoff=true, SameUserOnly, another takes over at once", "windows linux darwin", retain, "alice", Request{}, []step{end(sec, "bob", ErrOtherUser)}},
		{"RetainVpnOnLogoff=true, SameUserOnly, another was there before", "windows linux darwin", retain, "alice bob@10.1.2.3", Request{}, []step{
			keep(sec, "bob@10.1.2.3"), keep(2*sec, "bob@10.1.2.3"), end(3*sec, "bob@10.1.2.3 carol@10.1.2.4", ErrOtherUser)}},
		{"RetainVpnOnLogoff=true, AnyUser", "windows linux darwin", retainAny, "alice", Request{}, []step{keep(sec, ""), keep(2*sec, "bob")}},
		{"a service has nobody who could log off", "linux", Rules{}, "alice", Request{Account: "uid root"}, []step{keep(sec, ""), keep(2*sec, "bob")}},

		// Before the first logon.
		{"D173 before the logon, enforcement is in force", "windows linux", Rules{}, "gdm:greeter", Request{BeforeLogon: true}, []step{
			keep(sec, "alice"), keep(2*sec, "alice bob@10.1.2.3"), end(3*sec, "alice bob", ErrTooManyLogons)}},
		{"who logs on first is the user of the tunnel", "windows linux", Rules{}, "", Request{BeforeLogon: true}, []step{
			keep(sec, ""), keep(2*sec, "alice"), end(3*sec, "", ErrLoggedOff)}},
		{"but not remotely", "windows linux", Rules{}, "", Request{BeforeLogon: true}, []step{
			keep(sec, "bob@10.1.2.3"), keep(2*sec, ""), keep(3*sec, "alice"), end(4*sec, "bob", ErrLoggedOff)}},

		// When nobody can say who is logged on.
		{"logind is started again", "linux", Rules{}, "alice", Request{}, []step{
			{at: sec, unknown: gone, want: Wait, reason: ErrSessionsUnknown, deadline: 31 * sec},
			{at: 20 * sec, unknown: gone, want: Wait, reason: gone, deadline: 31 * sec}, keep(30*sec, "alice"),
			{at: 40 * sec, unknown: gone, want: Wait, reason: ErrSessionsUnknown, deadline: 70 * sec},
			{at: 69 * sec, tick: true, want: Wait, reason: ErrSessionsUnknown, deadline: 70 * sec},
			{at: 70 * sec, tick: true, want: Disconnect, reason: ErrSessionsUnknown, deadline: -1}, end(71*sec, "alice", ErrSessionsUnknown)}},
		{"and somebody logged on meanwhile", "linux", Rules{}, "alice", Request{}, []step{
			{at: sec, unknown: gone, want: Wait, reason: ErrSessionsUnknown, deadline: 31 * sec}, end(2*sec, "alice bob", ErrTooManyLogons)}},
		{"a system without limits and a tunnel without a user do not care", "darwin", Rules{}, "", Request{}, []step{
			{at: sec, unknown: gone, deadline: -1}, {at: time.Hour, tick: true, deadline: -1}}},
		{"but one whose user may log off does", "darwin", Rules{}, "alice", Request{}, []step{
			{at: sec, unknown: gone, want: Wait, reason: gone, deadline: 31 * sec}, {at: time.Hour, tick: true, want: Disconnect, reason: gone, deadline: -1}}},
		{"a system without limits has none", "darwin", Rules{}, "alice@10.1.2.3 bob carol", Request{Captured: fullTunnel}, []step{keep(sec, "alice@10.1.2.3 bob dave")}},
	} {
		for _, system := range []string{"windows", "linux", "darwin"} {
			if !slices.Contains(strings.Fields(c.systems), system) {
				continue
			}
			t.Run(system+"/"+c.row, func(t *testing.T) {
				c.rules.System, c.rules.Document = system, "corp.xml"
				sessions := some(t, c.start)
				if len(sessions) > 0 && !c.req.BeforeLogon && c.req.Account == "" {
					c.req.Session = sessions[0].ID
				}
				m := NewMachine(c.rules, sessions, c.req, t0)
				for i, s := range c.steps {
					now := t0.Add(s.at)
					var got Change
					switch {
					case s.tick:
						got = m.At(now)
					case s.routes != nil:
						got = m.Routes(now, s.routes)
					case s.unknown != nil:
						got = m.Unknown(now, s.unknown)
					default:
						got = m.Sessions(now, some(t, s.sessions))
					}
					deadline := time.Duration(-1)
					if !got.Deadline.IsZero() {
						deadline = got.Deadline.Sub(t0)
					}
					if s.deadline == -1 && system == "windows" && got.Action == Keep && m.hold && s.at < RemoteHold {
						deadline = -1 // rows that are not about the 90 seconds
					}
					if got.Action != s.want || deadline != s.deadline || (got.Reason == nil) != (s.reason == nil) || s.reason != nil && !errors.Is(got.Reason, s.reason) {
						t.Fatalf("step %d: %v until %v because of %v; want %v until %v because of %v", i, got.Action, deadline, got.Reason, s.want, s.deadline, s.reason)
					}
					if got.Reason != nil && (got.Reason.Setting == "" || got.Reason.Document != "corp.xml") {
						t.Errorf("step %d: the reason names nothing: %+v", i, got.Reason)
					}
				}
			})
		}
	}
}

func TestAway(t *testing.T) {
	m := NewMachine(Rules{System: "linux", RetainOnLogoff: true}, some(t, "alice"), Request{Session: "alice"}, t0)
	for i, want := range []bool{false, true, false} {
		m.Sessions(t0, some(t, []string{"alice", "", "alice"}[i]))
		if m.Away() != want {
			t.Errorf("step %d: away is %v", i, m.Away())
		}
	}
}

// The machine agrees with Decide about the limits at every moment, whatever came before, and never takes an end back.
func TestMachineAgreesWithDecide(t *testing.T) {
	words := []string{"alice", "alice:tty2", "bob", "bob@10.1.2.3", "carol@10.1.2.4", "carol@10.20.1.1", "gdm:greeter", "dave:closing"}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, enforcement := range []Enforcement{SingleLocalLogon, SingleLogon, SingleLogonNoRemote} {
		for range 300 {
			rules := Rules{System: "linux", Enforcement: enforcement, RetainOnLogoff: true, UserEnforcement: AnyUser}
			m := NewMachine(rules, nil, Request{}, t0)
			ended := false
			for i := range 20 {
				var sessions []Session
				for _, w := range words {
					if rng.IntN(6) == 0 {
						sessions = append(sessions, one(t, w))
					}
				}
				now := t0.Add(time.Duration(i) * sec)
				ended = ended || !Decide(rules, sessions, Request{}, now).Allow
				if got := m.Sessions(now, sessions); (got.Action == Disconnect) != ended {
					t.Fatalf("%s: %v with %v; ended is %v", enforcement, got.Action, sessions, ended)
				}
			}
		}
	}
}

func TestDeviceLock(t *testing.T) {
	strict := LockRule{Required: true, MaximumTimeout: 5 * time.Minute, MinimumLength: 6, Complexity: Alpha, Document: "corp.xml"}
	good := Device{Known: true, Locks: true, Timeout: 5 * time.Minute, Length: 6, Complexity: Strong}
	with := func(change func(*Device)) Device {
		d := good
		change(&d)
		return d
	}
	for _, c := range []struct {
		row     string
		rule    LockRule
		device  Device
		setting string
	}{
		{"not required", LockRule{}, Device{}, ""},
		{"as required", strict, good, ""},
		{"required without more", LockRule{Required: true}, Device{Known: true, Locks: true, Timeout: time.Hour}, ""},
		{"the system does not say", strict, Device{}, "DeviceLockRequired"},
		{"does not lock", strict, with(func(d *Device) { d.Locks = false }), "DeviceLockRequired"},
		{"locks too late", strict, with(func(d *Device) { d.Timeout++ }), "DeviceLockRequired/DeviceLockMaximumTimeoutMinutes"},
		{"password too short", strict, with(func(d *Device) { d.Length = 5 }), "DeviceLockRequired/DeviceLockMinimumPasswordLength"},
		{"password too simple", strict, with(func(d *Device) { d.Complexity = PIN }), "DeviceLockRequired/DeviceLockPasswordComplexity"},
		{"a device of no known complexity", strict, with(func(d *Device) { d.Complexity = "best" }), "DeviceLockRequired/DeviceLockPasswordComplexity"},
		{"a rule that does not exist", LockRule{Required: true, Complexity: "best"}, good, "DeviceLockRequired/DeviceLockPasswordComplexity"},
	} {
		v := DecideLock(c.rule, c.device)
		if v.Allow != (c.setting == "") || !v.Allow && v.Reason.Setting != c.setting {
			t.Errorf("%s: %v, %v", c.row, v.Allow, v.Err())
		}
	}
}

// Absurd sessions cost no more than their number, and nothing panics.
func FuzzMachine(f *testing.F) {
	f.Add("linux", "SingleLogon", "alice", "10.1.2.3", uint8(3), int64(5))
	f.Add("windows", "", "", "fe80::1%eth0", uint8(255), int64(-5))
	f.Fuzz(func(t *testing.T, system, enforcement, user, host string, flags uint8, at int64) {
		origin, _ := netip.ParseAddr(host)
		s := Session{ID: user, Account: user, User: user, Host: host, Origin: origin, Class: Class(flags >> 5), Remote: flags&1 != 0,
			Active: flags&2 != 0, Locked: flags&4 != 0, Detached: flags&8 != 0, Closing: flags&16 != 0}
		rules := Rules{System: system, Enforcement: Enforcement(enforcement), Establishment: AllowRemoteUsers}
		req := Request{Session: user, Account: host, Captured: splitTunnel}
		now := t0.Add(time.Duration(at))
		v := Decide(rules, []Session{s, s}, req, t0)
		if v.Allow != (v.Err() == nil) {
			t.Fatalf("allowed %v, and the reason is %v", v.Allow, v.Err())
		}
		if v.Reason != nil && len(v.Reason.Error()) > 4096+len(user)+len(host)+4*len(enforcement) {
			t.Fatalf("a reason of %d bytes", len(v.Reason.Error()))
		}
		m := NewMachine(rules, []Session{s}, req, t0)
		m.Routes(now, fullTunnel)
		if c := m.Sessions(now, []Session{s, {ID: "other"}}); (c.Action == Disconnect) != (c.Reason != nil) {
			t.Fatalf("%+v", c)
		}
	})
}
