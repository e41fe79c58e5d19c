// Package upstream reaches a gateway through a proxy.
//
// [Choose] decides which proxy that is, or none: it weighs the command line, the profile, the environment and the settings of
// the desktop, all of which are its arguments, and says why. A [Dialer] then connects through it, with a method that has the
// shape of vpn.Config.Dial:
//
//	choice, err := upstream.Choose(upstream.Sources{Gateway: "vpn.example.com:443", Getenv: os.Getenv})
//	...
//	if choice.Proxy != nil {
//		cfg.Dial = (&upstream.Dialer{Proxy: *choice.Proxy}).DialContext
//	}
//
// It speaks with HTTP proxies by CONNECT (RFC 9110, section 9.3.6), in the clear or over TLS, and with SOCKS5 proxies (RFC
// 1928, RFC 1929). Names are resolved at the proxy, always. To HTTP proxies it shows a password by Digest (RFC 7616) where that is
// offered, and otherwise by Basic (RFC 7617).
//
// A proxy for UDP does not exist here, so there is no DTLS through a proxy: a vpn.Config with Dial and without DialUDP stays on
// TLS. The address of the gateway is that of the proxy then, as far as routes are concerned, because packets to it must not go
// into the tunnel.
//
// What a proxy says is not trusted: answers are bounded in size and time, and their text is made printable. A password is in no
// error and in no log.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultTimeout is the Timeout of a Dialer where that is zero.
const DefaultTimeout = 30 * time.Second

// A Dialer connects through a proxy. Proxy must be set; the zero value of every other field is usable. The fields must not be
// changed after the first call, and the methods may be called from any goroutine. There is nothing to close.
//
// A Dialer remembers how the proxy wanted the password, so that later connections need no second question.
type Dialer struct {
	// Proxy is what to connect through.
	Proxy Proxy

	// Dial reaches the proxy. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// TLS is for proxies with the scheme https: roots, versions. Its ServerName, NextProtos and Certificates are not used. Nil
	// means the roots of the machine.
	TLS *tls.Config

	// Methods are the ways in which the password may be shown to an HTTP proxy. Zero means Digest|Basic.
	Methods Methods

	// NoLocal refuses a proxy that turns out to run on this machine, with ErrLocal: see [Sources.NoLocal].
	NoLocal bool

	// Timeout bounds how long it may take until the proxy has made the connection. Zero means [DefaultTimeout].
	Timeout time.Duration

	// UserAgent is what the client calls itself to an HTTP proxy. If empty, it is not said.
	UserAgent string

	// Logger is told how the proxy was used, and never a secret. Nil discards it.
	Logger *slog.Logger

	mu   sync.Mutex
	auth memory
}

// Methods are ways to show a password to an HTTP proxy.
type Methods uint8

const (
	// Basic sends the password as it is (RFC 7617). On a connection in the clear it is never used with a proxy that offers
	// Digest, now or before, whether that can be used or not: whoever listens would have the password.
	Basic Methods = 1 << iota
	// Digest proves that the client knows the password (RFC 7616), and is used wherever the proxy offers it.
	Digest
)

// ParseMethods parses a list of methods as openconnect's --proxy-auth takes it, such as "digest,basic". Their order does not
// matter, nor does case. The empty string is the zero Methods.
func ParseMethods(list string) (Methods, error) {
	var m Methods
	if list == "" {
		return 0, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "basic":
			m |= Basic
		case "digest":
			m |= Digest
		case "ntlm", "negotiate", "gateway", "gssapi":
			return 0, fmt.Errorf("%w: proxy authentication by %s; there are basic and digest", ErrUnsupported, printable(name, 16))
		default:
			return 0, fmt.Errorf("proxy authentication %q is not known; there are basic and digest", printable(name, 32))
		}
	}
	return m, nil
}

// String returns the names of the methods.
func (m Methods) String() string {
	switch m {
	case 0, Basic | Digest:
		return "digest,basic"
	case Basic:
		return "basic"
	case Digest:
		return "digest"
	}
	return fmt.Sprintf("Methods(%d)", uint8(m))
}

