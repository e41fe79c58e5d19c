package logins_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/logind"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/transport/login"
)

// These tests speak with the real systemd-logind, on whose sessions users log on and off as a login service makes them.

// forPolicy hands sessions of the machine to the rules. It is all that stands between the two packages.
func forPolicy(sessions []logins.Session) []logon.Session {
	class := map[logins.Class]logon.Class{logins.Greeter: logon.Greeter, logins.LockScreen: logon.LockScreen, logins.Background: logon.Background}
	all := make([]logon.Session, len(sessions))
	for i, s := range sessions {
		all[i] = logon.Session{ID: s.ID, Account: s.Account(), User: s.User, Class: class[s.Class], Remote: s.Remote, Origin: s.RemoteAddr,
			Host: s.RemoteHost, Active: s.Active, Locked: s.Locked, Detached: s.Detached, Closing: s.Closing, Since: s.Since}
	}
	return all
}

// ask decides about a tunnel that a process wants.
func ask(t *testing.T, src *logins.Source, rules logon.Rules, pid int, captured func(netip.Addr) bool) (logon.Verdict, []logon.Session, logon.Request) {
	t.Helper()
	sessions, err := src.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asker, err := src.Asker(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	all := forPolicy(sessions)
	req := logon.Request{Account: asker.Account(), Captured: captured}
	if asker.Found {
		req.Session = asker.Session.ID
		if !strings.Contains(fmt.Sprint(ids(all)), req.Session) {
			all = append(all, forPolicy([]logins.Session{asker.Session})...)
		}
	}
	return logon.Decide(rules, all, req, time.Now()), all, req
}

func ids(sessions []logon.Session) (ids []string) {
	for _, s := range sessions {
		ids = append(ids, s.ID)
	}
	return ids
}

// shell starts a process and a child of it, as a login shell and a program in it.
func shell(t *testing.T) (leader, child int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 120 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 16)
	n, _ := out.Read(line)
	child, err = strconv.Atoi(strings.TrimSpace(string(line[:n])))
	t.Cleanup(func() {
		if p, err := os.FindProcess(child); err == nil && child > 0 {
			p.Kill()
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, child
}

// A tunnel is the real one of this module, to a gateway in this process, under the rules of logons.
type tunnel struct {
	*vpn.Tunnel
	reason chan *logon.Reason
}

// connect brings a tunnel up and watches over it: it is closed when the machine says so.
func connect(t *testing.T, src *logins.Source, rules logon.Rules, sessions []logon.Session, req logon.Request) *tunnel {
	t.Helper()
	gw := gatewaytest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tun, err := vpn.Dial(ctx, gw.URL, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, Pins: []string{gw.Pin}})
	if err != nil {
		t.Fatal(err)
	}
	up := &tunnel{tun, make(chan *logon.Reason, 1)}
	m := logon.NewMachine(rules, sessions, req, time.Now())
	watching, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		src.Watch(watching, func(sessions []logins.Session, err error) {
			var c logon.Change
			if err != nil {
				c = m.Unknown(time.Now(), err)
			} else {
				c = m.Sessions(time.Now(), forPolicy(sessions))
			}
			if c.Action == logon.Disconnect {
				tun.Close()
				up.reason <- c.Reason
				stop()
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
		tun.Close()
	})
	return up
}

// ended waits for the end of the tunnel.
func (u *tunnel) ended(t *testing.T) *logon.Reason {
	t.Helper()
	select {
	case r := <-u.reason:
		select {
		case <-u.Done():
		case <-time.After(5 * time.Second):
			t.Error("the rules ended the tunnel, but it is up")
		}
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel is still up")
		return nil
	}
}

func (u *tunnel) up(t *testing.T) {
	t.Helper()
	select {
	case r := <-u.reason:
		t.Fatalf("the tunnel has ended: %v", r)
	case <-time.After(200 * time.Millisecond):
	}
}

// An SSH user is refused by default, and let in by AllowRemoteUsers unless the routes cut the user off: D206, D218, D219, D202.
func TestSSHUser(t *testing.T) {
	leak.Check(t)
	d := logind.Start(t)
	src := logins.New(logins.Options{Bus: d.Address})
	leader, child := shell(t)
	session := d.LogOn(logind.Logon{UID: 0, Leader: leader, Service: "sshd", Type: "tty", Remote: true, RemoteHost: "10.1.2.3"})

	rules := logon.Rules{System: "linux", Document: "corp.xml"}
	for name, pid := range map[string]int{"the shell": leader, "a program in it": child} {
		v, _, req := ask(t, src, rules, pid, nil)
		if v.Allow || !errors.Is(v.Err(), logon.ErrRemoteUser) || v.Reason.Setting != "LinuxVPNEstablishment" || req.Session != session.ID {
			t.Errorf("%s is not refused by default: %+v, %v", name, req, v.Err())
		}
	}
	rules.Establishment = logon.AllowRemoteUsers
	everything := func(netip.Addr) bool { return true }
	if v, _, _ := ask(t, src, rules, child, everything); !errors.Is(v.Err(), logon.ErrCutOff) {
		t.Errorf("with routes that cut the user off: %v", v.Err())
	}
	elsewhere := func(a netip.Addr) bool { return netip.MustParsePrefix("10.20.0.0/16").Contains(a) }
	v, sessions, req := ask(t, src, rules, child, elsewhere)
	if !v.Allow {
		t.Fatalf("AllowRemoteUsers does not let in: %v", v.Err())
	}
	tun := connect(t, src, rules, sessions, req)
	tun.up(t)
	// D186 does not hold here: SingleLocalLogon lets other remote users be.
	other := d.LogOn(logind.Logon{UID: 0, Service: "sshd", Remote: true, RemoteHost: "10.1.2.4"})
	tun.up(t)
	other.LogOff()
	tun.up(t)
	// And the tunnel of who logs off ends, since it is not retained.
	session.LogOff()
	if r := tun.ended(t); !errors.Is(r, logon.ErrLoggedOff) {
		t.Errorf("at the end %v", r)
	}
}

// A second logon ends the tunnel under SingleLogon, and keeps it from coming up: D186, D214.
func TestSecondLogon(t *testing.T) {
	leak.Check(t)
	d := logind.Start(t)
	src := logins.New(logins.Options{Bus: d.Address})
	leader, child := shell(t)
	desktop := d.LogOn(logind.Logon{UID: 0, Leader: leader, Service: "gdm-password", Type: "x11", Display: ":0"})
	d.LogOn(logind.Logon{UID: 0, Service: "gdm-launch-environment", Type: "x11", Class: "greeter"})

	rules := logon.Rules{System: "linux", Enforcement: logon.SingleLogon, Document: "corp.xml"}
	v, sessions, req := ask(t, src, rules, child, nil)
	if !v.Allow {
		t.Fatal(v.Err())
	}
	tun := connect(t, src, rules, sessions, req)
	desktop.Lock(true)
	tun.up(t)
	second := d.LogOn(logind.Logon{UID: 65534, Service: "sshd", Remote: true, RemoteHost: "10.1.2.3"})
	r := tun.ended(t)
	if !errors.Is(r, logon.ErrTooManyLogons) || r.Setting != "LinuxLogonEnforcement" || len(r.Sessions) != 2 || r.Sessions[1].User != "nobody" {
		t.Errorf("it ended because of %v", r)
	}
	t.Logf("interop: systemd-logind: %v", r)
	if v, _, _ := ask(t, src, rules, child, nil); !errors.Is(v.Err(), logon.ErrTooManyLogons) {
		t.Errorf("with two logons it may come up again: %v", v.Err())
	}
	// Programs that the second user leaves behind are not a logon.
	second.Leave()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if v, _, _ := ask(t, src, rules, child, nil); v.Allow {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after the second user left: %v", v.Err())
		}
	}
	sessions2, err := src.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, s := range sessions2 {
		seen = append(seen, fmt.Sprint(s.Kind, " ", s.Class, " remote:", s.Remote, " locked:", s.Locked, " closing:", s.Closing))
	}
	want := "[x11 user remote:false locked:true closing:false x11 greeter remote:false locked:false closing:false ssh user remote:true locked:false closing:true]"
	if fmt.Sprint(seen) != want {
		t.Errorf("got  %v\nwant %s", seen, want)
	}
}

// A logind that is started again ends nothing: it remembers its sessions.
func TestLogindRestarts(t *testing.T) {
	leak.Check(t)
	d := logind.Start(t)
	src := logins.New(logins.Options{Bus: d.Address})
	leader, _ := shell(t)
	d.LogOn(logind.Logon{UID: 0, Leader: leader, Service: "login", Type: "tty"})
	rules := logon.Rules{System: "linux", Enforcement: logon.SingleLogon}
	_, sessions, req := ask(t, src, rules, leader, nil)
	if req.Session == "" {
		t.Fatal("the shell is in no session")
	}
	tun := connect(t, src, rules, sessions, req)
	d.Stop()
	tun.up(t)
	if _, err := src.List(t.Context()); !errors.Is(err, logins.ErrUnavailable) {
		t.Errorf("without logind: %v", err)
	}
	d.Restart()
	tun.up(t)
	d.LogOn(logind.Logon{UID: 65534, Service: "sshd", Remote: true, RemoteHost: "10.1.2.3"})
	if r := tun.ended(t); !errors.Is(r, logon.ErrTooManyLogons) {
		t.Errorf("it ended because of %v", r)
	}
}
