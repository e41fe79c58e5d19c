package system

import (
	"context"
	"net/netip"
)

// Enforce puts the kill switch in force, or lifts it, because the policy of the machine demands that, such as in a trusted network.
// Other than with [System.Lift] it may be locked; one that policy has lifted does not come back with Close. A kill switch that is
// open is in force only while there is a tunnel. The error matches [ErrNoKillSwitch] if there is none.
func (s *System) Enforce(ctx context.Context, on bool) error {
	if s.cfg.KillSwitch == nil {
		return ErrNoKillSwitch
	}
	s.mu.Lock()
	changed := s.lifted == on
	s.lifted, s.waived = !on, !on
	s.mu.Unlock()
	if err := s.apply(ctx); err != nil {
		return err
	}
	if changed {
		what := "the policy of this machine has lifted the kill switch"
		if on {
			what = "the policy of this machine has put the kill switch in force"
		}
		s.note(Event{Kind: EventFirewall, What: what})
	}
	return nil
}

// Outside returns the DNS servers that the machine would ask without a tunnel, and its search list, as its network has told it.
func (s *System) Outside(ctx context.Context) (servers []netip.AddrPort, search []string, err error) {
	up, err := s.resolver.Upstream(ctx)
	return up.Servers, up.Search, err
}
