package script

import (
	"net/netip"
	"strconv"
	"time"

	"culvert.example/vpn/transport"
)

// Settings are what a script is told about a tunnel. The zero value of a field means that there is nothing to tell.
// [FromLease] makes them from what a gateway said, and nothing in them needs to be trusted.
type Settings struct {
	// Device is the name of the network interface: up to 15 letters, digits, dots, hyphens and underscores.
	Device string
	// PID is the process that scripts tell tunnels apart by, and under whose number they keep their notes. It must be the same
	// for all reasons of a tunnel. Zero means this process.
	PID int
	// LogLevel is from 0, errors alone, to 3, everything.
	LogLevel int

	// Gateway is the outer address of the gateway, to which a script makes a route around the tunnel.
	Gateway netip.Addr

	// Addresses are the inner addresses with the length of their network. The first of each family is told.
	Addresses []netip.Prefix
	// MTU is the size of the largest inner packet in bytes.
	MTU int
	// DNS and NBNS are the name servers inside.
	DNS, NBNS []netip.Addr
	// Domains are the search domains, and SplitDNS the domains that the name servers inside answer for.
	Domains, SplitDNS []string

	// Include are the networks that belong to the tunnel, all of them if there are none in a family. Exclude are those that do
	// not, LocalLAN says that those that the machine is connected with do not either.
	Include, Exclude []netip.Prefix
	LocalLAN         bool

	// Banner is a text for the user, of which 8 KiB are told.
	Banner string
	// ProxyPAC is the URL of a file for proxy auto-configuration.
	ProxyPAC string
	// IdleTimeout is after how long without traffic the gateway ends the session.
	IdleTimeout time.Duration

	// Options are what the gateway said in headers, X-CSTP-* and X-DTLS-*. Those that are secret or whole documents are not
	// told.
	Options []Option
}

// An Option is a header of the gateway's answer.
type Option struct{ Name, Value string }

// FromLease returns the Settings of a tunnel with this lease on the device. Neither is changed or kept.
func FromLease(lease *transport.Lease, device string) *Settings {
	return &Settings{
		Device:      device,
		Gateway:     lease.Gateway.Addr(),
		Addresses:   lease.Addresses,
		MTU:         lease.MTU,
		DNS:         lease.DNS,
		NBNS:        lease.NBNS,
		Domains:     lease.SearchDomains,
		SplitDNS:    lease.SplitDNS,
		Include:     lease.Include,
		Exclude:     lease.Exclude,
		LocalLAN:    lease.ExcludeLocalLAN,
		Banner:      lease.Banner,
		ProxyPAC:    lease.Proxy.PACURL,
		IdleTimeout: lease.IdleTimeout,
		Options:     leaseOptions(lease),
	}
}

// leaseOptions returns headers that say what has no variable of its own.
func leaseOptions(lease *transport.Lease) []Option {
	var list []Option
	text := func(name, value string) {
		if value != "" {
			list = append(list, Option{name, value})
		}
	}
	number := func(name string, n int) {
		if n > 0 {
			text(name, strconv.Itoa(n))
		}
	}
	seconds := func(name string, d time.Duration) { number(name, int(d/time.Second)) }
	flag := func(name string, on bool) {
		if on {
			text(name, "true")
		}
	}
	text("X-CSTP-Server-Name", lease.GatewayName)
	number("X-CSTP-MTU", lease.MTU)
	number("X-CSTP-Base-MTU", lease.BaseMTU)
	seconds("X-CSTP-DPD", lease.DPD)
	seconds("X-CSTP-Keepalive", lease.Keepalive)
	seconds("X-CSTP-Rekey-Time", lease.Rekey)
	seconds("X-CSTP-Idle-Timeout", lease.IdleTimeout)
	seconds("X-CSTP-Disconnected-Timeout", lease.DisconnectedTimeout)
	seconds("X-DTLS-DPD", lease.DTLSDPD)
	seconds("X-DTLS-Keepalive", lease.DTLSKeepalive)
	seconds("X-DTLS-Rekey-Time", lease.DTLSRekey)
	flag("X-CSTP-Tunnel-All-DNS", lease.TunnelAllDNS)
	flag("X-CSTP-Client-Bypass-Protocol", lease.BypassProtocol)
	flag("X-CSTP-Smartcard-Removal-Disconnect", lease.SmartcardRemovalDisconnect)
	flag("X-CSTP-Disable-Always-On-VPN", lease.DisableAlwaysOn)
	flag("X-CSTP-Quarantine", lease.Quarantine)
	flag("X-CSTP-DynDNS", lease.DynamicAddress)
	text("X-CSTP-MSIE-Proxy", lease.Proxy.Method)
	text("X-CSTP-MSIE-Proxy-Server", lease.Proxy.Server)
	text("X-CSTP-MSIE-Proxy-PAC-URL", lease.Proxy.PACURL)
	flag("X-CSTP-MSIE-Proxy-Lockdown", lease.Proxy.Lockdown)
	return list
}
