// Package anyconnect opens sessions with AnyConnect-compatible gateways: Cisco ASA and FTD, ocserv, AnyLink, and package
// gateway of this module.
//
// A login (package login) gives a ticket. With it a TLS connection asks for a tunnel and gets a lease (package cstp); what the
// gateway says there opens a DTLS channel beside it (package dtls). Package failover makes one lasting packet.Conn of the two.
// When TLS is lost, the ticket buys a new connection; when the gateway no longer takes the ticket, a new login does, if it
// needs no person.
package anyconnect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/trust"
	"culvert.example/vpn/transport/wire"
)

// Names of the two paths, as they appear in the state of a Session.
const (
	DTLS = "dtls"
	TLS  = "tls"
)

// A DialFunc connects to an address, as net.Dialer.DialContext does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// A Dialer opens sessions with one gateway. It is a transport.Dialer. Its fields must not change after the first use. Only
// Server is needed.
type Dialer struct {
	// Server is the gateway: https://host[:port][/group], or the same without https://.
	Server string

	// Prompter answers the forms of the login. Cookie is a session that was started elsewhere; with it there is no login
	// unless the gateway refuses it later and the Prompter is unattended. Ticket is one too, with all that was known of it, and
	// goes before a Cookie.
	Prompter login.Prompter
	Cookie   transport.Secret
	Ticket   *login.Ticket

	// TLS is the configuration of the connections to the gateway. It is cloned. Pins replace verification by certificate
	// authorities; see package trust.
	TLS  *tls.Config
	Pins []string

	// Dial connects over TCP. Nil means a net.Dialer. DialUDP makes the connected UDP socket for DTLS, a *net.UDPConn. Nil means
	// a net.Dialer too, but if Dial is set there is no DTLS then, because UDP would take another way.
	Dial, DialUDP DialFunc
	// Plain says that Dial and DialUDP connect to the very address that they are given, as a net.Dialer does and a proxy does not,
	// so that the address of the gateway can be kept.
	Plain bool
	// Resolve gives addresses of hosts instead of asking for their names.
	Resolve map[string]netip.Addr

	// NoDTLS keeps the session on TLS. Compress offers LZ4 and LZS.
	NoDTLS, Compress bool
	// Batch is dtls.Config.Batch.
	Batch bool
	// MTU limits the size of inner packets in bytes. Zero takes the gateway's.
	MTU int
	// DPD overrides the gateway's interval of dead peer detection.
	DPD time.Duration
	// ReconnectTimeout is how long a session without a connection lives. Zero means 5 minutes, negative for ever.
	ReconnectTimeout time.Duration
	// LoginTimeout is login.Config.RequestTimeout.
	LoginTimeout time.Duration
	// Redirected is login.Config.Redirected.
	Redirected func(to string) error

	// UserAgent, OS, Hostname and Version describe this client. Those that are empty have defaults, but for Hostname.
	UserAgent, OS, Hostname, Version string

	// OnChange is called after each change of the session's state, one call at a time.
	OnChange func(*Session)

	// Logger gets what happens. Nil discards.
	Logger *slog.Logger
}

func (d *Dialer) logger() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger
}

func (d *Dialer) userAgent() string {
	if d.UserAgent == "" {
		return login.DefaultUserAgent
	}
	return d.UserAgent
}

// ParseServer returns the URL that a gateway's name stands for. The scheme https may be left out, and no other is allowed. Errors
// do not quote more than the host: what is no URL may hold a password, and a query may be the secret of a disguise.
func ParseServer(server string) (*url.URL, error) {
	text := strings.TrimSpace(server)
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("the name of the gateway is no URL: want https://host[:port][/group]")
	}
	switch {
	case u.Scheme != "https":
		return nil, fmt.Errorf("gateway %q: the scheme must be https, not %q", u.Host, u.Scheme)
	case u.User != nil:
		return nil, fmt.Errorf("gateway %q: the URL must not hold a user name or password", u.Host)
	case u.Hostname() == "":
		return nil, errors.New("the name of the gateway has no host: want https://host[:port][/group]")
	}
	return u, nil
}

// hostPort returns the host of u with its port, which is 443 if u has none.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dial connects to an address over TCP, whose host may be a name.
func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dialWith(ctx, d.Dial, network, address)
}

// dialWith is dial with another function to connect with; nil means a net.Dialer.
func (d *Dialer) dialWith(ctx context.Context, dial DialFunc, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for name, addr := range d.Resolve {
		if strings.EqualFold(name, host) {
			address = net.JoinHostPort(addr.String(), port)
		}
	}
	if dial != nil {
		return dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// tlsConfig returns the configuration for connections to the gateway.
func (d *Dialer) tlsConfig() (*tls.Config, error) {
	return trust.Config(d.TLS, d.Pins)
}

func (d *Dialer) platform() string {
	if d.OS == "" {
		return login.Platform()
	}
	return d.OS
}

// Login logs in and returns the ticket, which opens a session as the Cookie of a Dialer for the ticket's URL.
func (d *Dialer) Login(ctx context.Context) (*login.Ticket, error) {
	u, err := ParseServer(d.Server)
	if err != nil {
		return nil, err
	}
	return d.login(ctx, u)
}

func (d *Dialer) login(ctx context.Context, u *url.URL) (*login.Ticket, error) {
	cfg, err := d.loginConfig(u)
	if err != nil {
		return nil, err
	}
	return login.Login(ctx, cfg)
}

func (d *Dialer) loginConfig(u *url.URL) (*login.Config, error) {
	config, err := d.tlsConfig()
	return &login.Config{
		URL: u, Prompter: d.Prompter, TLS: config, DialContext: d.dial, UserAgent: d.userAgent(), Version: d.Version,
		Device: wire.Device{Platform: d.platform(), ComputerName: d.Hostname}, RequestTimeout: d.LoginTimeout, Redirected: d.Redirected,
		Logger: d.logger(),
	}, err
}

// DialSession logs in, unless there is a Cookie or a Ticket, and returns a session when packets can flow, over TLS for the moment. The
// context bounds only that. Errors match those of package transport.
func (d *Dialer) DialSession(ctx context.Context) (transport.Session, error) {
	u, err := ParseServer(d.Server)
	if err != nil {
		return nil, err
	}
	ticket := &login.Ticket{Cookie: d.Cookie, Host: hostPort(u), URL: u, UserAgent: d.userAgent()}
	var lastLogin time.Time
	var kept *cstp.Link
	switch {
	case d.Ticket != nil:
		ticket = d.Ticket
	case d.Cookie == "":
		cfg, err := d.loginConfig(u)
		if err != nil {
			return nil, err
		}
		cfg.Client = func(nc net.Conn, cfg *tls.Config) login.Conn { return cstp.Client(nc, cfg) }
		var conn login.Conn
		if ticket, conn, err = login.LoginConn(ctx, cfg); err != nil {
			return nil, err
		}
		kept, _ = conn.(*cstp.Link)
		lastLogin = time.Now()
	}
	settled := make(chan struct{})
	s := &Session{
		dialer: d, server: u, ticket: ticket, kept: kept, lastLogin: lastLogin, pause: loginPause,
		settled: settled, settle: sync.OnceFunc(func() { close(settled) }), started: make(chan struct{}),
		asking: make(chan struct{}, 1),
	}
	s.via = s.own()
	s.life, s.die = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		s.die()
		return nil, err
	}
	return s, nil
}
