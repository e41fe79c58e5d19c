package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/system"
)

// A machineReport is how a client that a whole machine uses is, as "culvert status --json" prints it. Texts in it may come from the
// gateway.
type machineReport struct {
	// State is connecting, connected, reconnecting or closed, and none if no such client runs. Since is since when.
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// PID is the process, which runs since Started.
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Leftovers says that a client was killed and its changes of the machine were not undone, or not yet.
	Leftovers bool   `json:"leftovers,omitempty"`
	Journal   string `json:"journal,omitempty"`
	// Blocked says that its kill switch is among them, which blocks the network of this machine until culvert repair.
	Blocked bool `json:"blocked,omitempty"`

	// Server is the gateway as it was named, Gateway its address, Path dtls or tls.
	Server    string           `json:"server,omitempty"`
	Gateway   string           `json:"gateway,omitempty"`
	Path      string           `json:"path,omitempty"`
	Paths     []vpn.PathStatus `json:"paths,omitempty"`
	Connected time.Time        `json:"connected,omitzero"`
	Expires   time.Time        `json:"expires,omitzero"`
	// Reconnects counts how often there was no connection to the gateway for a while.
	Reconnects int           `json:"reconnects"`
	Counters   *vpn.Counters `json:"counters,omitempty"`

	// Uplink is the network interface by which the gateway is reached, and how often the tunnel has moved to another.
	Uplink *system.UplinkStatus `json:"uplink,omitempty"`

	Device    string         `json:"device,omitempty"`
	Namespace string         `json:"namespace,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	MTU       int            `json:"mtu,omitempty"`

	Routes     *system.RouteStatus    `json:"routes,omitempty"`
	Resolver   *system.ResolverStatus `json:"resolver,omitempty"`
	KillSwitch *system.FirewallStatus `json:"kill_switch,omitempty"`
	DataPath   *dataPathReport        `json:"data_path,omitempty"`
	// Desktops tell what became of the gateway's web proxy on the desktops of users.
	Desktops []system.DesktopStatus `json:"desktops,omitempty"`

	// Profile and LocalPolicy name the documents in force, and Features are the eighteen that need a profile.
	Profile     string         `json:"profile,omitempty"`
	LocalPolicy string         `json:"local_policy,omitempty"`
	Features    []plan.Feature `json:"features,omitempty"`
	// Ignored are the settings of the profile that have no effect here, with the reasons.
	Ignored []plan.Effect `json:"ignored,omitempty"`
	// Scripts says where the scripts OnConnect and OnDisconnect are, if they may run. Proxy says whether the gateway is reached
	// through a proxy, and why.
	Scripts string `json:"scripts,omitempty"`
	Proxy   string `json:"proxy,omitempty"`
	// Network is what the profile makes of the network that the machine is in, if it says anything about that.
	Network *networkReport `json:"network,omitempty"`

	LastError string         `json:"last_error,omitempty"`
	Events    []system.Event `json:"events,omitempty"`
}

// A dataPathReport is the way of packets and how the components of the flow path are.
type dataPathReport struct {
	// Configured is auto, packet or flow, Path the present one: packet, flow or nowhere, since Since, because of Reason.
	Configured string    `json:"configured"`
	Path       string    `json:"path"`
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	// FilterOff says that there are rules of the content filter, and they are not in force, since packets take the packet path.
	FilterOff bool `json:"filter_off,omitempty"`
	// Confirmed says that packets do take Path. Healthy says, where the flow path is wanted, that they take it and all its
	// components are active.
	Confirmed  bool        `json:"confirmed"`
	Healthy    *bool       `json:"healthy,omitempty"`
	Components []component `json:"components,omitempty"`
	Failovers  int         `json:"failovers"`
	Flows      int         `json:"flows"`
	Error      string      `json:"error,omitempty"`
	// Confirm and Revert are the commands to confirm the path and to go back to the flow path, if they make sense now.
	Confirm string `json:"confirm,omitempty"`
	Revert  string `json:"revert,omitempty"`
}

// A component is one of the three of the flow path: dns-proxy, transparent-proxy and content-filter.
type component struct {
	Name   string    `json:"name"`
	State  string    `json:"state"` // inactive, starting, active or failed
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// reportOf makes a report of what the tunnel, if there is one, and the machine say.
func reportOf(t *vpn.Status, s system.Status) machineReport {
	r := machineReport{
		State: "connecting", Since: s.Since, Journal: s.Journal, Device: s.Device, Namespace: s.Namespace, Addresses: s.Addresses, MTU: s.MTU,
		Routes: &s.Routes, Resolver: &s.Resolver, KillSwitch: &s.Firewall, Desktops: s.Desktops, Events: s.Events,
	}
	if s.Uplink.Interface != "" {
		r.Uplink = &s.Uplink
	}
	d := dataPathOf(s.DataPath)
	r.DataPath = &d
	if t == nil {
		return r
	}
	r.State, r.Since, r.Server, r.Path, r.Paths = t.State.String(), t.Since, t.Server, t.Path, t.Paths
	r.Connected, r.Expires, r.Reconnects, r.Counters = t.Started, t.Expires, t.Reconnects, &t.Counters
	if t.Gateway.IsValid() {
		r.Gateway = t.Gateway.String()
	}
	if len(r.Addresses) == 0 {
		r.Addresses = t.Addresses
	}
	if r.MTU == 0 {
		r.MTU = t.MTU
	}
	switch {
	case t.Err != nil:
		r.LastError = oneLine(plainText(t.Err))
	default:
		r.LastError = lastError(t.Paths)
	}
	return r
}

// lastError returns why a path to the gateway is not open.
func lastError(paths []vpn.PathStatus) string {
	for _, p := range paths {
		if !p.Open && p.LastError != "" {
			return pathName(p.Name) + ": " + oneLine(p.LastError)
		}
	}
	return ""
}

func dataPathOf(s system.DataPathStatus) dataPathReport {
	d := dataPathReport{Configured: s.Configured.String(), Path: s.Path.String(), Reason: s.Reason, Flows: s.Flows, FilterOff: s.FilterOff, Confirmed: s.Report == nil}
	if s.Report == nil {
		return d
	}
	h := s.Report
	d.Since, d.Confirmed, d.Healthy, d.Failovers, d.Confirm, d.Revert, d.Error = h.Since, h.Confirmed, &h.Healthy, h.Failovers, h.Confirm, h.Revert, h.Err
	if h.Reason != health.None && d.Reason == "" {
		d.Reason = h.Reason.String()
	}
	for _, p := range h.Parts {
		c := component{Name: p.Part.String(), State: p.State.String(), Since: p.Since, Error: p.Err}
		if p.Reason != health.None {
			c.Reason = p.Reason.String()
		}
		d.Components = append(d.Components, c)
	}
	return d
}

// A page prints lines with labels in front.
type page struct {
	w     io.Writer
	paint func(colour, s string) string
	err   error
}

// line prints a line, unless the text is empty. A line without a label goes on with what stands above it.
func (p *page) line(label, format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...))
	if text == "" || p.err != nil {
		return
	}
	_, p.err = fmt.Fprintf(p.w, "%s %s\n", p.paint(bold, fmt.Sprintf("%-12s", label)), text)
}

// print prints the report for a person.
func (r *machineReport) print(p *page, now time.Time) error {
	state := p.paint(colourOf(r.State), r.State)
	// Colours are none of the text that oneLine cleans.
	if _, p.err = fmt.Fprintf(p.w, "%s %s%s\n", p.paint(bold, fmt.Sprintf("%-12s", "State")), state, since(r.Since, now)); p.err != nil {
		return p.err
	}
	if r.Server != "" {
		to := r.Server
		if r.Gateway != "" {
			to += " at " + r.Gateway
		}
		if r.Path != "" {
			to += " over " + pathName(r.Path) + detail(r.Paths, r.Path)
		}
		p.line("Gateway", "%s", to)
	}
	if u := r.Uplink; u != nil {
		p.line("Uplink", "%s (%s), from %v%s", u.Interface, u.Kind, u.Source, moves(u.Roams))
		p.line("", "%s", orNothing("could not move: ", u.Err))
	}
	if r.Device != "" && r.MTU != 0 {
		p.line("Interface", "%s, MTU %d%s", r.Device, r.MTU, orNothing(", in the namespace ", r.Namespace))
	}
	p.line("Addresses", "%s", join(r.Addresses))
	if r.Routes != nil {
		p.routes(r.Routes)
	}
	if r.Resolver != nil {
		p.names(r.Resolver, r.KillSwitch != nil && r.KillSwitch.Mode == system.FirewallTunnel)
	}
	if k := r.KillSwitch; k != nil && k.Mode != "" {
		text := k.Mode
		if k.OnFailure != "" {
			text += ", " + failureOf(*k) + " when the tunnel fails"
		}
		p.line("Kill switch", "%s%s", text, orNothing(": ", k.Reason))
		if c := k.Counters; c != nil {
			p.line("", "stopped %d packets out, %d in, %d passing through", c.DroppedOut.Packets, c.DroppedIn.Packets, c.DroppedForward.Packets)
		}
	}
	for _, d := range r.Desktops {
		p.line("Web proxy", "%s", desktopText(d))
	}
	if r.DataPath != nil {
		p.dataPath(r.DataPath, now)
	}
	if c := r.Counters; c != nil {
		p.line("Traffic", "sent %s, received %s", amount(c.SentBytes), amount(c.ReceivedBytes))
	}
	if !r.Expires.IsZero() {
		p.line("Ends", "%s, by the word of the gateway", r.Expires.Local().Format("Jan 2 15:04"))
	}
	p.documents(r)
	p.line("Last error", "%s", r.LastError)
	if r.PID != 0 {
		p.line("Process", "%d%s, journal %s", r.PID, since(r.Started, now), r.Journal)
	}
	label := "Events"
	for _, e := range r.Events[max(0, len(r.Events)-5):] {
		p.line(label, "%s  %s", e.Time.Local().Format("15:04:05"), eventText(e))
		label = ""
	}
	return p.err
}

// moves says how often a tunnel has moved.
func moves(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", moved once"
	}
	return fmt.Sprintf(", moved %d times", n)
}

// since says for how long and since when something is.
func since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" for %s (since %s)", ago(now.Sub(t)), t.Local().Format("Jan 2 15:04:05"))
}

// orNothing puts words in front of s, unless that is empty.
func orNothing(front, s string) string {
	if s == "" {
		return ""
	}
	return front + s
}

// detail says how a path is protected.
func detail(paths []vpn.PathStatus, name string) string {
	i := slices.IndexFunc(paths, func(p vpn.PathStatus) bool { return p.Name == name })
	if i < 0 {
		return ""
	}
	return orNothing(", ", paths[i].Detail)
}

// eventText says what happened and what became of it.
func eventText(e system.Event) string {
	switch {
	case e.Healed:
		return e.What + "; repaired"
	case (e.Kind == system.EventRoam || e.Kind == system.EventDataPath) && e.Err != "":
		return e.What + ": " + e.Err
	case e.Err != "":
		return e.What + "; not repaired: " + e.Err
	}
	return e.What
}

func (p *page) routes(r *system.RouteStatus) {
	p.line("In tunnel", "%s", some(r.Tunnel, r.Tunnels))
	p.line("Outside", "%s", some(r.Direct, r.Directs))
	p.line("Nowhere", "%s", some(r.Blocked, r.Blocks))
	if r.Learned > 0 {
		p.line("", "%d of these are addresses of names", r.Learned)
	}
	if r.Judged {
		p.line("", "all flows come to culvert, and each is judged by this as it begins")
	}
	if len(r.Filtered) > 0 {
		p.line("", "warning: the kernel drops answers from there on %s, since its reverse-path filter is strict; make it loose with: sysctl net.ipv4.conf.all.rp_filter=2",
			strings.Join(r.Filtered, ", "))
	}
}

// some lists the first few prefixes of n.
func some(ps []netip.Prefix, n int) string {
	text := shorten(ps)
	if n > len(ps) {
		text += fmt.Sprintf(" (%d in all)", n)
	}
	return text
}

// notAsked is what becomes of names that a kill switch keeps on the machine.
const notAsked = "are not asked for, because of the kill switch"

// names tells who is asked for names. Walled says that the kill switch is in force.
func (p *page) names(r *system.ResolverStatus, walled bool) {
	domains := slices.Compact(slices.Sorted(slices.Values(r.Domains))) // one may be split and searched
	switch {
	case len(r.Inside) == 0 && r.Closed:
		p.line("Names", "of the outside %s", notAsked)
	case len(r.Inside) == 0 && len(r.Upstreams) > 0:
		p.line("Names", "all from %s", strings.Join(r.Upstreams, ", "))
	case len(r.Inside) == 0 && r.Backend != "" && len(r.Outside) > 0:
		p.line("Names", "all from %s, past the tunnel, since the gateway has no server for them", join(r.Outside))
	case len(r.Inside) == 0:
	case r.All || len(domains) == 0:
		p.line("Names", "all from %s", join(r.Inside))
	default:
		p.line("Names", "%s from %s", strings.Join(domains, ", "), join(r.Inside))
		switch {
		case r.Closed:
			if len(r.Leaving) > 0 {
				p.line("", "%s from %s", strings.Join(r.Leaving, ", "), strings.Join(append(r.Upstreams, nonEmpty(join(r.Outside))...), ", "))
			}
			p.line("", "others %s", notAsked)
		case len(r.Upstreams) > 0:
			p.line("", "others from %s", strings.Join(r.Upstreams, ", "))
		case len(r.Outside) > 0:
			p.line("", "others from %s", join(r.Outside))
		}
	}
	if len(r.Search) > 0 {
		p.line("Search", "%s", strings.Join(r.Search, ", "))
	}
	if r.Backend == "" {
		p.line("Resolver", "left as it was%s", orNothing(": ", r.Reason))
		return
	}
	by := ""
	if r.Listen != "" {
		by = ", with the proxy at " + r.Listen
	}
	p.line("Resolver", "%s asks %s%s", r.Backend, join(r.Servers), by)
	p.line("", "%s", r.Reason)
	for _, c := range r.Claims {
		name, link, look := "names below "+c.Domain, c.Link, "resolvectl domain "+c.Link
		if c.Domain == "." {
			name = "all names"
		}
		if link == "" {
			link, look = "systemd-resolved as a whole", "resolved.conf"
		}
		if walled {
			p.line("", "warning: %s claims %s too, which the kill switch keeps from being asked for there (%s)", link, name, look)
		} else {
			p.line("", "warning: %s claims %s too, so that they are asked for OUTSIDE; prevent that by a kill switch (--always-on), or where it was set (%s)", link, name, look)
		}
	}
}

func (p *page) dataPath(d *dataPathReport, now time.Time) {
	text := d.Path
	switch {
	case d.Healthy != nil && *d.Healthy:
		text += ", healthy"
	case !d.Confirmed:
		text += ", not confirmed"
	}
	p.line("Data path", "%s%s%s", text, since(d.Since, now), orNothing(": ", d.Reason))
	if d.FilterOff {
		p.line("", "warning: the content filter is NOT in force on the packet path")
	}
	for _, c := range d.Components {
		state := c.State
		for _, why := range []string{c.Reason, c.Error} {
			state += orNothing(": ", why)
		}
		p.line("", "%-17s %s%s", c.Name, state, since(c.Since, now))
	}
	p.line("", "%s", orNothing("go back with: ", d.Revert))
}
