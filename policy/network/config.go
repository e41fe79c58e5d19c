package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

// Bounds on a Config.
const (
	// MaxAllowed is how many characters AllowedHosts may have, with a comma between two.
	MaxAllowed = profile.MaxAllowed
	// MaxHosts is how many gateways may be listed, backups and members not counted.
	MaxHosts = profile.MaxHosts
	// MaxRemediation bounds CaptivePortalRemediationTimeout.
	MaxRemediation = 24 * time.Hour
)

// ErrInvalid is what the errors of [Config.Validate] match.
var ErrInvalid = errors.New("network: invalid configuration")

// A Policy says what to do in a network.
type Policy = profile.NetworkPolicy

// A Host is a gateway with those that stand in for it. All are names or addresses, with a port if it is not 443.
type Host struct {
	// Name is what a person calls it.
	Name string
	// Server is what is dialled.
	Server string
	// Backups are tried when it fails, in this order.
	Backups []string
	// Members are where it may send its clients on to.
	Members []string
}

// AlwaysOn are the settings below AlwaysOn.
type AlwaysOn struct {
	On bool
	// Closed is ConnectFailurePolicy: nothing passes while the tunnel is down.
	Closed bool
	// AllowDisconnect lets a person end the tunnel all the same.
	AllowDisconnect bool
	// Remediation lets a person satisfy a captive portal, for Window at most. It means something only with Closed.
	Remediation bool
	Window      time.Duration
	// LastRules keeps, with Closed, what the last session let through to the local network.
	LastRules bool
	// Allowed are hosts and networks that can be reached while the tunnel is down.
	Allowed []string
}

// A Config is what the documents say. The zero Config does nothing by itself: it connects when a person says so.
type Config struct {
	// Document is the name of the profile, for errors.
	Document string
	// Disabled is ServiceDisable: nothing is connected at all.
	Disabled bool

	// Automatic is AutomaticVPNPolicy. Without it, what belongs to it has no effect.
	Automatic                      bool
	Trusted                        trusted.Rules
	TrustedPolicy, UntrustedPolicy Policy
	// LeaveDNSAlone does not ask the DNS servers of the list, so that they only have to be those of the machine.
	LeaveDNSAlone bool
	// BypassSessionTimeout does not connect again by itself after the gateway has ended a session for its age.
	BypassSessionTimeout bool
	AlwaysOn             AlwaysOn

	// NoPortals is DisableCaptivePortalDetection.
	NoPortals bool
	// PortalBrowser has the page of a portal opened in the browser of the system.
	PortalBrowser bool

	// ConnectOnStart connects at the start, as if a person had said so.
	ConnectOnStart bool
	// DisconnectOnSuspend ends the tunnel when the machine falls asleep.
	DisconnectOnSuspend bool
	// RetainOnLogoff keeps the tunnel when its user logs off, and AnyUser also when another one logs on then.
	RetainOnLogoff, AnyUser bool
	// NeedUser connects by itself only while somebody is logged on: UseStartBeforeLogon is not set.
	NeedUser bool

	// Hosts are the gateways in the order of the profile, and Default is the name of the one to dial when nobody has chosen; "" means
	// the first.
	Hosts   []Host
	Default string
	// ManualHosts lets a person dial what is not listed. Always-On never does, since its firewall must know the gateways.
	ManualHosts bool
	// Select chooses the gateway that answers fastest, except those in Exclude, which are names of Hosts.
	Select    bool
	Selection selection.Config
	Exclude   []string

	// Spread returns a number from 0 to 1 that spreads the pauses of many clients, see [selection.Plan].
	Spread func() float64
}

