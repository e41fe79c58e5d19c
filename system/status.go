package system

import (
	"net/netip"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/host/firewall"
)

// A Status is a snapshot of what a System has made of the machine. It does not change once it is handed out.
type Status struct {
	// Attached says that a tunnel is in use, and Since since when or since when not.
	Attached bool      `json:"attached"`
	Since    time.Time `json:"since"`
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

	Routes   RouteStatus    `json:"routes"`
	Resolver ResolverStatus `json:"resolver"`
	Firewall FirewallStatus `json:"firewall"`
	DataPath DataPathStatus `json:"data_path"`
	// Events are what happened last, the latest at the end, at most 64.
	Events []Event `json:"events,omitempty"`
}

// A RouteStatus tells what lies where. At most 1000 prefixes are listed of each kind; the numbers count all.
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
	// Local says what becomes of connected networks: tunnelled, virtual, networks or routes.
	Local string `json:"local,omitempty"`
	// Table is the routing table and Mark the packet mark in use.
	Table int    `json:"table,omitempty"`
	Mark  uint32 `json:"mark,omitempty"`
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
	// Outside are the servers for all other names, Search the search list.
	Outside []netip.AddrPort `json:"outside,omitempty"`
	Search  []string         `json:"search,omitempty"`
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
	// PortalUntil is when the window for a captive portal closes, if one is open.
	PortalUntil time.Time `json:"portal_until,omitzero"`
	// Counters count what passed and what did not.
	Counters *firewall.Stats `json:"counters,omitempty"`
	// Err is why the counters cannot be had.
	Err string `json:"error,omitempty"`
}

// A DataPathStatus tells which way packets go.
type DataPathStatus struct {
	// Configured is the way that was asked for, Path the present one: packet, flow or nowhere, and Reason why.
	Configured DataPath    `json:"configured"`
	Path       health.Path `json:"path"`
	Reason     string      `json:"reason,omitempty"`
	// Report tells of the parts of the flow path, if there is one: their states, since when, and their last errors.
	Report *health.Report `json:"report,omitempty"`
	// Flows is how many there are now.
	Flows int `json:"flows,omitempty"`
	// Rules count what the rules of the content filter have decided.
	Rules []filter.Counter `json:"rules,omitempty"`
}

// Kinds of events.
const (
	EventNetwork  = "network"   // the network of the machine has changed
	EventAsleep   = "asleep"    // the machine was suspended
	EventRoutes   = "routes"    // another program changed our routes, rules or addresses
	EventResolver = "resolver"  // another program changed our resolver settings
	EventFirewall = "firewall"  // another program changed our firewall, or its state has changed
	EventDataPath = "data-path" // packets take another way
	EventLease    = "lease"     // the gateway has assigned something else
)

// An Event is something that happened to the machine.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is one of the constants above, What happened in words for a person.
	Kind string `json:"kind"`
	What string `json:"what"`
	// Healed says that what was broken has been made again; Err is why that failed, if it was tried.
	Healed bool   `json:"healed,omitempty"`
	Err    string `json:"error,omitempty"`
	// Asleep is how long the machine was suspended.
	Asleep time.Duration `json:"asleep,omitempty"`
}
