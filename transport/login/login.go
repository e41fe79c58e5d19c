// Package login turns credentials into the ticket that opens a tunnel.
//
// An AnyConnect gateway logs a user in over HTTPS before there is a tunnel. The client says hello (init), the gateway asks
// with a form (auth-request), the client answers (auth-reply), and so on until the gateway says success and hands out a
// cookie. In between it may redirect to another host, want a certificate, want the form of another group, want a second
// password. Old gateways speak the same forms without the XML around them.
//
// [Login] holds that conversation. It knows the protocol and no answers; a [Prompter] knows the answers and no protocol.
// [Fixed] answers from memory; the packages below this one ask a person at a terminal and compute one-time codes; [Chain]
// joins them.
package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// A Config says where to log in and how. URL and Prompter are needed; the zero value of everything else is usable.
// It must not change while Login runs.
type Config struct {
	// URL is https://host[:port][/group]. A path selects a group at gateways that are set up so, a query passes their
	// disguise.
	URL *url.URL
	// Prompter answers the forms. If nil, every question is an error.
	Prompter Prompter
	// TLS is the base of the TLS configuration: roots or pins, and the client certificate. Nil means the roots of the
	// system. If ServerName is empty it is the host of URL; on redirection it is the new host. See package trust for pins.
	TLS *tls.Config
	// DialContext opens TCP connections to the gateway. If nil, a net.Dialer does.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Client makes the client's side of a TLS connection over nc, before the handshake. If nil, tls.Client does. It is not
	// asked if TLS has a client certificate, for which the connection may have to be renegotiated.
	Client func(nc net.Conn, cfg *tls.Config) Conn
	// UserAgent is the User-Agent header; gateways choose their dialect by it. If empty it is DefaultUserAgent.
	UserAgent string
	// Version is the client version in the documents. If empty, it is taken from the user agent.
	Version string
	// Device describes this machine. If its Platform is empty, it is taken from the running system.
	Device wire.Device
	// RequestTimeout bounds connecting, and each request with its reply. It does not count while a Prompter answers.
	// Zero means 30 seconds.
	RequestTimeout time.Duration
	// Redirected is told before the login goes on at another host, as host:port, and ends it by an error. Nil lets every redirection be
	// followed.
	Redirected func(to string) error
	// Logger is told the steps, never a secret. Nil discards.
	Logger *slog.Logger
}

// A Conn is a TLS connection, such as *tls.Conn.
type Conn interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// DefaultUserAgent is the User-Agent that all known gateways take for an AnyConnect client.
const DefaultUserAgent = "AnyConnect-compatible OpenConnect VPN Agent v9.12"

// A Ticket is the result of a login: what it takes to open the tunnel.
type Ticket struct {
	// Cookie is the session token, which the tunnel request carries as the cookie webvpn.
	Cookie transport.Secret
	// Host is the name and port of the gateway that completed the login, after redirections. The tunnel goes there, and
	// the certificate is checked against its name.
	Host string
	// Addr is the address that completed the login. In a cluster behind one name, only that member knows the session.
	// It is what the connection calls its peer: if Config.DialContext leads through a proxy, that may be the proxy, or
	// nothing, and then Addr is invalid.
	Addr netip.AddrPort
	// URL is where the login ended up, with the path that was asked for.
	URL *url.URL
	// Certificate is the certificate of the gateway, CertSHA256 the hash of its DER form.
	Certificate *x509.Certificate
	CertSHA256  [32]byte

	// Banner and Message are for the user.
	Banner, Message string
	// Group is the group that was chosen, or empty.
	Group string

	// ProfileURI is the absolute URL of the administrator's profile, or nil, and ProfileHash the SHA-1 of that file in hex.
	ProfileURI  *url.URL
	ProfileHash string
	// DynamicInclude and DynamicExclude are domains split by name, if they came with the login already.
	DynamicInclude, DynamicExclude []string
	// WebVPNC is the value of the cookie webvpnc, which old gateways describe the profile with.
	WebVPNC string

	// UserAgent is what the login was made with; the tunnel request should say the same.
	UserAgent string
	// Opaque is the last state that the gateway gave to carry.
	Opaque wire.Opaque
	// SessionID is the gateway's public name for the session, or empty.
	SessionID string
}
