package system_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// reopen opens a System after another one. A process that some other test has just forked may hold on to the journal for a moment.
func (w *world) reopen(cfg system.Config) (s *system.System) {
	w.tb.Helper()
	eventually(w.tb, 5*time.Second, "the journal is free", func() bool {
		var err error
		if s, err = w.tryOpen(cfg); err != nil && !errors.Is(err, system.ErrBusy) {
			w.tb.Fatal(err)
		}
		return err == nil
	})
	w.tb.Cleanup(func() { s.Close() })
	return s
}

// Policy lifts a switch that the user may not, puts it in force again, and what it has lifted does not come back at the end.
func TestEnforce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	s := w.open(cfg)
	if err := s.Enforce(t.Context(), system.Upheld); !errors.Is(err, system.ErrNoKillSwitch) {
		t.Errorf("without a kill switch: %v", err)
	}
	s.Close()
	const somewhere = "203.0.113.80"
	cfg.KillSwitch = &system.KillSwitch{Reject: true, Locked: true}
	s = w.reopen(cfg)
	w.expect(map[string]string{somewhere: "nowhere"})
	for i, want := range []string{"outside", "nowhere", "outside"} {
		if err := s.Enforce(t.Context(), []system.Enforcement{system.Waived, system.Upheld, system.Waived}[i]); err != nil {
			t.Fatal(err)
		}
		w.expect(map[string]string{somewhere: want})
	}
	if st := s.Status().Firewall; st.Mode != system.FirewallLifted || st.Reason == "the user lifted it" {
		t.Errorf("status %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	w.expect(map[string]string{somewhere: "outside"})

	// What is left in force at the end: the row of the table, the switch, and what policy has said last.
	for _, c := range []struct {
		row       string
		open      bool
		last      system.Enforcement
		now, then string
	}{
		{"Closed, no tunnel", false, system.Shut, "nowhere", "nowhere"},
		{"Closed, tunnel up", false, system.Upheld, "nowhere", "nowhere"},
		{"Open, no tunnel", true, system.Upheld, "outside", "outside"},
		{"Open, a person has disconnected", true, system.Shut, "nowhere", "nowhere"},
		{"closed by the user, and policy leaves it at that", false, system.Unsaid, "nowhere", "outside"},
	} {
		cfg.KillSwitch = &system.KillSwitch{Reject: true, Open: c.open, Lease: time.Second}
		s = w.reopen(cfg)
		w.attach(s, lease(nil)).close()
		if err := s.Enforce(t.Context(), c.last); err != nil {
			t.Fatal(err)
		}
		if got := w.from(somewhere); got != c.now {
			t.Errorf("%s: %s, want %s", c.row, got, c.now)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if c.open {
			time.Sleep(1500 * time.Millisecond) // an open switch would be gone by now
		}
		if got := w.from(somewhere); got != c.then {
			t.Errorf("%s, at the end: %s, want %s", c.row, got, c.then)
		}
		cfg.KillSwitch = nil
		if err := w.reopen(cfg).Close(); err != nil { // which repairs
			t.Error(err)
		}
	}
}

// Hosts that are allowed by name can be reached without a tunnel (B.12), also when the network, and with it their addresses, is another one.
func TestAllowedNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.outside.set("proxy.example.com", "203.0.113.80")
	w.outside.set("loop.example.com", "127.0.0.1")
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Reject: true, AllowedNames: []string{"proxy.example.com", "loop.example.com", "unknown.example.com"}}
	w.write("resolv.conf", w.read("resolv.conf")+"nameserver 0.0.0.0\n")
	s := w.open(cfg)
	eventually(t, 5*time.Second, "the allowed host is reached", func() bool { return w.from("203.0.113.80") == "outside" })
	w.expect(map[string]string{"203.0.113.81": "nowhere"})
	if got := w.query(outsideDNS.String(), "proxy.example.com", false); got != "203.0.113.80" {
		t.Errorf("a program does not find the host: %s", got)
	}
	w.outside.set("proxy.example.com", "203.0.113.81")
	w.client.IP("address", "add", "192.168.9.3/24", "dev", w.clientIf)
	eventually(t, 5*time.Second, "the host is found again in another network", func() bool { return w.from("203.0.113.81") == "outside" })
	w.expect(map[string]string{"203.0.113.80": "nowhere"})

	k := w.attach(s, lease(nil))
	w.expect(map[string]string{"203.0.113.90": "inside"})
	k.close()

	// With a tunnel that they are outside of they pass as well.
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		s.Close()
		cfg.DataPath = path
		s = w.reopen(cfg)
		eventually(t, 5*time.Second, "the allowed host is reached", func() bool { return w.from("203.0.113.81") == "outside" })
		k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
		w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.81": "outside", "203.0.113.90": "nowhere"})
		k.close()
	}
	s.Close()

	for _, hosts := range [][]netip.Prefix{slices.Repeat(prefixes("203.0.113.1/32"), 501), prefixes("0.0.0.0/1")} {
		cfg.KillSwitch = &system.KillSwitch{AllowedHosts: hosts}
		if _, err := w.tryOpen(cfg); !errors.Is(err, system.ErrConfig) {
			t.Errorf("%d hosts: %v", len(hosts), err)
		}
	}
	for _, names := range [][]string{{""}, make([]string, 65), {strings.Repeat("x", 255)}} {
		cfg.KillSwitch = &system.KillSwitch{AllowedNames: names}
		if _, err := w.tryOpen(cfg); !errors.Is(err, system.ErrConfig) {
			t.Errorf("%.20q: %v", names, err)
		}
	}
}

// ApplyLastVPNLocalResourceRules (B.1, B.12): what the last session left outside can be reached while there is no tunnel, also
// after a restart.
func TestLastRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const excluded, lan, other = "203.0.114.1", "192.168.7.1", "203.0.113.80"
	cfg := w.config()
	for _, c := range []struct {
		row        string
		kill       system.KillSwitch
		hosts, net string
	}{
		{"ApplyLastVPNLocalResourceRules", system.KillSwitch{LastRules: true, SessionLAN: true}, "outside", "outside"},
		{"no LocalLanAccess", system.KillSwitch{LastRules: true}, "outside", "nowhere"},
		{"default false", system.KillSwitch{SessionLAN: true}, "nowhere", "nowhere"},
	} {
		c.kill.Reject = true
		cfg.KillSwitch = &c.kill
		s := w.reopen(cfg)
		w.expect(map[string]string{other: "nowhere"})
		k := w.attach(s, lease(func(l *transport.Lease) {
			l.Exclude, l.ExcludeLocalLAN = prefixes("203.0.114.0/24", "0.0.0.0/1"), true
		}))
		if got := w.from(lan); got != map[bool]string{true: "outside", false: "nowhere"}[c.kill.SessionLAN] {
			t.Errorf("%s, connected: the local network is %s", c.row, got)
		}
		k.close()
		for _, when := range []string{"afterwards", "after a restart"} {
			for addr, want := range map[string]string{excluded: c.hosts, lan: c.net, other: "nowhere"} {
				if got := w.from(addr); got != want {
					t.Errorf("%s, %s: %s is %s, want %s", c.row, when, addr, got, want)
				}
			}
			s.Close()
			s = w.reopen(cfg)
		}
		s.Close()
	}
	w.write("state/journal.rules", `{"hosts":["0.0.0.0/0"]}`)
	cfg.KillSwitch = &system.KillSwitch{Reject: true, LastRules: true}
	w.reopen(cfg)
	w.expect(map[string]string{excluded: "nowhere"})
	if err := os.Remove(w.path("state/journal.rules")); err != nil {
		t.Error(err)
	}
}
