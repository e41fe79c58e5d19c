package network

import (
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/trusted"
)

// A Status is a snapshot of a Manager, for people and programs.
type Status struct {
	// Automatic says whether AutomaticVPNPolicy is on, and Network what is known of the network.
	Automatic bool            `json:"automatic"`
	Network   trusted.Finding `json:"network"`
	// TrustedPolicy and UntrustedPolicy say what is done there; they are empty where Automatic is not set.
	TrustedPolicy   Policy `json:"trusted_policy,omitempty"`
	UntrustedPolicy Policy `json:"untrusted_policy,omitempty"`

	// Tunnel is what the tunnel does, such as connected, since when, to which host and server.
	Tunnel string    `json:"tunnel"`
	Since  time.Time `json:"since"`
	Host   string    `json:"host,omitempty"`
	Server string    `json:"server,omitempty"`
	// Manual says that a person wants it; Held why none is dialled automatically, "" if one may be.
	Manual bool   `json:"manual,omitempty"`
	Held   string `json:"held,omitempty"`
	// Next is when something is due, such as the next attempt.
	Next time.Time `json:"next,omitzero"`
	// LastReason and LastError say why the last tunnel or attempt ended.
	LastReason Reason `json:"last_reason,omitempty"`
	LastError  string `json:"last_error,omitempty"`
	// Owner is the user whose tunnel it is, and Retained says that this user has logged off since.
	Owner    string `json:"owner,omitempty"`
	Retained bool   `json:"retained,omitempty"`

	// AlwaysOn is off, lifted, trusted, connected, closed or open.
	AlwaysOn string `json:"always_on"`
	// Firewall is what is in force.
	Firewall Firewall `json:"firewall"`
	// WhenDown is what is in force whenever the tunnel is down, if nothing but that changes: what Always-On and its ConnectFailurePolicy
	// say here, while it is up, and else the same as Firewall.
	WhenDown Firewall `json:"when_down"`
	// MayDisconnect says whether a person may end the tunnel.
	MayDisconnect bool `json:"may_disconnect"`

	// Portal is what is known about a captive portal, nil for nothing, and PortalWindow until when the firewall is open for one.
	Portal       *portal.Report `json:"portal,omitempty"`
	PortalWindow time.Time      `json:"portal_window,omitzero"`

	// Selection says why the gateway was chosen, where that is done automatically.
	Selection string `json:"selection,omitempty"`
}

// Status returns a snapshot.
func (m *Manager) Status() Status {
	s := Status{
		Automatic: m.cfg.Automatic, Network: m.finding,
		Tunnel: string(m.phase), Since: m.since, Manual: m.manual, Held: string(m.hold), Next: m.next,
		LastReason: m.lastReason, LastError: m.lastErr, Retained: m.retained,
		Firewall: m.firewall(), WhenDown: m.firewallOf(m.downMode()), MayDisconnect: !m.enforced() || m.cfg.AlwaysOn.AllowDisconnect,
		PortalWindow: m.portal.Window(), AlwaysOn: "off",
	}
	if m.cfg.Automatic {
		s.TrustedPolicy, s.UntrustedPolicy = m.cfg.TrustedPolicy, m.cfg.UntrustedPolicy
	}
	switch {
	case m.cfg.Disabled:
		s.Held = "ServiceDisable is set"
	case s.Held == "" && m.phase == down && m.cfg.Automatic && m.unattended():
		s.Held = "nobody is logged on, and UseStartBeforeLogon is not set"
	}
	if m.phase != down {
		s.Host, s.Server, s.Owner = m.host, m.server, m.owner
	}
	if m.cfg.Automatic && m.cfg.AlwaysOn.On {
		switch {
		case !m.alwaysOn():
			s.AlwaysOn = "lifted"
		case !m.enforced():
			s.AlwaysOn = "trusted"
		case m.phase == up:
			s.AlwaysOn = "connected"
		default:
			s.AlwaysOn = m.mode().String()
		}
	}
	if r, ok := m.portal.Report(); ok {
		s.Portal = &r
	}
	if m.cfg.Select {
		s.Selection = m.selectWhy
	}
	return s
}
