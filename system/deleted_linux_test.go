package system_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/system"
)

// Somebody who deletes the network interface ends the tunnel: what led there is undone at once, however long the tunnel itself takes to
// end, and another tunnel can come.
func TestDeletedDevice(t *testing.T) {
	t.Parallel()
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		t.Run(path.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			cfg := w.config()
			cfg.DataPath = path
			s := w.open(cfg)
			before := w.state()
			k := w.attach(s, lease(nil))
			w.expect(map[string]string{"203.0.113.80": "inside"})
			w.client.IP("link", "del", system.DefaultDevice)
			eventually(t, 2*time.Second, "the machine is as before", func() bool { return w.state() == before })
			if err := <-k.ended; !errors.Is(err, system.ErrDeleted) || !strings.Contains(err.Error(), system.DefaultDevice) {
				t.Errorf("the tunnel ended with %v", err)
			}
			deleted := func(e system.Event) bool { return e.Kind == system.EventRoutes && strings.Contains(e.What, "deleted") }
			if list := s.Status().Events; !slices.ContainsFunc(list, deleted) {
				t.Errorf("events %+v", list)
			}
			w.expect(map[string]string{"203.0.113.80": "outside"})
			k.close()
			w.attach(s, lease(nil))
			w.expect(map[string]string{"203.0.113.80": "inside"})
		})
	}
}

// With a kill switch nothing leaves the machine whose interface was deleted.
func TestDeletedDeviceClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	s := w.open(cfg)
	k := w.attach(s, lease(nil))
	w.expect(map[string]string{"203.0.113.80": "inside"})
	w.air.Forget()
	w.client.IP("link", "del", system.DefaultDevice)
	w.probe()
	if err := <-k.ended; !errors.Is(err, system.ErrDeleted) {
		t.Errorf("the tunnel ended with %v", err)
	}
	eventually(t, 2*time.Second, "there is no tunnel", func() bool { return !s.Status().Attached })
	w.probe()
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("left the machine: %v", leaks)
	}
	if st := s.Status().Firewall; st.Mode != system.FirewallClosed {
		t.Errorf("status %+v", st)
	}
}
