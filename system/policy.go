package system

import (
	"context"
	"errors"
	"net/netip"

	"culvert.example/vpn/transport"
)

// An Enforcement is what policy demands of the kill switch.
type Enforcement uint8

const (
	// Unsaid: policy has said nothing, and the [KillSwitch] is as it is configured.
	Unsaid Enforcement = iota
	// Waived: none is in force, though it may be locked, such as in a trusted network.
	Waived
	// Upheld: it is in force, as it is configured.
	Upheld
	// Shut: it is in force although it is open and there is no tunnel, such as when a person has ended the tunnel that policy demands.
	Shut
)

// Enforce puts the kill switch in force, or lifts it, because the policy of the machine demands that. What policy has said last
// holds beyond Close: one that it has waived does not come back, one that it has shut stays, and so does one that it upholds, unless
// that is open. The error matches [ErrNoKillSwitch] if there is none.
func (s *System) Enforce(ctx context.Context, e Enforcement) error {
	if s.cfg.KillSwitch == nil {
		return ErrNoKillSwitch
	}
	s.mu.Lock()
	changed := s.policy != e
	s.lifted, s.policy = e == Waived, e
	s.mu.Unlock()
	var err error
	if changed {
		// Before the machine is changed: no question may leave after the switch is in force.
		err = s.tellNames(ctx)
	}
	if err := errors.Join(err, s.apply(ctx)); err != nil {
		return err
	}
	if changed {
		what := map[Enforcement]string{Unsaid: "left the kill switch as it is configured", Waived: "lifted the kill switch", Upheld: "put the kill switch in force", Shut: "shut the kill switch"}[e]
		s.note(Event{Kind: EventFirewall, What: "the policy of this machine has " + what})
	}
	return nil
}

// tellNames has the DNS proxy take in whether the kill switch is in force.
func (s *System) tellNames(ctx context.Context) error {
	s.mu.Lock()
	t := s.tunnel
	var lease *transport.Lease
	if t != nil {
		lease = t.lease
	}
	s.mu.Unlock()
	if t == nil || t.names == nil {
		return nil
	}
	return t.names.configure(ctx, lease)
}

// stays reports whether the kill switch outlives the System. The lock is held.
func (s *System) stays() bool {
	k := s.cfg.KillSwitch
	switch {
	case k == nil || s.policy == Waived:
		return false
	case k.Open:
		return s.policy == Shut
	}
	return k.Locked || s.policy != Unsaid
}

// Outside returns the DNS servers that the machine would ask without a tunnel, and its search list, as its network has told it.
func (s *System) Outside(ctx context.Context) (servers []netip.AddrPort, search []string, err error) {
	up, err := s.resolver.Upstream(ctx)
	return up.Servers, up.Search, err
}
