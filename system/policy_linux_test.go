package system_test

import (
	"errors"
	"testing"

	"culvert.example/vpn/system"
)

// Policy lifts a switch that the user may not, puts it in force again, and what it has lifted does not come back at the end.
func TestEnforce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	s := w.open(cfg)
	if err := s.Enforce(t.Context(), true); !errors.Is(err, system.ErrNoKillSwitch) {
		t.Errorf("without a kill switch: %v", err)
	}
	s.Close()
	cfg.KillSwitch = &system.KillSwitch{Reject: true, Locked: true}
	s = w.open(cfg)
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	for on, want := range []string{"outside", "nowhere", "outside"} {
		if err := s.Enforce(t.Context(), on == 1); err != nil {
			t.Fatal(err)
		}
		w.expect(map[string]string{"203.0.113.80": want})
	}
	if st := s.Status().Firewall; st.Mode != system.FirewallLifted || st.Reason == "the user lifted it" {
		t.Errorf("status %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	w.expect(map[string]string{"203.0.113.80": "outside"})
}
