package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"culvert.example/vpn/transport"
)

// A Scheme is the language of a proxy.
type Scheme string

const (
	// HTTP is a proxy that takes CONNECT over a connection in the clear.
	HTTP Scheme = "http"
	// HTTPS is a proxy that takes CONNECT over TLS.
	HTTPS Scheme = "https"
	// SOCKS5 is a SOCKS proxy of version 5.
	SOCKS5 Scheme = "socks5"
)

// A Proxy is where a proxy is, and who may use it. It prints without user and password.
type Proxy struct {
	Scheme Scheme
	// Host is a name or an IP address without brackets.
	Host string
	Port uint16
	// User and Password are shown to the proxy if it asks. Without a User nothing is. Neither has more than 255 bytes.
	User     string
	Password transport.Secret
}

// maxAddress bounds the text of an address, in bytes.
const maxAddress = 2048

// Parse parses the address of a proxy: [scheme://][user[:password]@]host[:port]. Without a scheme it is http. The
// schemes are http (port 80), https (port 443) and socks5 (port 1080), for which socks5h and socks stand too: names
// are resolved at the proxy in any case. Special characters of user and password are written as %XX.
//
// Errors match [ErrAddress] and never quote the text, since it may hold a password.
func Parse(text string) (*Proxy, error) {
	bad := func(reason string) (*Proxy, error) {
		return nil, fmt.Errorf("%w: %s; want [http://|https://|socks5://][USER:PASSWORD@]HOST[:PORT], with special characters in USER and PASSWORD as %%XX", ErrAddress, reason)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return bad("it is empty")
	}
	if len(text) > maxAddress {
		return bad(fmt.Sprintf("it is longer than %d bytes", maxAddress))
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return bad("it is no URL")
	}
	p := &Proxy{Host: u.Hostname()}
	switch strings.ToLower(u.Scheme) {
	case "http":
		p.Scheme, p.Port = HTTP, 80
	case "https":
		p.Scheme, p.Port = HTTPS, 443
	case "socks5", "socks5h", "socks":
		p.Scheme, p.Port = SOCKS5, 1080
	case "socks4", "socks4a":
		return bad("SOCKS 4 is not supported")
	default:
		return bad("its scheme is none of http, https and socks5")
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("its port is not a number between 1 and 65535")
		}
		p.Port = uint16(n)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return bad("something follows the port")
	}
	if u.User != nil {
		password, _ := u.User.Password()
		p.User, p.Password = u.User.Username(), transport.Secret(password)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// check refuses what must not be sent to a proxy or asked of a resolver.
func (p *Proxy) check() error {
	switch p.Scheme {
	case HTTP, HTTPS, SOCKS5:
	default:
		return fmt.Errorf("%w: the scheme %q is none of http, https and socks5", ErrAddress, printable(string(p.Scheme), 16))
	}
	if p.Port == 0 {
		return fmt.Errorf("%w: the port is 0", ErrAddress)
	}
	if _, err := netip.ParseAddr(p.Host); err != nil {
		if err := checkHost(p.Host); err != nil {
			return fmt.Errorf("%w: %w", ErrAddress, err)
		}
	}
	if len(p.User) > 255 || len(p.Password) > 255 {
		return fmt.Errorf("%w: user and password may have 255 bytes each", ErrAddress)
	}
	for _, s := range []string{p.User, p.Password.Reveal()} {
		for i := range len(s) {
			if s[i] < ' ' || s[i] == 0x7f {
				return fmt.Errorf("%w: user or password has a control character", ErrAddress)
			}
		}
	}
	if p.Scheme != SOCKS5 && strings.Contains(p.User, ":") {
		return fmt.Errorf("%w: a user of an HTTP proxy cannot have a colon", ErrAddress)
	}
	if p.User == "" && p.Password != "" {
		return fmt.Errorf("%w: it has a password without a user", ErrAddress)
	}
	return nil
}

// String returns scheme://host:port, without user and password.
func (p Proxy) String() string { return string(p.Scheme) + "://" + printable(p.address(), 300) }

// GoString is String: %#v shows no user.
func (p Proxy) GoString() string { return p.String() }

func (p Proxy) address() string { return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port))) }

// Local reports whether the host is one that every machine calls itself: a loopback address or localhost (RFC 6761, section
// 6.3). A name that leads to this machine shows only when it is connected to.
func (p Proxy) Local() bool { return loopback(p.Host) }

func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback() || a.IsUnspecified()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// checkHost refuses what is no name of a host. Names are not looked at more closely than that nothing in them could be taken
// for something else.
func checkHost(host string) error {
	if host == "" {
		return errors.New("the host is empty")
	}
	if len(host) > 253 {
		return errors.New("the name of the host is longer than 253 bytes")
	}
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("the name of the host has the character %q; write international names as xn--", rune(c))
		}
	}
	return nil
}

// printable makes text of others fit for an error: no control characters, and not endless.
func printable(s string, most int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			b.WriteString("...")
			break
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd || r == 0x2028 || r == 0x2029 {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
