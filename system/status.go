package system

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/dns"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/host/resolver"
)

// A Status is a snapshot of what a System has made of the machine. It does not change once it is handed out.
type Status struct {
	// Attached says that a tunnel is in use, and Since since when or since when not.
	Attached bool      `json:"attached"`
	Since    time.Time `json:"since"`
	// Reconnecting says that the tunnel has no connection to its gateway just now.
	Reconnecting bool `json:"reconnecting,omitempty"`
	// Device is the network interface, Namespace the network namespace that it is in if that is another one.
	Device    string `json:"device"`
	Namespace string `json:"namespace,omitempty"`
	// Journal is the file that records what has to be undone.
	Journal string `json:"journal"`
	// Addresses are those of the interface, and MTU is the size of its largest packet in bytes.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	// Gateways are the outer addresses that are reached past the tunnel.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Uplink is the way out that the tunnel takes.
	Uplink UplinkStatus `json:"uplink"`

	Routes   RouteStatus    `json:"routes"`
	Resolver ResolverStatus `json:"resolver"`
	Firewall FirewallStatus `json:"firewall"`
	// Desktops are those of the users who were logged in when the tunnel came up, if the gateway says anything of their web proxy.
	Desktops []DesktopStatus `json:"desktops,omitempty"`
	DataPath DataPathStatus  `json:"data_path"`
	// Events are what happened last, the latest at the end, at most 64.
	Events []Event `json:"events,omitempty"`
}

// An UplinkStatus tells by which network interface the gateway is reached.
type UplinkStatus struct {
	// Interface is its name, empty if it is not known, and Kind what it is made of: wired, wifi, mobile and so on.
	Interface string `json:"interface,omitempty"`
	Kind      string `json:"kind,omitempty"`
	// Source is the address that the connection comes from.
	Source netip.Addr `json:"source,omitzero"`
	// Roams is how often a tunnel was moved to another interface or network, and Err why the last move failed.
	Roams int    `json:"roams"`
	Err   string `json:"error,omitempty"`
}

// A RouteStatus tells what lies where. At most 1000 prefixes are listed of each kind, those first that are all of a family; the numbers
// count all.
type RouteStatus struct {
	// Tunnel, Direct and Blocked are destinations in the tunnel, outside, and those that nothing may be sent to.
	Tunnel  []netip.Prefix `json:"tunnel,omitempty"`
	Direct  []netip.Prefix `json:"direct,omitempty"`
	Blocked []netip.Prefix `json:"blocked,omitempty"`
	// Tunnels, Directs and Blocks are how many these are.
	Tunnels int `json:"tunnels"`
	Directs int `json:"directs"`
	Blocks  int `json:"blocks"`
	// Learned is how many of them are addresses of names.
	Learned int `json:"learned"`
	// Judged says that all packets come to the interface and each flow is judged by these prefixes, and by names, as it begins.
	Judged bool `json:"judged,omitempty"`
	// Local says what becomes of connected networks: tunnelled, virtual, networks or routes.
	Local string `json:"local,omitempty"`
	// Table is the routing table and Mark the packet mark in use.
	Table int    `json:"table,omitempty"`
	Mark  uint32 `json:"mark,omitempty"`
	// Filtered are the interfaces on which the kernel drops the answers to what leaves past the tunnel, since its reverse-path filter is
	// strict there: the sysctl net.ipv4.conf.all.rp_filter=2 makes it loose.
	Filtered []string `json:"filtered,omitempty"`
}

