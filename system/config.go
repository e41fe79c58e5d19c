package system

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/host/resolver"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport"
)

// Defaults of the zero values in a [Config].
const (
	// DefaultDevice is the name of the network interface.
	DefaultDevice = "culvert0"
	// DefaultJournal is the file that records what has to be undone.
	DefaultJournal = "/var/lib/culvert/journal"
	// DefaultListen is where the DNS proxy listens: a loopback address that nothing else uses, at the only port that a
	// resolv.conf can mean.
	DefaultListen = "127.0.40.53:53"
)

// Config says how the machine is to use tunnels. The zero Config is usable: it takes the gateway's routes and names, by the
// packet path, without a kill switch.
type Config struct {
	// Device is the name of the network interface, at most 15 bytes. Empty means [DefaultDevice].
	Device string

	// Namespace is the network namespace that the interface is put into, with everything that goes with it: routes, resolver,
	// firewall. It is a name that "ip netns" knows, or a path. The connections to the gateway stay in the namespace of the
	// thread that calls Open. Empty means that namespace for everything. The resolv.conf of a namespace is
	// /etc/netns/NAME/resolv.conf, which "ip netns exec" shows to programs as theirs; for NAME see [NamespaceName].
	Namespace string

	// Journal is the file that records what has to be undone, and whose lock keeps a second instance away. It must be an
	// absolute path. Its directory is made if it does not exist, and must not be writable by other users. Empty means
	// [DefaultJournal].
	Journal string

	// DataPath is the way of the packets.
	DataPath DataPath

	// User are the user's own rules of what is inside and outside of the tunnel. Whether a user may have rules is not
	// decided here.
	User split.Rules
	// LocalLAN says whether the networks that the machine is connected to stay outside of the tunnel.
	LocalLAN Choice
	// PublicLAN lets connected networks of public addresses stay outside too, not only private ones. A network could
	// draw any destination out of the tunnel with it.
	PublicLAN bool
	// Bypass says whether packets of an address family that the tunnel has no address of leave directly, instead of
	// not at all.
	Bypass Choice

	// DNS says how names are asked for.
	DNS DNS

	// Desktop is about the web proxy of the users' desktops.
	Desktop Desktop

	// KillSwitch keeps everything from leaving the machine that does not belong to the tunnel. Nil means that there is none.
	KillSwitch *KillSwitch

	// Filter are the rules of the content filter. They are in force on the flow path only, so that after a failover to the packet path
	// nothing is filtered until [System.Revert]; see [DataPathStatus.FilterOff]. Nil allows everything.
	Filter *filter.Config

	// Configurator changes the machine in the place of this package: addresses, routes and resolver. There is no DNS proxy
	// and no flow path then. The kill switch stays with this package. Nil means that there is none.
	Configurator Configurator

	// Heal says what becomes of our routes, resolver settings and firewall rules that other programs change.
	Heal Heal

	// OnEvent is told of what happens to the machine, in that order and one call at a time. Nothing else waits for it: while a call lasts,
	// up to 256 events are kept for it, and those that come then are counted and told as one event of kind [EventMissed]. It may call the
	// System, but not its Close, which waits for it. Nil ignores events; the latest are in the [Status] as well.
	OnEvent func(Event)

	// OnFlow is told of the flows that a rule of the Filter has noted, a few each second at most, by several goroutines. It must not wait.
	// Nil has the Logger get them.
	OnFlow func(flow.Note)

	// Logger gets what happens, never a secret, a name that is asked for, or a line for each packet. Nil is silent.
	Logger *slog.Logger
}

// A DataPath is the way that packets take between programs and the gateway.
type DataPath uint8

const (
	// Auto takes the flow path if something needs it, which is the content filter, and the packet path otherwise. On that,
	// destinations are split by name as far as DNS answers tell which addresses a name has; on the flow path each flow goes by its
	// own name.
	Auto DataPath = iota
	// Packet is the packet path.
	Packet
	// Flow is the flow path, which fails over to the packet path. With a [KillSwitch] that is not open it closes instead.
	Flow
)

