//go:build linux

package logind

import (
	"testing"
	"time"
)

// The real logind knows a remote session, tells of its coming and going, and forgets it.
func TestLogOnAndOff(t *testing.T) {
	d := Start(t)
	s := d.LogOn(Logon{Service: "sshd", Remote: true, RemoteHost: "10.1.2.3"})
	sessions := func() int {
		t.Helper()
		var all []struct {
			ID   string
			UID  uint32
			User string
			Seat string
			Path string
		}
		if err := d.call(path, manager+".ListSessions", []any{&all}); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := sessions(); n != 1 {
		t.Fatalf("%d sessions after one logged on", n)
	}
	d.Restart()
	if n := sessions(); n != 1 {
		t.Fatalf("%d sessions after logind was started again", n)
	}
	other := d.LogOn(Logon{UID: 65534, Service: "sshd", Remote: true, RemoteHost: "10.1.2.4"})
	again := d.LogOn(Logon{Service: "login"})
	if n := sessions(); n != 3 {
		t.Fatalf("%d sessions after three logged on", n)
	}
	again.Leave()
	other.LogOff()
	again.LogOff()
	s.LogOff()
	for deadline := time.Now().Add(5 * time.Second); sessions() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions after everybody logged off", sessions())
		}
	}
}