// A ResolverStatus tells who is asked for names.
type ResolverStatus struct {
	// Backend is how the resolver of the machine was set, systemd-resolved or resolv.conf, or empty if it was left alone;
	// Reason is why that way.
	Backend string `json:"backend,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Servers are those the machine was told to ask, and Listen where the proxy listens, if there is one.
	Servers []netip.AddrPort `json:"servers,omitempty"`
	Listen  string           `json:"listen,omitempty"`
	// Inside are the servers in the tunnel, Domains the suffixes they are asked for; All says that they are asked for all names.
	Inside  []netip.Addr `json:"inside,omitempty"`
	Domains []string     `json:"domains,omitempty"`
	All     bool         `json:"all"`
	// Outside are the servers for all other names, or Upstreams in their place, and Search is the search list.
	Outside   []netip.AddrPort `json:"outside,omitempty"`
	Upstreams []string         `json:"upstreams,omitempty"`
	Search    []string         `json:"search,omitempty"`
	// Closed says that the kill switch keeps the other names from being asked for, but for those that Leaving names, with all below
	// them where that begins with "*.".
	Closed  bool     `json:"closed,omitempty"`
	Leaving []string `json:"leaving,omitempty"`
	// Claims are domains of the tunnel that other links of systemd-resolved have as well. It asks their servers for the names there, past
	// the tunnel, and only a kill switch holds such questions back.
	Claims []resolver.Claim `json:"claims,omitempty"`
	// Proxy are the counters of the proxy.
	Proxy *dns.Stats `json:"proxy,omitempty"`
}

// Modes of a kill switch.
const (
	FirewallOff    = "off"    // there is none
	FirewallClosed = "closed" // nothing passes but what it takes to make a tunnel
	FirewallTunnel = "tunnel" // the tunnel passes
	FirewallLifted = "lifted" // there is one, and it was lifted, or is open for want of a tunnel
)

// A FirewallStatus tells what passes the kill switch.
type FirewallStatus struct {
	// Mode is off, closed, tunnel or lifted, and Reason why.
	Mode   string `json:"mode"`
	Reason string `json:"reason,omitempty"`
	// OnFailure says what happens when the tunnel fails: closed or open.
	OnFailure string `json:"on_failure,omitempty"`
	// Locked says that the user may not lift it.
	Locked bool `json:"locked,omitempty"`
	// Gateways are all that passes to the gateway while the tunnel is up, such as 192.0.2.1:443/tcp, if not everything does.
	Gateways []string `json:"gateways,omitempty"`
	// PortalUntil is when the window for a captive portal closes, if one is open.
	PortalUntil time.Time `json:"portal_until,omitzero"`
	// Counters count what passed and what did not.
	Counters *firewall.Stats `json:"counters,omitempty"`
	// Err is why the counters cannot be had.
	Err string `json:"error,omitempty"`
}

// A DesktopStatus tells what became of the gateway's web proxy on the desktop of a user.
type DesktopStatus struct {
	// User is the number of the user.
	User int `json:"user"`
	// Applied says that the settings are the gateway's. If they are not, Err is why.
	Applied bool   `json:"applied"`
	Err     string `json:"error,omitempty"`
	// Locked says that the user cannot change them. If the gateway wants that and it is not so, NotLocked is why.
	Locked    bool   `json:"locked"`
	NotLocked string `json:"not_locked,omitempty"`
	// Notes are what else could not be done.
	Notes []string `json:"notes,omitempty"`
}

// A DataPathStatus tells which way packets go.
type DataPathStatus struct {
	// Configured is the way that was asked for, Path the present one: packet, flow or nowhere, and Reason why.
	Configured DataPath    `json:"configured"`
	Path       health.Path `json:"path"`
	Reason     string      `json:"reason,omitempty"`
	// FilterOff says that there are rules of the content filter that are not in force, since they are in force on the flow path only.
	FilterOff bool `json:"filter_off,omitempty"`
	// Report tells of the parts of the flow path, if there is one: their states, since when, and their last errors.
	Report *health.Report `json:"report,omitempty"`
	// Flows is how many there are now.
	Flows int `json:"flows,omitempty"`
	// Rules count what the rules of the content filter have decided.
	Rules []filter.Counter `json:"rules,omitempty"`
}

// maxListed is how many prefixes of a kind a Status lists.
const maxListed = 1000

// statusTime is how long asking for counters may take.
const statusTime = time.Second

// Status returns a snapshot.
func (s *System) Status() Status {
	ctx, cancel := context.WithTimeout(context.Background(), statusTime)
	defer cancel()
	s.mu.Lock()
	t, set, learned := s.tunnel, s.applied, s.learned
	st := Status{Attached: t != nil, Since: s.since, Device: s.cfg.Device, Namespace: s.cfg.Namespace, Journal: s.cfg.Journal}
	st.Firewall = s.firewallStatus()
	st.Uplink = UplinkStatus{Roams: s.roams, Err: s.stayed}
	if c := s.carrier; t != nil && c.Index != 0 {
		st.Uplink.Interface, st.Uplink.Kind, st.Uplink.Source = c.Interface, c.Kind.String(), c.Source
	}
	if t != nil {
		st.Desktops = t.desktopStatus()
	}
	divided, judged := set, t != nil && t.intercepts
	if judged {
		// The routes of the machine say nothing then of where a destination lies.
		divided = host.Settings{}
		learned = t.divide(&divided)
	}
	s.mu.Unlock()
	st.Events = s.events.list()
	st.Firewall.count(ctx, s.firewall)
	st.DataPath.Configured = s.cfg.DataPath
	if t == nil {
		st.DataPath.Path, st.DataPath.Reason = health.Nowhere, "there is no tunnel"
		return st
	}
	t.mu.Lock()
	st.Reconnecting = t.state == vpn.Reconnecting
	t.mu.Unlock()
	st.Device = t.device
	st.Addresses, st.MTU, st.Gateways = slices.Clone(set.Addresses), set.MTU, slices.Clone(set.Gateways)
	st.Routes = routeStatus(divided, learned)
	st.Routes.Judged, st.Routes.Filtered = judged, t.filtered()
	if t.names != nil {
		st.Resolver = t.names.status(set)
	}
	st.DataPath.fill(t)
	st.DataPath.FilterOff = s.rules != nil && st.DataPath.Path == health.Packet
	return st
}

// routeStatus describes the routes of settings.
func routeStatus(set host.Settings, learned int) RouteStatus {
	some := func(list []netip.Prefix) []netip.Prefix {
		var few []netip.Prefix
		for _, p := range everything {
			if slices.Contains(list, p) {
				few = append(few, p)
			}
		}
		for _, p := range list {
			if len(few) == maxListed {
				break
			}
			if p.Bits() > 0 {
				few = append(few, p)
			}
		}
		return few
	}
	return RouteStatus{
		Tunnel: some(set.Tunnel), Direct: some(set.Direct), Blocked: some(set.Blocked),
		Tunnels: len(set.Tunnel), Directs: len(set.Direct), Blocks: len(set.Blocked),
		Learned: learned, Local: set.Local.String(), Table: host.DefaultTable, Mark: host.DefaultMark,
	}
}

// status describes who is asked for names.
func (n *names) status(set host.Settings) ResolverStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := ResolverStatus{
		Inside: slices.Clone(n.inside), Domains: slices.Clone(n.domains), All: n.all, Outside: slices.Clone(n.outside), Search: slices.Clone(n.search),
	}
	if c, ok := set.Resolver.(resolver.Config); ok {
		r.Backend, r.Reason, r.Servers = n.backend.String(), n.reason, slices.Clone(c.Servers)
		r.Claims, _ = n.t.s.resolver.Claims()
	}
	if len(n.upstreams) > 0 {
		r.Outside, r.Upstreams = nil, slices.Clone(n.t.s.cfg.DNS.Upstreams)
	}
	if n.closed && !n.all {
		r.Closed = true
		if n.leaves {
			for _, d := range n.watched {
				r.Leaving = append(r.Leaving, "*."+d)
			}
			r.Leaving = append(r.Leaving, n.t.s.cfg.KillSwitch.AllowedNames...)
		}
	}
	if n.server != nil {
		stats := n.server.Stats()
		r.Listen, r.Proxy = n.t.s.cfg.DNS.Listen.String(), &stats
	}
	return r
}

// firewallStatus describes the kill switch, without its counters. The lock is held.
func (s *System) firewallStatus() FirewallStatus {
	k := s.cfg.KillSwitch
	if k == nil {
		return FirewallStatus{Mode: FirewallOff}
	}
	f := FirewallStatus{OnFailure: "closed", Locked: k.Locked}
	if k.Open {
		f.OnFailure = "open"
	}
	if s.portal.After(time.Now()) {
		f.PortalUntil = s.portal
	}
	switch {
	case s.inForce != nil && s.tunnel != nil:
		f.Mode, f.Reason = FirewallTunnel, "a tunnel is in use"
		f.Gateways = endpoints(s.inForce)
	case s.inForce != nil:
		f.Mode, f.Reason = FirewallClosed, "there is no tunnel"
	case s.lifted && s.policy == Waived:
		f.Mode, f.Reason = FirewallLifted, "the policy of this machine demands none here"
	case s.lifted:
		f.Mode, f.Reason = FirewallLifted, "the user lifted it"
	default:
		f.Mode, f.Reason = FirewallLifted, "there is no tunnel, and it opens on failure"
	}
	return f
}

// endpoints returns those of gateways at which nothing else passes.
func endpoints(w *firewall.Config) (list []string) {
	for _, e := range w.Gateways {
		if slices.ContainsFunc(slices.Concat(w.Hosts, w.LAN), func(p netip.Prefix) bool { return p.Contains(e.Addr.Addr()) }) {
			continue
		}
		for _, network := range []string{"tcp", "udp"} {
			if e.Network == "" || e.Network == network {
				list = append(list, e.Addr.String()+"/"+network)
			}
		}
	}
	return list
}

// count fills in the counters.
func (f *FirewallStatus) count(ctx context.Context, fw *firewall.Firewall) {
	if f.Mode != FirewallTunnel && f.Mode != FirewallClosed {
		return
	}
	stats, err := fw.Stats(ctx)
	if err != nil {
		f.Err = err.Error()
		return
	}
	f.Counters = &stats
}

// fill describes the data path of a tunnel.
func (d *DataPathStatus) fill(t *tunnel) {
	sv := t.supervisor.Load()
	if sv == nil {
		d.Path = health.Packet
		switch {
		case t.s.cfg.Configurator != nil:
			d.Reason = "a configurator has set the routes"
		case d.Configured == Auto:
			d.Reason = "nothing needs the flow path"
		default:
			d.Reason = "it was asked for"
		}
		return
	}
	r := sv.Report()
	d.Report, d.Path = &r, r.Path
	d.Reason = "it was asked for"
	switch {
	case r.Reason != health.None:
		d.Reason = "the flow path was left, since " + r.Why()
	case d.Configured == Auto:
		d.Reason = "the content filter needs it"
	}
	if in := sv.Interceptor(); in != nil {
		d.Flows = in.Stats().Flows
	}
	if rules := t.judge.Rules(); rules != nil {
		d.Rules = rules.Counters()
	}
}