var dataPaths = []string{"auto", "packet", "flow"}

// String returns auto, packet or flow.
func (d DataPath) String() string { return word(dataPaths, d) }

// MarshalText implements encoding.TextMarshaler.
func (d DataPath) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DataPath) UnmarshalText(b []byte) error { return parse(dataPaths, d, "data path", b) }

// A Choice is the user's word about something that the gateway also has one about.
type Choice uint8

const (
	// AsGateway: the gateway decides.
	AsGateway Choice = iota
	// Yes and No: the user decides.
	Yes
	No
)

var choices = []string{"gateway", "yes", "no"}

// String returns gateway, yes or no.
func (c Choice) String() string { return word(choices, c) }

// MarshalText implements encoding.TextMarshaler.
func (c Choice) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Choice) UnmarshalText(b []byte) error { return parse(choices, c, "choice", b) }

// or returns the choice, where the gateway's is given.
func (c Choice) or(gateway bool) bool {
	if c == AsGateway {
		return gateway
	}
	return c == Yes
}

// Heal says what to do when another program breaks what we have changed.
type Heal uint8

const (
	// HealAll makes it again, a limited number of times in a minute, and reports it.
	HealAll Heal = iota
	// HealRoutes makes routes, rules and the firewall again, but leaves the resolver to the other program.
	HealRoutes
	// HealNothing only reports it. A firewall rule that was removed stays so.
	HealNothing
)

var heals = []string{"all", "routes", "nothing"}

// String returns all, routes or nothing.
func (h Heal) String() string { return word(heals, h) }

// MarshalText implements encoding.TextMarshaler.
func (h Heal) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Heal) UnmarshalText(b []byte) error { return parse(heals, h, "heal policy", b) }

// DNS says how names are asked for. The zero DNS has a proxy on this machine, which asks the gateway's servers for the names
// that the gateway claims, and the machine's own for the others.
type DNS struct {
	// Off leaves the resolver of the machine as it is, without a proxy.
	Off bool
	// NoProxy has the machine ask the gateway's servers by itself. Destinations are then not split by name, and where the
	// machine cannot tell names apart (a plain resolv.conf) the Attach fails if the gateway claims only some.
	NoProxy bool
	// Listen is where the proxy listens, over UDP and TCP. The zero value means [DefaultListen]. It must be a loopback
	// address, and port 53 unless the machine runs systemd-resolved.
	Listen netip.AddrPort
	// TunnelAll asks the gateway's servers for all names, whatever the gateway says.
	TunnelAll bool
	// NoIPv6 leaves IPv6 addresses out of answers where the tunnel has no IPv6, so that programs do not try them in vain.
	NoIPv6 bool
	// Domains are suffixes that belong to the gateway's servers beside those that the gateway claims.
	Domains []string
	// Outside are the servers for other names. Empty means those that the machine used before.
	Outside []netip.AddrPort
	// Upstreams, at most 8, are asked for other names in the place of Outside, written as [dns.ParseUpstream] reads them, so that it can
	// be over TLS or HTTPS. They are for programs while there is a tunnel: the gateway itself is found through Outside. Verify may have
	// more to say about whom to believe, such as RootCAs.
	Upstreams []string
	Verify    *tls.Config
	// QueryLog gets a record of each question. It tells what somebody does all day. Nil means that none is kept.
	QueryLog *slog.Logger

	// Backend forces a way to set the resolver of the machine.
	Backend resolver.Backend
	// Bus is the address of the system's D-Bus and ResolvConf the path of resolv.conf. Empty ones mean the usual.
	Bus, ResolvConf string
}

