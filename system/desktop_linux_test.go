package system

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"culvert.example/vpn/host"
	"culvert.example/vpn/host/proxysettings"
	"culvert.example/vpn/transport"
)

// TestDesktopAlone: what is wrong with a user's session, or with what the gateway says, is no error.
func TestDesktopAlone(t *testing.T) {
	dir := t.TempDir()
	silent := proxysettings.Session{UID: os.Getuid(), GID: os.Getgid(), Bus: "unix:path=" + filepath.Join(dir, "none"), Config: dir}
	bad := proxysettings.Session{UID: -1, Bus: "x"}
	log := slog.New(slog.DiscardHandler)
	d := newDesktops(Desktop{Profile: filepath.Join(dir, "profile"), SystemBus: "unix:path=" + filepath.Join(dir, "none")}, log)
	set := desktopSettings{proxysettings.Config{Method: proxysettings.Auto, PAC: "http://h/x"}, []proxysettings.Session{bad, silent}}
	var undo []byte
	since := time.Now()
	if err := d.Apply(t.Context(), set, func(b []byte) error { undo = b; return nil }); err != nil || undo == nil {
		t.Errorf("%v, %q", err, undo)
	}
	if took := time.Since(since); took > 2*desktopTime {
		t.Errorf("it took %v", took)
	}
	s := &System{log: log, desktops: d}
	tun := &tunnel{s: s, sessions: []proxysettings.Session{bad, silent}, lease: &transport.Lease{Proxy: transport.Proxy{PACURL: "http://h/x"}}}
	for _, one := range tun.desktopStatus() {
		if one.Applied || one.Err == "" {
			t.Errorf("status %+v", one)
		}
	}
	if err := d.Undo(t.Context(), undo); err != nil {
		t.Errorf("what was never made: %v", err)
	}
	tun.lease.Proxy = transport.Proxy{Method: "no-modify", Lockdown: true}
	if got := tun.desktopStatus(); len(got) != 2 || got[0].NotLocked == "" || got[0].Locked {
		t.Errorf("nothing to lock: %+v", got)
	}
	tun.lease.Proxy = transport.Proxy{Method: "nonsense"}
	if got := tun.desktopStatus(); len(got) != 2 || got[0].Err == "" {
		t.Errorf("nonsense of the gateway: %+v", got)
	}
	tun.lease.Proxy = transport.Proxy{}
	if got := tun.desktopStatus(); got != nil {
		t.Errorf("a gateway that says nothing: %+v", got)
	}
	full := errors.New("disk full")
	if err := d.Apply(t.Context(), set, func([]byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("without a journal: %v", err)
	}
	if err := d.Undo(t.Context(), []byte("0\nnonsense")); !errors.Is(err, host.ErrLater) {
		t.Errorf("a record of nonsense: %v", err)
	}
	if err := d.Undo(t.Context(), []byte("nonsense")); err == nil {
		t.Error("a record without a user")
	}
	if err := d.Apply(t.Context(), 7, nil); !errors.Is(err, host.ErrSettings) {
		t.Errorf("settings of another type: %v", err)
	}

	for _, c := range []struct {
		cfg  Config
		want int
	}{
		{Config{Desktop: Desktop{Sessions: make([]proxysettings.Session, 9)}}, maxDesktops},
		{Config{Desktop: Desktop{Sessions: []proxysettings.Session{silent}}}, 1},
		{Config{Desktop: Desktop{Off: true, Sessions: []proxysettings.Session{silent}}}, 0},
		{Config{Namespace: "x", Desktop: Desktop{Sessions: []proxysettings.Session{silent}}}, 0},
	} {
		s.cfg = c.cfg
		if got := s.sessions(); len(got) != c.want {
			t.Errorf("%d sessions, not %d", len(got), c.want)
		}
	}
	tun = &tunnel{s: s, sessions: []proxysettings.Session{silent}, lease: &transport.Lease{}}
	for pac, want := range map[string]bool{"": false, "http://h/x.pac": true, "file:///etc/passwd": false} {
		tun.lease.Proxy.PACURL = pac
		if set, ok := tun.desktop(); ok != want || ok && set.proxy.PAC != pac {
			t.Errorf("%q: %+v, %v", pac, set, ok)
		}
	}
}
