package vpn

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/anyconnect"
	"culvert.example/vpn/transport/login"
)

// A DialFunc connects to an address, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config says how to open a tunnel and how to use it. The zero Config is usable with a gateway that asks nothing but a trusted
// TLS handshake. A Config must not be changed after it was given to [Dial]; several tunnels may share one.
type Config struct {
	// Login answers what the gateway asks. If it implements interface{ Unattended() bool } and reports true, it is also
	// asked when the session has expired and a new login is needed; otherwise that ends the tunnel with ErrExpired.
	Login login.Prompter
	// Cookie is a session that was started elsewhere, such as by [Authenticate]. Login is not asked then,
	// unless the gateway has forgotten the session and Login is unattended.
	Cookie transport.Secret
	// Ticket is such a session with all that is known of it: which machine of a cluster has it, and what came with the login. It is
	// what [Authenticate] or [Tunnel.Suspend] gave, and goes before a Cookie.
	Ticket *Ticket
	// Group chooses a connection profile of the gateway by name or label.
	Group string

	// TLS is the configuration for the connections to the gateway: roots, client certificates, versions. It is cloned.
	// Nil means the roots of the machine and no client certificate. Verification cannot be switched off; see Pins. The private key of
	// a client certificate may be any crypto.Signer, such as one of a PKCS #11 token, a TPM or an agent; one that cannot sign
	// by RSA-PSS says so in SupportedSignatureAlgorithms of its tls.Certificate, and MaxVersion must be TLS 1.2 then.
	TLS *tls.Config
	// Pins are the keys that the gateway may have, as pin-sha256:BASE64, sha256:HEX or sha1:HEX of its public key. If there
	// are any, one of them must match, and no certificate authority is asked.
	Pins []string

	// Dial reaches the gateway over TCP. Nil means a net.Dialer; another Tunnel's DialContext nests them. DialUDP makes the
	// UDP socket for DTLS, a *net.UDPConn. Nil means a net.Dialer too, but if Dial is set there is no DTLS then, because UDP
	// would take another way than TCP.
	Dial, DialUDP DialFunc
	// Direct reaches what the split rules leave outside the tunnel. Nil means a net.Dialer.
	Direct DialFunc
	// Resolve gives the address of the gateway, instead of asking for its name.
	Resolve map[string]netip.Addr
	// IPProtocols are IPv4 and IPv6, or one of them, in the order in which the gateway is tried over them; the second has its turn
	// when the first has failed or takes long (RFC 8305). If empty, the resolver of the machine orders the addresses. With a
	// Dial or DialUDP, that is their business.
	IPProtocols []string
	// LoginTimeout is how long the gateway may take for a connection and for each answer during a login. The time that Login takes
	// does not count. If zero, it is 30 seconds.
	LoginTimeout time.Duration
	// Redirected is told before a login goes on at another gateway, as host:port, such as the member of a cluster that has the least to
	// do. An error ends the login, and is in the chain of that of Dial. Nil lets every redirection be followed.
	Redirected func(to string) error

	// NoDTLS keeps the tunnel on TLS.
	NoDTLS bool
	// Compress offers LZ4 and LZS compression. It is off by default, because the length of what it makes tells about
	// its content (CRIME, VORACLE).
	Compress bool
	// MTU limits the size of inner packets, 576 to 9000 bytes. Zero takes what the gateway says.
	MTU int
	// DPD overrides the interval of dead peer detection that the gateway announces. Zero takes the gateway's.
	DPD time.Duration
	// ReconnectTimeout is how long the tunnel tries to reconnect before it ends with ErrUnreachable. If zero, the default of 5
	// minutes is used. If negative, it never gives up.
	ReconnectTimeout time.Duration

	// UserAgent is what the client calls itself; some gateways answer only to what they know. If empty, it is
	// login.DefaultUserAgent.
	UserAgent string
	// OS is the platform to report: linux, linux-64, win, mac-intel, android or apple-ios. If empty, it is that of the
	// machine.
	OS string
	// Hostname is the name of this machine to report. If empty, none is.
	Hostname string

	// Policy decides about each flow before its first packet. Nil allows all.
	Policy policy.Decider
	// Split decides where destinations lie. Nil means the split rules of the gateway.
	Split split.Router
	// Resolver answers the names that are asked inside the tunnel. Nil means the DNS servers of the gateway, within its
	// split-DNS rules, and the machine's resolver for other names.
	Resolver dns.Exchanger
	// Device makes what carries the packets of the tunnel instead of a network stack inside the program, usually a network
	// interface of the machine from package stack/tun. It is called once, when the lease is known, and must not call the
	// Tunnel. The Tunnel closes the device, and ends if it fails, such as when its interface is switched off. If the device
	// has a method SetMTU(int) error, that is called when the MTU of the tunnel differs from the device's or changes; a
	// failure is logged. Which packets come to the device is up to the routes of the machine: Split, Direct and Policy do
	// not apply, but only packets from and to the addresses of the lease pass. What needs the stack fails with ErrNoStack.
	Device func(lease *transport.Lease) (packet.Conn, error)
	// System makes the tunnel carry the traffic of the whole machine; package system has one. The caller closes it, after the
	// tunnel. What is said about Device holds for it too. Dial and DialUDP, if they are set, reach the gateway in its place; then
	// keeping that traffic out of the tunnel is up to them. It goes before a Device.
	System System
	// Transport opens the session instead of the AnyConnect protocol. The fields about the gateway are its
	// business then.
	Transport transport.Dialer

	// Logger gets what happens, never a secret and never a line for each packet. Nil is silent.
	Logger *slog.Logger
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (c *Config) direct() DialFunc {
	if c.Direct == nil {
		return new(net.Dialer).DialContext
	}
	return c.Direct
}

// client returns the AnyConnect client that cfg describes.
func (c *Config) client(server string) *anyconnect.Dialer {
	dial, dialUDP, plain := c.Dial, c.DialUDP, false
	if c.System != nil && dial == nil && dialUDP == nil {
		dial, dialUDP, plain = c.System.DialContext, c.System.DialContext, true
	}
	if len(c.IPProtocols) > 0 && c.Dial == nil && c.DialUDP == nil {
		if dial == nil {
			dial, dialUDP, plain = new(net.Dialer).DialContext, new(net.Dialer).DialContext, true
		}
		dial, dialUDP = inOrder(c.IPProtocols, dial), inOrder(c.IPProtocols, dialUDP)
	}
	return &anyconnect.Dialer{
		Server: server, Prompter: c.prompter(), Cookie: c.Cookie, Ticket: c.Ticket, TLS: c.TLS, Pins: c.Pins,
		Dial: dial, DialUDP: dialUDP, Plain: plain, Resolve: c.Resolve, Batch: c.Device != nil || c.System != nil,
		NoDTLS: c.NoDTLS, Compress: c.Compress, MTU: c.MTU, DPD: c.DPD, ReconnectTimeout: c.ReconnectTimeout,
		LoginTimeout: c.LoginTimeout, Redirected: c.Redirected, UserAgent: c.UserAgent, OS: c.OS, Hostname: c.Hostname, Logger: c.Logger,
	}
}

// prompter answers the choice of the group before anything else.
func (c *Config) prompter() login.Prompter {
	switch {
	case c.Group == "":
		return c.Login
	case c.Login == nil:
		return login.Fixed{Group: c.Group}
	}
	return login.Chain(login.Fixed{Group: c.Group}, c.Login)
}

// A Ticket is what a login gives: the cookie that opens a session, and the address and certificate of the gateway that gave it.
type Ticket = login.Ticket

// Authenticate logs in without opening a tunnel. The cookie of the ticket opens one later, also in another process: as
// Config.Cookie, at the URL and address of the ticket. The error is an [*OpError].
func Authenticate(ctx context.Context, server string, cfg *Config) (*Ticket, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	ticket, err := cfg.client(server).Login(ctx)
	if err != nil {
		return nil, &OpError{Op: "authenticate", Server: publicName(server), Err: err}
	}
	return ticket, nil
}