func (d *Dialer) logger() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger
}

func (d *Dialer) methods() Methods {
	if d.Methods == 0 {
		return Digest | Basic
	}
	return d.Methods
}

// DialContext connects to an address, host:port, through the proxy. The network must be tcp, tcp4 or tcp6, and says how the proxy is
// reached; what the proxy does beyond is its business. The context bounds only the dialing. RemoteAddr of the connection is
// the address of the proxy.
//
// The error is a *net.OpError with an [*Error] inside, which says what the proxy answered.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: printable(network, 16), Addr: name(printable(address, 300)), Err: &Error{Proxy: d.Proxy.String(), Err: err}}
	}
	return conn, nil
}

// A name is an address that is not resolved, for errors.
type name string

// Network implements net.Addr.
func (name) Network() string { return "tcp" }

// String implements net.Addr.
func (n name) String() string { return string(n) }

func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, fmt.Errorf("%w: %s; a proxy carries tcp only", ErrUnsupported, printable(network, 16))
	}
	target, err := parseTarget(address)
	if err != nil {
		return nil, err
	}
	if err := d.Proxy.check(); err != nil {
		return nil, err
	}
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	var conn net.Conn
	if d.Proxy.Scheme == SOCKS5 {
		conn, err = d.socks(ctx, network, target)
	} else {
		conn, err = d.connect(ctx, network, target)
	}
	if err != nil {
		// What a connection says that was cut off is of no interest.
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	d.logger().Debug("connected through the proxy", "proxy", d.Proxy.String(), "to", target.String())
	return conn, nil
}

// open connects to the proxy itself.
func (d *Dialer) open(ctx context.Context, network string) (net.Conn, error) {
	dial := d.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, d.Proxy.address())
	if err != nil {
		return nil, fmt.Errorf("cannot reach the proxy: %w", err)
	}
	if d.NoLocal && onThisMachine(conn) {
		conn.Close()
		return nil, ErrLocal
	}
	if d.Proxy.Scheme != HTTPS {
		return conn, nil
	}
	config := &tls.Config{}
	if d.TLS != nil {
		config = d.TLS.Clone()
	}
	// What is meant for the gateway is not for the proxy: the name, and who the client is.
	config.ServerName, config.NextProtos = d.Proxy.Host, []string{"http/1.1"}
	config.Certificates, config.GetClientCertificate = nil, nil
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with the proxy: %w", err)
	}
	return secure, nil
}

// onThisMachine reports whether the other end of a connection is on this machine: at a loopback address, or at an address of
// its own, in which case the kernel takes that for this end as well.
func onThisMachine(c net.Conn) bool {
	remote, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().Network() == "unix"
	}
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	return remote.Addr().Unmap().IsLoopback() || err == nil && local.Addr().Unmap().WithZone("") == remote.Addr().Unmap().WithZone("")
}

// guard ends what is done with a connection when ctx does, until release is called. Release reports whether that has happened.
func guard(ctx context.Context, conn net.Conn) (release func() error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if !stop() {
			return context.Cause(ctx)
		}
		return nil
	}
}

// A target is what the proxy shall connect to.
type target struct {
	host string // a name or an IP address
	addr netip.Addr
	port uint16
}

// String returns host:port, with brackets where they belong.
func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

func parseTarget(address string) (target, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return target{}, errors.New("the address of the gateway is not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return target{}, fmt.Errorf("the port %q of the gateway is not a number between 1 and 65535", printable(port, 16))
	}
	t := target{host: host, port: uint16(n)}
	if t.addr, err = netip.ParseAddr(host); err == nil {
		// A zone means nothing elsewhere.
		if t.addr.Zone() != "" {
			return target{}, fmt.Errorf("the address %s of the gateway has a zone, which a proxy cannot know", t.addr)
		}
		return t, nil
	}
	if err := checkHost(host); err != nil {
		return target{}, fmt.Errorf("the gateway: %w", err)
	}
	return t, nil
}
