// Package transport is the contract between a tunnel and the ways to a gateway: what a [Session] is, what its [Lease]
// says, and which errors end it for good. The packages below it speak the AnyConnect protocol.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"culvert.example/vpn/packet"
)

// A Dialer opens sessions with one gateway. The context bounds only the dialing.
type Dialer interface {
	DialSession(ctx context.Context) (Session, error)
}

// A Session carries IP packets to and from one gateway until it is closed or gives up for good. It outlives the
// connections beneath it. Its owner closes it.
type Session interface {
	packet.Conn

	// Lease returns what the gateway has assigned. Callers must not change it.
	Lease() *Lease

	// Done is closed when the Session has ended, by Close or for good by itself.
	Done() <-chan struct{}

	// Err returns why Done is closed, and nil before that. It matches net.ErrClosed after Close.
	Err() error
}

// Errors that end a session or keep one from starting. They are kinds: match them with errors.Is. The errors that carry
// them say who refused what, and what to do.
var (
	// ErrLogin: the gateway did not accept the credentials.
	ErrLogin = errors.New("login refused")

	// ErrPrompt: the gateway asks for something that no Prompter can answer without a person.
	ErrPrompt = errors.New("an answer is needed that nobody gave")

	// ErrExpired: the gateway does not know the session any more.
	ErrExpired = errors.New("session expired")

	// ErrAddressChanged: the gateway gave another inner address on reconnecting, so inner connections cannot live on.
	ErrAddressChanged = errors.New("inner address changed")

	// ErrUntrusted: the certificate of the gateway is not trusted, or does not match its pin.
	ErrUntrusted = errors.New("gateway not trusted")

	// ErrRefused: the gateway refuses a tunnel now, such as for want of addresses or licences.
	ErrRefused = errors.New("tunnel refused")

	// ErrDisconnected: the gateway ended the session.
	ErrDisconnected = errors.New("disconnected by the gateway")

	// ErrProtocol: what came is not what the protocol says, or the peer is no AnyConnect gateway.
	ErrProtocol = errors.New("protocol error")

	// ErrUnsupported: the gateway demands something that is not implemented here.
	ErrUnsupported = errors.New("not supported")

	// ErrUnreachable: no connection came about within the time allowed for reconnecting.
	ErrUnreachable = errors.New("gateway unreachable")
)

// A Secret is a cookie, password or token. It prints as REDACTED wherever it is formatted, logged or encoded.
type Secret string

const redacted = "REDACTED"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// Format implements fmt.Formatter, because package fmt shows a string as it is where the verb does not fit one.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Lease is what the gateway assigned to a session: addresses, names, routes, limits. The zero value of a field means that
// the gateway did not say. Prefixes are masked, except in Addresses.
type Lease struct {
	// Gateway is the outer address that the session was made with.
	Gateway netip.AddrPort
	// GatewayName is what the gateway calls itself (X-CSTP-Server-Name).
	GatewayName string

	// Addresses are the inner addresses, IPv4 before IPv6, with the length of their on-link prefix.
	Addresses []netip.Prefix
	// MTU is the size of the largest inner packet in bytes.
	MTU int
	// BaseMTU is the MTU that the gateway assumes for the outer path, in bytes.
	BaseMTU int

	// DNS are the servers to ask through the tunnel; NBNS are WINS servers.
	DNS, NBNS []netip.Addr
	// SearchDomains are the suffixes for single-label names.
	SearchDomains []string
	// SplitDNS are the suffixes whose names the DNS servers of the lease answer; if empty they answer all.
	SplitDNS []string
	// TunnelAllDNS says that no name may be asked outside the tunnel.
	TunnelAllDNS bool

	// Include are the destinations that belong to the tunnel. A family without any belongs to it as a whole, if it has an
	// address. Exclude are destinations that stay outside; the most specific prefix wins.
	Include, Exclude []netip.Prefix
	// ExcludeLocalLAN says that directly connected networks stay outside (Split-Exclude 0.0.0.0/255.255.255.255).
	ExcludeLocalLAN bool
	// DynamicInclude and DynamicExclude are domain suffixes that are split by name.
	DynamicInclude, DynamicExclude []string
	// BypassProtocol says that an address family without an inner address goes out directly instead of nowhere
	// (X-CSTP-Client-Bypass-Protocol).
	BypassProtocol bool

	// Banner is the text that the gateway wants to be shown to the user.
	Banner string

	// DPD and Keepalive are the intervals of the TLS channel, DTLSDPD and DTLSKeepalive those of the DTLS channel.
	DPD, Keepalive, DTLSDPD, DTLSKeepalive time.Duration
	// Rekey is the period after which the TLS channel is opened anew, DTLSRekey that of the DTLS channel.
	Rekey, DTLSRekey time.Duration
	// IdleTimeout is how long the gateway keeps a session without data, DisconnectedTimeout how long without a connection.
	IdleTimeout, DisconnectedTimeout time.Duration
	// Expires is when the session ends at the latest: the earliest of lease duration and session timeout.
	Expires time.Time
	// ExpiryWarning is how long before Expires the user should be told.
	ExpiryWarning time.Duration

	// Proxy is the web proxy to use inside the tunnel.
	Proxy Proxy

	// SmartcardRemovalDisconnect, DisableAlwaysOn and Quarantine are the policy flags of the same names.
	SmartcardRemovalDisconnect, DisableAlwaysOn, Quarantine bool

	// DynamicAddress says that the address of the gateway may change, so that its name is resolved anew on reconnecting
	// (X-CSTP-DynDNS).
	DynamicAddress bool

	// PostAuthXML is the document of X-CSTP-Post-Auth-XML, whole.
	PostAuthXML string
}

// A Proxy is the web proxy that a gateway announces for use inside the tunnel (X-CSTP-MSIE-Proxy-*).
type Proxy struct {
	// Method is no-modify, auto-detect, use-pac-url or the like, as the gateway wrote it.
	Method string
	// Server is host:port, PACURL the address of a PAC file.
	Server, PACURL string
	// Exceptions are hosts that are reached without the proxy.
	Exceptions []string
	// Lockdown forbids the user to change the setting.
	Lockdown bool
}