// A KillSwitch is a firewall around the tunnel. Through it pass the tunnel, the connections that carry it, DHCP, neighbour
// discovery, and what the fields allow. What the tunnel's routes leave outside passes too while a tunnel is up, if they say so
// by prefixes that exclude it, of at least /8 (IPv4) or /16 (IPv6): a gateway that includes only some networks takes the rest of
// the Internet from a machine with a kill switch. Of names, the DNS proxy then asks outside for those alone that are excluded or among
// AllowedNames; others that the gateway does not claim do not exist.
type KillSwitch struct {
	// Open lifts the switch when the tunnel fails, rather than keeping the machine off the network: when a tunnel has ended,
	// and Lease after this process was killed.
	Open bool
	// Lease is how long after the end of this process an open kill switch lasts, from 1 s to 10 min. Zero means 30 s.
	Lease time.Duration
	// AllowedHosts may be reached at all times. They must not be shorter than /8 (IPv4) or /16 (IPv6), nor more than 500.
	AllowedHosts []netip.Prefix
	// AllowedNames are hosts like those, at most 64, of which four addresses each pass. They are looked up past the tunnel, every 30
	// seconds and when the network changes, while there is none. Meanwhile every program may ask the DNS servers of the machine,
	// since one that cannot find a host does not reach it.
	AllowedNames []string
	// LocalLAN allows the private networks that the machine is connected to.
	LocalLAN bool
	// SessionLAN allows them while there is a tunnel that leaves them outside.
	SessionLAN bool
	// LastRules lets pass, while there is no tunnel, what the last one left outside of itself by prefixes, and with SessionLAN the
	// connected networks if it left those outside. That is kept beside the journal, so that it holds after a restart as well.
	LastRules bool
	// Guests are interfaces of containers and virtual machines on this machine, such as docker0, which may use the
	// tunnel. A star at the end stands for anything.
	Guests []string
	// Locked means that the user may not lift the switch: Close leaves it in force, and [System.Lift] and [Repair] with this
	// Config refuse.
	Locked bool
	// Reject answers programs that send something else at once, instead of leaving them to their time-outs.
	Reject bool
}

// A Configurator configures the machine for a tunnel in the place of this package, as a vpnc-script does. The network
// interface exists while its methods run, and packets flow when Connect has returned. Its methods are called one at a time.
//
// How long they may take is its own business: the end of the tunnel waits for Disconnect, whose context does not end. That of Connect
// ends with that of the Attach or when the System is closed, that of Reconnect when the tunnel ends.
type Configurator interface {
	// Connect makes the machine use the tunnel. If it fails, so does the Attach, after a Disconnect.
	Connect(ctx context.Context, c Connection) error
	// Reconnect is called when the tunnel was up again after an interruption, perhaps with another lease. An error is logged.
	Reconnect(ctx context.Context, c Connection) error
	// Disconnect undoes it all. It is called before the interface vanishes. An error is logged.
	Disconnect(ctx context.Context, c Connection) error
}

// A Preparer is a [Configurator] that wants to be asked before there is an interface, such as to load a kernel module.
type Preparer interface {
	Prepare(ctx context.Context, c Connection) error
}

// An Interrupted is a [Configurator] that wants to be told when the tunnel has begun to reconnect.
type Interrupted interface {
	Reconnecting(ctx context.Context, c Connection) error
}

// A Connection is what a [Configurator] is told of a tunnel.
type Connection struct {
	// Device is the name of the network interface, and MTU the size of its largest packet in bytes.
	Device string
	MTU    int
	// Gateway is the outer address of the gateway.
	Gateway netip.AddrPort
	// Lease is what the gateway has assigned. It must not be changed.
	Lease *transport.Lease
	// Namespace is a path to the network namespace that the interface is in, or empty for that of the process.
	Namespace string
	// User are the user's own rules, and LocalLAN says that connected networks stay outside.
	User     split.Rules
	LocalLAN bool
}

// word returns the word for a value.
func word[T ~uint8](words []string, v T) string {
	if int(v) < len(words) {
		return words[v]
	}
	return fmt.Sprintf("%d", uint8(v))
}

// parse is the reverse of word.
func parse[T ~uint8](words []string, v *T, what string, b []byte) error {
	for i, w := range words {
		if w == string(b) {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("%s %.40q: want one of %v", what, b, words)
}
