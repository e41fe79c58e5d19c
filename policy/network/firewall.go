package network

import (
	"net/netip"
	"reflect"
	"time"

	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
)

// A Mode says what may pass.
//
//	Always-On           network    tunnel            ConnectFailurePolicy  Mode
//	off, or lifted      any        any               any                   Open
//	on                  trusted    any               any                   Open
//	on                  other      up                any                   Tunnel
//	on                  other      down              Closed                Closed
//	on                  other      down by a person  Open                  Closed
//	on                  other      down              Open                  Open
//
// A network is another one until it is known to be trusted. A paused tunnel is down.
type Mode uint8

const (
	// Open: everything, as far as this package is concerned.
	Open Mode = iota
	// Tunnel: the tunnel, and what its lease lets pass beside it.
	Tunnel
	// Closed: what is needed to get a tunnel, and the hosts that are allowed.
	Closed
)

// String returns open, tunnel or closed.
func (m Mode) String() string { return [...]string{"open", "tunnel", "closed"}[min(m, Closed)] }

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// A Firewall is what is to be in force. Names are to be resolved by whoever enforces it, and again from time to time.
type Firewall struct {
	Mode Mode `json:"mode"`
	// Gateways must be reachable for the client itself: all gateways with their backups and members, and what an attempt was
	// redirected to.
	Gateways []string `json:"gateways,omitempty"`
	// Probes must be too, over TCP: the servers that prove a trusted network, with their ports. DNS are servers of it that are asked.
	Probes []string     `json:"probes,omitempty"`
	DNS    []netip.Addr `json:"dns,omitempty"`
	// Allowed are the hosts and networks that everybody may reach while the mode is Closed.
	Allowed []string `json:"allowed,omitempty"`
	// LastRules says that what the last session let through to the local network stays let through.
	LastRules bool `json:"last_rules,omitempty"`
}

// enforced reports whether Always-On demands a tunnel here and now.
func (m *Manager) enforced() bool {
	return m.alwaysOn() && m.finding.Verdict != trusted.Trusted
}

// alwaysOn reports whether Always-On is in force in some network.
func (m *Manager) alwaysOn() bool {
	return m.cfg.Automatic && m.cfg.AlwaysOn.On && !m.cfg.Disabled && !m.exempt
}

func (m *Manager) mode() Mode {
	if m.enforced() && m.phase == up {
		return Tunnel
	}
	return m.downMode()
}

// downMode is the mode while there is no tunnel. While there is one nobody has ended it, so that it is for the documents to say what would
// be if it fell.
func (m *Manager) downMode() Mode {
	switch {
	case !m.enforced():
		return Open
	case m.cfg.AlwaysOn.Closed, m.hold == heldByUser, m.userPaused:
		return Closed
	}
	return Open
}

func (m *Manager) firewall() Firewall { return m.firewallOf(m.mode()) }

// firewallOf returns the firewall of a mode.
func (m *Manager) firewallOf(mode Mode) Firewall {
	f := Firewall{Mode: mode}
	if f.Mode == Open {
		return f
	}
	f.Gateways = m.reachable()
	if m.cfg.Automatic {
		for _, s := range m.cfg.Trusted.HTTPS {
			f.Probes = append(f.Probes, s.HostPort())
		}
		if !m.cfg.LeaveDNSAlone {
			f.DNS = m.cfg.Trusted.Asks()
		}
	}
	if f.Mode == Closed {
		f.Allowed, f.LastRules = m.cfg.AlwaysOn.Allowed, m.cfg.AlwaysOn.LastRules && m.cfg.AlwaysOn.Closed
	}
	return f
}

// reachable returns all servers that may have to be dialled.
func (m *Manager) reachable() []string {
	var p selection.Plan
	for _, h := range m.cfg.Hosts {
		p.Servers = append(p.Servers, h.Server)
	}
	for _, h := range m.cfg.Hosts {
		p.Others = append(p.Others, h.Backups...)
		p.Members = append(p.Members, h.Members...)
	}
	if m.server != "" {
		p.Members = append([]string{m.server}, p.Members...)
	}
	return selection.NewSequence(p).Reachable()
}

// setFirewall adds what it takes to have the firewall that the state demands: before everything else if that closes something. One
// that could not be set waits for its time, unless another one is demanded by now.
func (m *Manager) setFirewall(now time.Time) {
	f := m.firewall()
	if (m.told || now.Before(m.firewallAt)) && reflect.DeepEqual(f, m.current) {
		return
	}
	a := Action{Do: SetFirewall, Firewall: f}
	if !m.told || f.Mode >= m.current.Mode {
		m.actions = append([]Action{a}, m.actions...)
	} else {
		m.actions = append(m.actions, a)
	}
	m.told, m.current, m.firewallAt = true, f, time.Time{}
}