// Validate returns an error that matches [ErrInvalid] and names the setting if the Config cannot be acted upon. Whoever acts by
// another one already stays with that.
func (c Config) Validate() error {
	bad := func(setting, format string, args ...any) error {
		return fmt.Errorf("%w: %s%s: %s", ErrInvalid, prefix(c.Document), setting, fmt.Sprintf(format, args...))
	}
	if err := c.Trusted.Validate(); err != nil {
		return bad("AutomaticVPNPolicy", "%v", err)
	}
	if !slices.Contains([]Policy{"", profile.Connect, profile.Disconnect, profile.Pause, profile.DoNothing}, c.TrustedPolicy) {
		return bad("TrustedNetworkPolicy", "%q is none of Connect, Disconnect, Pause and DoNothing", c.TrustedPolicy)
	}
	if !slices.Contains([]Policy{"", profile.Connect, profile.DoNothing}, c.UntrustedPolicy) {
		return bad("UntrustedNetworkPolicy", "%q is neither Connect nor DoNothing", c.UntrustedPolicy)
	}
	if w := c.AlwaysOn.Window; w < 0 || w > MaxRemediation {
		return bad("CaptivePortalRemediationTimeout", "%v is not between 0 and %v", w, MaxRemediation)
	}
	if err := profile.CheckAllowed(c.AlwaysOn.Allowed); err != nil {
		return bad("AllowedHosts", "%v", err)
	}
	if len(c.Hosts) > MaxHosts {
		return bad("ServerList", "it has %d hosts, at most %d are allowed", len(c.Hosts), MaxHosts)
	}
	for _, h := range c.Hosts {
		if h.Name == "" || h.Server == "" {
			return bad("ServerList", "a host needs a name and an address")
		}
	}
	if c.AlwaysOn.On && c.Automatic && len(c.Hosts) == 0 {
		return bad("AlwaysOn", "there is no host in the ServerList to connect to")
	}
	return nil
}

// FromProfile returns what a profile and the preferences say together, as [profile.Resolve] has found out, about the gateways of the
// profile that are reached by TLS. Entries that are no addresses are left out. The profile may be nil. What documents do not say is left
// to the caller: Default, NeedUser, Exclude and Spread.
func FromProfile(p *profile.Profile, e *profile.Effective) Config {
	s := e.Settings()
	c := Config{
		Document: e.Profile, Disabled: s.ServiceDisable, Automatic: s.AutomaticVPNPolicy,
		Trusted:       trusted.Rules{Domains: s.TrustedDNSDomains, Servers: s.TrustedDNSServers},
		TrustedPolicy: s.TrustedNetworkPolicy, UntrustedPolicy: s.UntrustedNetworkPolicy,
		BypassSessionTimeout: s.BypassConnectUponSessionTimeout,
		AlwaysOn: AlwaysOn{
			On: s.AlwaysOn, Closed: s.ConnectFailurePolicy != profile.FailOpen, AllowDisconnect: s.AllowVPNDisconnect,
			Remediation: s.AllowCaptivePortalRemediation, Window: s.CaptivePortalRemediation,
			LastRules: s.ApplyLastLocalResourceRules, Allowed: s.AllowedHosts,
		},
		NoPortals: s.DisableCaptivePortalDetection, PortalBrowser: s.CaptivePortalBrowserFailover,
		ConnectOnStart: s.AutoConnectOnStart, DisconnectOnSuspend: s.ReconnectBehavior != "ReconnectAfterResume",
		RetainOnLogoff: s.RetainVPNOnLogoff, AnyUser: s.UserEnforcement == "AnyUser",
		ManualHosts: s.AllowManualHostInput,
		Select:      s.AutomaticServerSelection,
		Selection:   selection.Config{Improvement: s.ServerSelectionImprovement, Suspend: s.ServerSelectionSuspendTime},
	}
	if p == nil {
		return c
	}
	if s.AutomaticVPNPolicy {
		for _, h := range p.TrustedHTTPSServers() {
			c.Trusted.HTTPS = append(c.Trusted.HTTPS, trusted.Server{Address: h.Address, Port: h.Port, Hash: h.Hash})
		}
	}
	for _, h := range p.Hosts() {
		server, err := h.Server()
		if err != nil || h.Protocol == "IPsec" {
			continue
		}
		host := Host{Name: h.Name, Server: server}
		for _, b := range h.Servers() {
			if b != server {
				host.Backups = append(host.Backups, b)
			}
		}
		for _, m := range h.LoadBalancing {
			if s, err := (profile.Host{Address: m}).Server(); err == nil {
				host.Members = append(host.Members, s)
			}
		}
		c.Hosts = append(c.Hosts, host)
	}
	return c
}

func prefix(document string) string {
	if document == "" {
		return ""
	}
	return document + ": "
}

// host returns the host with the name or, failing that, the server that a person has given.
func (c *Config) host(name string) (Host, bool) {
	for _, same := range []func(Host) bool{
		func(h Host) bool { return h.Name == name },
		func(h Host) bool { return strings.EqualFold(h.Name, name) },
		func(h Host) bool { return selection.Canonical(h.Server) == selection.Canonical(name) },
	} {
		if i := slices.IndexFunc(c.Hosts, same); i >= 0 {
			return c.Hosts[i], true
		}
	}
	return Host{}, false
}
